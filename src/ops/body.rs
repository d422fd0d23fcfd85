//! What the fast bodies share: operands as f32 rows, weights as slices where they lie, and tiles stored from several threads.

use super::input::Input;
use super::norm::{NormKind, Normed};
use crate::cpu::{
    self, Buffer, Codes, Cpu, Epilogue, Isa, Rows, Tile, Unit, int8_row, matmul, matmul_codes, norm, rows,
};
use crate::dtype::{DType, Float, widened, with_float};
use crate::hostmem::{OpMem, SharedMut};
use crate::quant::Values;
use crate::quant::panels::Panels;
use crate::tensor::Tensor;
use crate::weights::{Part, Weight};

/// Columns of a product that one epilogue call handles where the op does not care.
const COLUMNS: usize = 64;
/// Rows that a thread widens or normalises at a time.
const ROWS: usize = 32;

/// f32 rows, borrowed where they are stored so.
pub enum Floats<'a> {
    Stored(&'a [f32]),
    Widened(Buffer<'a>),
}

impl std::ops::Deref for Floats<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Floats::Stored(x) => x,
            Floats::Widened(x) => x,
        }
    }
}

/// A read operand as contiguous f32 rows.
pub fn load<'a>(m: &OpMem<'a>, cpu: &'a Cpu, t: &Tensor) -> Floats<'a> {
    if t.dtype == DType::F32 && t.is_contiguous() {
        return Floats::Stored(m.read::<f32>(t));
    }
    Floats::Widened(load_columns(cpu, bytes(m, t), t, t.cols()))
}

/// A read operand as it is stored: floats or int8.
pub fn bytes<'a>(m: &OpMem<'a>, t: &Tensor) -> &'a [u8] {
    match t.dtype {
        DType::I8 => bytemuck::cast_slice(m.read::<i8>(t)),
        _ => with_float!(t.dtype, T => bytemuck::cast_slice(m.read::<T>(t))),
    }
}

/// The rows that a product reads.
pub enum Operand<'a> {
    /// Floats, and the type that they are stored in.
    Floats(Floats<'a>, DType),
    Int8 {
        x: &'a [i8],
        scales: &'a [f32],
    },
}

/// The rows that a product reads, as it takes them.
pub fn operand<'a>(m: &OpMem<'a>, cpu: &'a Cpu, input: &Input) -> Operand<'a> {
    match &input.scales {
        None => Operand::Floats(load(m, cpu, &input.x), input.x.dtype),
        Some(scales) => Operand::Int8 { x: m.read(&input.x), scales: m.read(scales) },
    }
}

/// The first `cols` columns of every row of `t`, whose elements are `stored`, as contiguous f32 rows.
pub fn load_columns<'a>(cpu: &'a Cpu, stored: &[u8], t: &Tensor, cols: usize) -> Buffer<'a> {
    let mut out = cpu.buffer(t.rows() * cols);
    fill_rows(cpu, &mut out, cols, |row, to| {
        let bytes = &stored[row * t.row_stride * t.dtype.size()..][..cols * t.dtype.size()];
        rows::widen(cpu.isa(), bytes, t.dtype, to);
    });
    out
}

/// Stores the norms of finished rows, if they are wanted. `of` is what was stored.
pub fn store_normed<X: Float>(m: &OpMem, cpu: &Cpu, normed: Option<&Normed>, of: &Dest<X>) {
    let Some(Normed { norm, y: to, activations, .. }) = normed else { return };
    let weight = vector(m.weight(norm.weight));
    let bias = norm.bias.map_or_else(|| vec![0.0; weight.len()], |b| vector(m.weight(b)));
    let (rows, cols) = (to.rows(), to.cols());
    with_float!(*activations, Y => {
        let out = Kept::<Y>::new(m, cpu, to);
        cpu.for_each(rows.div_ceil(ROWS), |i| {
            let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
            for row in i * ROWS..rows.min((i + 1) * ROWS) {
                of.get(row, 0, &mut x);
                match norm.kind {
                    NormKind::Rms => norm::rms_norm(cpu.isa(), &x, &weight, norm.eps, &mut y),
                    NormKind::Layer => norm::layer_norm(cpu.isa(), &x, &weight, &bias, norm.eps, &mut y),
                }
                out.put(row, &mut y);
            }
        });
    })
}

/// Stores contiguous f32 rows as int8.
pub fn store_int8(m: &OpMem, cpu: &Cpu, to: &Input, x: &[f32]) {
    let (out, rows, cols) = (Kept::<f32>::new(m, cpu, to), to.rows(), to.cols());
    cpu.for_each(rows.div_ceil(ROWS), |i| {
        let mut y = vec![0.0; cols];
        for row in i * ROWS..rows.min((i + 1) * ROWS) {
            y.copy_from_slice(&x[row * cols..][..cols]);
            out.put(row, &mut y);
        }
    });
}

/// Calls `fill(row, out)` for every row of `cols` values, on all threads.
fn fill_rows(cpu: &Cpu, out: &mut [f32], cols: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    cpu.for_each_of(out.chunks_mut(cols * ROWS), |i, piece| {
        piece.chunks_mut(cols).enumerate().for_each(|(r, out)| fill(i * ROWS + r, out));
    });
}

/// A vector's elements as f32, the parts one after the other.
pub fn vector(w: &Weight) -> Vec<f32> {
    let floats = |p: &Part| {
        let (bytes, dtype) = p.float();
        widened(dtype, bytes)
    };
    w.parts.iter().flat_map(floats).collect()
}

/// Multiplies rows with a weight, the rows that each unit names; see [`matmul`] and [`matmul_codes`].
pub fn product(cpu: &Cpu, x: &Operand, rows: usize, w: &Weight, units: &[Unit], epilogue: Epilogue) {
    let (mut floats, mut codes) = (Vec::new(), Vec::new());
    for part in &w.parts {
        match &part.values {
            Values::Float(data, dtype) => {
                floats.push(Rows { bytes: data.bytes(), dtype: *dtype, n: part.n, k: part.k })
            }
            Values::Panels(panels) => codes.push(in_place(panels)),
            Values::Quantized(q) => assert!(!Codes::takes(q.group, q.k), "{}: codes that are in no panels", w.name),
        }
    }
    match x {
        Operand::Floats(x, _) if !floats.is_empty() => matmul(cpu, x, rows, &floats, units, epilogue),
        Operand::Floats(x, _) if codes.is_empty() => matmul_widened(cpu, x, rows, w, units, epilogue),
        Operand::Floats(x, DType::F32) => matmul_codes(cpu, cpu::Operand::Full(x), rows, &codes, units, epilogue),
        Operand::Floats(x, _) => matmul_codes(cpu, cpu::Operand::Half(x), rows, &codes, units, epilogue),
        Operand::Int8 { x, scales } => {
            matmul_codes(cpu, cpu::Operand::Int8 { rows: x, scales }, rows, &codes, units, epilogue);
        }
    }
}

/// The same for groups that [`Codes`] does not take, through floats: right, and slow. No published checkpoint has such groups.
fn matmul_widened(cpu: &Cpu, x: &[f32], rows: usize, w: &Weight, units: &[Unit], epilogue: Epilogue) {
    let widen = |p: &Part| match &p.values {
        Values::Quantized(q) => (0..p.n).flat_map(|n| (0..p.k).map(move |k| q.value(n, k))).collect(),
        Values::Float(..) | Values::Panels(_) => unreachable!("the parts of a weight have one format and layout"),
    };
    let widened: Vec<Vec<f32>> = w.parts.iter().map(widen).collect();
    let parts: Vec<Rows> = w
        .parts
        .iter()
        .zip(&widened)
        .map(|(p, floats)| Rows { bytes: bytemuck::cast_slice(floats), dtype: DType::F32, n: p.n, k: p.k })
        .collect();
    matmul(cpu, x, rows, &parts, units, epilogue);
}

fn in_place(p: &Panels) -> Codes<'_> {
    Codes { bits: p.bits, n: p.n, k: p.k, group: p.group, codes: p.codes(), scales: p.scales(), zeros: p.zeros() }
}

/// Units of 64 rows of a weight with one part; unit `i` begins at column `64 i`.
pub fn even_units(n: usize) -> Vec<Unit> {
    (0..n).step_by(COLUMNS).map(|first| Unit::new(0, first, COLUMNS.min(n - first))).collect()
}

/// The first column of one of [`even_units`].
pub fn even_column(unit: usize) -> usize {
    unit * COLUMNS
}

/// An output that the tasks of one product fill together.
pub struct Dest<'a, Y> {
    out: SharedMut<'a, Y>,
    stride: usize,
    isa: Isa,
}

impl<'a, Y: Float> Dest<'a, Y> {
    /// Over a written operand of the op.
    pub fn new(m: &OpMem<'a>, cpu: &Cpu, t: &Tensor) -> Self {
        Dest { out: SharedMut::new(m.write::<Y>(t)), stride: t.row_stride, isa: cpu.isa() }
    }

    /// `len` elements of a row from column `col`: a piece that belongs to the caller's tile alone.
    #[allow(clippy::mut_from_ref)]
    fn row(&self, row: usize, col: usize, len: usize) -> &mut [Y] {
        // SAFETY: `cpu` computes each (row, unit) in one tile of one task, ops give units disjoint columns and rows distinct places
        // (`require_distinct` where places are data), a norm's rows are split over tasks likewise, and no method of `Dest` keeps a piece.
        unsafe { self.out.slice(row * self.stride + col, len) }
    }

    /// Zeroes a row that no tile covers.
    pub fn clear(&self, row: usize, cols: usize) {
        self.row(row, 0, cols).fill(Y::from_f32(0.0));
    }

    /// Stores values into a row from column `col`, rounded to nearest even.
    pub fn put(&self, row: usize, col: usize, values: &[f32]) {
        let to = self.row(row, col, values.len());
        rows::narrow(self.isa, values, Y::DTYPE, bytemuck::cast_slice_mut(to));
    }

    /// Widens values of a row from column `col` that the caller's task stored, or that no task will store again.
    pub fn get(&self, row: usize, col: usize, to: &mut [f32]) {
        rows::widen(self.isa, bytemuck::cast_slice(self.row(row, col, to.len())), Y::DTYPE, to);
    }

    /// Stores a tile whose first column is `col`.
    pub fn set(&self, tile: &mut Tile, col: usize) {
        (0..tile.rows).for_each(|i| self.put(tile.row0 + i, col, tile.row(i)));
    }

    /// Adds a tile whose first column is `col`.
    pub fn add(&self, tile: &mut Tile, col: usize) {
        let mut old = [0.0; COLUMNS];
        for i in 0..tile.rows {
            let (row, cols) = (tile.row0 + i, tile.cols);
            let old = &mut old[..cols];
            self.get(row, col, old);
            tile.row(i).iter_mut().zip(old).for_each(|(z, x)| *z += *x);
            self.put(row, col, tile.row(i));
        }
    }
}

/// Rows that the tasks of one product fill, each at once: floats, or int8 with scales made of rows of `C`.
pub enum Kept<'a, C> {
    Floats(Dest<'a, C>),
    Int8 { isa: Isa, codes: SharedMut<'a, i8>, stride: usize, scales: SharedMut<'a, f32> },
}

impl<'a, C: Float> Kept<'a, C> {
    /// Over an operand that the op changes.
    pub fn new(m: &OpMem<'a>, cpu: &Cpu, to: &Input) -> Self {
        match &to.scales {
            None => Kept::Floats(Dest::new(m, cpu, &to.x)),
            Some(scales) => Kept::Int8 {
                isa: cpu.isa(),
                codes: SharedMut::new(m.write(&to.x)),
                stride: to.x.row_stride,
                scales: SharedMut::new(m.write(scales)),
            },
        }
    }

    /// Stores a whole row. A place belongs to one row of the op (`require_distinct`).
    pub fn put(&self, row: usize, values: &mut [f32]) {
        let (isa, codes, stride, scales) = match self {
            Kept::Floats(to) => return to.put(row, 0, values),
            Kept::Int8 { isa, codes, stride, scales } => (isa, codes, stride, scales),
        };
        values.iter_mut().for_each(|x| *x = C::from_f32(*x).to_f32());
        // SAFETY: as in `Dest::row`; a row has one scale.
        let (codes, scale) = unsafe { (codes.slice(row * stride, values.len()), scales.slice(row, 1)) };
        scale[0] = int8_row(*isa, values, codes);
    }
}

/// Panics if two rows would write the same place: `places` below 0 are none. A step that repeats a slot is a bug of the engine.
pub fn require_distinct(places: &[i32]) {
    let mut taken: Vec<i32> = places.iter().copied().filter(|&p| p >= 0).collect();
    taken.sort_unstable();
    assert!(taken.windows(2).all(|w| w[0] != w[1]), "two rows of a step have the same KV slot");
}

/// Adds a bias to every row of a tile.
pub fn add_bias(tile: &mut Tile, bias: &[f32]) {
    for i in 0..tile.rows {
        tile.row(i).iter_mut().zip(bias).for_each(|(z, b)| *z += b);
    }
}

/// Cosines and sines of half a head for every row: two f32 `[T, d / 2]`.
pub struct Turns<'a> {
    half: usize,
    cos: Buffer<'a>,
    sin: Buffer<'a>,
}

impl<'a> Turns<'a> {
    /// `angles(row, out)` fills the angles of a row's half-head.
    pub fn new(cpu: &'a Cpu, rows: usize, half: usize, angles: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let (mut cos, mut sin) = (cpu.buffer(rows * half), cpu.buffer(rows * half));
        fill_rows(cpu, &mut cos, half, |row, out| angles(row, out));
        sin.copy_from_slice(&cos);
        fill_rows(cpu, &mut sin, half, |_, out| out.iter_mut().for_each(|a| *a = a.sin()));
        fill_rows(cpu, &mut cos, half, |_, out| out.iter_mut().for_each(|a| *a = a.cos()));
        Turns { half, cos, sin }
    }

    /// Turns the pairs (i, i + d/2) of one head of a row.
    pub fn apply(&self, row: usize, head: &mut [f32]) {
        let (low, high) = head.split_at_mut(self.half);
        let at = row * self.half..(row + 1) * self.half;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
