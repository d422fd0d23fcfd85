//! Arithmetic of f16 and bf16, alone and in pairs. Operands become doubles, the operation is rounded to odd, and one
//! rounding to nearest (these types know no other) makes the result.

use super::approx;
use super::float::{maximum, minimum, odd};
use super::lanes::{halves, map3};
use super::number::{Format, half_to_f32, odd_f32, round_bf16, round_f16};
use crate::isa::{FloatMods, FloatOp, Reg, Round, Ty};
use crate::machine::simd::vectorised;
use crate::registers::{Mask, Registers};

/// The format of a 16-bit type, alone or packed.
pub fn format(ty: Ty) -> Format {
    if matches!(ty, Ty::BF16 | Ty::BF16x2) { Format::BF16 } else { Format::F16 }
}

vectorised! {
pub fn run(op: FloatOp, ty: Ty, how: FloatMods, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    let packed = matches!(ty, Ty::F16x2 | Ty::BF16x2);
    macro_rules! lanes {
        ($widen:expr, $f:expr, $round:expr) => {{
            let normal = format(ty).smallest_normal();
            let flush = |x: f64| if how.ftz && x.abs() < normal { 0f64.copysign(x) } else { x };
            let value = |bits: u16| flush($widen(bits) as f64);
            let one = |a, b, c| {
                let result = $round(odd_f32(clamp(how, $f(value(a), value(b), value(c)))));
                if how.ftz && format(ty).subnormal(result as u64) { result & 0x8000 } else { result }
            };
            if packed {
                map3(registers, mask, d, a, |a, b, c| halves(a, b, c, one))
            } else {
                map3(registers, mask, d, a, one)
            }
        }};
        ($f:expr) => {
            if format(ty) == Format::BF16 {
                lanes!(|bits: u16| f32::from_bits((bits as u32) << 16), $f, round_bf16)
            } else {
                lanes!(half_to_f32, $f, round_f16)
            }
        };
    }
    const ROUND: Round = Round::Nearest;
    match op {
        FloatOp::Copysign => map3(registers, mask, d, a, |a: u32, b: u32, _: u32| (a & 0x8000_8000) | (b & 0x7fff_7fff)),
        FloatOp::Add => lanes!(|a, b, c| odd(FloatOp::Add, ROUND, [a, b, c])),
        FloatOp::Mul => lanes!(|a, b, c| odd(FloatOp::Mul, ROUND, [a, b, c])),
        FloatOp::Fma => lanes!(|a, b, c| odd(FloatOp::Fma, ROUND, [a, b, c])),
        _ => lanes!(|a, b, c| other(op, how, [a, b, c])),
    }
}
}

/// One sum, minimum or maximum of the format of `ty`.
pub fn scalar(op: FloatOp, ty: Ty, a: u16, b: u16) -> u16 {
    let [a, b] = [a, b].map(|bits| format(ty).value(bits.into()));
    let result = odd_f32(other(op, FloatMods::default(), [a, b, 0.0]));
    if format(ty) == Format::BF16 { round_bf16(result) } else { round_f16(result) }
}

/// What is not worth a loop of its own.
fn other(op: FloatOp, how: FloatMods, [a, b, c]: [f64; 3]) -> f64 {
    match op {
        FloatOp::Abs => a.abs(),
        FloatOp::Neg => -a,
        FloatOp::Min | FloatOp::Max => extreme(op, how, a, b),
        FloatOp::Tanh => a.tanh(),
        FloatOp::Ex2 => approx::ex2(a),
        _ => odd(op, Round::Nearest, [a, b, c]),
    }
}

/// `.relu` and `.sat`. Clamping commutes with rounding: both ends are representable.
#[inline(always)]
fn clamp(how: FloatMods, x: f64) -> f64 {
    let x = if how.relu && x <= 0.0 { 0.0 } else { x };
    let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
    if how.sat { clamped } else { x }
}

/// `min` and `max` with their modifiers.
fn extreme(op: FloatOp, how: FloatMods, a: f64, b: f64) -> f64 {
    let sign = if how.xorsign_abs && a.is_sign_negative() != b.is_sign_negative() { -1.0 } else { 1.0 };
    let (a, b) = if how.xorsign_abs { (a.abs(), b.abs()) } else { (a, b) };
    match op {
        _ if how.nan && (a.is_nan() || b.is_nan()) => f64::NAN,
        FloatOp::Min => sign * minimum(a, b),
        _ => sign * maximum(a, b),
    }
}
