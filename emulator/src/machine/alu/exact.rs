//! Exact arithmetic before one rounding: in doubles rounded to odd for operands of at most 24 bits of significand, in
//! 128-bit integers for f64.
//!
//! Rounding to odd: cut towards zero, and set the lowest bit if anything was lost. With two bits to spare, a second
//! rounding in any direction then gives what one rounding would have given.

use super::number::{Format, Real};
use crate::isa::Round;

/// `a + b` rounded to odd. `round` decides the sign of a zero that two numbers cancel to.
#[inline(always)]
pub fn sum(a: f64, b: f64, round: Round) -> f64 {
    let s = a + b;
    if round == Round::Down && s == 0.0 && (a.is_sign_negative() || b.is_sign_negative()) {
        return -0.0;
    }
    // Knuth's two-sum: a + b = s + error.
    let b_part = s - a;
    odd(s, (a - (s - b_part)) + (b - b_part))
}

/// `a / b` rounded to odd.
#[inline(always)]
pub fn quotient(a: f64, b: f64) -> f64 {
    let q = a / b;
    // a = q b + error b: the sign of the error is that of the remainder over b.
    let remainder = (-q).mul_add(b, a);
    odd(q, if b < 0.0 { -remainder } else { remainder })
}

/// The square root rounded to odd.
#[inline(always)]
pub fn root(a: f64) -> f64 {
    let s = a.sqrt();
    odd(s, (-s).mul_add(s, a))
}

/// `s + error` rounded to odd, where `error` is less than a unit of `s`.
#[inline(always)]
fn odd(s: f64, error: f64) -> f64 {
    let towards_zero = s.to_bits().wrapping_sub(((error > 0.0) != (s > 0.0)) as u64);
    // The error of an infinity is no number.
    if error.abs() > 0.0 && s.is_finite() { f64::from_bits(towards_zero | 1) } else { s }
}

/// `a * b + c` of finite doubles, rounded once. Addition is a product with 1, multiplication a sum with [`no_addend`].
pub fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let product = Exact::of(a).times(Exact::of(b));
    product.plus(Exact::of(c), round).round(round)
}

/// The zero that leaves a product's sign alone.
pub fn no_addend(a: f64, b: f64) -> f64 {
    if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 }
}

/// `a / b` of finite doubles, `b` not zero, rounded once.
pub fn div(a: f64, b: f64, round: Round) -> f64 {
    Exact::of(a).over(Exact::of(b)).round(round)
}

/// The square root of a finite double that is not negative, rounded once.
pub fn sqrt(a: f64, round: Round) -> f64 {
    Exact::of(a).root().round(round)
}

/// As [`Real`], with room for a product of doubles.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

impl Exact {
    fn of(x: f64) -> Exact {
        let Real { negative, mantissa, exponent } = Real::of(x);
        Exact { negative, mantissa: mantissa as u128, exponent }
    }

    /// The same value with bit 126 as its highest. Zero stays.
    fn normal(self) -> Exact {
        let by = self.mantissa.leading_zeros() as i32 - 1;
        if self.mantissa == 0 {
            self
        } else {
            Exact { mantissa: self.mantissa << by, exponent: self.exponent - by, ..self }
        }
    }

    fn times(self, b: Exact) -> Exact {
        Exact {
            negative: self.negative != b.negative,
            mantissa: self.mantissa * b.mantissa,
            exponent: self.exponent + b.exponent,
        }
    }

    fn plus(self, b: Exact, round: Round) -> Exact {
        if self.mantissa == 0 && b.mantissa == 0 {
            let negative = if self.negative == b.negative { self.negative } else { round == Round::Down };
            return Exact { negative, ..self };
        }
        if self.mantissa == 0 || b.mantissa == 0 {
            return if self.mantissa == 0 { b } else { self };
        }
        let (x, y) = (self.normal(), b.normal());
        let (large, small) = if (x.exponent, x.mantissa) >= (y.exponent, y.mantissa) { (x, y) } else { (y, x) };
        let aligned = shift_odd(small.mantissa, (large.exponent - small.exponent) as u32);
        if large.negative == small.negative {
            return Exact { mantissa: large.mantissa + aligned, ..large };
        }
        let mantissa = large.mantissa - aligned;
        let negative = if mantissa == 0 { round == Round::Down } else { large.negative };
        Exact { negative, mantissa, ..large }
    }

    fn over(self, b: Exact) -> Exact {
        let a = self.normal();
        let (quotient, remainder) = (a.mantissa / b.mantissa, a.mantissa % b.mantissa);
        Exact {
            negative: a.negative != b.negative,
            mantissa: quotient | (remainder != 0) as u128,
            exponent: a.exponent - b.exponent,
        }
    }

    fn root(self) -> Exact {
        let a = self.normal();
        let odd = (a.exponent & 1) as u32;
        let root = (a.mantissa >> odd).isqrt();
        // The bit that the shift may cut is zero: a double's 53 bits are at the top.
        let inexact = root * root != a.mantissa >> odd;
        Exact { mantissa: root | inexact as u128, exponent: (a.exponent + odd as i32) / 2, ..a }
    }

    fn round(self, round: Round) -> f64 {
        let a = self;
        let by = 64u32.saturating_sub(a.mantissa.leading_zeros());
        let real =
            Real { negative: a.negative, mantissa: shift_odd(a.mantissa, by) as u64, exponent: a.exponent + by as i32 };
        f64::from_bits(real.round(Format::F64, round))
    }
}

/// Shifts right, rounding to odd.
fn shift_odd(x: u128, by: u32) -> u128 {
    if by >= 128 {
        return (x != 0) as u128;
    }
    x >> by | (x & ((1 << by) - 1) != 0) as u128
}
