//! Fragments to dense arrays, the products, and back.
//!
//! A is kept row by row, B with its 8 columns side by side, so that a step of k is one vector of B times a broadcast of A.
//! The arrays have the most rows and the largest k of their element type; what a smaller shape leaves is not looked at.

use super::fragments::{Place, a_place, b_place, c_place};
use crate::isa::{MatTy, Mma, Reg};
use crate::machine::alu::{e4m3_to_f32, half_to_f32, round_f16};
use crate::machine::simd::vectorised;
use crate::registers::{Lanes, Mask, Registers};
use std::array::from_fn;

/// The most rows of A, and the columns of B.
const M: usize = 16;
pub const N: usize = 8;

pub type A<T, const K: usize> = [[T; K]; M];
pub type B<T, const K: usize> = [[T; N]; K];
pub type C<T> = [[T; N]; M];

/// Takes a fragment apart: every register has `PER` elements, `place` says where they belong, `value` what they are.
#[inline(always)]
fn load<R: Copy, T: Copy + Default, const PER: usize, const ROWS: usize, const COLUMNS: usize>(
    fragment: impl Iterator<Item = Lanes<R>>,
    place: impl Fn(usize, usize, usize) -> Place,
    value: impl Fn(R, usize) -> T,
) -> [[T; COLUMNS]; ROWS] {
    let mut dense = [[T::default(); COLUMNS]; ROWS];
    for (register, lanes) in fragment.enumerate() {
        for (lane, &whole) in lanes.iter().enumerate() {
            for element in 0..PER {
                let (row, column) = place(lane, register, element);
                dense[row][column] = value(whole, element);
            }
        }
    }
    dense
}

#[inline(always)]
fn load_a<R: Copy, T: Copy + Default, const PER: usize, const K: usize>(
    m: usize,
    fragment: impl Iterator<Item = Lanes<R>>,
    value: impl Fn(R, usize) -> T,
) -> A<T, K> {
    load::<R, T, PER, M, K>(fragment, |lane, register, element| a_place(m, PER, lane, register, element), value)
}

#[inline(always)]
fn load_b<R: Copy, T: Copy + Default, const PER: usize, const K: usize>(
    fragment: impl Iterator<Item = Lanes<R>>,
    value: impl Fn(R, usize) -> T,
) -> B<T, K> {
    load::<R, T, PER, K, N>(fragment, |lane, register, element| b_place(PER, lane, register, element), value)
}

#[inline(always)]
pub fn load_c<R: Copy, T: Copy + Default, const PER: usize>(
    fragment: impl Iterator<Item = Lanes<R>>,
    value: impl Fn(R, usize) -> T,
) -> C<T> {
    load::<R, T, PER, M, N>(fragment, |lane, register, element| c_place(PER, lane, register, element), value)
}

/// One register of D: `join` makes it of its `PER` elements.
#[inline(always)]
pub fn store_d<R, T: Copy, const PER: usize>(c: &C<T>, register: usize, join: impl Fn([T; PER]) -> R) -> Lanes<R> {
    from_fn(|lane| {
        join(from_fn(|element| {
            let (row, column) = c_place(PER, lane, register, element);
            c[row][column]
        }))
    })
}

#[inline(always)]
fn words<'r>(registers: &'r Registers, fragment: &'r [Reg]) -> impl Iterator<Item = Lanes<u32>> + 'r {
    fragment.iter().map(|&reg| *registers.b32(reg))
}

vectorised! {
pub fn floats(op: &Mma, registers: &mut Registers) {
    match op.a_ty {
        MatTy::BF16 => halves(op, registers, |bits| f32::from_bits((bits as u32) << 16)),
        MatTy::F16 => halves(op, registers, half_to_f32),
        MatTy::TF32 => {
            let a = load_a::<_, _, 1, 8>(M, words(registers, &op.a), tf32);
            let b = load_b::<_, _, 1, 8>(words(registers, &op.b), tf32);
            accumulate(op, registers, &a, &b);
        }
        _ => {
            let a = load_a::<_, _, 4, 32>(M, words(registers, &op.a), |x, i| eighth(op.a_ty, x, i));
            let b = load_b::<_, _, 4, 32>(words(registers, &op.b), |x, i| eighth(op.b_ty, x, i));
            accumulate(op, registers, &a, &b);
        }
    }
}
}

#[inline(always)]
fn halves(op: &Mma, registers: &mut Registers, value: impl Fn(u16) -> f32) {
    let value = |x: u32, element: usize| value((x >> (16 * element)) as u16);
    let a = load_a::<_, _, 2, 16>(M, words(registers, &op.a), &value);
    let b = load_b::<_, _, 2, 16>(words(registers, &op.b), &value);
    accumulate(op, registers, &a, &b);
}

/// The low 13 bits of a TF32 register do not count.
#[inline(always)]
pub fn tf32(x: u32, _: usize) -> f32 {
    f32::from_bits(x & !0x1fff)
}

#[inline(always)]
pub fn eighth(ty: MatTy, x: u32, element: usize) -> f32 {
    let bits = (x >> (8 * element)) as u8;
    // E5M2 is the upper half of an f16.
    if ty == MatTy::E4M3 { e4m3_to_f32(bits) } else { half_to_f32((bits as u16) << 8) }
}

/// D = A B + C with f32 sums.
#[inline(always)]
fn accumulate<const K: usize>(op: &Mma, registers: &mut Registers, a: &A<f32, K>, b: &B<f32, K>) {
    let c = words(registers, &op.c);
    let wide = op.c_ty == MatTy::F32;
    let mut sums = if wide {
        load_c::<_, _, 1>(c, |x, _| f32::from_bits(x))
    } else {
        load_c::<_, _, 2>(c, |x, i| half_to_f32((x >> (16 * i)) as u16))
    };
    chain(a, b, &mut sums, op.k as usize, f32::mul_add);
    for (i, &reg) in op.d.iter().enumerate() {
        let d = if wide {
            store_d(&sums, i, |[x]: [f32; 1]| if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
        } else {
            store_d(&sums, i, |[low, high]: [f32; 2]| round_f16(low) as u32 | (round_f16(high) as u32) << 16)
        };
        registers.set_b32(reg, Mask::MAX, &d);
    }
}

/// C = A B + C by steps of k. Some rows at a time: their sums and a row of B stay in vector registers.
#[inline(always)]
pub fn chain<T: Copy, const K: usize>(a: &A<T, K>, b: &B<T, K>, c: &mut C<T>, k: usize, fma: impl Fn(T, T, T) -> T) {
    const ROWS: usize = 8;
    for (a, c) in a.chunks_exact(ROWS).zip(c.chunks_exact_mut(ROWS)) {
        let mut sums: [[T; N]; ROWS] = from_fn(|row| c[row]);
        for step in 0..k.min(K) {
            for row in 0..ROWS {
                for column in 0..N {
                    sums[row][column] = fma(a[row][step], b[step][column], sums[row][column]);
                }
            }
        }
        c.copy_from_slice(&sums);
    }
}

vectorised! {
pub fn doubles(op: &Mma, registers: &mut Registers) {
    let read = |fragment: &[Reg]| fragment.iter().map(|&reg| *registers.b64(reg)).collect::<Vec<_>>().into_iter();
    let value = |x, _| f64::from_bits(x);
    let a = load_a::<_, _, 1, 16>(op.m as usize, read(&op.a), value);
    let b = load_b::<_, _, 1, 16>(read(&op.b), value);
    let mut c = load_c::<_, _, 1>(read(&op.c), value);
    chain(&a, &b, &mut c, op.k as usize, f64::mul_add);
    for (i, &reg) in op.d.iter().enumerate() {
        registers.set_b64(reg, Mask::MAX, &store_d(&c, i, |[x]: [f64; 1]| x.to_bits()));
    }
}
}

vectorised! {
pub fn integers(op: &Mma, registers: &mut Registers) {
    let m = op.m as usize;
    let (a_signed, b_signed) = (matches!(op.a_ty, MatTy::S8 | MatTy::S4), matches!(op.b_ty, MatTy::S8 | MatTy::S4));
    let (a, b) = (words(registers, &op.a), words(registers, &op.b));
    let (a, b) = if matches!(op.a_ty, MatTy::S8 | MatTy::U8) {
        (
            load_a::<_, _, 4, 64>(m, a, |x, i| field(x, i, 8, a_signed)),
            load_b::<_, _, 4, 64>(b, |x, i| field(x, i, 8, b_signed)),
        )
    } else {
        (
            load_a::<_, _, 8, 64>(m, a, |x, i| field(x, i, 4, a_signed)),
            load_b::<_, _, 8, 64>(b, |x, i| field(x, i, 4, b_signed)),
        )
    };
    let mut products = [[0i32; N]; M];
    // 64 products of 8 bits each are far from the limits.
    chain(&a, &b, &mut products, op.k as usize, |a, b, sum| sum + a * b);
    add_c(op, registers, &products);
}
}

#[inline(always)]
pub fn field(x: u32, index: usize, width: u32, signed: bool) -> i32 {
    let top = x << (32 - width * (index as u32 + 1));
    if signed { top as i32 >> (32 - width) } else { (top >> (32 - width)) as i32 }
}

/// One-bit elements: 32 of them are one element here, joined by one operation and counted.
pub fn bits(op: &Mma, registers: &mut Registers) {
    let a: A<u32, 8> = load_a::<_, _, 1, 8>(op.m as usize, words(registers, &op.a), |x, _| x);
    let b: B<u32, 8> = load_b::<_, _, 1, 8>(words(registers, &op.b), |x, _| x);
    let join = |a: u32, b: u32| if op.a_ty == MatTy::B1And { a & b } else { a ^ b };
    let count = |row: usize, column: usize| {
        (0..op.k as usize / 32).map(|step| join(a[row][step], b[step][column]).count_ones() as i32).sum()
    };
    let products = from_fn(|row| from_fn(|column| count(row, column)));
    add_c(op, registers, &products);
}

/// D = products + C, wrapping or clamped.
#[inline(always)]
fn add_c(op: &Mma, registers: &mut Registers, products: &C<i32>) {
    let c = load_c::<_, _, 1>(words(registers, &op.c), |x, _| x as i32);
    let add = if op.satfinite { i32::saturating_add } else { i32::wrapping_add };
    let sums: C<i32> = from_fn(|row| from_fn(|column| add(products[row][column], c[row][column])));
    for (i, &reg) in op.d.iter().enumerate() {
        registers.set_b32(reg, Mask::MAX, &store_d(&sums, i, |[x]: [i32; 1]| x as u32));
    }
}
