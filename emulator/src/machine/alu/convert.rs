//! `cvt`: every value is read exactly (as an integer, or as a double) and rounded once into the type it becomes. The
//! conversions that kernels live on have loops of their own, which say the same.

use super::float::{canonical, flush};
use super::lanes::{map1, map2};
use super::number::{Format, Real, half_to_f32, narrow, round_bf16, round_f16};
use crate::isa::{CvtMods, Reg, Round, Ty};
use crate::machine::simd::vectorised;
use crate::registers::{Lanes, Mask, Registers};
use std::array::from_fn;

pub fn run(to: Ty, from: Ty, how: CvtMods, d: Reg, (a, b): (Reg, Option<Reg>), registers: &mut Registers, mask: Mask) {
    let plain = CvtMods { round: how.round, integer: how.integer, ..CvtMods::default() } == how;
    if plain && common(to, from, how.round, d, [a, b.unwrap_or(a)], registers, mask) {
        return;
    }
    let high = read(from, a, registers);
    let (to_kind, from_kind) = (kind(to), kind(from));
    let convert = |bits| one(to_kind, from_kind, how, bits);
    let result: Lanes<u64> = match (packed(to), packed(from), b) {
        (true, false, Some(b)) => {
            let low = read(from, b, registers);
            from_fn(|lane| convert(high[lane]) << (to.bits() / 2) | convert(low[lane]))
        }
        (true, true, _) => high.map(|x| convert(x >> (from.bits() / 2)) << (to.bits() / 2) | convert(x)),
        _ => high.map(convert),
    };
    write(to, d, &result, registers, mask);
}

#[inline(always)]
fn read(ty: Ty, reg: Reg, registers: &Registers) -> Lanes<u64> {
    if ty.rows() == 2 { *registers.b64(reg) } else { registers.b32(reg).map(|x| x as u64) }
}

#[inline(always)]
fn write(ty: Ty, reg: Reg, values: &Lanes<u64>, registers: &mut Registers, mask: Mask) {
    if ty.rows() == 2 {
        registers.set_b64(reg, mask, values);
    } else {
        registers.set_b32(reg, mask, &values.map(|x| x as u32));
    }
}

vectorised! {
/// Without modifiers but a rounding; says whether it was one of these.
fn common(to: Ty, from: Ty, round: Round, d: Reg, a: [Reg; 2], registers: &mut Registers, mask: Mask) -> bool {
    let [a, b] = a;
    let nearest = round == Round::Nearest;
    match (to, from) {
        (Ty::F32, Ty::F16) if nearest => map1(registers, mask, d, a, |x: u16| canonical(half_to_f32(x))),
        (Ty::F32, Ty::BF16) if nearest => {
            map1(registers, mask, d, a, |x: u16| canonical(f32::from_bits((x as u32) << 16)));
        }
        (Ty::F16, Ty::F32) if nearest => map1(registers, mask, d, a, round_f16),
        (Ty::BF16, Ty::F32) if nearest => map1(registers, mask, d, a, round_bf16),
        (Ty::F16x2, Ty::F32) if nearest => {
            map2(registers, mask, d, (a, b), |a, b| (round_f16(a) as u32) << 16 | round_f16(b) as u32);
        }
        (Ty::BF16x2, Ty::F32) if nearest => {
            map2(registers, mask, d, (a, b), |a, b| (round_bf16(a) as u32) << 16 | round_bf16(b) as u32);
        }
        (Ty::F32, Ty::S32) if nearest => map1(registers, mask, d, a, |x: i32| x as f32),
        (Ty::F32, Ty::U32) if nearest => map1(registers, mask, d, a, |x: u32| x as f32),
        (Ty::S32, Ty::F32) if nearest => map1(registers, mask, d, a, |x: f32| x.round_ties_even() as i32),
        (Ty::S32, Ty::F32) if round == Round::Zero => map1(registers, mask, d, a, |x: f32| x as i32),
        (Ty::U32, Ty::F32) if round == Round::Zero => map1(registers, mask, d, a, |x: f32| x as u32),
        _ => match (kind(to), kind(from)) {
            (Kind::Integer { bits, .. }, Kind::Integer { bits: width, signed }) => {
                let value = read(from, a, registers).map(|x| extend(x, width, signed) & (u64::MAX >> (64 - bits)));
                write(to, d, &value, registers, mask);
            }
            _ => return false,
        },
    }
    true
}
}

/// What a value, or one half of a pair, is.
#[derive(Clone, Copy)]
enum Kind {
    Integer { bits: u32, signed: bool },
    Float(Format),
}

fn kind(ty: Ty) -> Kind {
    Kind::Float(match ty {
        Ty::F16 | Ty::F16x2 => Format::F16,
        Ty::BF16 | Ty::BF16x2 => Format::BF16,
        Ty::TF32 => Format::TF32,
        Ty::F32 => Format::F32,
        Ty::F64 => Format::F64,
        Ty::E4M3x2 => Format::E4M3,
        Ty::E5M2x2 => Format::E5M2,
        _ => return Kind::Integer { bits: ty.bits(), signed: ty.signed() },
    })
}

fn packed(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::BF16x2 | Ty::E4M3x2 | Ty::E5M2x2)
}

/// Converts one value; bits above the source's width are ignored, those above the result's are zero.
fn one(to: Kind, from: Kind, how: CvtMods, bits: u64) -> u64 {
    match (from, to) {
        (Kind::Integer { bits: width, signed }, Kind::Integer { .. }) => {
            let value = integer(bits, width, signed);
            fit(if how.sat { clamp(value, to) } else { value }, to)
        }
        (Kind::Integer { bits: width, signed }, Kind::Float(format)) => {
            let value = integer(bits, width, signed);
            let value = if how.sat { value.clamp(0, 1) } else { value };
            Real { negative: value < 0, mantissa: value.unsigned_abs() as u64, exponent: 0 }.round(format, how.round)
        }
        (Kind::Float(format), Kind::Integer { .. }) => to_integer(value(format, how, bits), format, to, how.round),
        (Kind::Float(source), Kind::Float(format)) => to_float(value(source, how, bits), format, how),
    }
}

/// The low bits of a register, sign- or zero-extended to 64.
#[inline(always)]
fn extend(bits: u64, width: u32, signed: bool) -> u64 {
    let top = bits << (64 - width);
    if signed { (top as i64 >> (64 - width)) as u64 } else { top >> (64 - width) }
}

/// The integer that the low bits of a register stand for.
fn integer(bits: u64, width: u32, signed: bool) -> i128 {
    let bits = extend(bits, width, signed);
    if signed { bits as i64 as i128 } else { bits as i128 }
}

fn clamp(value: i128, to: Kind) -> i128 {
    match to {
        Kind::Integer { bits, signed: true } => value.clamp(-1 << (bits - 1), (1 << (bits - 1)) - 1),
        Kind::Integer { bits, .. } => value.clamp(0, (1 << bits) - 1),
        Kind::Float(_) => value,
    }
}

/// The low bits of a value.
fn fit(value: i128, to: Kind) -> u64 {
    match to {
        Kind::Integer { bits, .. } => value as u64 & (u64::MAX >> (64 - bits)),
        Kind::Float(_) => value as u64,
    }
}

/// The exact value of a float; `.ftz` is about f32 only.
fn value(format: Format, how: CvtMods, bits: u64) -> f64 {
    match format {
        Format::F64 => f64::from_bits(bits),
        Format::F32 => {
            let x = f32::from_bits(bits as u32);
            (if how.ftz { flush(x) } else { x }) as f64
        }
        _ => format.value(bits),
    }
}

/// Integers clamp whether `.sat` is said or not. NaN is 0, or the lowest signed number's pattern where f64 or 64-bit
/// integers take part.
fn to_integer(x: f64, from: Format, to: Kind, round: Round) -> u64 {
    let Kind::Integer { bits, .. } = to else { return 0 };
    if x.is_nan() {
        return if from == Format::F64 || bits == 64 { 1 << (bits - 1) } else { 0 };
    }
    // A double beyond i128 saturates there, which clamps alike.
    fit(clamp(integral(x, round) as i128, to), to)
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn to_float(x: f64, to: Format, how: CvtMods) -> u64 {
    let x = if how.integer { integral(x, how.round) } else { x };
    // Clamping commutes with rounding: the limits are representable.
    let x = if how.relu && x <= 0.0 { 0.0 } else { x };
    let x = if how.sat { if x > 0.0 { x.min(1.0) } else { 0.0 } } else { x };
    if x.is_nan() {
        return match to {
            Format::F64 => x.to_bits(),
            Format::TF32 => 0x7fff_ffff,
            _ => to.nan(),
        };
    }
    let bits = narrow(x, to, how.round);
    let magnitude = bits & to.nan();
    let bits = if how.satfinite && magnitude > to.largest() { bits & to.sign() | to.largest() } else { bits };
    let flushed = how.ftz && to == Format::F32 && to.subnormal(bits);
    match to {
        Format::TF32 => bits << 13,
        _ if flushed => bits & to.sign(),
        _ => bits,
    }
}

/// `cvt.pack`: two s32, clamped: `a` above `b`, and above those the low bits of `c`.
pub fn pack(to: Ty, d: Reg, (a, b, c): (Reg, Reg, Option<Reg>), registers: &mut Registers, mask: Mask) {
    let to_kind = kind(to);
    let width = to.bits();
    let value = |x: u32| fit(clamp(x as i32 as i128, to_kind), to_kind);
    let (a, b) = (registers.b32(a), registers.b32(b));
    let above = c.map(|c| *registers.b32(c)).unwrap_or_default();
    let result = from_fn(|lane| {
        let whole = value(b[lane]) | value(a[lane]) << width | (above[lane] as u64) << (2 * width);
        whole as u32
    });
    registers.set_b32(d, mask, &result);
}
