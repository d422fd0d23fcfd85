//! A warp's share of a `wgmma`: 16 rows of A against N columns of B, eight at a time, by the model of `mma`.

use super::descriptor::Line;
use super::multiply::{N, chain, eighth, field, load_c, store_d, tf32};
use crate::isa::{MatTy, Wgmma};
use crate::machine::alu::{half_to_f32, round_f16};
use crate::machine::simd::vectorised;
use crate::registers::Lanes;
use std::array::from_fn;

/// The most elements of a line.
const K: usize = 32;

/// Elements of a line.
pub fn depth(ty: MatTy) -> usize {
    match ty {
        MatTy::TF32 => 8,
        MatTy::F16 | MatTy::BF16 => 16,
        _ => 32,
    }
}

/// The 16 rows that a fragment in registers holds: a register has four bytes of one row, whatever the type.
pub fn rows(fragment: [&Lanes<u32>; 4]) -> [Line; 16] {
    let mut rows = [[0; 32]; 16];
    for (register, lanes) in fragment.into_iter().enumerate() {
        for (lane, value) in lanes.iter().enumerate() {
            let (row, byte) = (lane / 4 + register % 2 * 8, register / 2 * 16 + lane % 4 * 4);
            rows[row][byte..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
    rows
}

vectorised! {
/// Adds the product of `a` and the columns `b` to `d`, the warp's fragment.
pub fn product(op: &Wgmma, a: &[Line; 16], b: &[Line], d: &mut [Lanes<u32>]) {
    match op.a_ty {
        MatTy::S8 | MatTy::U8 => integers(op, a, b, d),
        _ => floats(op, a, b, d),
    }
}
}

#[inline(always)]
fn integers(op: &Wgmma, a: &[Line; 16], b: &[Line], d: &mut [Lanes<u32>]) {
    let value = |ty, byte| field(u32::from(byte), 0, 8, ty == MatTy::S8);
    let a = a.map(|line| line.map(|byte| value(op.a_ty, byte)));
    for (columns, d) in b.chunks_exact(N).zip(d.chunks_exact_mut(4)) {
        let columns: [[i32; N]; K] = from_fn(|k| from_fn(|column| value(op.b_ty, columns[column][k])));
        let c = load_c::<_, _, 1>(d.iter().copied(), |x, _| x as i32);
        let mut sums = [[0; N]; 16];
        chain(&a, &columns, &mut sums, K, |a, b, sum| sum + a * b);
        let add = if op.satfinite { i32::saturating_add } else { i32::wrapping_add };
        let sums = from_fn(|row| from_fn(|column| add(sums[row][column], c[row][column])));
        d.iter_mut().enumerate().for_each(|(i, d)| *d = store_d(&sums, i, |[x]: [i32; 1]| x as u32));
    }
}

#[inline(always)]
fn floats(op: &Wgmma, a: &[Line; 16], b: &[Line], d: &mut [Lanes<u32>]) {
    let depth = depth(op.a_ty);
    let decode = |ty, negate, line: &Line| -> [f32; K] {
        from_fn(|k| {
            let x = if k < depth { element(ty, line, k) } else { 0.0 };
            if negate { -x } else { x }
        })
    };
    let a: [[f32; K]; 16] = from_fn(|row| decode(op.a_ty, op.negate_a, &a[row]));
    let wide = op.d_ty == MatTy::F32;
    for (columns, d) in b.chunks_exact(N).zip(d.chunks_exact_mut(if wide { 4 } else { 2 })) {
        let lines: [[f32; K]; N] = from_fn(|column| decode(op.b_ty, op.negate_b, &columns[column]));
        let columns: [[f32; N]; K] = from_fn(|k| from_fn(|column| lines[column][k]));
        let c = d.iter().copied();
        let mut sums = if wide {
            load_c::<_, _, 1>(c, |x, _| f32::from_bits(x))
        } else {
            load_c::<_, _, 2>(c, |x, i| half_to_f32((x >> (16 * i)) as u16))
        };
        chain(&a, &columns, &mut sums, depth, f32::mul_add);
        for (i, d) in d.iter_mut().enumerate() {
            *d = if wide {
                store_d(&sums, i, |[x]: [f32; 1]| if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
            } else {
                store_d(&sums, i, |[low, high]: [f32; 2]| round_f16(low) as u32 | (round_f16(high) as u32) << 16)
            };
        }
    }
}

#[inline(always)]
fn element(ty: MatTy, line: &Line, k: usize) -> f32 {
    let half = |i: usize| u16::from_le_bytes([line[2 * i], line[2 * i + 1]]);
    match ty {
        MatTy::BF16 => f32::from_bits(u32::from(half(k)) << 16),
        MatTy::F16 => half_to_f32(half(k)),
        MatTy::TF32 => tf32(u32::from(half(2 * k)) | u32::from(half(2 * k + 1)) << 16, 0),
        _ => eighth(ty, line[k].into(), 0),
    }
}
