//! `[T, K]` rows times `[N, K]` weights, one unit of output columns at a time, each finished by the caller's epilogue.
//!
//! Owns how a product is cut into tasks. Refuses to know what an epilogue does. The surprise: the caller says which weight rows belong
//! together, so that an epilogue sees a whole head, or a gate beside its up row, while the values are still in the cache.

use super::codes::integers::{Integers, Operand};
use super::codes::product::product;
use super::codes::{self, Codes, Panel};
use super::gemm::Multiply;
use super::gemv::{Gemv, MAX_ROWS, padded};
use super::panel::{Pack, STEP, Storage, with_storage};
use super::simd::{Isa, LANES, Lane16};
use super::{BLOCK, Cpu, carve};
use crate::dtype::DType;
use bytemuck::cast_slice_mut;
use std::marker::PhantomData;
use std::ops::Range;

/// A weight in place: `[n, k]` row-major, at any alignment, of f32, bf16 or f16.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub bytes: &'a [u8],
    pub dtype: DType,
    pub n: usize,
    pub k: usize,
}

impl<'a> Rows<'a> {
    fn range(&self, first: usize, rows: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let stride = self.k * self.dtype.size();
        self.bytes[first * stride..(first + rows) * stride].chunks_exact(stride)
    }
}

/// Weight rows whose outputs an epilogue needs together: runs of rows `(part, first row, rows)`, side by side in the tile.
#[derive(Debug, Clone, Copy)]
pub struct Unit([(usize, usize, usize); 2]);

impl Unit {
    /// Rows of one part.
    pub const fn new(part: usize, first: usize, rows: usize) -> Unit {
        Unit([(part, first, rows), (part, first, 0)])
    }

    /// Rows of two parts, as gate and up.
    pub const fn pair(a: (usize, usize, usize), b: (usize, usize, usize)) -> Unit {
        Unit([a, b])
    }

    fn columns(&self) -> usize {
        self.0[0].2 + self.0[1].2
    }
}

/// Finished outputs of one unit for the rows `row0..row0 + rows` of the input, the epilogue's to change.
#[derive(Debug)]
pub struct Tile<'a> {
    pub row0: usize,
    pub rows: usize,
    pub cols: usize,
    pub(super) data: &'a mut [f32],
    pub(super) ld: usize,
}

impl Tile<'_> {
    /// The outputs of row `row0 + i`.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.ld..][..self.cols]
    }
}

/// Takes a finished tile of a unit or head, on the thread that computed it. A function object, so that an op adds no copy of a product.
pub type Epilogue<'a> = &'a (dyn Fn(usize, &mut Tile) + Sync);

/// Columns that a task computes at a time, if the units allow: their panels (128 KiB) and their sums stay in L2.
const GROUP: usize = 128;
/// The same for a few rows, which pack nothing: threads wait less for the one that takes the last task.
const GROUP_OF_FEW: usize = 64;
/// The most rows that count as few. Weights that were just read once are turned once more in less time than they are packed.
const FEW: usize = 2 * MAX_ROWS;
/// Rows of a task at most: the sums of a group then take 256 KiB.
const ROWS: usize = 512;

/// Rows a multiple of this many floats (4 KiB) apart share the sets of L1, which hold 8 of a block's 12 lines. They are copied first.
const ALIAS: usize = 1024;

/// Rows that a thread copies at a time.
const PIECE: usize = 16;

/// Multiplies `a` `[t, k]` with the rows of `parts` that each unit names, and calls `epilogue(unit, tile)` on the thread that computed the tile,
/// once for each unit and row range. Together the tiles of a unit cover all `t` rows.
pub fn matmul(cpu: &Cpu, a: &[f32], t: usize, parts: &[Rows], units: &[Unit], epilogue: Epilogue) {
    let (k, dtype) = (parts[0].k, parts[0].dtype);
    assert!(a.len() == t * k && k > 0, "{} values are not {t} rows of {k}", a.len());
    for part in parts {
        assert!((part.k, part.dtype) == (k, dtype) && part.bytes.len() == part.n * k * dtype.size(), "parts differ");
    }
    let few = t <= FEW && cpu.isa().turns();
    let group = if few { GROUP_OF_FEW } else { GROUP };
    let mut spare = cpu.scratch().pop().unwrap_or_default();
    let (a, stride) = match few {
        true if t > 1 => (interleave(a, k, &mut spare), k),
        false if k.is_multiple_of(ALIAS) => (pad_rows(cpu, a, k, &mut spare), k + LANES),
        _ => (a, k),
    };
    each_task(cpu, (t, group), units, epilogue, &|scratch, rows, units, next| {
        let (isa, weights, next) = (cpu.isa(), weight_rows(parts, units), weight_rows(parts, next));
        if few {
            with_storage!(dtype, D => product_of_few::<D>(isa, a, k, &weights, &next, scratch))
        } else {
            let a = &a[rows.start * stride..rows.end * stride];
            with_storage!(dtype, D => product_of_many::<D>(isa, a, (stride, k), &weights, &next, scratch))
        }
    });
    cpu.scratch().push(spare);
}

/// The same with `t` rows of an operand and quantized weights. A sum over a block of k is exact; the output is one chain over the blocks of fused
/// multiply-adds of such a sum and the product of both scales. Sums with [`Operand::Int8`] are exact over the whole row.
pub fn matmul_codes(cpu: &Cpu, x: Operand, t: usize, parts: &[Codes], units: &[Unit], epilogue: Epilogue) {
    let of = &parts[0];
    for part in parts {
        part.assert_whole();
        assert!((part.k, part.bits, part.group) == (of.k, of.bits, of.group), "parts differ");
    }
    assert!(x.len() == t * of.k, "{} values are not {t} rows of {}", x.len(), of.k);
    let x = Integers::new(cpu, x, of.k, of.block());
    let product = match (of.bits, x.planes) {
        (4, 1) => product::<2, 4, 1> as CodesProduct,
        (4, _) => product::<2, 4, 2>,
        (_, 1) => product::<1, 8, 1>,
        (_, _) => product::<1, 8, 2>,
    };
    let group = if t == 1 { GROUP_OF_FEW } else { GROUP };
    each_task(cpu, (t, group), units, epilogue, &|scratch, rows, units, next| {
        let (panels, next) = (code_panels(parts, units), code_panels(parts, next));
        let range = x.each * rows.start..x.each * rows.end;
        let task = codes::Task { isa: cpu.isa(), x: &x, range, of, panels: &panels, next: &next };
        let sums = product(&task, scratch);
        let sums = if x.each == 2 { add_pairs(sums, rows.len()) } else { sums };
        drop_lanes(sums, rows.len(), units)
    });
}

type CodesProduct = for<'s> fn(&codes::Task, &'s mut Vec<Lane16>) -> &'s mut [Lane16];

/// Sums of rows `2 r` and `2 r + 1` become row `r`, of `rows`.
fn add_pairs(sums: &mut [Lane16], rows: usize) -> &mut [Lane16] {
    let len = sums.len() / 2;
    let ld = len / rows * LANES;
    let floats: &mut [f32] = cast_slice_mut(sums);
    for r in 0..rows {
        for j in 0..ld {
            floats[r * ld + j] = floats[2 * r * ld + j] + floats[(2 * r + 1) * ld + j];
        }
    }
    &mut sums[..len]
}

/// Cuts a product of `t` rows into tasks of about `group` columns: `product(scratch, rows, units, units that the thread computes next)` gives the outputs
/// of some units for some rows, `[rows][vectors of columns]`, and the epilogue takes them by unit.
fn each_task(cpu: &Cpu, (t, group): (usize, usize), units: &[Unit], epilogue: Epilogue, product: TaskProduct) {
    let (groups, tiles) = (groups(units, group), t.div_ceil(ROWS));
    let units_of = |task: usize| &units[groups[task % groups.len()].clone()];
    cpu.for_each_with(groups.len() * tiles, |scratch, task, next| {
        let (tile, group, units) = (task / groups.len(), &groups[task % groups.len()], units_of(task));
        let rows = tile * t / tiles..(tile + 1) * t / tiles;
        let sums = cast_slice_mut(product(scratch, rows.clone(), units, next.map(units_of).unwrap_or_default()));
        let ld = units.iter().map(Unit::columns).sum::<usize>().next_multiple_of(LANES);
        let mut at = 0;
        for (i, unit) in units.iter().enumerate() {
            let cols = unit.columns();
            let tile = &mut Tile { row0: rows.start, rows: rows.len(), cols, data: &mut sums[at..], ld };
            epilogue(group.start + i, tile);
            at += cols;
        }
    });
}

type TaskProduct<'a> =
    &'a (dyn for<'s> Fn(&'s mut Vec<Lane16>, Range<usize>, &[Unit], &[Unit]) -> &'s mut [Lane16] + Sync);

/// `[t, k]` to `[k, padded t]`, of [`MAX_ROWS`] rows at a time.
fn interleave<'s>(a: &[f32], k: usize, scratch: &'s mut Vec<Lane16>) -> &'s [f32] {
    let t = padded(a.len() / k);
    let [to] = carve(scratch, [(t * k).div_ceil(LANES)]);
    let to = &mut cast_slice_mut(to)[..t * k];
    to.fill(0.0);
    for (a, to) in a.chunks(MAX_ROWS * k).zip(to.chunks_mut(MAX_ROWS * k)) {
        let t = to.len() / k;
        for (i, row) in a.chunks_exact(k).enumerate() {
            to[i..].iter_mut().step_by(t).zip(row).for_each(|(to, a)| *to = *a);
        }
    }
    to
}

/// Copies rows of `k` values, a multiple of [`LANES`], to rows that are [`LANES`] values longer.
fn pad_rows<'s>(cpu: &Cpu, a: &[f32], k: usize, scratch: &'s mut Vec<Lane16>) -> &'s [f32] {
    let [padded] = carve(scratch, [a.len() / k * (k / LANES + 1)]);
    let padded: &mut [f32] = cast_slice_mut(padded);
    let pieces = padded.chunks_mut(PIECE * (k + LANES)).zip(a.chunks(PIECE * k));
    cpu.for_each_of(pieces, |_, (to, rows)| {
        to.chunks_mut(k + LANES).zip(rows.chunks(k)).for_each(|(to, row)| to[..k].copy_from_slice(row));
    });
    padded
}

/// Runs of units with about `most` columns.
fn groups(units: &[Unit], most: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut columns = 0;
    for (i, unit) in units.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if columns + unit.columns() <= most => group.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                columns = 0;
            }
        }
        columns += unit.columns();
    }
    groups
}

fn weight_rows<'a>(parts: &[Rows<'a>], units: &[Unit]) -> Vec<&'a [u8]> {
    let mut out = Vec::with_capacity(GROUP);
    for unit in units {
        for (part, first, rows) in unit.0 {
            out.extend(parts[part].range(first, rows));
        }
    }
    out
}

/// The panels that hold the rows of units.
fn code_panels<'a>(parts: &'a [Codes<'a>], units: &[Unit]) -> Vec<Panel<'a>> {
    let runs = units.iter().flat_map(|unit| unit.0);
    runs.flat_map(|(part, first, rows)| parts[part].panels(first..first + rows)).collect()
}

/// Moves the outputs of `rows` rows together where runs of weight rows begin or end inside a panel.
fn drop_lanes<'s>(sums: &'s mut [Lane16], rows: usize, units: &[Unit]) -> &'s mut [Lane16] {
    // Where a run lies in a row now, where it belongs, and its length.
    let mut runs = Vec::with_capacity(2 * units.len());
    let (mut panels, mut columns) = (0, 0);
    for (_, first, rows) in units.iter().flat_map(|unit| unit.0) {
        runs.push((panels * LANES + first % LANES, columns, rows));
        panels += (first + rows).div_ceil(LANES) - first / LANES;
        columns += rows;
    }
    if runs.iter().all(|(from, to, _)| from == to) {
        return sums;
    }
    let vectors = columns.div_ceil(LANES);
    let floats: &mut [f32] = cast_slice_mut(sums);
    for row in 0..rows {
        for &(from, to, len) in &runs {
            let from = row * panels * LANES + from;
            floats.copy_within(from..from + len, row * vectors * LANES + to);
        }
    }
    &mut sums[..rows * vectors]
}

/// All sums of a task with few rows, `[rows][vectors of columns]`; `a` is interleaved.
fn product_of_few<'s, D: Storage>(
    isa: Isa,
    a: &[f32],
    k: usize,
    rows: &[&[u8]],
    next: &[&[u8]],
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let vectors = rows.len().div_ceil(LANES);
    let [c] = carve(scratch, [a.len() / k * vectors]);
    let mut passes = a.chunks(MAX_ROWS * k).zip(c.chunks_mut(MAX_ROWS * vectors)).peekable();
    while let Some((a, c)) = passes.next() {
        let next = if passes.peek().is_some() { rows } else { next };
        isa.run(Gemv { a, t: a.len() / k, rows, next, c, storage: PhantomData::<D> });
    }
    c
}

/// All sums of a task, `[rows][vectors of columns]`. Rows of `a` have `k` values, `stride` apart.
fn product_of_many<'s, D: Storage>(
    isa: Isa,
    a: &[f32],
    (stride, k): (usize, usize),
    rows: &[&[u8]],
    next: &[&[u8]],
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let vectors = rows.len().div_ceil(LANES);
    let [c, panels] = carve(scratch, [a.len() / stride * vectors, BLOCK * vectors]);
    let bytes = |from: usize| from * rows[0].len() / k..(from + BLOCK).min(k) * rows[0].len() / k;
    for from in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - from);
        let panels = &mut panels[..vectors * depth];
        isa.run(Pack { rows, first_step: from / STEP, depth, panels, storage: PhantomData::<D> });
        let ahead = if from + BLOCK < k { (rows, bytes(from + BLOCK)) } else { (next, bytes(0)) };
        Multiply { a, stride, from, panels, depth, ahead }.add_to(c, isa);
    }
    c
}
