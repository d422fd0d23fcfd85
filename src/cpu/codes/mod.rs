//! Rows of integers times quantized weights: sums of a block are exact in 32 bits, so no instruction set can round them otherwise.
//!
//! Owns how codes lie in memory, and the order of the f32 chain over the blocks. Refuses to know units and epilogues. The surprise: since the sums
//! are exact, few rows and many are summed in orders that have nothing in common ([`gemv`], [`gemm`]), to the same bits.

pub mod gemm;
pub mod gemv;
pub mod integers;

use super::BLOCK;
use super::panel::sixteen;
use super::simd::{Isa, LANES, Lane16, Simd};
use bytemuck::cast_slice;
use integers::Integers;
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
    /// What stands for zero in codes once they are unsigned.
    const fn zero(self) -> i32 {
        if matches!(self, Width::U4) { 8 } else { 128 }
    }

    /// The bits that make four bytes of codes unsigned.
    const fn flip(self) -> i32 {
        if matches!(self, Width::I8) { 0x8080_8080_u32 as i32 } else { 0 }
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

/// A range of integer rows times some rows of a weight. Its sums are `[integer rows][vectors of columns]`.
pub struct Task<'a> {
    pub isa: Isa,
    pub x: &'a Integers<'a>,
    /// Of the integer rows.
    pub range: Range<usize>,
    /// Any part of the weight.
    pub of: &'a Codes<'a>,
    pub rows: &'a [Row<'a>],
    /// The rows that the thread will be asked for next, as far as known.
    pub next: &'a [Row<'a>],
}

/// Unrolls at most four rounds by hand: left to the compiler, sums go through memory.
macro_rules! unroll {
    ($n:expr, $i:ident => $body:expr) => { unroll!(@ $n, $i, $body; 0 1 2 3) };
    (@ $n:expr, $i:ident, $body:expr; $($value:literal)*) => { { $({ const $i: usize = $value; if $i < $n { $body } })* } };
}
use unroll;

/// The first sixteen rows: those past the end repeat the last one, and what they yield is to be dropped.
#[inline(always)]
fn sixteen_rows<'r, 'a>(rows: &'r [Row<'a>]) -> [&'r Row<'a>; LANES] {
    let mut sixteen = [&rows[rows.len() - 1]; LANES];
    if let Some(rows) = rows.first_chunk::<LANES>() {
        sixteen!(J => sixteen[J] = &rows[J]);
    } else {
        sixteen.iter_mut().zip(rows).for_each(|(to, row)| *to = row);
    }
    sixteen
}

/// A cache line of a row.
const LINE: usize = size_of::<Lane16>();
/// Groups of a row that are turned at a time.
const GROUPS: usize = LANES;

/// What the groups of 16 rows share, group `g` in place `g % 16`: lanes are rows.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Groups {
    /// f32
    scales: [Lane16; GROUPS],
    /// i32, what codes count from once they are unsigned.
    zeros: [Lane16; GROUPS],
}

impl Groups {
    /// Reads 16 groups, from group `first` on.
    #[inline(always)]
    fn read<S: Simd>(&mut self, s: S, rows: &[&Row; LANES], first: usize, width: Width) {
        // Closures over arrays may stay calls, see `simd`.
        let mut bytes: [&[u8]; LANES] = [&[]; LANES];
        sixteen!(J => bytes[J] = cast_slice(rows[J].scales));
        Lines::new(bytes).turn(s, first * 4, 0, &mut self.scales);
        if rows[0].zeros.is_some() {
            sixteen!(J => bytes[J] = rows[J].zeros.unwrap_or_default());
            Lines::new(bytes).turn_bytes(s, first, &mut self.zeros);
        } else {
            self.zeros = [Lane16([f32::from_bits(width.zero() as u32); LANES]); GROUPS];
        }
    }

    /// Adds the sums of a block, of integers that are row `row` and codes of group `group`, to the outputs of the row.
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        s: S,
        x: &Integers,
        (row, block): (usize, usize),
        group: usize,
        sums: S::I,
        to: &mut Lane16,
    ) {
        let at = row * x.blocks + block;
        let (scale, sum) = (s.splat(x.scales[at]), s.splat_i32(cast_slice(&x.sums)[at]));
        let zero = s.bits(s.load(&self.zeros[group % GROUPS].0));
        let exact = s.sub_i32(sums, s.mul_i32(zero, sum));
        let old = s.load(&to.0);
        let new = if x.whole {
            s.unbits(s.add_i32(s.bits(old), exact))
        } else {
            s.fma(s.float(exact), s.mul(scale, s.load(&self.scales[group % GROUPS].0)), old)
        };
        s.store(new, &mut to.0);
    }
}

/// Scales the sums of a task over whole rows.
#[inline(always)]
fn scale_whole<S: Simd>(s: S, Task { x, range, rows, .. }: &Task, c: &mut [Lane16]) {
    let ld = rows.len().div_ceil(LANES);
    for (panel, rows) in rows.chunks(LANES).enumerate() {
        let mut scales = [0.0; LANES];
        scales.iter_mut().zip(rows).for_each(|(to, row)| *to = row.scales[0]);
        let scales = s.load(&scales);
        for (r, c) in c[panel..].iter_mut().step_by(ld).enumerate() {
            let x = s.splat(x.scales[(range.start + r) * x.blocks]);
            s.store(s.mul(s.float(s.bits(s.load(&c.0))), s.mul(x, scales)), &mut c.0);
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
        let mut len = usize::MAX;
        sixteen!(J => len = len.min(rows[J].len()));
        Lines { rows, len }
    }

    /// Turns the lines that begin at byte `at`, and flips bits; what is past the end of all rows is zeros.
    #[inline(always)]
    fn turn<S: Simd>(&self, s: S, at: usize, flip: i32, to: &mut [Lane16; LANES]) {
        let flip = s.splat_i32(flip);
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
        self.turn(s, at, 0, &mut lines);
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
