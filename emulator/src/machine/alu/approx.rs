//! The `.approx` functions, in doubles: far closer than the ISA's bounds, so the last rounding is nearly always the right
//! one. Special values come out of IEEE arithmetic as the ISA lists them, with the exceptions that are spelled out here.

/// `2^x`, relative error below 2^-36, for all `x` whose result any f32 rounding can see.
#[inline(always)]
pub fn ex2(x: f64) -> f64 {
    // ln(2)^k / k!: the Taylor series of 2^x, of which the term of degree 10 is below 2^-36 on [-1/2, 1/2].
    const SERIES: [f64; 10] = [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_7,
        0.055_504_108_664_821_58,
        0.009_618_129_107_628_477,
        0.001_333_355_814_642_844_2,
        0.000_154_035_303_933_816_1,
        0.000_015_252_733_804_059_84,
        0.000_001_321_548_679_014_430_8,
        0.000_000_101_780_860_092_396_99,
    ];
    // Adding it leaves the nearest integer in the low bits.
    const INTEGER: f64 = 6_755_399_441_055_744.0;
    let x = x.clamp(-400.0, 400.0);
    let shifted = x + INTEGER;
    let rest = x - (shifted - INTEGER);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    SERIES.iter().rev().fold(0.0, |sum: f64, &term| sum * rest + term) * power
}

/// `div.approx`: a product with the reciprocal, which is zero for divisors beyond 2^126.
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    const LARGE: f32 = 8.507_059e37;
    if b.abs() > LARGE { a * 0f32.copysign(b) } else { a / b }
}

#[inline(always)]
pub fn rsqrt(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: only the upper halves of operand and result count, and both are flushed.
pub fn coarse(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    let upper = |x: f64| {
        let bits = x.to_bits() & !0xffff_ffff;
        f64::from_bits(if x.is_subnormal() { bits & 1 << 63 } else { bits })
    };
    if x.is_nan() { x } else { upper(f(upper(x))) }
}
