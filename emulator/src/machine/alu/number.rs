//! Floating-point formats narrower than or equal to f64, and rounding into them: in every direction, exactly once.
//!
//! The surprise: a `Real` may stand for a value that is not representable. Then its lowest bit is set and says "a little
//! more or less than this" (rounding to odd), which every later rounding to fewer bits sees as what it is.

use crate::isa::Round;

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Stored bits of the fraction, and of the exponent.
    fraction: u32,
    exponent: u32,
    /// All ones in the exponent means infinity or NaN; of E4M3, only the all-ones pattern is NaN.
    infinity: bool,
}

impl Format {
    pub const F16: Format = Format { fraction: 10, exponent: 5, infinity: true };
    pub const BF16: Format = Format { fraction: 7, exponent: 8, infinity: true };
    /// 19 bits; a register holds them in its upper bits.
    pub const TF32: Format = Format { fraction: 10, exponent: 8, infinity: true };
    pub const F32: Format = Format { fraction: 23, exponent: 8, infinity: true };
    pub const F64: Format = Format { fraction: 52, exponent: 11, infinity: true };
    pub const E4M3: Format = Format { fraction: 3, exponent: 4, infinity: false };
    pub const E5M2: Format = Format { fraction: 2, exponent: 5, infinity: true };

    /// Bits below the sign, all ones: the canonical NaN of every format but f64.
    pub const fn nan(self) -> u64 {
        self.sign() - 1
    }

    pub const fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    /// The largest finite pattern.
    pub const fn largest(self) -> u64 {
        if self.infinity { (((1 << self.exponent) - 1) << self.fraction) - 1 } else { self.nan() - 1 }
    }

    /// Infinity; NaN where there is none.
    const fn overflow(self) -> u64 {
        self.largest() + 1
    }

    /// Exponent of the smallest normal number.
    const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent - 1))
    }

    /// The smallest normal number.
    pub fn smallest_normal(self) -> f64 {
        f64::from_bits(((self.min_exponent() + 1023) as u64) << 52)
    }

    /// Whether a pattern is subnormal, or zero.
    pub const fn subnormal(self, bits: u64) -> bool {
        bits & self.nan() < 1 << self.fraction
    }

    /// The value of a pattern of at most 16 bits.
    pub fn value(self, bits: u64) -> f64 {
        let magnitude = bits & self.nan();
        let sign = if bits & self.sign() == 0 { 1.0 } else { -1.0 };
        if magnitude > self.largest() {
            return if magnitude == self.overflow() && self.infinity { sign * f64::INFINITY } else { f64::NAN };
        }
        let field = (magnitude >> self.fraction) as i32;
        let fraction = magnitude & ((1 << self.fraction) - 1);
        let hidden = if field == 0 { 0 } else { 1 << self.fraction };
        let unit = self.min_exponent() - self.fraction as i32 + (field - 1).max(0);
        sign * (fraction | hidden) as f64 * f64::from_bits(((unit + 1023) as u64) << 52)
    }
}

/// A finite number, `mantissa * 2^exponent`; see the module about its lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    pub negative: bool,
    pub mantissa: u64,
    pub exponent: i32,
}

impl Real {
    /// A finite double.
    pub fn of(x: f64) -> Real {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Real { negative: x.is_sign_negative(), mantissa, exponent: field.max(1) - 1075 }
    }

    /// The nearest pattern of the format in the given direction.
    pub fn round(self, format: Format, round: Round) -> u64 {
        let sign = if self.negative { format.sign() } else { 0 };
        if self.mantissa == 0 {
            return sign;
        }
        let top = 63 - self.mantissa.leading_zeros() as i32 + self.exponent;
        let normal = top.max(format.min_exponent());
        let cut = normal - format.fraction as i32 - self.exponent;
        let kept = if cut <= 0 { self.mantissa << -cut } else { self.cut(cut as u32, round) };
        // The hidden bit of `kept` adds one to the exponent's field; of a subnormal it is not there.
        let field = (normal - format.min_exponent()) as u64;
        let magnitude = (field << format.fraction) + kept;
        if magnitude > format.largest() {
            return sign | if self.overflows(round) { format.overflow() } else { format.largest() };
        }
        sign | magnitude
    }

    /// The mantissa without its lowest `bits` bits, rounded.
    fn cut(self, bits: u32, round: Round) -> u64 {
        // More than 66 bits below the unit are all alike: below a half.
        let bits = bits.min(66);
        let wide = self.mantissa as u128;
        let (kept, rest, half) = (wide >> bits, wide & ((1 << bits) - 1), 1u128 << (bits - 1));
        let up = match round {
            Round::Nearest => rest > half || (rest == half && kept & 1 == 1),
            Round::NearestAway => rest >= half,
            Round::Zero => false,
            Round::Down => self.negative && rest != 0,
            Round::Up => !self.negative && rest != 0,
        };
        kept as u64 + up as u64
    }

    fn overflows(self, round: Round) -> bool {
        match round {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => self.negative,
            Round::Up => !self.negative,
        }
    }
}

/// Rounds a double (or a real rounded to odd) into a narrower format; NaN becomes the canonical one.
pub fn narrow(x: f64, format: Format, round: Round) -> u64 {
    if x.is_nan() {
        return format.nan();
    }
    if x.is_infinite() {
        return if x < 0.0 { format.sign() | format.overflow() } else { format.overflow() };
    }
    Real::of(x).round(format, round)
}

/// An f16 as f32, without branches.
#[inline(always)]
pub fn half_to_f32(bits: u16) -> f32 {
    // The exponent's field moves to f32's; multiplying corrects the bias and normalises subnormals.
    let magnitude = ((bits & 0x7fff) as u32) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled | special | ((bits & 0x8000) as u32) << 16)
}

/// A double as f32, rounded to odd, so that a rounding to at most 22 bits may follow. Without branches.
#[inline(always)]
pub fn odd_f32(x: f64) -> f32 {
    let near = x as f32;
    let error = x - near as f64;
    let bits = near.to_bits();
    let cut = bits.wrapping_sub(((error > 0.0) != (near > 0.0)) as u32) | 1;
    let tiny = if error < 0.0 { 0x8000_0001 } else { 1 };
    let odd = if near == 0.0 { tiny } else { cut };
    // The error of an infinity or a NaN is no number: those stay.
    f32::from_bits(if error.abs() > 0.0 && near.is_finite() { odd } else { bits })
}

/// The nearest bf16, without branches; NaN becomes 0x7fff.
#[inline(always)]
pub fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { 0x7fff } else { rounded }
}

/// The nearest f16, without branches; NaN becomes 0x7fff.
#[inline(always)]
pub fn round_f16(x: f32) -> u16 {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Normal results: as for bf16, with the bias corrected first. Larger ones end above infinity's pattern.
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    // Subnormal results: adding 0.5 lines the units up, and the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 113 << 23 { subnormal } else { normal.min(0x7c00) };
    let finite = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    if x.is_nan() { 0x7fff } else { (finite | x.to_bits() >> 16 & 0x8000) as u16 }
}

/// An E4M3 byte as f32, without branches.
#[inline(always)]
pub fn e4m3_to_f32(bits: u8) -> f32 {
    let magnitude = ((bits & 0x7f) as u32) << 20;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7b80_0000)).to_bits();
    let nan = if bits & 0x7f == 0x7f { 0x7fff_ffff } else { 0 };
    f32::from_bits(scaled | nan | ((bits & 0x80) as u32) << 24)
}
