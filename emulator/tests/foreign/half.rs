//! Half precision and bfloat16: `cu/half.cu`. The reference rounds exact doubles by its own function.

use crate::common::*;
use half::{bf16, f16};

const COUNT: usize = 1024;

/// A number of `digits` bits of significand, with exponents down to `least`, next to `x` by a rounding to integers. Doubles
/// hold the exact value of every `x` here, and scaling by a power of two is exact.
fn rounded(x: f64, digits: i32, least: i32, how: fn(f64) -> f64) -> f64 {
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(least);
    let unit = two_to(exponent - digits + 1);
    how(x / unit) * unit
}

fn to_f16(x: f64) -> f64 {
    let nearest = rounded(x, 11, -14, f64::round_ties_even);
    if nearest.abs() > 65504.0 { f64::INFINITY.copysign(x) } else { nearest }
}

fn to_bf16(x: f64) -> f64 {
    rounded(x, 8, -126, f64::round_ties_even)
}

/// Numbers with exponents of -5 to 5: sums of products of them have at most 11 + 11 + 22 bits, exact in doubles.
fn halves(seed: u64) -> Vec<f16> {
    random(seed).take(COUNT).map(|r| f16::from_bits((r as u16 & 0x83ff) | (10 + (r >> 20) as u16 % 11) << 10)).collect()
}

fn bfloats(seed: u64) -> Vec<bf16> {
    random(seed)
        .take(COUNT)
        .map(|r| bf16::from_bits((r as u16 & 0x807f) | (122 + (r >> 20) as u16 % 11) << 7))
        .collect()
}

fn compare<T: Into<f64>>(name: &str, got: Vec<T>, expected: Vec<f64>) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.into_iter().zip(expected).enumerate() {
        assert_eq!(got.into(), expected, "{name}, element {i}");
    }
}

#[test]
fn half_precision() {
    let (a, b) = (halves(1), halves(2));
    let [x, y] = [&a, &b].map(|v| v.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
    let single: Vec<f64> = (0..COUNT)
        .flat_map(|i| {
            let (x, y) = (x[i], y[i]);
            [x + y, x - y, x * y, x * y + x, x.min(y), x.max(y), x.abs(), (x * y + y).max(0.0)].map(to_f16)
        })
        .collect();
    let pairs = |i: usize| {
        let of = |f: fn(f64, f64) -> f64| [f(x[i], y[i]), f(x[i + 1], y[i + 1])].map(to_f16);
        let truth = |x, y| if x > y { 1.0 } else { 0.0 };
        [of(|x, y| x + y), of(|x, y| x * y), of(|x, y| x * y + y), of(truth), [x[i], y[i + 1]]].concat()
    };
    each("half", |bench| {
        let args = [bench.upload(&a), bench.upload(&b)];
        let out = bench.output::<f16>("half_arithmetic", &shape(8, 128), &args, COUNT * 8);
        compare("half_arithmetic", out, single.clone());
        let out = bench.output::<f16>("half_pairs", &shape(4, 128), &args, COUNT * 5);
        compare("half_pairs", out, (0..COUNT).step_by(2).flat_map(pairs).collect());
    });
}

/// The header computes these in single precision and rounds, so they are off by little more than half a unit in the last
/// place of f16: by 2^-10 of the value, a whole unit, even where the single-precision result is off by 2^-13.
#[test]
fn half_functions() {
    let a: Vec<f16> = halves(3).iter().map(|x| f16::from_f64(x.to_f64().abs().min(8.0))).collect();
    each("half", |bench| {
        let out = bench.output::<f32>("half_functions", &shape(8, 128), &[bench.upload(&a)], COUNT * 5);
        for (x, got) in a.iter().map(|x| x.to_f64()).zip(out.chunks(5)) {
            for (got, exact) in got.iter().zip([x.sqrt(), x.exp(), 1.0 / x, x.sin(), x.exp2()]) {
                assert!((f64::from(*got) - exact).abs() <= exact.abs() * two_to(-10), "of {x}: {got}, exact {exact}");
            }
        }
    });
}

#[test]
fn bfloat16() {
    let (a, b) = (bfloats(4), bfloats(5));
    let [x, y] = [&a, &b].map(|v| v.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
    let single: Vec<f64> = (0..COUNT)
        .flat_map(|i| {
            let (x, y) = (x[i], y[i]);
            [x + y, x - y, x * y, x * y + x, x.min(y), x.max(y), -x].map(to_bf16)
        })
        .collect();
    let pairs = |i: usize| {
        let of = |f: fn(f64, f64) -> f64| [f(x[i], y[i]), f(x[i + 1], y[i + 1])].map(to_bf16);
        [of(|x, y| x + y), of(|x, y| x * y), of(|x, y| x * y + y), of(f64::max)].concat()
    };
    each("half", |bench| {
        let args = [bench.upload(&a), bench.upload(&b)];
        let out = bench.output::<bf16>("bfloat_arithmetic", &shape(8, 128), &args, COUNT * 7);
        compare("bfloat_arithmetic", out, single.clone());
        let out = bench.output::<bf16>("bfloat_pairs", &shape(4, 128), &args, COUNT * 4);
        compare("bfloat_pairs", out, (0..COUNT).step_by(2).flat_map(pairs).collect());
    });
}

/// The bits of a finite number of a 16-bit format with `digits` bits of significand, from its exact value.
fn bits(x: f64, sign: f32, digits: i32, bias: i32) -> u16 {
    let sign = u16::from(sign.is_sign_negative()) << 15;
    let (magnitude, least) = (x.abs(), 1 - bias);
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(least);
    let units = (magnitude / two_to(exponent - digits + 1)) as i32;
    // A normal number's leading bit adds one to the exponent field; a subnormal's field is zero.
    sign | (((exponent - least) << (digits - 1)) + units) as u16
}

#[test]
fn singles_to_halves() {
    // Everything that f16 has, with ties and subnormals: numbers with few bits below its last.
    let input: Vec<f32> = random(6)
        .take(COUNT)
        .map(|r| f32::from_bits((r as u32 & 0x807f_f800) | (100 + (r >> 40) as u32 % 42) << 23))
        .collect();
    let model = |x: f32| {
        let wide = f64::from(x);
        let (zero, up) = (rounded(wide, 11, -14, f64::trunc), rounded(wide, 11, -14, f64::ceil));
        let brain_zero = rounded(wide, 8, -126, f64::trunc);
        let half = |v| bits(v, x, 11, 15);
        let brain = |v| bits(v, x, 8, 127);
        let near = brain(to_bf16(wide));
        [
            half(to_f16(wide)),
            half(zero),
            half(up),
            near,
            brain(brain_zero),
            half(to_f16(wide)) ^ 0x8000,
            near ^ 0x8000,
            near,
        ]
    };
    each("half", |bench| {
        let out = bench.output::<u16>("conversions", &shape(8, 128), &[bench.upload(&input)], COUNT * 8);
        for (x, got) in input.iter().zip(out.chunks(8)) {
            assert_eq!(got, model(*x), "of {x:e}");
        }
    });
}

#[test]
fn halves_to_singles() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    each("half", |bench| {
        let out = bench.output::<f32>("widen", &shape(512, 128), &[bench.upload(&all)], 2 * all.len());
        for (bits, got) in all.iter().zip(out.chunks(2)) {
            for (got, expected) in got.iter().zip([f16::from_bits(*bits).to_f32(), bf16::from_bits(*bits).to_f32()]) {
                assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{bits:#06x}: {got}");
            }
        }
    });
}
