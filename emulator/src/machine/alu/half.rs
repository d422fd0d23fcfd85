//! Arithmetic of f16 and bf16, alone and in pairs. Operands become doubles, the operation is rounded to odd, and one
//! rounding makes the result.

use super::float::{maximum, minimum, odd};
use super::lanes::{halves, map3};
use super::number::{Format, narrow};
use super::approx;
use crate::isa::{FloatMods, FloatOp, Reg, Ty};
use crate::registers::{Mask, Registers};

/// The format of a 16-bit type, alone or packed.
pub fn format(ty: Ty) -> Format {
    if matches!(ty, Ty::BF16 | Ty::BF16x2) { Format::BF16 } else { Format::F16 }
}

pub fn run(op: FloatOp, ty: Ty, how: FloatMods, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    let format = format(ty);
    if matches!(ty, Ty::F16x2 | Ty::BF16x2) {
        map3(registers, mask, d, a, |a, b, c| halves(a, b, c, |a, b, c| one(op, format, how, [a, b, c])));
    } else {
        map3(registers, mask, d, a, |a, b, c| one(op, format, how, [a, b, c]));
    }
}

fn one(op: FloatOp, format: Format, how: FloatMods, operands: [u16; 3]) -> u16 {
    let flush = |x: f64| if how.ftz && x.abs() < format.smallest_normal() { 0f64.copysign(x) } else { x };
    if op == FloatOp::Copysign {
        return (operands[0] & 0x8000) | (operands[1] & 0x7fff);
    }
    let [a, b, c] = operands.map(|bits| flush(format.value(bits as u64)));
    let exact = match op {
        FloatOp::Abs => a.abs(),
        FloatOp::Neg => -a,
        FloatOp::Min | FloatOp::Max => extreme(op, how, a, b),
        FloatOp::Tanh => a.tanh(),
        FloatOp::Ex2 => approx::ex2(a),
        FloatOp::Sin => a.sin(),
        FloatOp::Cos => a.cos(),
        FloatOp::Lg2 => a.log2(),
        FloatOp::Rsqrt => approx::rsqrt(a),
        _ => odd(op, how.round, [a, b, c]),
    };
    // Clamping commutes with rounding: both ends are representable.
    let exact = if how.relu && exact <= 0.0 { 0.0 } else { exact };
    let exact = if how.sat { if exact > 0.0 { exact.min(1.0) } else { 0.0 } } else { exact };
    let result = narrow(exact, format, how.round);
    (if how.ftz && format.subnormal(result) { result & format.sign() } else { result }) as u16
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
