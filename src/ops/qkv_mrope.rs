//! The decoder's attention input: q/k/v projections with bias, M-RoPE, and the write into the paged KV cache.
//!
//! The cache holds floats, or int8 with a scale for each token and head, made of the rows as the activations' type rounds them.

use super::body::{self, Dest, Kept, Turns};
use super::case::{Case, CaseBuilder, Tolerance, product_error};
use super::input::Input;
use super::reference::{edit, load_i32, load_input, project, put_int8, rotate, round, store, vector, weight};
use super::rope::{Mrope, inv_freq};
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, product, require, require_dim, require_float, require_index,
    require_kernel, require_vector,
};
use crate::cpu::{Cpu, Tile, Unit};
use crate::dtype::{DType, Float, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};

/// `q, k, v = x Wᵀ + b`; q and k turned by M-RoPE; k and v written to the row's KV slot (none if the slot is -1).
#[derive(Debug)]
pub struct QkvMrope {
    /// `[T, D]`
    pub x: Input,
    /// Three parts: q `[H d, D]`, k `[G d, D]`, v `[G d, D]`.
    pub weight: Matrix,
    /// Three parts: `[H d]`, `[G d]`, `[G d]`.
    pub bias: Option<WeightId>,
    pub rope: Mrope,
    /// i32 `[3, T]`
    pub positions: Tensor,
    /// i32 `[T]`
    pub slots: Tensor,
    /// `[T, H d]`
    pub q: Tensor,
    /// The layer's keys, `[blocks, G, block, d]`.
    pub k: Input,
    /// The layer's values, `[blocks, G, block, d]`.
    pub v: Input,
    /// Where [`QkvMrope::meets`] says so.
    pub meeting: Option<Meeting>,
}

/// Where the parts of keys and values that become int8 meet on a device whose blocks make 16 elements of a row each. The host does not use it.
#[derive(Debug, Clone, Copy)]
pub struct Meeting {
    /// Keys, then values of every row before they are int8, `[T, 2 G d]`.
    pub rows: Tensor,
    /// Blocks that are done, zero between launches, i32 `[2 G]` at least.
    pub counters: Tensor,
}

impl QkvMrope {
    /// The most rows that meet.
    pub const MEETING_ROWS: usize = product::NARROW_ROWS;

    /// Whether rows of this cache, so many at a time, come together from several blocks of a device.
    pub fn meets(cache: &Input, rows: usize) -> bool {
        cache.scales.is_some() && rows <= Self::MEETING_ROWS
    }

    fn kv_heads(&self) -> usize {
        self.k.x.shape()[1]
    }

    fn block(&self) -> usize {
        self.k.x.shape()[2]
    }

    fn head_dim(&self) -> usize {
        self.k.cols()
    }

    fn heads(&self) -> usize {
        self.q.cols() / self.head_dim()
    }

    /// The cache row, of `d` elements, that a slot has for a kv head.
    fn cache_row(&self, slot: usize, head: usize) -> usize {
        let (block, offset) = (slot / self.block(), slot % self.block());
        (block * self.kv_heads() + head) * self.block() + offset
    }

    /// Writes one head's rows to their slots.
    fn write_cache<C: Float>(&self, cache: &Kept<C>, slots: &[i32], head: usize, tile: &mut Tile) {
        for i in 0..tile.rows {
            let Ok(slot) = usize::try_from(slots[tile.row0 + i]) else { continue };
            cache.put(self.cache_row(slot, head), tile.row(i));
        }
    }

    fn check_meeting(&self, meeting: &Meeting) -> Result<()> {
        let (name, rows) = (self.name(), 2 * self.kv_heads());
        require_dim(name, "elements that meet", meeting.rows.elements(), self.x.rows() * rows * self.head_dim())?;
        let counters = &meeting.counters;
        require(name, counters.dtype == DType::I32 && counters.elements() >= rows, || {
            format!("{counters}: one counter for every kv head's keys and values")
        })
    }
}

impl Op for QkvMrope {
    fn name(&self) -> &'static str {
        "qkv_mrope"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.q)?;
        check_cache(name, &self.k, &self.v)?;
        let (t, d) = (self.x.rows(), self.head_dim());
        require(name, self.meeting.is_some() == QkvMrope::meets(&self.k, t), || {
            format!("{t} rows of {} and a place where they meet do not agree", self.k)
        })?;
        self.meeting.map_or(Ok(()), |m| self.check_meeting(&m))?;
        require_dim(name, "T of q", self.q.rows(), t)?;
        require(name, self.q.cols().is_multiple_of(d) && self.heads().is_multiple_of(self.kv_heads()), || {
            format!("{} columns of q do not split into heads of {d} for {} kv heads", self.q.cols(), self.kv_heads())
        })?;
        let n = (self.heads() + 2 * self.kv_heads()) * d;
        self.x.check_product(name, weights, self.weight, n)?;
        require_dim(name, "parts of the weight", weights.get(self.weight.id).parts.len(), 3)?;
        self.bias.map_or(Ok(()), |b| require_vector(name, weights, b, n))?;
        require_index(name, &self.positions, 3 * t)?;
        require_index(name, &self.slots, t)?;
        self.rope.check(name, weights, d)
    }

    fn launch(&self) -> Launch {
        let family = format!("qkv_mrope_{}{}", self.q.dtype, cache_suffix(&self.k));
        let launch = product::launch(family, &self.x, self.weight, Some(self.head_dim() / 2))
            .maybe_vector(self.bias)
            .vector(self.rope.inv_freq)
            .read(&self.positions)
            .read(&self.slots)
            .write(&self.q);
        let launch = self.v.update(self.k.update(launch));
        let launch = match &self.meeting {
            Some(m) => launch.scratch(&m.rows).update(&m.counters),
            None if self.k.scales.is_some() => launch.absent().absent(),
            None => launch,
        };
        launch
            .i32(self.x.rows())
            .i32(self.x.cols())
            .i32(self.heads())
            .i32(self.kv_heads())
            .i32(self.block())
            .i32(self.rope.section[0])
            .i32(self.rope.section[1])
    }

    fn kernel(&self) -> Result<Kernel> {
        let dtype = self.q.dtype;
        let alike = [&self.q, &self.k.x, &self.v.x].iter().all(|t| t.is_contiguous());
        let alike = alike && self.x.stands_for(dtype) && self.k.float(dtype) == dtype;
        require_kernel(self.name(), alike && self.head_dim() == 128, || {
            format!("{} to {} and {}", self.x, self.q, self.k)
        })?;
        let n = (self.heads() + 2 * self.kv_heads()) * self.head_dim();
        let family = self.launch().entry;
        product::kernel(self.name(), &family, &self.x, self.q.dtype, self.weight, self.x.rows(), n)
    }

    fn reference(&self, m: &OpMem) {
        let (x, w) = (load_input(m, &self.x), weight(m, self.weight.id));
        let bias = self.bias.map(|b| vector(m, b));
        let (positions, slots) = (load_i32(m, &self.positions), load_i32(m, &self.slots));
        let (t, d, groups) = (x.len(), self.head_dim(), self.kv_heads());
        let freq = self.rope.frequencies(m);
        let mut angles = vec![0.0; d / 2];
        let mut queries = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (i, row) in x.iter().enumerate() {
            let mut qkv = project(row, &w);
            bias.iter().flatten().zip(&mut qkv).for_each(|(b, y)| *y += b);
            self.rope.angles(&freq, [positions[i], positions[t + i], positions[2 * t + i]], &mut angles);
            let (qk, v) = qkv.split_at_mut((self.heads() + groups) * d);
            qk.chunks_mut(d).for_each(|head| rotate(head, &angles));
            let (q, k) = qk.split_at(self.heads() * d);
            queries.push(q.to_vec());
            for g in (0..groups).filter(|_| slots[i] >= 0) {
                let row = self.cache_row(slots[i] as usize, g);
                keys.push((row, k[g * d..][..d].to_vec()));
                values.push((row, v[g * d..][..d].to_vec()));
            }
        }
        store(m, &self.q, &queries);
        for (cache, mut rows) in [(&self.k, keys), (&self.v, values)] {
            if cache.scales.is_some() {
                round(self.q.dtype, rows.iter_mut().flat_map(|(_, row)| row));
                put_int8(m, cache, rows.iter().map(|(at, row)| (*at, &row[..])));
                continue;
            }
            edit(m, &cache.x, |r, c, old| rows.iter().find(|(row, _)| *row == r).map_or(old, |(_, new)| new[c]));
        }
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (w, d, t) = (m.weight(self.weight.id), self.head_dim(), self.x.rows());
        let bias = self.bias.map(|b| body::vector(m.weight(b)));
        let x = body::operand(m, cpu, &self.x);
        let (positions, slots) = (m.read::<i32>(&self.positions), m.read::<i32>(&self.slots));
        body::require_distinct(slots);
        let freq = self.rope.frequencies(m);
        let turns = Turns::new(cpu, t, d / 2, |row, out| {
            self.rope.angles(&freq, [positions[row], positions[t + row], positions[2 * t + row]], out);
        });
        let (heads, groups) = (self.heads(), self.kv_heads());
        let part = |part: usize, heads: usize| (0..heads).map(move |h| Unit::new(part, h * d, d));
        let units: Vec<Unit> = part(0, heads).chain(part(1, groups)).chain(part(2, groups)).collect();
        with_float!(self.q.dtype, Y => with_float!(self.k.float(self.q.dtype), C => {
            let q = Dest::<Y>::new(m, cpu, &self.q);
            let (keys, values) = (Kept::<C>::new(m, cpu, &self.k), Kept::<C>::new(m, cpu, &self.v));
            body::product(cpu, &x, t, w, &units, &|unit, tile| {
                bias.iter().for_each(|b| body::add_bias(tile, &b[unit * d..]));
                if unit < heads + groups {
                    (0..tile.rows).for_each(|i| turns.apply(tile.row0 + i, tile.row(i)));
                }
                match unit.checked_sub(heads) {
                    None => q.set(tile, unit * d),
                    Some(g) if g < groups => self.write_cache(&keys, slots, g, tile),
                    Some(g) => self.write_cache(&values, slots, g - groups, tile),
                }
            });
        }))
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        let t = self.x.rows();
        let meeting = self.meeting.map_or(0, |m| m.rows.bytes() + m.counters.bytes());
        let rest = self.k.bytes() + self.v.bytes() + meeting;
        let written = t * self.kv_heads() * (self.k.row_bytes() + self.v.row_bytes());
        Cost {
            bytes: launch_bytes(&self.launch(), weights) - rest as u64 + written as u64,
            flops: matmul_flops(t, weights.get(self.weight.id).n(), self.x.cols()),
        }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        let (t, n) = (self.x.rows(), weights.get(self.weight.id).n());
        // Each head that turns asks for the frequencies again.
        let pairs = (self.heads() + self.kv_heads()) * self.head_dim() / 2;
        let rotation = product::vector_again(self.weight, t, pairs, 2);
        self.cost(step, weights).bytes
            + rotation as u64
            + product::again(&self.x, self.weight, t, n, 2, self.bias.is_some())
    }
}

impl CaseBuilder {
    /// Where rows of int8 meet.
    pub fn meeting(&mut self, dtype: DType, rows: usize, groups: usize, d: usize) -> Meeting {
        let parts = self.output(dtype, &[rows, 2 * groups * d], Tolerance::Anything);
        Meeting { rows: parts, counters: self.counters(2 * groups) }
    }
}

/// Checks a layer's keys and values.
pub(super) fn check_cache(op: &'static str, k: &Input, v: &Input) -> Result<()> {
    k.check(op)?;
    v.check(op)?;
    require(op, k.x.shape().len() == 4 && k.x.shape() == v.x.shape() && k.x.dtype == v.x.dtype, || {
        format!("{k} and {v} are not two caches [blocks, G, block, d]")
    })
}

/// What tells the kernels of an int8 cache from those of floats.
pub(super) fn cache_suffix(cache: &Input) -> &'static str {
    if cache.scales.is_some() { "_kv8" } else { "" }
}

/// Grouped heads, odd head sizes, padding rows, slots out of order; caches of floats and of int8.
pub fn cases() -> Vec<Case> {
    struct Heads {
        heads: usize,
        groups: usize,
        d: usize,
        section: [usize; 3],
    }
    let of = |format: Format, int8: bool, dtype: DType, hidden: usize, h: &Heads, slots: &[i32]| {
        let t = slots.len();
        let heads = format!("H={} G={} d={}", h.heads, h.groups, h.d);
        let cache = if int8 { "int8" } else { dtype.name() };
        let mut b = CaseBuilder::new(format!("{format:?} {dtype} cache={cache} T={t} D={hidden} {heads}"));
        let x = b.input(format, dtype, &[t, hidden], 1.0);
        let rows = [h.heads * h.d, h.groups * h.d, h.groups * h.d];
        let weight = b.operand(format, dtype, &rows.map(|n| (n, hidden)), 0.1);
        let bias = Some(b.weight(dtype, &rows.map(|n| (n, 1)), 0.5));
        let positions: Vec<i32> = (0..3 * t as i32).map(|i| (i * 1009) % 32768).collect();
        let (positions, slots) = (b.indices(&positions), b.indices(slots));
        // Sine and cosine of an f32 angle add 2^-23 of the value each; the rotation adds two products.
        let tolerance = Tolerance::rounded(4.0 * product_error(format, dtype, hidden, 1.0, 0.1));
        let q = b.output(dtype, &[t, h.heads * h.d], tolerance);
        let cache = [4, h.groups, 8, h.d];
        let [k, v] = [(); 2].map(|()| b.updated_cache(int8, dtype, &cache, tolerance));
        let meeting = QkvMrope::meets(&k, t).then(|| b.meeting(dtype, t, h.groups, h.d));
        let rope = Mrope { inv_freq: b.table(&inv_freq(1e6, h.d)), section: h.section };
        b.finish(QkvMrope { x, weight, bias, rope, positions, slots, q, k, v, meeting })
    };
    let int4 = |group, zeros| Format::W4A16 { group, zeros };
    let int8 = |group, zeros| Format::W8A16 { group, zeros };
    let big = || Heads { heads: 2, groups: 1, d: 128, section: [16, 24, 24] };
    let odd = || Heads { heads: 6, groups: 2, d: 24, section: [4, 4, 4] };
    let grouped = || Heads { heads: 4, groups: 2, d: 128, section: [16, 24, 24] };
    // All slots and rows without one, in no order.
    let many: Vec<i32> = (0..35).map(|i| if i % 16 == 3 || i > 31 { -1 } else { i * 5 % 32 }).collect();
    let all_slots: Vec<i32> = (0..32).collect();
    let shapes: Vec<(Format, DType, usize, Heads, &[i32])> = vec![
        (Format::Float, DType::F32, 256, big(), &[9]),
        (Format::Float, DType::Bf16, 256, big(), &[0, 1, 2, 31, 7, -1]),
        (Format::Float, DType::F32, 144, odd(), &[30, 3, -1, 12]),
        (Format::Float, DType::F16, 100, odd(), &all_slots),
        (Format::Float, DType::Bf16, 264, grouped(), &many),
        (Format::Float, DType::F16, 776, grouped(), &many[..17]),
        (Format::Float, DType::F16, 96, big(), &many),
        (int4(32, true), DType::F32, 160, odd(), &[30, 3, -1, 12]),
        (Format::W8A8, DType::F32, 50, odd(), &[30, 3, -1, 12]),
        (Format::W8A8, DType::Bf16, 272, grouped(), &many),
        (Format::W8A8, DType::Bf16, 80, big(), &many[..17]),
        (Format::W8A8, DType::F16, 784, grouped(), &[9]),
        (Format::W8A8, DType::F16, 96, big(), &many),
        (int4(128, false), DType::Bf16, 256, big(), &[9]),
        (int4(32, false), DType::Bf16, 160, grouped(), &many),
        (int4(64, true), DType::F16, 192, grouped(), &many[..17]),
        (int4(128, true), DType::F16, 1536, big(), &many),
        (int8(200, false), DType::Bf16, 200, big(), &many[..9]),
        (int8(64, false), DType::Bf16, 1600, big(), &many),
        (int8(32, true), DType::F16, 96, grouped(), &[30, 3, -1, 12]),
        (int8(128, false), DType::F16, 384, big(), &many),
    ];
    let in_both = |(format, dtype, hidden, heads, slots): (Format, DType, usize, Heads, &[i32])| {
        [false, true].map(|int8| of(format, int8, dtype, hidden, &heads, slots))
    };
    shapes.into_iter().flat_map(in_both).collect()
}
