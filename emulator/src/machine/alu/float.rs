//! Arithmetic of f32 and f64. Rounding to nearest is the processor's own; the other directions go through `exact`.

use super::lanes::{map1, map3};
use super::number::{Format, narrow};
use super::{approx, exact};
use crate::isa::{FloatMods, FloatOp, Reg, Round};
use crate::machine::simd::vectorised;
use crate::registers::{Mask, Registers};

/// The NaN of f32 results.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// Zero of the same sign for a subnormal number.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// The smaller number; of two zeros the negative one; a NaN only if both are.
#[inline(always)]
pub fn minimum<T: Ordered>(a: T, b: T) -> T {
    if b.is_nan() || a < b || (a == b && a.negative()) { a } else { b }
}

/// The larger number, likewise.
#[inline(always)]
pub fn maximum<T: Ordered>(a: T, b: T) -> T {
    if b.is_nan() || a > b || (a == b && b.negative()) { a } else { b }
}

/// What `minimum` asks of f32 and f64.
pub trait Ordered: Copy + PartialOrd {
    fn is_nan(self) -> bool;
    fn negative(self) -> bool;
}

macro_rules! ordered {
    ($($float:ty),*) => {$(
        impl Ordered for $float {
            #[inline(always)]
            fn is_nan(self) -> bool {
                self.is_nan()
            }

            #[inline(always)]
            fn negative(self) -> bool {
                self.is_sign_negative()
            }
        }
    )*};
}
ordered!(f32, f64);

vectorised! {
pub fn single(op: FloatOp, how: FloatMods, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    macro_rules! lanes {
        ($f:expr) => {
            if how.ftz || how.sat {
                let flush = |x| if how.ftz { flush(x) } else { x };
                map3(registers, mask, d, a, |a, b, c| clamp(how, flush($f(flush(a), flush(b), flush(c)))))
            } else {
                map3(registers, mask, d, a, |a, b, c| canonical($f(a, b, c)))
            }
        };
    }
    let nearest = how.round == Round::Nearest || how.approx;
    match op {
        FloatOp::Add if nearest => lanes!(|a: f32, b: f32, _: f32| a + b),
        FloatOp::Sub if nearest => lanes!(|a: f32, b: f32, _: f32| a - b),
        FloatOp::Mul if nearest => lanes!(|a: f32, b: f32, _: f32| a * b),
        FloatOp::Fma if nearest => lanes!(|a: f32, b: f32, c: f32| a.mul_add(b, c)),
        FloatOp::DivFull => lanes!(|a: f32, b: f32, _: f32| a / b),
        FloatOp::Div if how.approx => lanes!(|a: f32, b: f32, _: f32| approx::div(a, b)),
        FloatOp::Div if nearest => lanes!(|a: f32, b: f32, _: f32| a / b),
        FloatOp::Rcp if nearest => lanes!(|a: f32, _: f32, _: f32| 1.0 / a),
        FloatOp::Sqrt if nearest => lanes!(|a: f32, _: f32, _: f32| a.sqrt()),
        FloatOp::Abs => lanes!(|a: f32, _: f32, _: f32| a.abs()),
        FloatOp::Neg => lanes!(|a: f32, _: f32, _: f32| -a),
        FloatOp::Min | FloatOp::Max => lanes!(|a: f32, b: f32, _: f32| extreme(op, how, a, b)),
        FloatOp::Rsqrt => lanes!(|a: f32, _: f32, _: f32| approx::rsqrt(a as f64) as f32),
        FloatOp::Sin => lanes!(|a: f32, _: f32, _: f32| (a as f64).sin() as f32),
        FloatOp::Cos => lanes!(|a: f32, _: f32, _: f32| (a as f64).cos() as f32),
        FloatOp::Lg2 => lanes!(|a: f32, _: f32, _: f32| (a as f64).log2() as f32),
        FloatOp::Ex2 => lanes!(|a: f32, _: f32, _: f32| approx::ex2(a as f64) as f32),
        FloatOp::Tanh => lanes!(|a: f32, _: f32, _: f32| (a as f64).tanh() as f32),
        _ => lanes!(|a: f32, b: f32, c: f32| {
            let exact = odd(op, how.round, [a, b, c].map(|x| x as f64));
            f32::from_bits(narrow(exact, Format::F32, how.round) as u32)
        }),
    }
}
}

/// An operation on values of at most 24 bits of significand, rounded to odd: the next rounding is the only one.
#[inline(always)]
pub fn odd(op: FloatOp, round: Round, [a, b, c]: [f64; 3]) -> f64 {
    match op {
        FloatOp::Add => exact::sum(a, b, round),
        FloatOp::Sub => exact::sum(a, -b, round),
        // A product of 24-bit significands is exact in 53 bits.
        FloatOp::Mul => a * b,
        FloatOp::Fma => exact::sum(a * b, c, round),
        FloatOp::Div => exact::quotient(a, b),
        FloatOp::Rcp => exact::quotient(1.0, a),
        FloatOp::Sqrt => exact::root(a),
        _ => f64::NAN,
    }
}

/// `min` and `max` of f32, with their modifiers.
#[inline(always)]
pub fn extreme(op: FloatOp, how: FloatMods, a: f32, b: f32) -> f32 {
    let negative = a.is_sign_negative() != b.is_sign_negative();
    let (a, b) = if how.xorsign_abs { (a.abs(), b.abs()) } else { (a, b) };
    let result = if op == FloatOp::Min { minimum(a, b) } else { maximum(a, b) };
    let result = if how.nan && (a.is_nan() || b.is_nan()) { NAN } else { result };
    if how.xorsign_abs && negative { -result } else { result }
}

/// f32 results have one NaN. Asked of the bits: the compiler knows that a root of a negative number is NaN, and takes
/// any for as good as this one.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    if x.to_bits() & 0x7fff_ffff > 0x7f80_0000 { NAN } else { x }
}

/// `.sat`, if asked for.
#[inline(always)]
fn clamp(how: FloatMods, x: f32) -> f32 {
    let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
    if how.sat { clamped } else { canonical(x) }
}

vectorised! {
pub fn double(op: FloatOp, how: FloatMods, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    macro_rules! lanes {
        ($f:expr) => {
            map3(registers, mask, d, a, |a: f64, b: f64, c: f64| {
                let f = $f;
                keep_nan(f(a, b, c), [a, b, c])
            })
        };
    }
    let round = how.round;
    match op {
        FloatOp::Abs => map1(registers, mask, d, a[0], f64::abs),
        FloatOp::Neg => map1(registers, mask, d, a[0], |a: f64| -a),
        FloatOp::Min => map3(registers, mask, d, a, |a: f64, b: f64, _: f64| minimum(a, b)),
        FloatOp::Max => map3(registers, mask, d, a, |a: f64, b: f64, _: f64| maximum(a, b)),
        FloatOp::Rcp if how.approx => map1(registers, mask, d, a[0], |a| approx::coarse(a, |a| 1.0 / a)),
        FloatOp::Rsqrt if how.ftz => map1(registers, mask, d, a[0], |a| approx::coarse(a, approx::rsqrt)),
        FloatOp::Rsqrt => lanes!(|a: f64, _: f64, _: f64| approx::rsqrt(a)),
        _ if round == Round::Nearest => lanes!(|a: f64, b: f64, c: f64| nearest(op, [a, b, c])),
        _ => lanes!(|a: f64, b: f64, c: f64| directed(op, round, [a, b, c])),
    }
}
}

#[inline(always)]
fn nearest(op: FloatOp, [a, b, c]: [f64; 3]) -> f64 {
    match op {
        FloatOp::Add => a + b,
        FloatOp::Sub => a - b,
        FloatOp::Mul => a * b,
        FloatOp::Fma => a.mul_add(b, c),
        FloatOp::Div => a / b,
        FloatOp::Rcp => 1.0 / a,
        FloatOp::Sqrt => a.sqrt(),
        _ => f64::NAN,
    }
}

/// Rounding in a direction; where infinities, NaN or poles are involved no rounding takes place.
fn directed(op: FloatOp, round: Round, [a, b, c]: [f64; 3]) -> f64 {
    let finite = |used: &[f64]| used.iter().all(|x| x.is_finite());
    match op {
        FloatOp::Add if finite(&[a, b]) => exact::fma(a, 1.0, b, round),
        FloatOp::Sub if finite(&[a, b]) => exact::fma(a, 1.0, -b, round),
        FloatOp::Mul if finite(&[a, b]) => exact::fma(a, b, exact::no_addend(a, b), round),
        FloatOp::Fma if finite(&[a, b, c]) => exact::fma(a, b, c, round),
        FloatOp::Div if finite(&[a, b]) && b != 0.0 => exact::div(a, b, round),
        FloatOp::Rcp if finite(&[a]) && a != 0.0 => exact::div(1.0, a, round),
        FloatOp::Sqrt if finite(&[a]) && a >= 0.0 => exact::sqrt(a, round),
        _ => nearest(op, [a, b, c]),
    }
}

/// A NaN result is the first NaN operand, quieted, or the one that the hardware makes itself. Operands that an
/// operation does not use are zero.
#[inline(always)]
fn keep_nan(result: f64, operands: [f64; 3]) -> f64 {
    const QUIET: u64 = 1 << 51;
    const MADE: u64 = 0xfff8_0000_0000_0000;
    if !result.is_nan() {
        return result;
    }
    let first = operands.iter().find(|x| x.is_nan());
    f64::from_bits(first.map_or(MADE, |x| x.to_bits() | QUIET))
}
