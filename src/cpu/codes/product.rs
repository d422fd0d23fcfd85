//! The products of a task: tiles of rows and panels, whose sums stay in registers over a block of k.
//!
//! Owns the loops, which should be bound by memory for one row and by arithmetic for many. Refuses to know units and epilogues. The surprise: codes
//! are unpacked where they are used, since for all rows of a tile a few shifts cost less than the bytes.

use super::{CHUNK, Panel, Task};
use crate::cpu::simd::{Kernel, LANES, Lane16, Simd, prefetch};
use crate::cpu::{BLOCK, carve};
use bytemuck::{cast_ref, cast_slice};
use std::array::from_fn;
use std::ops::Range;

/// Rows of which a panel is taken as a whole, so that it is read as one stream. More rows take turns with [`BLOCK`] columns of all panels of a task:
/// then their integers stay in L2.
const FEW: usize = 12;

/// Chunks of a step.
const CHUNKS: usize = BLOCK / CHUNK;

/// Codes are asked for so many lines ahead.
const AHEAD: usize = 128;

/// Unrolls by hand: left to the compiler, sums go through memory.
macro_rules! unroll {
    ($n:expr, $i:ident => $body:expr) => { unroll!(@ $n, $i, $body; 0 1) };
    (@ $n:expr, $i:ident, $body:expr; $($value:literal)*) => { { $({ const $i: usize = $value; if $i < $n { $body } })* } };
}

/// The sums of a task, of codes that lie `PARTS` in a byte, so that a chunk has `LINES` lines, and integers of `PLANES` dwords for each four.
pub fn product<'s, const PARTS: usize, const LINES: usize, const PLANES: usize>(
    task: &Task,
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let [c] = carve(scratch, [task.range.len() * task.panels.len()]);
    c.fill(Lane16::ZERO);
    task.isa.run_integers(Product::<PARTS, LINES, PLANES> { task, c });
    c
}

struct Product<'a, const PARTS: usize, const LINES: usize, const PLANES: usize> {
    task: &'a Task<'a>,
    c: &'a mut [Lane16],
}

impl<const PARTS: usize, const LINES: usize, const PLANES: usize> Kernel for Product<'_, PARTS, LINES, PLANES> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, panels) = (self.task.range.len(), self.task.panels.len());
        let turn = match rows {
            1 => 1,
            ..=FEW => S::TILE.1,
            _ => panels,
        };
        for first in (0..panels).step_by(turn) {
            for step in 0..self.steps() {
                self.step(s, first..panels.min(first + turn), step, turn);
            }
        }
        if self.task.x.whole {
            self.scale_whole(s);
        }
    }
}

impl<const PARTS: usize, const LINES: usize, const PLANES: usize> Product<'_, PARTS, LINES, PLANES> {
    /// Lines of a step.
    const STEP: usize = CHUNKS * LINES;

    fn steps(&self) -> usize {
        self.task.of.k.div_ceil(BLOCK)
    }

    /// Multiplies all rows with a step of some panels.
    #[inline(always)]
    fn step<S: Simd>(&mut self, s: S, panels: Range<usize>, step: usize, turn: usize) {
        // Rows whose sums, with those of all panels of a tile, stay in registers.
        let most = match S::TILE.0 {
            ..12 => 4,
            _ if S::DIGITS && PLANES == 2 => 6,
            _ => 12,
        };
        let rows = self.task.range.len();
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                12.. if most == 12 => self.panels::<S, 12>(s, row, &panels, step, turn),
                8.. if most == 12 => self.panels::<S, 8>(s, row, &panels, step, turn),
                6.. if most == 6 => self.panels::<S, 6>(s, row, &panels, step, turn),
                4.. => self.panels::<S, 4>(s, row, &panels, step, turn),
                2.. => self.panels::<S, 2>(s, row, &panels, step, turn),
                _ => self.panels::<S, 1>(s, row, &panels, step, turn),
            };
        }
    }

    /// Multiplies `M` rows with a step of some panels; gives `M`.
    #[inline(always)]
    fn panels<S: Simd, const M: usize>(
        &mut self,
        s: S,
        row: usize,
        panels: &Range<usize>,
        step: usize,
        turn: usize,
    ) -> usize {
        let mut panel = panels.start;
        while S::TILE.1 == 2 && panel + 2 <= panels.end {
            self.tile::<S, M, 2>(s, row, panel, step, turn);
            panel += 2;
        }
        while panel < panels.end {
            self.tile::<S, M, 1>(s, row, panel, step, turn);
            panel += 1;
        }
        M
    }

    /// Adds the products of `M` rows with a step of `N` panels to the sums.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
        step: usize,
        turn: usize,
    ) {
        let Task { x, range, of, panels, .. } = self.task;
        let (first_row, ld) = (range.start + row, panels.len());
        let panels: &[Panel; N] = panels[panel..].first_chunk().expect("N panels");
        let mut ahead = self.ahead(panel, step, turn);
        let (first, end) = (step * CHUNKS, of.k.div_ceil(CHUNK).min((step + 1) * CHUNKS));
        let block = x.block / CHUNK;
        for from in (first..end).step_by(block) {
            let chunks = from..end.min(from + block);
            let mut integers: [&[[[i32; PLANES]; CHUNK / 4]]; M] = [&[]; M];
            for (r, integers) in integers.iter_mut().enumerate() {
                *integers = x.chunks(first_row + r, chunks.clone());
            }
            let mut codes: [&[[[u32; LANES]; LINES]]; N] = [&[]; N];
            for (n, codes) in codes.iter_mut().enumerate() {
                *codes = &panels[n].codes.as_chunks().0[chunks.clone()];
            }
            let sums = dots::<S, PARTS, LINES, PLANES, M, N>(s, integers, codes, ahead);
            ahead = ahead.wrapping_add(block * LINES);
            let k = from * CHUNK;
            for (r, sums) in sums.iter().enumerate() {
                let c = self.c[(row + r) * ld + panel..].first_chunk_mut::<N>().expect("N panels");
                let at = (first_row + r) * x.blocks + k / x.block;
                for n in 0..N {
                    add(s, self.task, &panels[n], (at, k / of.group), sums[n], &mut c[n]);
                }
            }
        }
    }

    /// What will be multiplied when about [`AHEAD`] more lines have been, with the first of some panels.
    #[inline(always)]
    fn ahead(&self, panel: usize, step: usize, turn: usize) -> *const [u32; LANES] {
        let Task { panels, next, .. } = self.task;
        let steps = step + (AHEAD / (turn * Self::STEP)).max(1);
        let (panel, step) = (panel + steps / self.steps() * turn, steps % self.steps());
        let panel = panels.get(panel).or_else(|| next.get(panel - panels.len().min(panel)));
        panel.map_or(std::ptr::null(), |panel| panel.codes.as_ptr().wrapping_add(step * Self::STEP))
    }

    /// Scales sums over whole rows.
    #[inline(always)]
    fn scale_whole<S: Simd>(&mut self, s: S) {
        let Task { x, range, panels, .. } = self.task;
        for (row, c) in range.clone().zip(self.c.chunks_exact_mut(panels.len())) {
            let x = s.splat(x.scales[row * x.blocks]);
            for (panel, c) in panels.iter().zip(c) {
                let scale = s.mul(x, s.load(&panel.scales[0]));
                s.store(s.mul(s.float(s.bits(s.load(&c.0))), scale), &mut c.0);
            }
        }
    }
}

/// Adds the sums of a block, whose integers are block `at` of all and whose codes are of group `group`, to the outputs.
#[inline(always)]
fn add<S: Simd>(s: S, task: &Task, panel: &Panel, (at, group): (usize, usize), sums: S::I, to: &mut Lane16) {
    let Task { x, of, .. } = task;
    let sum = cast_slice::<f32, i32>(&x.sums)[at];
    let of_zeros = match panel.zeros {
        Some(zeros) => s.mul_i32(s.load_u8(&zeros[group]), s.splat_i32(sum)),
        None => s.splat_i32(sum << (of.bits - 1)),
    };
    let exact = s.sub_i32(sums, of_zeros);
    let old = s.load(&to.0);
    let new = if x.whole {
        s.unbits(s.add_i32(s.bits(old), exact))
    } else {
        s.fma(s.float(exact), s.mul(s.splat(x.scales[at]), s.load(&panel.scales[group])), old)
    };
    s.store(new, &mut to.0);
}

/// Sums of products of `M` rows of integers with `N` times 16 rows of codes.
#[inline(always)]
fn dots<S: Simd, const PARTS: usize, const LINES: usize, const PLANES: usize, const M: usize, const N: usize>(
    s: S,
    x: [&[[[i32; PLANES]; CHUNK / 4]]; M],
    codes: [&[[[u32; LANES]; LINES]]; N],
    ahead: *const [u32; LANES],
) -> [[S::I; N]; M] {
    // One row and panel have too few chains to hide the latency of a product: each part has its own. Where a product of pairs is two instructions, rows
    // have as many sums as outputs.
    let chain = |part: usize| if M * N == 1 { part } else { 0 };
    let plane = |i: usize| if S::DIGITS || M * N == 1 { i } else { 0 };
    let mut sums = [[[[s.splat_i32(0); 2]; PLANES]; N]; M];
    for chunk in 0..codes[0].len() {
        let mut columns = [&[[0; PLANES]; CHUNK / 4]; M];
        let mut lines = [&[[0; LANES]; LINES]; N];
        for r in 0..M {
            columns[r] = &x[r][chunk];
        }
        for n in 0..N {
            lines[n] = &codes[n][chunk];
        }
        for line in 0..LINES {
            prefetch(ahead.wrapping_add(chunk * LINES + line).cast());
            let packed: [S::I; N] = from_fn(|n| s.bits(s.load(cast_ref(&lines[n][line]))));
            unroll!(PARTS, P => {
                let factors: [[S::I; 2]; N] =
                    from_fn(|n| s.factors(if PARTS == 2 { s.half_bytes(packed[n], P) } else { packed[n] }));
                for r in 0..M {
                    for i in 0..PLANES {
                        let x = s.splat_i32(columns[r][line * PARTS + P][i]);
                        for n in 0..N {
                            let sum = &mut sums[r][n][plane(i)][chain(P)];
                            *sum = s.dot(factors[n][i], x, *sum);
                        }
                    }
                }
            });
        }
    }
    let mut out = [[s.splat_i32(0); N]; M];
    for r in 0..M {
        for n in 0..N {
            let mut planes = [s.splat_i32(0); 2];
            for i in 0..PLANES {
                planes[i] = s.add_i32(sums[r][n][i][0], sums[r][n][i][1]);
            }
            out[r][n] = if PLANES == 2 { s.total(planes) } else { planes[0] };
        }
    }
    out
}
