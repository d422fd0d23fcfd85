//! Many rows: weights are packed into panels, which are multiplied with up to 12 rows at once.
//!
//! Owns the prefill loop, which is bound by arithmetic. Refuses to know units and epilogues. The surprise: 16 weight rows are turned as they are
//! packed, a line of each at a time, so that a dword of the turned codes holds 4 or 8 neighbours of one row; they are unpacked where they are used.

use super::{GROUPS, Groups, LINE, Lines, Row, Task, scale_whole, sixteen_rows, unroll};
use crate::cpu::panel::sixteen;
use crate::cpu::simd::{Kernel, LANES, Lane16, Simd, prefetch};
use crate::cpu::{BLOCK, carve};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use std::ops::Range;

/// Bytes of a row that are packed in one step.
const BYTES: usize = BLOCK;

/// A step of 16 weight rows.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Panel {
    codes: [Lane16; BYTES / 4],
    /// Of these k and others.
    groups: Groups,
}

/// Lines of a [`Panel`].
const PANEL: usize = size_of::<Panel>() / LINE;

/// Integer rows that are multiplied with two panels while these are in L1; more are multiplied with the panels of a whole task.
const FEW: usize = 12;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 24 << 10;

/// The sums of a task, of codes whose dwords become `PARTS` when they are unpacked.
pub fn product<'s, const PARTS: usize>(task: &Task, scratch: &'s mut Vec<Lane16>) -> &'s mut [Lane16] {
    let (rows, panels) = (task.range.len(), task.rows.len().div_ceil(LANES));
    let at_once = if rows <= FEW { 2 } else { panels };
    let [c, packed] = carve(scratch, [rows * panels, at_once * PANEL]);
    c.fill(Lane16::ZERO);
    task.isa.run_integers(Product::<PARTS> { task, at_once, packed: cast_slice_mut(packed), c });
    c
}

struct Product<'a, const PARTS: usize> {
    task: &'a Task<'a>,
    at_once: usize,
    packed: &'a mut [Panel],
    c: &'a mut [Lane16],
}

impl<const PARTS: usize> Kernel for Product<'_, PARTS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let panels = self.task.rows.len().div_ceil(LANES);
        for first in (0..panels).step_by(self.at_once) {
            let count = self.at_once.min(panels - first);
            for step in 0..self.steps() {
                for i in 0..count {
                    self.pack(s, first + i, step);
                }
                self.multiply(s, first..first + count, step);
            }
        }
        if self.task.x.whole {
            scale_whole(s, self.task, self.c);
        }
    }
}

impl<'a, const PARTS: usize> Product<'a, PARTS> {
    /// k of a step: one block or more.
    const DEPTH: usize = BYTES * PARTS / 2;

    fn steps(&self) -> usize {
        self.task.of.k.div_ceil(Self::DEPTH)
    }

    /// Packs a step of 16 rows, and asks for what will be packed some steps later.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, s: S, panel: usize, step: usize) {
        let (ahead, ahead_step) = self.ahead(panel, step);
        let of = self.task.of;
        let rows = sixteen_rows(&self.task.rows[panel * LANES..]);
        let to = &mut self.packed[panel % self.at_once];
        if (step * Self::DEPTH).is_multiple_of(GROUPS * of.group) {
            to.groups.read(s, &rows, step * Self::DEPTH / of.group, of.width);
        }
        let (codes, flip) = (Lines::new(rows.map(|row| row.codes)), of.width.flip());
        let (from, end) = (step * BYTES, of.width.bytes(of.k));
        let lines = to.codes.as_chunks_mut().0.iter_mut().enumerate();
        for (i, to) in lines.take((end - from).min(BYTES).div_ceil(LINE)) {
            if let Some(ahead) = ahead.first_chunk::<LANES>() {
                sixteen!(J => prefetch(ahead[J].codes.as_ptr().wrapping_add(ahead_step * BYTES + i * LINE)));
            }
            codes.turn(s, from + i * LINE, flip, to);
        }
    }

    /// The rows of the panel that will be packed when [`AHEAD`] more bytes have been, and the step.
    fn ahead(&self, panel: usize, step: usize) -> (&'a [Row<'a>], usize) {
        let steps = step + (AHEAD / (self.at_once * LANES * BYTES)).max(1);
        let first = (panel + steps / self.steps() * self.at_once) * LANES;
        let Task { rows, next, .. } = self.task;
        let here = rows.len().next_multiple_of(self.at_once * LANES);
        let rows = if first < rows.len() { Some(&rows[first..]) } else { next.get(first.wrapping_sub(here)..) };
        (rows.unwrap_or_default(), steps % self.steps())
    }

    /// Multiplies all rows with packed panels, which are those of `columns`.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, columns: Range<usize>, step: usize) {
        let rows = self.task.range.len();
        let most = if S::TILE.0 < 12 { 4 } else { 12 };
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                12.. if most == 12 => self.panels::<S, 12>(s, row, &columns, step),
                8.. if most == 12 => self.panels::<S, 8>(s, row, &columns, step),
                4.. => self.panels::<S, 4>(s, row, &columns, step),
                2.. => self.panels::<S, 2>(s, row, &columns, step),
                _ => self.panels::<S, 1>(s, row, &columns, step),
            };
        }
    }

    /// Multiplies `M` rows with all packed panels; gives `M`.
    #[inline(always)]
    fn panels<S: Simd, const M: usize>(&mut self, s: S, row: usize, columns: &Range<usize>, step: usize) -> usize {
        let mut i = 0;
        while S::TILE.1 == 2 && i + 2 <= columns.len() {
            self.tile::<S, M, 2>(s, row, i, columns.start, step);
            i += 2;
        }
        while i < columns.len() {
            self.tile::<S, M, 1>(s, row, i, columns.start, step);
            i += 1;
        }
        M
    }

    /// Adds the products of `M` rows with `N` packed panels to the sums.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
        first: usize,
        step: usize,
    ) {
        let Task { x, range, of, .. } = self.task;
        let (ld, k) = (self.c.len() / range.len(), of.k);
        let panels: &[Panel; N] = self.packed[panel..].first_chunk().expect("N panels");
        let all: &[i32] = cast_slice(&x.bytes);
        let lines: [&[[i32; PARTS]]; M] = std::array::from_fn(|r| {
            let row = &all[(range.start + row + r) * x.stride / 4 + step * Self::DEPTH / 2..];
            row.as_chunks().0
        });
        let depth = Self::DEPTH.min(k - step * Self::DEPTH).div_ceil(2 * PARTS);
        for (block, from) in (0..depth).step_by(x.block / (2 * PARTS)).enumerate() {
            let to = depth.min(from + x.block / (2 * PARTS));
            let lines: [&[[i32; PARTS]]; M] = lines.each_ref().map(|line| &line[from..to]);
            let codes: [&[Lane16]; N] = panels.each_ref().map(|panel| &panel.codes[from..to]);
            let sums = dots(s, lines, codes);
            let (k, blocks) = (step * Self::DEPTH + block * x.block, step * Self::DEPTH / x.block + block);
            for (r, sums) in sums.iter().enumerate() {
                let c = &mut self.c[(row + r) * ld + first + panel..][..N];
                for (n, c) in c.iter_mut().enumerate() {
                    let at = (range.start + row + r, blocks);
                    panels[n].groups.add(s, x, at, k / of.group, sums[n], c);
                }
            }
        }
    }
}

#[inline(always)]
fn unpack<S: Simd, const PARTS: usize>(s: S, v: S::I, part: usize) -> S::I {
    if PARTS == 4 { s.nibbles(v, part) } else { s.bytes(v, part) }
}

/// Sums of products of `M` rows of integers with 16 rows of codes `N` times.
#[inline(always)]
fn dots<S: Simd, const M: usize, const N: usize, const PARTS: usize>(
    s: S,
    x: [&[[i32; PARTS]]; M],
    codes: [&[Lane16]; N],
) -> [[S::I; N]; M] {
    let depth = x[0].len();
    let (x, codes) = (x.map(|x| &x[..depth]), codes.map(|codes| &codes[..depth]));
    // One row has too few chains to hide the latency of a product: its parts go to chains of their own. Do not take the second chain away from
    // many rows, for which it does nothing: without it the compiler keeps their sums in memory, and they take 1.5 times as long.
    let mut sums = [[[s.splat_i32(0); 2]; N]; M];
    for j in 0..depth {
        let packed: [S::I; N] = std::array::from_fn(|n| s.bits(s.load(&codes[n][j].0)));
        unroll!(PARTS, P => {
            let part: [S::I; N] = std::array::from_fn(|n| unpack::<S, PARTS>(s, packed[n], P));
            for r in 0..M {
                let x = s.splat_i32(x[r][j][P]);
                for n in 0..N {
                    let sum = &mut sums[r][n][if M == 1 { P % 2 } else { 0 }];
                    *sum = s.dot2(part[n], x, *sum);
                }
            }
        });
    }
    let mut out = [[s.splat_i32(0); N]; M];
    for r in 0..M {
        for n in 0..N {
            let [a, b] = sums[r][n];
            out[r][n] = if M == 1 { s.add_i32(a, b) } else { a };
        }
    }
    out
}

const _: () = assert!(2 * size_of::<Panel>() + FEW * BYTES * 4 <= 32 << 10, "two panels and 12 rows fit L1");
