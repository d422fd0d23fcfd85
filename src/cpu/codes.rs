//! Rows of integers times quantized weights: sums of a block are exact in 32 bits, so no instruction set can round them otherwise.
//!
//! Owns the only loop that reads codes, for any number of rows, and the order of the f32 chain over the blocks. Refuses to know units and
//! epilogues. The surprise: 16 weight rows are turned as they are packed, a line of each at a time, so that a dword of the turned codes holds 4
//! or 8 neighbours of one row; they are unpacked where they are used, for up to 12 rows at once.

use super::integers::Integers;
use super::panel::sixteen;
use super::simd::{Isa, Kernel, LANES, Lane16, Simd, prefetch};
use super::{BLOCK, carve};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use std::ops::Range;

/// How codes lie in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Two in a byte, the even column in the low half.
    U4,
    U8,
    /// Two's complement.
    I8,
}

impl Width {
    /// Dwords that a dword of codes becomes when it is unpacked to 16 bits.
    pub(super) const fn parts(self) -> usize {
        if matches!(self, Width::U4) { 4 } else { 2 }
    }

    /// What stands for zero in codes as they are packed: unsigned.
    const fn zero(self) -> i32 {
        if matches!(self, Width::U4) { 8 } else { 128 }
    }

    /// The bytes of `k` codes.
    const fn bytes(self, k: usize) -> usize {
        if matches!(self, Width::U4) { k.div_ceil(2) } else { k }
    }
}

/// A quantized weight in place, by rows: element `(n, k)` is `scales[n, k / group] * (codes[n, k] - zeros[n, k / group])`.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    pub bytes: &'a [u8],
    pub width: Width,
    pub n: usize,
    pub k: usize,
    /// Columns that share a scale, see [`Codes::takes`].
    pub group: usize,
    /// `[n, k / group]`
    pub scales: &'a [f32],
    /// `[n, k / group]`; without them 8, 128 and 0 are the zeros of `U4`, `U8` and `I8`, which has no others.
    pub zeros: Option<&'a [u8]>,
}

impl<'a> Codes<'a> {
    /// Whether rows of `k` codes may have groups of `group`.
    pub fn takes(group: usize, k: usize) -> bool {
        [32, 64, 128, k].contains(&group) || group.is_multiple_of(BLOCK)
    }

    /// k whose sum is scaled at once.
    pub(super) fn block(&self) -> usize {
        if self.group == self.k { BLOCK } else { self.group.min(BLOCK) }
    }

    /// Some rows, and all that follows them in memory: a piece of a row is read past its end, where integers are zeros.
    pub(super) fn rows(&'a self, rows: Range<usize>) -> impl Iterator<Item = Row<'a>> {
        let (bytes, groups) = (self.width.bytes(self.k), self.k / self.group);
        rows.map(move |n| Row {
            codes: &self.bytes[n * bytes..],
            scales: &self.scales[n * groups..],
            zeros: self.zeros.map(|zeros| &zeros[n * groups..]),
        })
    }

    pub(super) fn assert_whole(&self) {
        let (rows, groups) = (self.n * self.width.bytes(self.k), self.n * (self.k / self.group));
        assert!(Codes::takes(self.group, self.k), "groups of {} in {} columns", self.group, self.k);
        assert!((self.bytes.len(), self.scales.len()) == (rows, groups), "codes of another size");
        assert!(self.zeros.is_none_or(|z| z.len() == groups && self.width != Width::I8), "zeros of another size");
    }
}

/// A row of a weight, and what follows it.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: Option<&'a [u8]>,
}

/// A cache line of a row.
const LINE: usize = size_of::<Lane16>();
/// Groups of a row that are turned at a time.
const GROUPS: usize = LANES;

/// Bytes of a row that are packed in one step.
const BYTES: usize = BLOCK;

/// A step of 16 weight rows.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Panel {
    codes: [Lane16; BYTES / 4],
    /// Of the groups of these k and others, group `g` in place `g % 16`; f32 and i32.
    scales: [Lane16; GROUPS],
    zeros: [Lane16; GROUPS],
}

/// Lines of a [`Panel`].
const PANEL: usize = size_of::<Panel>() / LINE;

/// Integer rows that are multiplied with two panels while these are in L1; more are multiplied with the panels of a whole task.
const FEW: usize = 12;

/// Weights are asked for so many bytes ahead.
const AHEAD: usize = 24 << 10;

/// All sums of a task for a range of integer rows, `[rows][vectors of columns]`. `of` is any part of the weight; `next` are the rows that the
/// thread will be asked for next, as far as known.
pub fn product<'s, const PARTS: usize>(
    isa: Isa,
    (x, range): (&Integers, Range<usize>),
    of: &Codes,
    (rows, next): (&[Row], &[Row]),
    scratch: &'s mut Vec<Lane16>,
) -> &'s mut [Lane16] {
    let panels = rows.len().div_ceil(LANES);
    let at_once = if range.len() <= FEW { 2 } else { panels };
    let [c, packed] = carve(scratch, [range.len() * panels, at_once * PANEL]);
    c.fill(Lane16::ZERO);
    isa.run_integers(Product::<PARTS> { x, range, of, rows, next, at_once, packed: cast_slice_mut(packed), c });
    c
}

struct Product<'a, const PARTS: usize> {
    x: &'a Integers<'a>,
    range: Range<usize>,
    of: &'a Codes<'a>,
    rows: &'a [Row<'a>],
    next: &'a [Row<'a>],
    at_once: usize,
    packed: &'a mut [Panel],
    c: &'a mut [Lane16],
}

impl<const PARTS: usize> Kernel for Product<'_, PARTS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let panels = self.rows.len().div_ceil(LANES);
        for first in (0..panels).step_by(self.at_once) {
            let count = self.at_once.min(panels - first);
            for step in 0..self.steps() {
                for i in 0..count {
                    self.pack(s, first + i, step);
                }
                self.multiply(s, first..first + count, step);
            }
        }
        if self.x.whole {
            self.scale(s);
        }
    }
}

impl<'a, const PARTS: usize> Product<'a, PARTS> {
    /// k of a step: one block or more.
    const DEPTH: usize = BYTES * PARTS / 2;

    fn steps(&self) -> usize {
        self.of.k.div_ceil(Self::DEPTH)
    }

    /// Packs a step of 16 rows, and asks for what will be packed some steps later.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, s: S, panel: usize, step: usize) {
        let (ahead, ahead_step) = self.ahead(panel, step);
        let last = self.rows.len() - 1;
        let rows: [&Row; LANES] = std::array::from_fn(|lane| &self.rows[(panel * LANES + lane).min(last)]);
        let to = &mut self.packed[panel % self.at_once];
        if (step * Self::DEPTH).is_multiple_of(GROUPS * self.of.group) {
            let first = step * Self::DEPTH / self.of.group;
            Lines::new(rows.map(|row| cast_slice(row.scales))).turn(s, first * 4, s.splat_i32(0), &mut to.scales);
            match rows[0].zeros {
                Some(_) => {
                    Lines::new(rows.map(|row| row.zeros.unwrap_or_default())).turn_bytes(s, first, &mut to.zeros)
                }
                None => to.zeros = [Lane16([f32::from_bits(self.of.width.zero() as u32); LANES]); GROUPS],
            }
        }
        let codes = Lines::new(rows.map(|row| row.codes));
        let flip = s.splat_i32(if self.of.width == Width::I8 { 0x8080_8080_u32 as i32 } else { 0 });
        let (from, end) = (step * BYTES, self.of.width.bytes(self.of.k));
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
        let here = self.rows.len().next_multiple_of(self.at_once * LANES);
        let rows =
            if first < self.rows.len() { Some(&self.rows[first..]) } else { self.next.get(first.wrapping_sub(here)..) };
        (rows.unwrap_or_default(), steps % self.steps())
    }

    /// Multiplies all rows with packed panels, which are those of `columns`.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, columns: Range<usize>, step: usize) {
        let rows = self.range.len();
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
        let x = self.x;
        let (ld, k) = (self.c.len() / self.range.len(), self.of.k);
        let panels: &[Panel; N] = self.packed[panel..].first_chunk().expect("N panels");
        let all: &[i32] = cast_slice(&x.dwords);
        let lines: [&[[i32; PARTS]]; M] = std::array::from_fn(|r| {
            let row = &all[(self.range.start + row + r) * x.stride + step * Self::DEPTH / 2..];
            row.as_chunks().0
        });
        let depth = Self::DEPTH.min(k - step * Self::DEPTH).div_ceil(2 * PARTS);
        for (block, from) in (0..depth).step_by(x.block / (2 * PARTS)).enumerate() {
            let to = depth.min(from + x.block / (2 * PARTS));
            let lines: [&[[i32; PARTS]]; M] = lines.each_ref().map(|line| &line[from..to]);
            let codes: [&[Lane16]; N] = panels.each_ref().map(|panel| &panel.codes[from..to]);
            let sums = dots(s, lines, codes);
            let group = (step * Self::DEPTH + block * x.block) / self.of.group % GROUPS;
            for (r, sums) in sums.iter().enumerate() {
                let at = (self.range.start + row + r) * x.blocks + step * Self::DEPTH / x.block + block;
                let (scale, sum) = (s.splat(x.scales[at]), s.splat_i32(cast_slice(&x.sums)[at]));
                let c: &mut [Lane16; N] =
                    self.c[(row + r) * ld + first + panel..].first_chunk_mut().expect("N vectors");
                for n in 0..N {
                    let zero = s.bits(s.load(&panels[n].zeros[group].0));
                    let exact = s.sub_i32(sums[n], s.mul_i32(zero, sum));
                    let old = s.load(&c[n].0);
                    let new = if x.whole {
                        s.unbits(s.add_i32(s.bits(old), exact))
                    } else {
                        s.fma(s.float(exact), s.mul(scale, s.load(&panels[n].scales[group].0)), old)
                    };
                    s.store(new, &mut c[n].0);
                }
            }
        }
    }

    /// Scales sums over whole rows.
    #[inline(always)]
    fn scale<S: Simd>(&mut self, s: S) {
        let ld = self.c.len() / self.range.len();
        for (panel, rows) in self.rows.chunks(LANES).enumerate() {
            let mut scales = [0.0; LANES];
            scales.iter_mut().zip(rows).for_each(|(to, row)| *to = row.scales[0]);
            let scales = s.load(&scales);
            for (r, c) in self.c[panel..].iter_mut().step_by(ld).enumerate() {
                let x = s.splat(self.x.scales[(self.range.start + r) * self.x.blocks]);
                s.store(s.mul(s.float(s.bits(s.load(&c.0))), s.mul(x, scales)), &mut c.0);
            }
        }
    }
}

/// 16 rows of bytes.
struct Lines<'a> {
    rows: [&'a [u8]; LANES],
    /// The length of the shortest one.
    len: usize,
}

impl<'a> Lines<'a> {
    #[inline(always)]
    fn new(rows: [&'a [u8]; LANES]) -> Self {
        Lines { rows, len: rows.iter().fold(usize::MAX, |least, row| least.min(row.len())) }
    }

    /// Turns the lines that begin at byte `at`, and flips bits; what is past the end of all rows is zeros.
    #[inline(always)]
    fn turn<S: Simd>(&self, s: S, at: usize, flip: S::I, to: &mut [Lane16; LANES]) {
        let copies;
        let mut lines = [&[0; LINE]; LANES];
        if at + LINE <= self.len {
            sixteen!(J => lines[J] = self.rows[J][at..].first_chunk().expect("a line"));
        } else {
            copies = self.rows.map(|row| end_of(row, at));
            lines = copies.each_ref();
        }
        let turned = s.transpose(lines);
        sixteen!(J => s.store(s.unbits(s.xor(s.bits(turned[J]), flip)), &mut to[J].0));
    }

    /// Turns 16 bytes from the `at`-th on, each to a vector of its own.
    #[inline(always)]
    fn turn_bytes<S: Simd>(&self, s: S, at: usize, to: &mut [Lane16; LANES]) {
        let mut lines = [Lane16::ZERO; LANES];
        self.turn(s, at, s.splat_i32(0), &mut lines);
        for (to, line) in to.as_chunks_mut::<4>().0.iter_mut().zip(lines) {
            let dwords = line.0.map(f32::to_bits);
            for (i, to) in to.iter_mut().enumerate() {
                to.0 = dwords.map(|dword| f32::from_bits(dword >> (8 * i) & 0xff));
            }
        }
    }
}

/// The line that begins at byte `at`, filled up with zeros.
#[inline(never)]
fn end_of(row: &[u8], at: usize) -> [u8; LINE] {
    let (mut to, line) = ([0; LINE], row.get(at..).unwrap_or_default());
    let len = line.len().min(LINE);
    to[..len].copy_from_slice(&line[..len]);
    to
}

/// Unrolls by hand: left to the compiler, the sums go through memory.
macro_rules! parts {
    ($parts:ident, $p:ident => $body:expr) => { parts!(@ $parts $p $body; 0 1 2 3) };
    (@ $parts:ident $p:ident $body:expr; $($n:literal)*) => { $({ const $p: usize = $n; if $p < $parts { $body } })* };
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
    // One row has too few chains to hide the latency of a product: its parts go to chains of their own.
    let mut sums = [[[s.splat_i32(0); 2]; N]; M];
    for j in 0..depth {
        let packed: [S::I; N] = std::array::from_fn(|n| s.bits(s.load(&codes[n][j].0)));
        parts!(PARTS, P => {
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
