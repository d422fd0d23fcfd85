//! The outer-product kernel: a tile of rows by columns stays in registers while k goes by.
//!
//! Owns the one inner loop of products and of attention. Refuses to know where its panels come from. The surprise: the rows are neither
//! transposed nor copied. Each k broadcasts one value of each of 12 rows, in place, from L1, while the panels (32 KiB for 32 columns)
//! stream from L2 at 5 bytes a cycle. Copying the rows first, to be at one stride, took a tenth of the time.

use super::BLOCK;
use super::simd::{Isa, Kernel, LANES, Lane16, Simd, prefetch};
use std::ops::Range;

/// Rows that [`Outer`] takes at most.
pub const MAX_ROWS: usize = 12;

/// `c[r][j] = c[r][j] * keep[r] + sum over k of a[r][k] * panels[j][k]`, the sum one chain over ascending k, the product and sum with what was
/// there rounded once (so that a factor of 1 is a plain sum). Without `keep`, what was there is dropped.
pub struct Outer<'a> {
    /// Up to `S::TILE.0` rows of at least `depth` values.
    pub a: &'a [&'a [f32]],
    pub depth: usize,
    /// Panels of 16 columns, `panel` vectors apart.
    pub panels: &'a [Lane16],
    pub panel: usize,
    pub keep: Option<&'a [f32; MAX_ROWS]>,
    /// Rows of `ld` vectors.
    pub c: &'a mut [Lane16],
    pub ld: usize,
}

impl Outer<'_> {
    /// Not inlined, so that the 24 tile shapes are compiled once.
    #[inline(never)]
    pub fn run(self, isa: Isa) {
        isa.run(self);
    }

    #[inline(always)]
    fn rows<S: Simd, const N: usize>(&mut self, s: S, j: usize) {
        match self.a.len() {
            1 => self.tile::<S, 1, N>(s, j),
            2 => self.tile::<S, 2, N>(s, j),
            3 => self.tile::<S, 3, N>(s, j),
            4 => self.tile::<S, 4, N>(s, j),
            5 => self.tile::<S, 5, N>(s, j),
            6 => self.tile::<S, 6, N>(s, j),
            m if m > S::TILE.0 => unreachable!("{m} rows are no tile"),
            7 => self.tile::<S, 7, N>(s, j),
            8 => self.tile::<S, 8, N>(s, j),
            9 => self.tile::<S, 9, N>(s, j),
            10 => self.tile::<S, 10, N>(s, j),
            11 => self.tile::<S, 11, N>(s, j),
            12 => self.tile::<S, 12, N>(s, j),
            m => unreachable!("{m} rows are no tile"),
        }
    }

    /// `M` rows by the `N` panels from the `j`-th on.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, s: S, j: usize) {
        let a: [&[f32]; M] = std::array::from_fn(|r| &self.a[r][..self.depth]);
        let b: [&[Lane16]; N] = std::array::from_fn(|n| &self.panels[(j + n) * self.panel..][..self.depth]);
        let mut acc = [[s.splat(0.0); N]; M];
        for k in 0..self.depth {
            let column: [S::V; N] = std::array::from_fn(|n| s.load(&b[n][k].0));
            for r in 0..M {
                let x = s.splat(a[r][k]);
                for n in 0..N {
                    acc[r][n] = s.fma(x, column[n], acc[r][n]);
                }
            }
        }
        for r in 0..M {
            let c: &mut [Lane16; N] = self.c[r * self.ld + j..].first_chunk_mut().expect("N vectors");
            for n in 0..N {
                let sum = match self.keep {
                    None => acc[r][n],
                    Some(keep) => s.fma(s.load(&c[n].0), s.splat(keep[r]), acc[r][n]),
                };
                s.store(sum, &mut c[n].0);
            }
        }
    }
}

impl Kernel for Outer<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let panels = (self.panels.len() + self.panel - self.depth) / self.panel;
        let mut j = 0;
        if S::TILE.1 == 2 {
            while j + 2 <= panels {
                self.rows::<S, 2>(s, j);
                j += 2;
            }
        }
        while j < panels {
            self.rows::<S, 1>(s, j);
            j += 1;
        }
    }
}

/// All rows of `a`, `stride` apart, times panels of the block of k that begins at `from`.
pub struct Multiply<'a> {
    pub a: &'a [f32],
    pub stride: usize,
    pub from: usize,
    pub panels: &'a [Lane16],
    pub depth: usize,
    /// Weight rows that are packed next, and which of their bytes: asked for on the way. Read cold, they take the time of 25 rows.
    pub ahead: (&'a [&'a [u8]], Range<usize>),
}

impl Multiply<'_> {
    /// Adds the product to `c`, or puts it there if the block is the first.
    pub fn add_to(&self, c: &mut [Lane16], isa: Isa) {
        let Multiply { a, stride, from, panels, depth, .. } = *self;
        let keep = (from > 0).then_some(&[1.0; MAX_ROWS]);
        let ld = panels.len() / depth;
        let rows = a.len() / stride;
        for range in row_blocks(isa, rows) {
            let mut block: [&[f32]; MAX_ROWS] = [&[]; MAX_ROWS];
            let here = a[range.start * stride..range.end * stride].chunks(stride);
            block.iter_mut().zip(here).for_each(|(to, row)| *to = &row[from..from + depth]);
            // The next rows come from L3 or memory while these are multiplied.
            for row in a[range.end * stride..].chunks(stride).take(range.len()) {
                row[from..from + depth].chunks(LANES).for_each(|line| prefetch(line.as_ptr().cast()));
            }
            let count = self.ahead.0.len();
            for row in &self.ahead.0[range.start * count / rows..range.end * count / rows] {
                let bytes = &row[self.ahead.1.clone()];
                bytes.chunks(size_of::<Lane16>()).for_each(|line| prefetch(line.as_ptr()));
            }
            let (a, c) = (&block[..range.len()], &mut c[range.start * ld..]);
            Outer { a, depth, panels, panel: depth, keep, c, ld }.run(isa);
        }
    }
}

/// Blocks of nearly equal height: a last one of 1 or 2 rows would wait for the latency of its few chains.
pub fn row_blocks(isa: Isa, rows: usize) -> impl Iterator<Item = Range<usize>> {
    let blocks = rows.div_ceil(isa.tile_rows());
    (0..blocks).map(move |i| i * rows / blocks..(i + 1) * rows / blocks)
}

const _: () = assert!(BLOCK * 2 * size_of::<Lane16>() <= 32 << 10, "two panels fit L1");
