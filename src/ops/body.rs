//! What the fast bodies share: operands as f32 rows, weights as slices in place, and tiles stored from several threads.

use super::norm::{Norm, NormKind};
use super::with_float;
use crate::cpu::{Cpu, Rows, Tile, Unit, norm, rows};
use crate::dtype::{DType, Float};
use crate::hostmem::{OpMem, SharedMut};
use crate::tensor::Tensor;
use crate::weights::Weight;
use std::borrow::Cow;
use std::sync::Mutex;

/// Columns of a product that one epilogue call handles where the op does not care.
const COLUMNS: usize = 64;
/// Rows that a thread widens or normalises at a time.
const ROWS: usize = 32;

/// A read operand as contiguous f32 rows; borrowed if it is stored so.
pub fn load<'a>(m: &OpMem<'a>, cpu: &Cpu, t: &Tensor) -> Cow<'a, [f32]> {
    if t.dtype == DType::F32 && t.is_contiguous() {
        return Cow::Borrowed(m.read::<f32>(t));
    }
    let stored = with_float!(t.dtype, T => bytemuck::cast_slice::<T, u8>(m.read::<T>(t)));
    Cow::Owned(load_columns(cpu, stored, t, t.cols()))
}

/// The first `cols` columns of every row of `t`, whose elements are `stored`, as contiguous f32 rows.
pub fn load_columns(cpu: &Cpu, stored: &[u8], t: &Tensor, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; t.rows() * cols];
    fill_rows(cpu, &mut out, cols, |row, to| {
        let bytes = &stored[row * t.row_stride * t.dtype.size()..][..cols * t.dtype.size()];
        rows::widen(cpu.isa(), bytes, t.dtype, to);
    });
    out
}

/// A read operand as f32 rows after an optional norm.
pub fn load_normed<'a>(m: &OpMem<'a>, cpu: &Cpu, x: &Tensor, norm: Option<&Norm>) -> Cow<'a, [f32]> {
    let x = load(m, cpu, x);
    match norm {
        None => x,
        Some(norm) => Cow::Owned(apply(m, cpu, norm, &x)),
    }
}

/// A norm over rows of f32.
pub fn apply(m: &OpMem, cpu: &Cpu, norm: &Norm, x: &[f32]) -> Vec<f32> {
    let weight = vector(m.weight(norm.weight));
    let bias = norm.bias.map(|b| vector(m.weight(b)));
    let mut out = vec![0.0; x.len()];
    fill_rows(cpu, &mut out, norm.width, |row, y| {
        let x = &x[row * norm.width..][..norm.width];
        match (norm.kind, &bias) {
            (NormKind::Rms, _) => norm::rms_norm(cpu.isa(), x, &weight, norm.eps, y),
            (NormKind::Layer, Some(bias)) => norm::layer_norm(cpu.isa(), x, &weight, bias, norm.eps, y),
            (NormKind::Layer, None) => norm::layer_norm(cpu.isa(), x, &weight, &vec![0.0; weight.len()], norm.eps, y),
        }
    });
    out
}

/// Calls `fill(row, out)` for every row of `cols` values, on all threads.
fn fill_rows(cpu: &Cpu, out: &mut [f32], cols: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let pieces: Vec<_> = out.chunks_mut(cols * ROWS).map(Mutex::new).collect();
    cpu.for_each(pieces.len(), |i| {
        let mut piece = pieces[i].lock().expect("only this task takes it");
        piece.chunks_mut(cols).enumerate().for_each(|(r, out)| fill(i * ROWS + r, out));
    });
}

/// A vector's elements as f32, the parts one after the other.
pub fn vector(w: &Weight) -> Vec<f32> {
    let mut out = Vec::new();
    for p in &w.parts {
        let bytes = p.data.bytes().chunks_exact(p.dtype.size());
        with_float!(p.dtype, T => out.extend(bytes.map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f32())));
    }
    out
}

/// A weight's parts, in place.
pub fn parts(w: &Weight) -> Vec<Rows<'_>> {
    w.parts.iter().map(|p| Rows { bytes: p.data.bytes(), dtype: p.dtype, n: p.n, k: p.k }).collect()
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
}

impl<'a, Y: Float> Dest<'a, Y> {
    /// Over a written operand of the op.
    pub fn new(m: &OpMem<'a>, t: &Tensor) -> Self {
        Dest { out: SharedMut::new(m.write::<Y>(t)), stride: t.row_stride }
    }

    /// `len` elements of a row from column `col`: a piece that belongs to the caller's tile alone.
    #[allow(clippy::mut_from_ref)]
    pub fn row(&self, row: usize, col: usize, len: usize) -> &mut [Y] {
        // SAFETY: a product computes each (row, unit) in one tile of one task, units own disjoint columns, and a tile's epilogue holds one
        // piece at a time.
        unsafe { self.out.slice(row * self.stride + col, len) }
    }

    /// Stores a tile whose first column is `col`.
    pub fn set(&self, tile: &mut Tile, col: usize) {
        for i in 0..tile.rows {
            let (row, cols) = (tile.row0 + i, tile.cols);
            self.row(row, col, cols).iter_mut().zip(tile.row(i)).for_each(|(y, z)| *y = Y::from_f32(*z));
        }
    }

    /// Adds a tile whose first column is `col`.
    pub fn add(&self, tile: &mut Tile, col: usize) {
        for i in 0..tile.rows {
            let (row, cols) = (tile.row0 + i, tile.cols);
            self.row(row, col, cols).iter_mut().zip(tile.row(i)).for_each(|(y, z)| *y = Y::from_f32(y.to_f32() + *z));
        }
    }
}

/// Adds a bias to every row of a tile.
pub fn add_bias(tile: &mut Tile, bias: &[f32]) {
    for i in 0..tile.rows {
        tile.row(i).iter_mut().zip(bias).for_each(|(z, b)| *z += b);
    }
}

/// Cosine and sine of half a head for every row, f32 `[T, d / 2]` pairs.
pub struct Turns {
    half: usize,
    cos_sin: Vec<(f32, f32)>,
}

impl Turns {
    /// `angles(row, out)` fills the angles of a row's half-head.
    pub fn new(rows: usize, half: usize, angles: impl Fn(usize, &mut [f32])) -> Self {
        let mut row_angles = vec![0.0; half];
        let mut cos_sin = Vec::with_capacity(rows * half);
        for row in 0..rows {
            angles(row, &mut row_angles);
            cos_sin.extend(row_angles.iter().map(|a| (a.cos(), a.sin())));
        }
        Turns { half, cos_sin }
    }

    /// Turns the pairs (i, i + d/2) of one head of a row.
    pub fn apply(&self, row: usize, head: &mut [f32]) {
        let (low, high) = head.split_at_mut(self.half);
        let turns = &self.cos_sin[row * self.half..][..self.half];
        for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
