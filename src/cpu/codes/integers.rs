//! Rows of activations as 16-bit integers, spelt as an instruction set multiplies them with codes.
//!
//! Owns the rounding: a block of a row shares a scale, so that its sums with codes are exact in 32 bits. Refuses to know weights beyond the
//! four columns of a dword. The surprise: f32 rows become two integer rows, the value and what its rounding left.

use super::CHUNK;
use crate::cpu::simd::{Isa, Kernel, LANES, Simd};
use crate::cpu::{BLOCK, Buffer, Cpu};
use bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;

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

/// How the integers of a row are spelt: four columns are one dword, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Columns 0 and 2 as a pair of 16 bits, then columns 1 and 3.
    Pairs,
    /// Four bytes of the high digits, then four of the low ones, which are signed.
    Digits,
    /// Four bytes.
    Bytes,
}

impl Spelling {
    fn of(isa: Isa, x: &Operand) -> Spelling {
        match x {
            _ if !isa.digits() => Spelling::Pairs,
            Operand::Int8 { .. } => Spelling::Bytes,
            _ => Spelling::Digits,
        }
    }

    /// Dwords of four columns.
    fn planes(self) -> usize {
        if self == Spelling::Bytes { 1 } else { 2 }
    }

    /// Stores integers, a multiple of four.
    #[inline(always)]
    fn put(self, integers: &[i32], to: &mut [i32]) {
        let fours = integers.as_chunks::<4>().0;
        match self {
            Spelling::Pairs => to.as_chunks_mut().0.iter_mut().zip(fours).for_each(|(to, four)| {
                *to = [0, 1].map(|i| four[i] & 0xffff | four[i + 2] << 16);
            }),
            Spelling::Digits => to.as_chunks_mut().0.iter_mut().zip(fours).for_each(|(to, four)| {
                *to = [dword(four.map(|x| (x + 128) >> 8)), dword(*four)];
            }),
            Spelling::Bytes => to.iter_mut().zip(fours).for_each(|(to, four)| *to = dword(*four)),
        }
    }
}

/// The low bytes of four integers.
#[inline(always)]
fn dword(x: [i32; 4]) -> i32 {
    x[0] & 0xff | (x[1] & 0xff) << 8 | (x[2] & 0xff) << 16 | x[3] << 24
}

/// Integer rows, their scales and sums.
pub struct Integers<'a> {
    /// Integer rows of each row.
    pub each: usize,
    /// Dwords of four columns.
    pub planes: usize,
    /// `stride` for each row.
    dwords: Buffer<'a>,
    stride: usize,
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
    pub fn new(cpu: &'a Cpu, x: Operand, k: usize, block: usize) -> Self {
        let (rows, each) = match x {
            Operand::Half(x) => (x.len() / k, 1),
            Operand::Full(x) => (2 * x.len() / k, 2),
            Operand::Int8 { scales, .. } => (scales.len(), 1),
        };
        let (spelling, blocks) = (Spelling::of(cpu.isa(), &x), k.div_ceil(block));
        // A line more, so that rows a power of two long do not share the sets of L1.
        let stride = spelling.planes() * k.next_multiple_of(CHUNK) / 4 + LANES;
        let [mut dwords, mut scales, mut sums] = [stride, blocks, blocks].map(|len| cpu.buffer(rows * len));
        let to = cast_slice_mut(&mut dwords).chunks_mut(PIECE * each * stride);
        let to = to.zip(scales.chunks_mut(PIECE * each * blocks));
        let to = to.zip(cast_slice_mut(&mut sums).chunks_mut(PIECE * each * blocks));
        cpu.for_each_of(to, |piece, ((dwords, scales), sums)| {
            let to = dwords.chunks_mut(each * stride).zip(scales.chunks_mut(each * blocks));
            for (i, ((dwords, scales), sums)) in to.zip(sums.chunks_mut(each * blocks)).enumerate() {
                let row = piece * PIECE + i;
                let at = row * k..(row + 1) * k;
                let x = match x {
                    Operand::Half(x) | Operand::Full(x) => Values::Floats(&x[at]),
                    Operand::Int8 { rows, scales } => Values::Int8(&rows[at], scales[row]),
                };
                cpu.isa().run(Convert { x, block, each, spelling, dwords, scales, sums });
            }
        });
        let whole = matches!(x, Operand::Int8 { .. });
        Integers { each, planes: spelling.planes(), dwords, stride, block, blocks, scales, sums, whole }
    }

    /// Chunks of a row, of `PLANES` dwords for each four columns.
    #[inline(always)]
    pub fn chunks<const PLANES: usize>(&self, row: usize, chunks: Range<usize>) -> &[[[i32; PLANES]; CHUNK / 4]] {
        let row: &[i32] = &cast_slice(&self.dwords)[row * self.stride..(row + 1) * self.stride];
        &row.as_chunks().0.as_chunks().0[chunks]
    }
}

enum Values<'a> {
    Floats(&'a [f32]),
    Int8(&'a [i8], f32),
}

/// Converts a row to `each` integer rows, one after the other.
struct Convert<'a> {
    x: Values<'a>,
    block: usize,
    each: usize,
    spelling: Spelling,
    dwords: &'a mut [i32],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Kernel for Convert<'_> {
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

impl Convert<'_> {
    /// Stores a block of integer row `i`.
    #[inline(always)]
    fn put(&mut self, i: usize, block: usize, integers: &[i32; BLOCK], scale: f32) {
        let integers = &integers[..self.block];
        let at = i * self.scales.len() / self.each + block;
        (self.scales[at], self.sums[at]) = (scale, integers.iter().sum());
        let stride = self.dwords.len() / self.each;
        let row = &mut self.dwords[i * stride..(i + 1) * stride - LANES];
        self.spelling.put(integers, &mut row[self.spelling.planes() * block * self.block / 4..]);
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
