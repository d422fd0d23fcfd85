//! `[T, K]` rows times `[N, K]` weights, one unit of output columns at a time, each finished by the caller's epilogue.
//!
//! Owns how a product is cut into tasks. Refuses to know what an epilogue does. The surprise: the caller says which weight rows belong
//! together, so that an epilogue sees a whole head, or a gate beside its up row, while the values are still in the cache.

use super::gemm::{Multiply, Row, vectors};
use super::gemv::{Gemv, MAX_ROWS};
use super::panel::{Pack, with_storage};
use super::simd::{LANES, Lane16};
use super::{BLOCK, Cpu};
use crate::dtype::DType;
use bytemuck::cast_slice_mut;

/// A weight in place: `[n, k]` row-major, at any alignment, of f32, bf16 or f16.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub bytes: &'a [u8],
    pub dtype: DType,
    pub n: usize,
    pub k: usize,
}

/// Weight rows whose outputs an epilogue needs together: runs of rows `(part, first row, rows)`, side by side in the tile.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    pub runs: [(usize, usize, usize); 2],
}

impl Unit {
    /// Rows of one part.
    pub const fn new(part: usize, first: usize, rows: usize) -> Unit {
        Unit { runs: [(part, first, rows), (part, 0, 0)] }
    }

    /// Rows of two parts, as gate and up.
    pub const fn pair(a: (usize, usize, usize), b: (usize, usize, usize)) -> Unit {
        Unit { runs: [a, b] }
    }

    fn columns(&self) -> usize {
        self.runs[0].2 + self.runs[1].2
    }
}

/// Finished outputs of one unit for the rows `row0..row0 + rows` of the input, the epilogue's to change.
#[derive(Debug)]
pub struct Tile<'a> {
    pub row0: usize,
    pub rows: usize,
    pub cols: usize,
    data: &'a mut [f32],
    ld: usize,
}

impl Tile<'_> {
    /// The outputs of row `row0 + i`.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.ld..][..self.cols]
    }
}

/// Columns that a task computes at a time, if the units allow: their panels (128 KiB) and their sums stay in L2.
const GROUP: usize = 128;
/// Rows of a task at most: the sums of a group then take 256 KiB.
const ROWS: usize = 512;

/// Multiplies `a` `[t, k]` with the rows of `parts` that each unit names, and calls `epilogue(unit, tile)` on the thread that computed the tile,
/// once for each unit and row range. Together the tiles of a unit cover all `t` rows. The epilogue must not call back into `cpu`.
pub fn matmul(
    cpu: &Cpu,
    a: &[f32],
    t: usize,
    parts: &[Rows],
    units: &[Unit],
    epilogue: impl Fn(usize, &mut Tile) + Sync,
) {
    let (k, dtype) = (parts[0].k, parts[0].dtype);
    assert!(a.len() == t * k && k > 0, "{} values are not {t} rows of {k}", a.len());
    for part in parts {
        assert!((part.k, part.dtype) == (k, dtype) && part.bytes.len() == part.n * k * dtype.size(), "parts differ");
    }
    let groups = group(units, cpu.threads());
    let row_tiles = t.div_ceil(ROWS);
    let work = |scratch: &mut Vec<Lane16>, task: usize| {
        let (tile, (first, end)) = (task / groups.len(), groups[task % groups.len()]);
        let (row0, row_end) = (tile * t / row_tiles, (tile + 1) * t / row_tiles);
        let weights = weight_rows(parts, &units[first..end]);
        let a = &a[row0 * k..row_end * k];
        let ld = vectors(weights.len());
        let sums = with_storage!(dtype, D => product(cpu, D {}, a, k, &weights, scratch));
        let sums: &mut [f32] = cast_slice_mut(sums);
        let mut at = 0;
        for (i, unit) in units[first..end].iter().enumerate() {
            let cols = unit.columns();
            epilogue(first + i, &mut Tile { row0, rows: row_end - row0, cols, data: &mut sums[at..], ld: ld * LANES });
            at += cols;
        }
    };
    cpu.for_each(groups.len() * row_tiles, Vec::new, work);
}

/// Runs of units with about [`GROUP`] columns, `(first, end)`.
fn group(units: &[Unit], threads: usize) -> Vec<(usize, usize)> {
    let _ = threads;
    let mut groups = Vec::new();
    let (mut first, mut columns) = (0, 0);
    for (i, unit) in units.iter().enumerate() {
        if columns > 0 && columns + unit.columns() > GROUP {
            groups.push((first, i));
            (first, columns) = (i, 0);
        }
        columns += unit.columns();
    }
    if first < units.len() {
        groups.push((first, units.len()));
    }
    groups
}

fn weight_rows<'a>(parts: &[Rows<'a>], units: &[Unit]) -> Vec<&'a [u8]> {
    let runs = units.iter().flat_map(|unit| unit.runs);
    runs.flat_map(|(part, first, rows)| {
        let stride = parts[part].k * parts[part].dtype.size();
        parts[part].bytes[first * stride..(first + rows) * stride].chunks_exact(stride)
    })
    .collect()
}

/// All sums of one task, `[rows][vectors]`.
fn product<'s, D: super::panel::Storage + Copy>(
    cpu: &Cpu,
    storage: D,
    a: &[f32],
    k: usize,
    weights: &[&[u8]],
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let (rows, ld) = (a.len() / k, vectors(weights.len()));
    let parts = [rows * ld, BLOCK * ld, 12 * BLOCK / LANES];
    scratch.resize(scratch.len().max(parts.iter().sum()), Lane16::ZERO);
    let (c, scratch) = scratch.split_at_mut(parts[0]);
    if rows <= MAX_ROWS {
        cpu.isa().run(Gemv { a, k, rows: weights, c, storage });
        return c;
    }
    let (panels, scratch) = scratch.split_at_mut(parts[1]);
    let block: &mut [Row] = cast_slice_mut(&mut scratch[..parts[2]]);
    for from in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - from);
        let panels = &mut panels[..ld * depth];
        cpu.isa().run(Pack { rows: weights, first_step: from / super::panel::STEP, depth, panels, storage });
        cpu.isa().run(Multiply { a, stride: k, from, depth, panels, block, c });
    }
    c
}
