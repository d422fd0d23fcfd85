//! Causal grouped-query attention over the paged KV cache, for prefill chunks and decode rows alike.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance};
use super::input::Input;
use super::qkv_mrope::{cache_suffix, check_cache};
use super::reference::{attend, load, load_i32, load_input, store};
use super::vision_attention::attention_tolerance;
use super::{Cost, Op, Result, require, require_dim, require_float, require_index, require_kernel};
use crate::cpu::{Cpu, Heads, Kv, Mask, Place, Sequence, attention};
use crate::dtype::{DType, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::{HostStep, StepShape};
use crate::tensor::Tensor;
use crate::weights::WeightSet;
use std::ops::Range;

/// Row `t` sees the first `visible[t]` tokens of its sequence; 0 is a padding row, whose output is zero.
#[derive(Debug)]
pub struct PagedAttention {
    /// `[T, H d]`
    pub q: Tensor,
    /// The layer's keys, `[blocks, G, block, d]`.
    pub k: Input,
    /// The layer's values, `[blocks, G, block, d]`.
    pub v: Input,
    /// i32 `[B, blocks]`
    pub block_tables: Tensor,
    /// i32 `[T]`
    pub seq_of_row: Tensor,
    /// i32 `[T]`
    pub visible: Tensor,
    /// `[T, H d]`
    pub y: Tensor,
    /// Where rows are decoded: one of each sequence.
    pub splits: Option<Splits>,
}

/// How many keys a device folds one after the other before it starts anew; results are then added in order. Fixed, so that a row's bits do not
/// depend on who computes it.
const SPLIT: usize = 256;

/// Keys of a device's tile.
const KEYS: usize = 64;

/// Queries of a device's tile where rows are prefilled.
const QUERIES: usize = 64;

/// Where the parts of a decoded row meet on a device that computes them in parallel. The host does not use it.
#[derive(Debug, Clone, Copy)]
pub struct Splits {
    /// Maximum, sum and weighted values of every part, f32.
    pub partials: Tensor,
    /// Parts that are done, zero between launches, i32 `[T G]` at least.
    pub counters: Tensor,
}

impl Splits {
    /// Elements of `partials` for rows of `heads * head_dim` and sequences of at most `tokens`.
    pub fn partials(rows: usize, heads: usize, head_dim: usize, tokens: usize) -> usize {
        rows * heads * tokens.div_ceil(SPLIT) * (head_dim + 2)
    }
}

impl PagedAttention {
    fn head_dim(&self) -> usize {
        self.k.cols()
    }

    fn kv_heads(&self) -> usize {
        self.k.x.shape()[1]
    }

    fn block(&self) -> usize {
        self.k.x.shape()[2]
    }
}

impl Op for PagedAttention {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.q)?;
        require_float(name, &self.y)?;
        check_cache(name, &self.k, &self.v)?;
        require(name, self.q.shape() == self.y.shape(), || format!("{} and {} differ in shape", self.q, self.y))?;
        let group = self.head_dim() * self.kv_heads();
        require(name, self.q.cols().is_multiple_of(group), || {
            format!(
                "{} columns of q do not split over {} kv heads of {}",
                self.q.cols(),
                self.kv_heads(),
                self.head_dim()
            )
        })?;
        require_index(name, &self.seq_of_row, self.q.rows())?;
        require_index(name, &self.visible, self.q.rows())?;
        require_dim(name, "dimensions of the block tables", self.block_tables.shape().len(), 2)?;
        let Some(Splits { partials, counters }) = self.splits else { return Ok(()) };
        let tokens = self.block_tables.cols() * self.block();
        let heads = self.q.cols() / self.head_dim();
        let need = Splits::partials(self.q.rows(), heads, self.head_dim(), tokens);
        require_dim(name, "elements of the partial results", partials.elements(), need)?;
        require(name, counters.dtype == DType::I32 && counters.elements() >= self.q.rows() * self.kv_heads(), || {
            format!("{counters}: one counter for every row and kv head")
        })
    }

    fn launch(&self) -> Launch {
        let entry = format!("paged_attention_{}{}_d{}", self.y.dtype, cache_suffix(&self.k), self.head_dim());
        let launch = self
            .v
            .read(self.k.read(Launch::new(entry).read(&self.q)))
            .read(&self.block_tables)
            .read(&self.seq_of_row)
            .read(&self.visible)
            .write(&self.y);
        let launch = match &self.splits {
            Some(s) => launch.scratch(&s.partials).update(&s.counters),
            None => launch.absent().absent(),
        };
        launch
            .i32(self.q.rows())
            .i32(self.q.cols() / self.head_dim())
            .i32(self.kv_heads())
            .i32(self.block())
            .i32(self.block_tables.cols())
    }

    /// Decoding, a block is 256 keys of a row and kv head, else 64 rows of a head: two entries, one arithmetic.
    fn kernel(&self) -> Result<Kernel> {
        let (dtype, d, block) = (self.q.dtype, self.head_dim(), self.block());
        let (rows, heads, groups) = (self.q.rows(), self.q.cols() / d, self.kv_heads());
        let int8 = self.k.scales.is_some();
        let alike = self.k.float(dtype) == dtype && self.y.dtype == dtype;
        let half = dtype.is_half() && alike;
        let cache = d == 128 && block.is_power_of_two() && (16..=64).contains(&block);
        require_kernel(self.name(), half && cache && heads <= 16 * groups, || {
            format!("{dtype} queries, {heads} heads over {}", self.k)
        })?;
        let (variant, grid, smem) = match self.splits {
            Some(_) => {
                let splits = (self.block_tables.cols() * block).div_ceil(SPLIT);
                ("decode", [splits, groups, rows], if int8 { 59648 } else { 75008 })
            }
            None => ("prefill", [rows.div_ceil(QUERIES), heads, 1], if int8 { 66560 } else { 80 << 10 }),
        };
        let entry = format!("{}_{variant}", self.launch().entry);
        Ok(Kernel { entry, grid: grid.map(|n| n as u32), block: 128, smem })
    }

    fn reference(&self, m: &OpMem) {
        let (q, k, v) = (load(m, &self.q), load_input(m, &self.k), load_input(m, &self.v));
        let tables = load_i32(m, &self.block_tables);
        let (seqs, visible) = (load_i32(m, &self.seq_of_row), load_i32(m, &self.visible));
        let (d, groups, block) = (self.head_dim(), self.kv_heads(), self.block());
        let per_group = self.q.cols() / d / groups;
        let rows = q.iter().enumerate().map(|(t, q)| {
            let table = &tables[seqs[t] as usize * self.block_tables.cols()..];
            let head = |(h, q): (usize, &[f64])| {
                let row = |i: usize| (table[i / block] as usize * groups + h / per_group) * block + i % block;
                attend(q, (0..visible[t] as usize).map(|i| (&k[row(i)][..], &v[row(i)][..])))
            };
            q.chunks(d).enumerate().flat_map(head).collect()
        });
        store(m, &self.y, &rows.collect());
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let d = self.head_dim();
        let q = body::load(m, cpu, &self.q);
        let kv = Kv {
            keys: body::bytes(m, &self.k.x),
            values: body::bytes(m, &self.v.x),
            dtype: self.k.x.dtype,
            scales: self.k.scales.zip(self.v.scales).map(|(k, v)| [m.read(&k), m.read(&v)]),
        };
        let (seqs, visible) = (m.read::<i32>(&self.seq_of_row), m.read::<i32>(&self.visible));
        let tables = m.read::<i32>(&self.block_tables);
        let per_seq = self.block_tables.cols();
        let sequences: Vec<Sequence> = runs(seqs, visible)
            .map(|rows| {
                let table = &tables[seqs[rows.start] as usize * per_seq..][..per_seq];
                let place = Place::Blocks { table, tokens: self.block() };
                Sequence { mask: Mask::Causal(visible[rows.start] as usize), place, rows }
            })
            .collect();
        let (query, kv_heads) = (self.q.cols() / d, self.kv_heads());
        let heads = Heads { query, kv: kv_heads, dim: d, stride: self.q.cols(), scale: 1.0 / (d as f32).sqrt() };
        with_float!(self.y.dtype, Y => {
            let y = Dest::<Y>::new(m, cpu, &self.y);
            for row in (0..visible.len()).filter(|&row| visible[row] == 0) {
                y.clear(row, self.y.cols());
            }
            attention(cpu, &q, heads, kv, &sequences, &|head, tile| y.set(tile, head * d));
        })
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        let token = (self.k.row_bytes() + self.v.row_bytes()) as u64;
        let visible = step.i32s(&step.layout.visible);
        let cost = self.cost(step, weights).bytes;
        let row = self.q.cols() * self.q.dtype.size();
        // A lane's 16 codes meet 16 elements of a query, which are two loads of half a sector each.
        let halves = if self.k.scales.is_some() { 2 } else { 1 };
        if self.splits.is_some() {
            // Partial results are written and read back; every tile of keys reads the queries.
            let parts = |n: usize| visible.iter().map(|&keys| (keys as usize).div_ceil(n)).sum::<usize>();
            let partials = parts(SPLIT) * (self.q.cols() / self.head_dim()) * (self.head_dim() + 2) * 8;
            let queries = (halves * parts(KEYS)).saturating_sub(self.q.rows()) * row;
            return cost + (partials + queries) as u64;
        }
        // Keys and values once for every tile of queries and query head, instead of once for every key head.
        let tiles: u64 = visible.chunks(QUERIES).map(|rows| rows.iter().map(|&n| n as u64).max().unwrap_or(0)).sum();
        let heads = (self.q.cols() / self.head_dim()) as u64;
        let once = visible.iter().map(|&n| n as u64).max().unwrap_or(0) * self.kv_heads() as u64;
        cost + token * (tiles * heads).saturating_sub(once) + ((halves - 1) * self.q.rows() * row) as u64
    }

    fn cost(&self, step: &HostStep, _: &WeightSet) -> Cost {
        let l = &step.layout;
        let (seqs, visible) = (step.i32s(&l.seq_of_row), step.i32s(&l.visible));
        let mut longest = vec![0u64; l.shape.seqs];
        seqs.iter().zip(visible).for_each(|(&s, &n)| longest[s as usize] = longest[s as usize].max(n as u64));
        let token = (self.kv_heads() * (self.k.row_bytes() + self.v.row_bytes())) as u64;
        let rows = (self.q.elements() * self.q.dtype.size() + self.y.elements() * self.y.dtype.size()) as u64;
        let pairs: u64 = visible.iter().map(|&n| n as u64).sum();
        Cost { bytes: rows + token * longest.iter().sum::<u64>(), flops: 4 * pairs * self.q.cols() as u64 }
    }
}

/// Runs of rows that follow each other in one sequence; padding rows are in none.
fn runs<'a>(seqs: &'a [i32], visible: &'a [i32]) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut start = 0;
    std::iter::from_fn(move || {
        start += visible[start..].iter().take_while(|&&n| n == 0).count();
        let next = |i: usize| seqs[i] == seqs[i - 1] && visible[i] == visible[i - 1] + 1;
        let end = (start + 1..visible.len()).find(|&i| !next(i)).unwrap_or(visible.len());
        let run = start..end;
        start = end;
        (!run.is_empty()).then_some(run)
    })
}

/// For queries, keys and values below `scale`. Kernels round an int8 value times its scale to `dtype`, as they round the weights.
pub(super) fn cached_tolerance(int8: bool, dtype: DType, d: usize, scale: [f32; 3], keys: usize) -> Tolerance {
    let rounding = match dtype {
        DType::Bf16 if int8 => 2f64.powi(-8),
        DType::F16 if int8 => 2f64.powi(-11) + 2f64.powi(-25),
        _ => 0.0,
    };
    match attention_tolerance(dtype, d, scale, keys) {
        Tolerance::Rounded { ulps, abs } => Tolerance::Rounded { ulps, abs: abs + scale[2] as f64 * rounding },
        other => other,
    }
}

/// Decode rows, a prefill chunk with history, both at once, padding; lengths around block and tile borders.
pub fn cases() -> Vec<Case> {
    struct Heads {
        heads: usize,
        groups: usize,
        d: usize,
    }
    // Rows as (sequence, visible).
    let of = |int8: bool, dtype: DType, h: Heads, block: usize, scale: f32, rows: &[(i32, i32)]| {
        let longest = rows.iter().map(|r| r.1).max().unwrap_or(0) as usize;
        let per_seq = longest.div_ceil(block).max(1);
        let seqs = rows.iter().map(|r| r.0).max().unwrap_or(0) as usize + 1;
        let cache = if int8 { "int8" } else { dtype.name() };
        let heads = format!("H={} G={} d={}", h.heads, h.groups, h.d);
        let mut b =
            CaseBuilder::new(format!("{dtype} cache={cache} {heads} block={block} scale={scale} rows={}", rows.len()));
        let q = b.random(dtype, &[rows.len(), h.heads * h.d], scale);
        let cache = [seqs * per_seq + 1, h.groups, block, h.d];
        let [k, v] = [(); 2].map(|()| b.cache(int8, dtype, &cache, 1.0));
        // Blocks of all sequences interleaved, last first.
        let table: Vec<i32> =
            (0..seqs * per_seq).map(|i| ((i % per_seq) * seqs + i / per_seq + 1) as i32).rev().collect();
        let mut seen = vec![false; seqs * per_seq * block + block];
        for &(s, n) in rows {
            (0..n as usize)
                .for_each(|i| seen[table[s as usize * per_seq + i / block] as usize * block + i % block] = true);
        }
        for (i, g) in (0..seen.len()).filter(|&i| !seen[i]).flat_map(|i| (0..h.groups).map(move |g| (i, g))) {
            let row = (i / block * h.groups + g) * block + i % block;
            [&k, &v].into_iter().for_each(|cache| b.poison(cache, row));
        }
        let shape = StepShape { rows: rows.len(), seqs, blocks: per_seq, samples: 1 };
        let mut step = HostStep::new(shape);
        let layout = step.layout;
        step.i32s_mut(&layout.seq_of_row).copy_from_slice(&rows.iter().map(|r| r.0).collect::<Vec<_>>());
        step.i32s_mut(&layout.visible).copy_from_slice(&rows.iter().map(|r| r.1).collect::<Vec<_>>());
        let block_tables = b.bytes(DType::I32, &[seqs, per_seq], bytemuck::cast_slice(&table));
        let seq_of_row = b.indices(step.i32s(&layout.seq_of_row));
        let visible = b.indices(step.i32s(&layout.visible));
        let tolerance = cached_tolerance(int8, dtype, h.d, [scale, 1.0, 1.0], longest);
        let y = b.output(dtype, &[rows.len(), h.heads * h.d], tolerance);
        let splits = (rows.len() == seqs).then(|| Splits {
            partials: b.output(
                DType::F32,
                &[Splits::partials(seqs, h.heads, h.d, per_seq * block)],
                Tolerance::Anything,
            ),
            counters: b.counters(64),
        });
        b.finish_with_step(PagedAttention { q, k, v, block_tables, seq_of_row, visible, y, splits }, step)
    };
    let case = |dtype, h, block, scale, rows: &[(i32, i32)]| of(false, dtype, h, block, scale, rows);
    let int8 = |dtype, h, block, scale, rows: &[(i32, i32)]| of(true, dtype, h, block, scale, rows);
    let heads = |heads: usize, groups: usize, d: usize| Heads { heads, groups, d };
    let rows = |seq: i32, visible: Range<i32>| visible.map(move |n| (seq, n));
    let chunk: Vec<_> = rows(0, 60..100).collect();
    let long: Vec<_> = rows(0, 470..540).collect();
    let padded = rows(1, 40..75).chain([(0, 0), (2, 300)]).chain(rows(0, 500..540)).chain([(2, 0); 5]);
    let padded: Vec<_> = padded.collect();
    let lengths = [(0, 700), (1, 0), (2, 257), (3, 1), (4, 512), (5, 256)];
    vec![
        case(DType::F32, heads(6, 1, 128), 16, 1.0, &[(0, 1)]),
        case(DType::Bf16, heads(6, 1, 128), 32, 1.0, &[(0, 200), (1, 64), (2, 65)]),
        case(DType::Bf16, heads(8, 1, 128), 64, 4.0, &[(0, 1030), (1, 17)]),
        case(DType::F16, heads(14, 2, 128), 16, 4.0, &lengths),
        case(DType::F16, heads(16, 1, 128), 32, 4.0, &[(0, 70), (1, 0)]),
        case(DType::F32, heads(6, 2, 24), 16, 1.0, &chunk),
        case(DType::Bf16, heads(6, 1, 128), 32, 4.0, &long),
        case(DType::F16, heads(7, 1, 128), 16, 4.0, &padded),
        case(DType::F16, heads(6, 2, 24), 8, 1.0, &[(0, 17), (0, 0), (1, 130), (0, 18)]),
        int8(DType::F32, heads(6, 2, 24), 16, 1.0, &chunk),
        int8(DType::F16, heads(6, 2, 24), 8, 1.0, &[(0, 17), (0, 0), (1, 130), (0, 18)]),
        int8(DType::Bf16, heads(6, 1, 128), 32, 1.0, &[(0, 200), (1, 64), (2, 65)]),
        int8(DType::Bf16, heads(8, 1, 128), 64, 4.0, &[(0, 1030), (1, 17)]),
        int8(DType::F16, heads(14, 2, 128), 16, 4.0, &lengths),
        int8(DType::Bf16, heads(6, 1, 128), 32, 4.0, &long),
        int8(DType::F16, heads(7, 1, 128), 16, 4.0, &padded),
    ]
}
