//! A few rows: each weight row is multiplied where it lies, lanes along k, and only sums of blocks are turned.
//!
//! Owns the decode loop, which should be bound by memory. Refuses to know units and epilogues. The surprise: integers are split into signed bytes,
//! since one instruction multiplies 64 of them with 64 codes; the sums of both digits are one again before anything is rounded.

use super::{GROUPS, Groups, LINE, Row, Task, end_of, scale_whole, sixteen_rows, unroll};
use crate::cpu::panel::sixteen;
use crate::cpu::simd::{Kernel, LANES, Lane16, Simd, prefetch};
use crate::cpu::{BLOCK, carve};
use bytemuck::{Zeroable, cast_slice};
use std::ops::Range;

/// The most rows of digits that are multiplied this way: with 4 rows of two digits packing a weight first costs about as much.
pub const MAX_ROWS: usize = 8;

/// Weights are asked for so many lines of 16 rows ahead.
const AHEAD: usize = 12;

/// The sums of a task, of codes that lie `PARTS` in a byte.
pub fn product<'s, const PARTS: usize, const DIGITS: usize>(
    task: &Task,
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let [c] = carve(scratch, [task.range.len() * task.rows.len().div_ceil(LANES)]);
    c.fill(Lane16::ZERO);
    task.isa.run_integers(Product::<PARTS, DIGITS> { task, c });
    c
}

struct Product<'a, const PARTS: usize, const DIGITS: usize> {
    task: &'a Task<'a>,
    c: &'a mut [Lane16],
}

impl<const PARTS: usize, const DIGITS: usize> Kernel for Product<'_, PARTS, DIGITS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for panel in 0..self.task.rows.len().div_ceil(LANES) {
            self.panel(s, panel);
        }
        if self.task.x.whole {
            scale_whole(s, self.task, self.c);
        }
    }
}

impl<const PARTS: usize, const DIGITS: usize> Product<'_, PARTS, DIGITS> {
    /// k of a line.
    const COLUMNS: usize = LINE * PARTS;

    /// Multiplies all integer rows with 16 weight rows.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, s: S, panel: usize) {
        let Task { x, range, of, rows, next, .. } = self.task;
        let (here, after) = (&rows[panel * LANES..], rows.get((panel + 1) * LANES..).unwrap_or_default());
        let behind = if after.is_empty() { next } else { after };
        let rows = Panel::new(here);
        let next = if behind.is_empty() { Panel::new(here) } else { Panel::new(behind) };
        let mut groups = Groups::zeroed();
        let (all, step) = (of.k.div_ceil(Self::COLUMNS), x.block.div_ceil(Self::COLUMNS));
        for line in (0..all).step_by(step) {
            let k = line * Self::COLUMNS;
            if k.is_multiple_of(GROUPS * of.group) {
                groups.read(s, &rows.rows, k / of.group, of.width);
            }
            let lines = line..all.min(line + step);
            for line in lines.clone() {
                // What follows this panel is the next one, or the first one of the next units.
                let (rows, line) = if line + AHEAD < all { (&rows, line + AHEAD) } else { (&next, line + AHEAD - all) };
                sixteen!(J => prefetch(rows.rows[J].codes.as_ptr().wrapping_add(line * LINE)));
            }
            let mut row = 0;
            while row < range.len() {
                row += match range.len() - row {
                    1 => self.lines::<S, 1>(s, (&rows, &groups), lines.clone(), row, panel),
                    _ => self.lines::<S, 2>(s, (&rows, &groups), lines.clone(), row, panel),
                };
            }
        }
    }

    /// Adds the products of `M` integer rows with some lines of 16 weight rows, which hold whole blocks, to the sums; gives `M`.
    #[inline(always)]
    fn lines<S: Simd, const M: usize>(
        &mut self,
        s: S,
        (rows, groups): (&Panel, &Groups),
        lines: Range<usize>,
        row: usize,
        panel: usize,
    ) -> usize {
        let Task { x, range, of, .. } = self.task;
        let bytes: &[u8] = cast_slice(&x.bytes);
        let mut integers: [&[[u8; LINE]]; M] = [&[]; M];
        unroll!(M, I => {
            let row = bytes[(range.start + row + I) * x.stride..].as_chunks().0;
            integers[I] = &row[lines.start * PARTS * DIGITS..lines.end * PARTS * DIGITS];
        });
        let flip = s.splat_i32(of.width.flip());
        let mut quarters = [[s.splat_i32(0); M]; 4];
        for (four, quarters) in quarters.iter_mut().enumerate() {
            let ends;
            let mut codes: [&[[u8; LINE]]; 4] = [&[]; 4];
            if lines.end * LINE <= rows.len {
                unroll!(4, R => codes[R] = rows.lines(4 * four + R, &lines));
            } else {
                ends = rows.ends(four, lines.start);
                unroll!(4, R => codes[R] = &ends[R][..lines.len()]);
            }
            let sums = dots::<S, M, PARTS, DIGITS>(s, integers, codes, flip);
            unroll!(M, I => quarters[I] = s.quarters(sums[I]));
        }
        let k = lines.start * Self::COLUMNS;
        let ld = self.c.len() / range.len();
        unroll!(M, I => {
            let mut sums = s.turn_quarters([quarters[0][I], quarters[1][I], quarters[2][I], quarters[3][I]]);
            let blocks = (Self::COLUMNS / x.block).max(1);
            if blocks <= 2 {
                (sums[0], sums[1]) = (s.add_i32(sums[0], sums[1]), s.add_i32(sums[2], sums[3]));
            }
            if blocks == 1 {
                sums[0] = s.add_i32(sums[0], sums[1]);
            }
            let to = &mut self.c[(row + I) * ld + panel];
            for (i, &sums) in sums.iter().enumerate().take(blocks) {
                let k = k + i * x.block;
                if k < of.k {
                    groups.add(s, x, (range.start + row + I, k / x.block), k / of.group, sums, to);
                }
            }
        });
        M
    }
}

/// Sixteen rows of codes.
struct Panel<'a> {
    rows: [&'a Row<'a>; LANES],
    /// The bytes of the shortest one.
    len: usize,
}

/// Lines of a block at most.
const LINES: usize = BLOCK / LINE;

impl<'a> Panel<'a> {
    #[inline(always)]
    fn new(rows: &'a [Row<'a>]) -> Self {
        let rows = sixteen_rows(rows);
        let mut len = usize::MAX;
        sixteen!(J => len = len.min(rows[J].codes.len()));
        Panel { rows, len }
    }

    /// Some lines of a row.
    #[inline(always)]
    fn lines(&self, row: usize, lines: &Range<usize>) -> &'a [[u8; LINE]] {
        self.rows[row].codes[lines.start * LINE..lines.end * LINE].as_chunks().0
    }

    /// The last lines of four rows, filled up with zeros.
    #[inline(never)]
    fn ends(&self, four: usize, first: usize) -> [[[u8; LINE]; LINES]; 4] {
        std::array::from_fn(|r| {
            std::array::from_fn(|line| end_of(self.rows[4 * four + r].codes, (first + line) * LINE))
        })
    }
}

/// Sums of products of `M` rows of integers with as many lines of 4 rows of codes.
#[inline(always)]
fn dots<S: Simd, const M: usize, const PARTS: usize, const DIGITS: usize>(
    s: S,
    x: [&[[u8; LINE]]; M],
    codes: [&[[u8; LINE]]; 4],
    flip: S::I,
) -> [[S::I; 4]; M] {
    let mut sums = [[[s.splat_i32(0); 4]; DIGITS]; M];
    for line in 0..codes[0].len() {
        unroll!(4, R => {
            let packed = s.bits(s.load_f32(&codes[R][line]));
            // Half bytes are unsigned as they are.
            let packed = if PARTS == 2 { packed } else { s.xor(packed, flip) };
            unroll!(PARTS, P => {
                let codes = if PARTS == 2 { s.half_bytes(packed, P) } else { packed };
                unroll!(M, I => unroll!(DIGITS, D => {
                    let x = s.bits(s.load_f32(&x[I][(line * DIGITS + D) * PARTS + P]));
                    sums[I][D][R] = s.dot4(codes, x, sums[I][D][R]);
                }));
            });
        });
    }
    let high = s.splat_i32(256);
    let mut out = [[s.splat_i32(0); 4]; M];
    unroll!(M, I => unroll!(4, R => {
        let low = sums[I][DIGITS - 1][R];
        out[I][R] = if DIGITS == 2 { s.add_i32(s.mul_i32(sums[I][0][R], high), low) } else { low };
    }));
    out
}
