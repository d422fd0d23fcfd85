//! Rows of activations as 16-bit integers, in the order in which the codes of a weight are unpacked.
//!
//! Owns the rounding: a block of a row shares a scale, so that its sums with codes are exact in 32 bits. Refuses to know weights beyond the order
//! of their unpacked codes. The surprise: f32 rows become two integer rows, the value and what its rounding left.

use super::LINE;
use crate::cpu::simd::{Isa, Kernel, Simd};
use crate::cpu::{BLOCK, Buffer, Cpu};
use bytemuck::cast_slice_mut;
use std::marker::PhantomData;

/// The largest integer of a block: 256 products with codes of 8 bits stay below 2^31.
const TOP: f32 = 32512.0;

/// Blocks without a larger magnitude count as zeros: the reciprocal of their scale may be infinite.
const LEAST: f32 = 1e-30;

/// Adding it rounds a number below 2^22 to the nearest even integer, which is then in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// Rows that a thread converts at a time.
const PIECE: usize = 4;

/// Rows to multiply with codes, `[t, k]`.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// Values of 16 bits, widened: rounded once, to 1 / 65024 of the largest in their block.
    Half(&'a [f32]),
    /// f32: what the rounding left is rounded in turn, to 2^-32 of the largest in its block.
    Full(&'a [f32]),
    /// int8 with a scale for each row, see [`int8_row`].
    Int8 { rows: &'a [i8], scales: &'a [f32] },
}

impl Operand<'_> {
    pub(in crate::cpu) fn len(&self) -> usize {
        match self {
            Operand::Half(x) | Operand::Full(x) => x.len(),
            Operand::Int8 { rows, .. } => rows.len(),
        }
    }

    /// Bytes that hold a value as integers.
    pub(in crate::cpu) fn digits(&self) -> usize {
        match self {
            Operand::Half(_) => 2,
            Operand::Full(_) => 4,
            Operand::Int8 { .. } => 1,
        }
    }
}

/// Rounds a row to int8: the scale is its largest magnitude / 127, the integers are the nearest even of `x / scale`. Gives the scale; NaN, and
/// zeros, if a value is not finite.
pub fn int8_row(isa: Isa, x: &[f32], to: &mut [i8]) -> f32 {
    isa.run(Int8Row { x, to })
}

struct Int8Row<'a> {
    x: &'a [f32],
    to: &'a mut [i8],
}

impl Kernel for Int8Row<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let scale = largest(self.x) / 127.0;
        for (to, x) in self.to.iter_mut().zip(self.x) {
            // Neither 0 / 0 nor anything over NaN; a scale of few bits may leave more than 127.
            *to = if scale > 0.0 { nearest(x / scale).clamp(-128, 127) as i8 } else { 0 };
        }
        scale
    }
}

/// The largest magnitude; NaN if a value is not finite.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    // The bits of magnitudes are in the order of the magnitudes, with infinity and NaN above them.
    let bits = x.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff));
    let top = f32::from_bits(bits);
    if top.is_finite() { top } else { f32::NAN }
}

#[inline(always)]
fn nearest(x: f32) -> i32 {
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// Where the integers of a row lie.
pub trait Order {
    /// Bytes of integers for a line of codes, and the codes of a line.
    const LINE: (usize, usize);
    /// Stores integers whose first column is `from`: 32 columns or a multiple of it. `to` is the row.
    fn put(integers: &[i32], to: &mut [i8], from: usize);
}

/// For codes that are turned, `PARTS` pairs of 16 bits for each dword of them: part `p` of an unpacked dword has code `p` in its low half
/// and code `p + PARTS` in its high half.
pub enum Pairs<const PARTS: usize> {}

impl<const PARTS: usize> Order for Pairs<PARTS> {
    const LINE: (usize, usize) = (LINE * PARTS, LINE * PARTS / 2);
    #[inline(always)]
    fn put(integers: &[i32], to: &mut [i8], from: usize) {
        let to: &mut [[i32; PARTS]] = cast_slice_mut::<i8, i32>(&mut to[2 * from..]).as_chunks_mut().0;
        for (to, from) in to.iter_mut().zip(integers.chunks_exact(2 * PARTS)) {
            *to = std::array::from_fn(|p| from[p] & 0xffff | from[p + PARTS] << 16);
        }
    }
}

/// For rows of codes as they lie, `PARTS` in a byte: lines of bytes, first those that meet the low codes; each integer as `DIGITS` signed digits, the
/// highest first, in lines of their own.
pub enum Digits<const PARTS: usize, const DIGITS: usize> {}

impl<const PARTS: usize, const DIGITS: usize> Order for Digits<PARTS, DIGITS> {
    const LINE: (usize, usize) = (LINE * PARTS * DIGITS, LINE * PARTS);
    #[inline(always)]
    fn put(integers: &[i32], to: &mut [i8], from: usize) {
        let (line, at) = (from / Self::LINE.1, from % Self::LINE.1 / PARTS);
        let lines = to[line * Self::LINE.0..].chunks_exact_mut(LINE).take(PARTS * DIGITS);
        for (i, to) in lines.enumerate() {
            let (digit, part) = (i / PARTS, i % PARTS);
            let columns = integers.chunks_exact(PARTS).map(|columns| columns[part]);
            for (to, integer) in to[at..].iter_mut().zip(columns) {
                let low = integer as i8;
                *to = if digit + 1 == DIGITS { low } else { ((integer - low as i32) >> 8) as i8 };
            }
        }
    }
}

/// Integer rows, their scales and sums.
pub struct Integers<'a> {
    /// Integer rows of each row.
    pub each: usize,
    /// The integers, `stride` bytes for each row, as [`Order`] says.
    pub bytes: Buffer<'a>,
    pub stride: usize,
    /// k of a block, and blocks of a row.
    pub block: usize,
    pub blocks: usize,
    /// f32 `[rows, blocks]`
    pub scales: Buffer<'a>,
    /// i32 `[rows, blocks]`: the sums of the integers.
    pub sums: Buffer<'a>,
    /// Whether all blocks of a row have one scale.
    pub whole: bool,
}

impl<'a> Integers<'a> {
    /// Rows of `k` values in blocks of `block`.
    pub fn new<O: Order>(cpu: &'a Cpu, x: Operand, k: usize, block: usize) -> Self {
        let (rows, each) = match x {
            Operand::Half(x) => (x.len() / k, 1),
            Operand::Full(x) => (2 * x.len() / k, 2),
            Operand::Int8 { scales, .. } => (scales.len(), 1),
        };
        let blocks = k.div_ceil(block);
        // Whole lines of codes, and a line so that rows a power of two long do not share the sets of L1.
        let stride = k.div_ceil(O::LINE.1) * O::LINE.0 + LINE;
        let [mut bytes, mut scales, mut sums] = [stride / 4, blocks, blocks].map(|len| cpu.buffer(rows * len));
        let to = cast_slice_mut(&mut bytes).chunks_mut(PIECE * each * stride);
        let to = to.zip(scales.chunks_mut(PIECE * each * blocks));
        let to = to.zip(cast_slice_mut(&mut sums).chunks_mut(PIECE * each * blocks));
        cpu.for_each_of(to, |piece, ((bytes, scales), sums)| {
            let to = bytes.chunks_mut(each * stride).zip(scales.chunks_mut(each * blocks));
            for (i, ((bytes, scales), sums)) in to.zip(sums.chunks_mut(each * blocks)).enumerate() {
                let row = piece * PIECE + i;
                let at = row * k..(row + 1) * k;
                let x = match x {
                    Operand::Half(x) | Operand::Full(x) => Values::Floats(&x[at]),
                    Operand::Int8 { rows, scales } => Values::Int8(&rows[at], scales[row]),
                };
                cpu.isa().run(Convert::<O> { x, block, each, bytes, scales, sums, order: PhantomData });
            }
        });
        Integers { each, bytes, stride, block, blocks, scales, sums, whole: matches!(x, Operand::Int8 { .. }) }
    }
}

enum Values<'a> {
    Floats(&'a [f32]),
    Int8(&'a [i8], f32),
}

/// Converts a row to `each` integer rows, one after the other.
struct Convert<'a, O: Order> {
    x: Values<'a>,
    block: usize,
    each: usize,
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    order: PhantomData<O>,
}

impl<O: Order> Kernel for Convert<'_, O> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        let (mut integers, mut rest) = ([0; BLOCK], [0.0; BLOCK]);
        match self.x {
            Values::Floats(x) => {
                for (b, x) in x.chunks(self.block).enumerate() {
                    let rest = &mut rest[..x.len()];
                    rest.copy_from_slice(x);
                    integers[x.len()..].fill(0);
                    for i in 0..self.each {
                        let scale = round(rest, &mut integers);
                        self.put(i, b, &integers, scale);
                    }
                }
            }
            Values::Int8(x, scale) => {
                for (b, x) in x.chunks(self.block).enumerate() {
                    integers[x.len()..].fill(0);
                    integers.iter_mut().zip(x).for_each(|(to, &x)| *to = x as i32);
                    self.put(0, b, &integers, scale);
                }
            }
        }
    }
}

impl<O: Order> Convert<'_, O> {
    /// Stores a block of integer row `i`.
    #[inline(always)]
    fn put(&mut self, i: usize, block: usize, integers: &[i32; BLOCK], scale: f32) {
        let integers = &integers[..self.block];
        let at = i * self.scales.len() / self.each + block;
        (self.scales[at], self.sums[at]) = (scale, integers.iter().sum());
        let stride = self.bytes.len() / self.each;
        let row = &mut self.bytes[i * stride..(i + 1) * stride - LINE];
        let columns = row.len() / O::LINE.0 * O::LINE.1;
        if block == 0 {
            row[(columns / O::LINE.1 - 1) * O::LINE.0..].fill(0);
        }
        // A line of codes at a time, or less where a block is less.
        let step = self.block.min(O::LINE.1);
        for (integers, from) in integers.chunks_exact(step).zip((block * self.block..columns).step_by(step)) {
            O::put(integers, row, from);
        }
    }
}

/// Rounds a block and gives its scale; what the rounding left takes the place of the values.
#[inline(always)]
fn round(x: &mut [f32], to: &mut [i32; BLOCK]) -> f32 {
    let top = largest(x);
    if top.is_nan() || top < LEAST {
        to.fill(0);
        return top * 0.0;
    }
    let (scale, inverse) = (top / TOP, TOP / top);
    for (to, x) in to.iter_mut().zip(x) {
        *to = nearest(*x * inverse);
        *x = scale.mul_add(-(*to as f32), *x);
    }
    scale
}
