//! The outer-product kernel: a tile of rows by columns stays in registers while k goes by.
//!
//! Owns the one inner loop of products and of attention. Refuses to know where its panels come from. The surprise: the rows are not
//! transposed. A block of 12 rows is copied to 1 KiB per row, so that every broadcast is a fixed distance from one pointer and the block
//! stays in L1, while the panels (32 KiB for 32 columns) stream from L2 at 5 bytes a cycle.

use super::BLOCK;
use super::simd::{Kernel, LANES, Lane16, Simd};

/// What becomes of the values that are in the result already.
#[derive(Clone, Copy)]
pub enum Old<'a> {
    /// They are overwritten.
    Drop,
    /// They are added: `old * factor + new`, rounded once, with one factor for each row. A factor of 1 is a plain sum.
    Scale(&'a [f32]),
}

/// `c[r][j] = sum over k of a[r][k] * b[j][k]` for up to `S::TILE.0` rows.
/// `panels` holds panels of 16 columns, each of `depth` vectors; `c` has `ld` vectors a row.
#[inline(always)]
pub fn outer<S: Simd>(s: S, a: &[&[f32]], panels: &[Lane16], depth: usize, old: Old, c: &mut [Lane16], ld: usize) {
    let mut j = 0;
    for pair in panels.chunks(S::TILE.1 * depth) {
        let c = &mut c[j..];
        match pair.split_at(depth) {
            (b, []) => rows::<S, 1>(s, a, [b], old, c, ld),
            (b0, b1) => rows::<S, 2>(s, a, [b0, b1], old, c, ld),
        }
        j += S::TILE.1;
    }
}

#[inline(always)]
fn rows<S: Simd, const N: usize>(s: S, a: &[&[f32]], b: [&[Lane16]; N], old: Old, c: &mut [Lane16], ld: usize) {
    match a.len() {
        1 => tile::<S, 1, N>(s, a, b, old, c, ld),
        2 => tile::<S, 2, N>(s, a, b, old, c, ld),
        3 => tile::<S, 3, N>(s, a, b, old, c, ld),
        4 => tile::<S, 4, N>(s, a, b, old, c, ld),
        5 => tile::<S, 5, N>(s, a, b, old, c, ld),
        6 => tile::<S, 6, N>(s, a, b, old, c, ld),
        m if m > S::TILE.0 => unreachable!("{m} rows are no tile"),
        7 => tile::<S, 7, N>(s, a, b, old, c, ld),
        8 => tile::<S, 8, N>(s, a, b, old, c, ld),
        9 => tile::<S, 9, N>(s, a, b, old, c, ld),
        10 => tile::<S, 10, N>(s, a, b, old, c, ld),
        11 => tile::<S, 11, N>(s, a, b, old, c, ld),
        12 => tile::<S, 12, N>(s, a, b, old, c, ld),
        m => unreachable!("{m} rows are no tile"),
    }
}

#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(
    s: S,
    a: &[&[f32]],
    b: [&[Lane16]; N],
    old: Old,
    c: &mut [Lane16],
    ld: usize,
) {
    let depth = b[0].len().min(BLOCK);
    let b = b.map(|b| &b[..depth]);
    let a: [&[f32]; M] = std::array::from_fn(|r| &a[r][..depth]);
    let mut acc = [[s.splat(0.0); N]; M];
    for k in 0..depth {
        let column: [S::V; N] = std::array::from_fn(|j| s.load(&b[j][k].0));
        for r in 0..M {
            let x = s.splat(a[r][k]);
            for j in 0..N {
                acc[r][j] = s.fma(x, column[j], acc[r][j]);
            }
        }
    }
    for r in 0..M {
        let c: &mut [Lane16; N] = c[r * ld..].first_chunk_mut().expect("N vectors");
        for j in 0..N {
            let new = match old {
                Old::Drop => acc[r][j],
                Old::Scale(factor) => s.fma(s.load(&c[j].0), s.splat(factor[r]), acc[r][j]),
            };
            s.store(new, &mut c[j].0);
        }
    }
}

/// Multiplies rows by panels for one block of k and adds the product to `c`.
pub struct Multiply<'a> {
    /// Rows of `stride` values; the block begins at `from`.
    pub a: &'a [f32],
    pub stride: usize,
    pub from: usize,
    pub depth: usize,
    pub panels: &'a [Lane16],
    pub c: &'a mut [Lane16],
}

impl Kernel for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ones = [1.0; 16];
        let old = if self.from == 0 { Old::Drop } else { Old::Scale(&ones) };
        let ld = self.panels.len() / self.depth;
        let rows = self.a.len() / self.stride;
        // Blocks of nearly equal height: a last one of 1 or 2 rows would wait for the latency of its few chains.
        let blocks = rows.div_ceil(S::TILE.0);
        for i in 0..blocks {
            let (first, end) = (i * rows / blocks, (i + 1) * rows / blocks);
            let mut block: [&[f32]; 12] = [&[]; 12];
            for (to, row) in block.iter_mut().zip(self.a[first * self.stride..end * self.stride].chunks(self.stride)) {
                *to = &row[self.from..self.from + self.depth];
            }
            let block = &block[..end - first];
            // The next rows come from L3 or memory while this block is multiplied; without that the copy takes 15 % of the time.
            for row in self.a[end * self.stride..].chunks(self.stride).take(S::TILE.0) {
                for line in row[self.from..self.from + self.depth].chunks(LANES) {
                    s.prefetch(line.as_ptr().cast());
                }
            }
            outer(s, block, self.panels, self.depth, old, &mut self.c[first * ld..], ld);
        }
    }
}
