//! Floating-point arithmetic: f32 and f64 against the processor in each of its rounding modes, the 16-bit formats against
//! exact integers and a search for the nearest pattern, the approximations against the ISA's error bounds.
#![cfg(target_arch = "x86_64")]
// A lane or a place indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

mod lanes;

use cuda_emulator::isa::{Alu, FloatMods, FloatOp, Round, Ty};
use lanes::{D, Random, SOURCES, eval};
use std::arch::asm;

const ROUNDS: [Round; 4] = [Round::Nearest, Round::Down, Round::Up, Round::Zero];

/// A host instruction under a rounding mode, the index into `ROUNDS`.
macro_rules! host {
    ($name:ident, $ty:ty, $code:literal) => {
        fn $name(mode: u32, x: $ty, y: $ty, z: $ty) -> $ty {
            let (old, new) = (0u32, 0x1f80u32 | mode << 13);
            let mut x = x;
            // SAFETY: the mode is put back before the block ends.
            unsafe {
                asm!("stmxcsr [{o}]", "ldmxcsr [{n}]", $code, "ldmxcsr [{o}]",
                    o = in(reg) &old, n = in(reg) &new, x = inout(xmm_reg) x, y = in(xmm_reg) y, z = in(xmm_reg) z);
            }
            x
        }
    };
}

host!(add32, f32, "addss {x}, {y} /* {z} */");
host!(sub32, f32, "subss {x}, {y} /* {z} */");
host!(mul32, f32, "mulss {x}, {y} /* {z} */");
host!(div32, f32, "divss {x}, {y} /* {z} */");
host!(sqrt32, f32, "sqrtss {x}, {x} /* {y} {z} */");
host!(fma32, f32, "vfmadd213ss {x}, {y}, {z}");
host!(add64, f64, "addsd {x}, {y} /* {z} */");
host!(sub64, f64, "subsd {x}, {y} /* {z} */");
host!(mul64, f64, "mulsd {x}, {y} /* {z} */");
host!(div64, f64, "divsd {x}, {y} /* {z} */");
host!(sqrt64, f64, "sqrtsd {x}, {x} /* {y} {z} */");
host!(fma64, f64, "vfmadd213sd {x}, {y}, {z}");

fn float(op: FloatOp, ty: Ty, how: FloatMods) -> Alu {
    Alu::Float { op, ty, how, d: D, a: SOURCES }
}

fn flushed(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[test]
fn f32_in_every_direction() {
    let mut random = Random(1);
    for round in 0..1500 {
        let sources = [0; 3].map(|_| (32, random.lanes(|r| r.float(23, 8))));
        let (ftz, sat) = (round % 3 == 1, round % 5 == 1);
        for (mode, way) in ROUNDS.into_iter().enumerate() {
            let how = FloatMods { round: way, ftz, sat, ..Default::default() };
            let run = |op: FloatOp, model: &dyn Fn(u32, f32, f32, f32) -> f32| {
                let got = eval(&float(op, Ty::F32, how), 32, &sources);
                for lane in 0..32 {
                    let bits = [0, 1, 2].map(|i| sources[i].1[lane]);
                    let input = |bits: u64| f32::from_bits(if ftz { flushed(bits) } else { bits } as u32);
                    let x = model(mode as u32, input(bits[0]), input(bits[1]), input(bits[2]));
                    let x = if ftz { f32::from_bits(flushed(x.to_bits() as u64) as u32) } else { x };
                    let want = match x {
                        x if sat && x.is_nan() => 0,
                        x if x.is_nan() => 0x7fff_ffff,
                        x if sat && x <= 0.0 => 0,
                        x if sat && x > 1.0 => 1f32.to_bits(),
                        x => x.to_bits(),
                    };
                    assert_eq!(got[lane], want as u64, "{op:?} {how:?} {bits:x?}");
                }
            };
            run(FloatOp::Add, &add32);
            run(FloatOp::Sub, &sub32);
            run(FloatOp::Mul, &mul32);
            run(FloatOp::Fma, &fma32);
            run(FloatOp::Div, &div32);
            run(FloatOp::Rcp, &|mode, x, _, _| div32(mode, 1.0, x, 0.0));
            run(FloatOp::Sqrt, &sqrt32);
        }
    }
}

#[test]
fn f64_in_every_direction() {
    let mut random = Random(2);
    for _ in 0..1500 {
        let sources = [0; 3].map(|_| (64, random.lanes(|r| r.float(52, 11))));
        for (mode, round) in ROUNDS.into_iter().enumerate() {
            let how = FloatMods { round, ..Default::default() };
            let run = |op: FloatOp, used: usize, model: &dyn Fn(u32, f64, f64, f64) -> f64| {
                // Operands that are not used are zero, as the front end makes them.
                let sources = [0, 1, 2].map(|i| if i < used { sources[i] } else { (64, [0; 32]) });
                let got = eval(&float(op, Ty::F64, how), 64, &sources);
                for lane in 0..32 {
                    let bits = [0, 1, 2].map(|i| sources[i].1[lane]);
                    let [a, b, c] = bits.map(f64::from_bits);
                    let x = model(mode as u32, a, b, c);
                    // The first NaN operand, quieted; else the one that is made.
                    let first =
                        [a, b, c].into_iter().find(|x| x.is_nan()).map_or(0xfff8 << 48, |x| x.to_bits() | 1 << 51);
                    let want = if x.is_nan() { first } else { x.to_bits() };
                    assert_eq!(got[lane], want, "{op:?} {round:?} {bits:x?}");
                }
            };
            run(FloatOp::Add, 2, &add64);
            run(FloatOp::Sub, 2, &sub64);
            run(FloatOp::Mul, 2, &mul64);
            run(FloatOp::Fma, 3, &fma64);
            run(FloatOp::Div, 2, &div64);
            run(FloatOp::Rcp, 1, &|mode, x, _, _| div64(mode, 1.0, x, 0.0));
            run(FloatOp::Sqrt, 1, &sqrt64);
        }
    }
}

/// Orders patterns as numbers, -0 below +0.
fn key(bits: u64, width: u32) -> i128 {
    let magnitude = (bits & ((1 << (width - 1)) - 1)) as i128;
    if bits >> (width - 1) == 1 { -1 - magnitude } else { magnitude }
}

#[test]
fn minimum_and_maximum() {
    let mut random = Random(3);
    for (ty, width, fraction, exponent, nan) in [
        (Ty::F32, 32, 23, 8, 0x7fff_ffffu64),
        (Ty::F64, 64, 52, 11, 0),
        (Ty::F16, 16, 10, 5, 0x7fff),
        (Ty::BF16, 16, 7, 8, 0x7fff),
    ] {
        let infinity = ((1u64 << exponent) - 1) << fraction;
        let magnitude = (1u64 << (width - 1)) - 1;
        let is_nan = |x: u64| x & magnitude > infinity;
        for round in 0..400 {
            let bits = width.max(32);
            let sources = [0; 3].map(|_| (bits, random.lanes(|r| r.float(fraction, exponent))));
            let how = FloatMods {
                nan: round % 2 == 1 && width < 64,
                xorsign_abs: round % 4 > 1 && width < 64,
                ..Default::default()
            };
            for op in [FloatOp::Min, FloatOp::Max] {
                let got = eval(&float(op, ty, how), bits, &sources);
                for lane in 0..32 {
                    let (a, b) = (sources[0].1[lane], sources[1].1[lane]);
                    let sign = (a ^ b) & !magnitude & (u64::MAX >> (64 - width));
                    let (x, y) = if how.xorsign_abs { (a & magnitude, b & magnitude) } else { (a, b) };
                    let picks_x = (key(x, width) < key(y, width)) == (op == FloatOp::Min);
                    let any = if is_nan(y) || (!is_nan(x) && picks_x) { x } else { y };
                    let want = match any {
                        any if is_nan(any) || (how.nan && (is_nan(x) || is_nan(y))) => {
                            if width == 64 {
                                got[lane]
                            } else {
                                nan
                            }
                        }
                        any if how.xorsign_abs => any | sign,
                        any => any,
                    };
                    assert_eq!(got[lane], want, "{op:?} {ty:?} {how:?} {a:x} {b:x}");
                    assert!(width < 64 || !is_nan(any) || is_nan(got[lane]));
                }
            }
        }
    }
}

/// Values are integers in units of 2^-60. Of bf16 only patterns near 1.0 are used, so that all fits.
fn scaled(ty: Ty, bits: u64) -> i128 {
    let magnitude = match ty {
        Ty::F16 => {
            let (field, fraction) = (bits >> 10 & 31, (bits & 1023) as i128);
            if field == 0 { fraction << 36 } else { (fraction + 1024) << (field + 35) }
        }
        _ if bits & 0x7fff == 0 => 0,
        _ => ((bits & 127) as i128 + 128) << ((bits >> 7 & 255) - 74),
    };
    if bits >> 15 & 1 == 1 { -magnitude } else { magnitude }
}

/// The pattern nearest to `exact / 2^extra`, found among all; the even one of two.
fn nearest(ty: Ty, exact: i128, extra: u32) -> u64 {
    let (mut low, mut high) = if ty == Ty::F16 { (0u64, 0x7c00u64) } else { (74 << 7, 186 << 7) };
    let magnitude = exact.unsigned_abs() as i128;
    let value = |bits: u64| scaled(ty, bits) << extra;
    if magnitude == 0 {
        return 0;
    }
    if magnitude >= value(high) {
        return high;
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(middle) <= magnitude { low = middle } else { high = middle }
    }
    let (below, above) = (magnitude - value(low), value(high) - magnitude);
    if below < above || (below == above && low % 2 == 0) { low } else { high }
}

#[test]
fn halves_are_rounded_once() {
    let mut random = Random(4);
    for ty in [Ty::F16, Ty::BF16] {
        for round in 0..3000 {
            let operand = |r: &mut Random| match ty {
                Ty::F16 => loop {
                    let bits = r.float(10, 5);
                    if bits & 0x7c00 != 0x7c00 {
                        break bits;
                    }
                },
                _ => r.below(2) << 15 | (120 + r.below(14)) << 7 | r.below(128),
            };
            let sources = [0; 3].map(|_| (32, random.lanes(operand)));
            let (relu, sat) = (round % 4 == 1, round % 4 == 2);
            for op in [FloatOp::Add, FloatOp::Sub, FloatOp::Mul, FloatOp::Fma] {
                let how = FloatMods { relu, sat, ..Default::default() };
                let got = eval(&float(op, ty, how), 32, &sources);
                for lane in 0..32 {
                    let bits = [0, 1, 2].map(|i| sources[i].1[lane]);
                    let [a, b, c] = bits.map(|x| scaled(ty, x));
                    // In units of 2^-60: products lose only zeros.
                    let product = (a >> 30) * (b >> 30);
                    let exact = match op {
                        FloatOp::Add => a + b,
                        FloatOp::Sub => a - b,
                        FloatOp::Mul => product,
                        _ => product + c,
                    };
                    let zero = |bits: u64| if bits == 0x8000 { -0.0 } else { scaled(ty, bits) as f64 * 2f64.powi(-60) };
                    let [x, y, z] = bits.map(zero);
                    // The sign of a zero is that of the same sum of doubles.
                    let negative = match op {
                        _ if exact != 0 => exact < 0,
                        FloatOp::Add => (x + y).is_sign_negative(),
                        FloatOp::Sub => (x - y).is_sign_negative(),
                        FloatOp::Mul => (x * y).is_sign_negative(),
                        _ => (x * y + z).is_sign_negative(),
                    };
                    let one = if ty == Ty::F16 { 0x3c00 } else { 0x3f80 };
                    let want = match nearest(ty, exact, 0) {
                        _ if negative && (relu || sat) => 0,
                        magnitude if sat => magnitude.min(one),
                        magnitude => magnitude | (negative as u64) << 15,
                    };
                    assert_eq!(got[lane], want, "{op:?} {ty:?} {how:?} {bits:x?}");
                }
            }
        }
    }
}

#[test]
fn halves_beyond_the_ordinary() {
    let run = |op, ty, how, x: [u64; 3]| eval(&float(op, ty, how), 32, &x.map(|x| (32, [x; 32])))[7];
    let plain = FloatMods::default();
    let ftz = FloatMods { ftz: true, ..plain };
    let relu = FloatMods { relu: true, ..plain };
    // Infinities cancel, NaN is canonical, bf16 overflows and underflows where f32 does.
    assert_eq!(run(FloatOp::Add, Ty::F16, plain, [0x7c00, 0xfc00, 0]), 0x7fff);
    assert_eq!(run(FloatOp::Add, Ty::F16, plain, [0xfe01, 0x3c00, 0]), 0x7fff);
    assert_eq!(run(FloatOp::Mul, Ty::BF16, plain, [0x7f00, 0x4000, 0]), 0x7f80);
    assert_eq!(run(FloatOp::Mul, Ty::BF16, plain, [0x0080, 0x3f00, 0]), 0x0040);
    assert_eq!(run(FloatOp::Mul, Ty::BF16, plain, [0x0001, 0x3f00, 0]), 0x0000);
    assert_eq!(run(FloatOp::Mul, Ty::BF16, plain, [0x8001, 0x3f01, 0]), 0x8001);
    assert_eq!(run(FloatOp::Mul, Ty::BF16, plain, [0x0001, 0x0001, 0]), 0x0000);
    assert_eq!(run(FloatOp::Fma, Ty::BF16, plain, [0x0001, 0x8001, 0x3f80]), 0x3f80);
    assert_eq!(run(FloatOp::Fma, Ty::F16, relu, [0x3c00, 0xbc00, 0x3800]), 0x0000);
    assert_eq!(run(FloatOp::Fma, Ty::F16, relu, [0x7c00, 0x0000, 0x3800]), 0x7fff);
    assert_eq!(run(FloatOp::Add, Ty::F16, ftz, [0x8001, 0x8001, 0]), 0x8000);
    assert_eq!(run(FloatOp::Mul, Ty::F16, ftz, [0x0400, 0x3800, 0]), 0x0000);
    // Pairs are two of them.
    assert_eq!(run(FloatOp::Add, Ty::F16x2, plain, [0x3c00_7c00, 0x3c00_fc00, 0]), 0x4000_7fff);
    assert_eq!(run(FloatOp::Copysign, Ty::F16x2, plain, [0x8000_0000, 0x3c00_bc00, 0]), 0xbc00_3c00);
}

/// Every pattern, in lanes of 32.
fn each_half(mut f: impl FnMut([u64; 32])) {
    for block in 0..2048u64 {
        f(std::array::from_fn(|lane| block * 32 + lane as u64));
    }
}

#[test]
fn unary_halves_exhaustively() {
    for ty in [Ty::F16, Ty::BF16] {
        let value = |bits: u64| match ty {
            Ty::F16 => half::f16::from_bits(bits as u16).to_f64(),
            _ => half::bf16::from_bits(bits as u16).to_f64(),
        };
        // The ISA: relative error of ex2, absolute error of tanh. Subnormal results also err by half their unit.
        let (ex2_bound, tanh_bound) =
            if ty == Ty::F16 { (2f64.powf(-9.9), 2f64.powf(-10.987)) } else { (2f64.powi(-7), 2f64.powi(-8)) };
        let smallest = if ty == Ty::F16 { 2f64.powi(-24) } else { 2f64.powi(-133) };
        let largest = if ty == Ty::F16 { 65504.0 } else { value(0x7f7f) };
        each_half(|x| {
            let run = |op| {
                eval(
                    &float(op, ty, FloatMods { approx: true, ..Default::default() }),
                    32,
                    &[(32, x), (32, [0; 32]), (32, [0; 32])],
                )
            };
            let (abs, neg, ex2, tanh) = (run(FloatOp::Abs), run(FloatOp::Neg), run(FloatOp::Ex2), run(FloatOp::Tanh));
            for lane in 0..32 {
                let v = value(x[lane]);
                if v.is_nan() {
                    assert_eq!([abs[lane], neg[lane], ex2[lane], tanh[lane]], [0x7fff; 4]);
                    continue;
                }
                assert_eq!(abs[lane], x[lane] & 0x7fff);
                assert_eq!(neg[lane], x[lane] ^ 0x8000);
                let (want, got) = (v.exp2(), value(ex2[lane]));
                assert!(
                    got == want
                        || (got - want).abs() <= want * ex2_bound + smallest / 2.0
                        || (got.is_infinite() && want > largest),
                    "ex2 {v} {got}"
                );
                assert!((value(tanh[lane]) - v.tanh()).abs() <= tanh_bound, "tanh {v}");
            }
        });
    }
}

/// Finite, of both signs, spread over exponents.
fn spread(random: &mut Random) -> u64 {
    random.below(2) << 31 | (random.below(254) + 1) << 23 | random.below(1 << 23)
}

#[test]
fn approximations_keep_the_bounds_of_the_isa() {
    let how = FloatMods { approx: true, ..Default::default() };
    let mut random = Random(5);
    let ulp = |x: f64| 2f64.powi((x.abs().log2().floor() as i32).max(-126) - 23);
    type Case = (FloatOp, fn(f64) -> f64, fn(f64) -> bool, f64, f64);
    // Function, domain, relative and absolute bound (each also allows half a unit of the smallest subnormal).
    let cases: [Case; 8] = [
        (FloatOp::Rcp, |x| 1.0 / x, |_| true, 2f64.powi(-23), 0.0),
        (FloatOp::Sqrt, f64::sqrt, |x| x > 0.0, 2f64.powi(-23), 0.0),
        (FloatOp::Rsqrt, |x| 1.0 / x.sqrt(), |x| x > 0.0, 2f64.powf(-22.9), 0.0),
        (FloatOp::Sin, f64::sin, |x| x.abs() < 6.3, 0.0, 2f64.powf(-20.5)),
        (FloatOp::Cos, f64::cos, |x| x.abs() < 6.3, 0.0, 2f64.powf(-20.5)),
        (FloatOp::Lg2, f64::log2, |x| x > 0.0, 2f64.powi(-22), 2f64.powi(-22)),
        (FloatOp::Ex2, f64::exp2, |x| x.abs() < 127.9, 2f64.powf(-22.5), 0.0),
        (FloatOp::Tanh, f64::tanh, |_| true, 2f64.powi(-11), 0.0),
    ];
    for _ in 0..400 {
        let x = random.lanes(spread);
        let y = random.lanes(spread);
        for (op, f, domain, relative, absolute) in cases {
            let got = eval(&float(op, Ty::F32, how), 32, &[(32, x), (32, y), (32, y)]);
            for lane in 0..32 {
                let v = f32::from_bits(x[lane] as u32) as f64;
                let (got, want) = (f32::from_bits(got[lane] as u32) as f64, f(v));
                let bound = want.abs() * relative + absolute + 2f64.powi(-150);
                assert!(!domain(v) || (got - want).abs() <= bound, "{op:?} {v} {got} {want}");
            }
        }
        for op in [FloatOp::Div, FloatOp::DivFull] {
            let got = eval(&float(op, Ty::F32, how), 32, &[(32, x), (32, y), (32, y)]);
            for lane in 0..32 {
                let [a, b] = [x, y].map(|x| f32::from_bits(x[lane] as u32) as f64);
                let got = f32::from_bits(got[lane] as u32) as f64;
                if (op == FloatOp::DivFull || b.abs() <= 2f64.powi(126)) && (a / b).abs() < f32::MAX as f64 {
                    assert!((got - a / b).abs() <= 2.0 * ulp(a / b), "{op:?} {a} {b}");
                }
            }
        }
    }
}

#[test]
fn approximations_at_the_edges() {
    const INF: f32 = f32::INFINITY;
    let subnormal = f32::from_bits(0x0000_1234);
    let run = |op, ftz, a: f32, b: f32| {
        let how = FloatMods { approx: true, ftz, ..Default::default() };
        let sources = [a, b, 0.0].map(|x| (32, [x.to_bits() as u64; 32]));
        eval(&float(op, Ty::F32, how), 32, &sources)[3] as u32
    };
    // The ISA's tables: input, result. NaN is 0x7fffffff.
    let nan = f32::from_bits(0x7fff_ffff);
    let table = [
        (FloatOp::Rcp, false, -INF, -0.0),
        (FloatOp::Rcp, false, -0.0, -INF),
        (FloatOp::Rcp, false, 0.0, INF),
        (FloatOp::Rcp, true, subnormal, INF),
        (FloatOp::Rcp, true, -subnormal, -INF),
        (FloatOp::Rcp, false, nan, nan),
        (FloatOp::Sqrt, false, -1.0, nan),
        (FloatOp::Sqrt, false, -0.0, -0.0),
        (FloatOp::Sqrt, false, INF, INF),
        (FloatOp::Sqrt, true, -subnormal, -0.0),
        (FloatOp::Rsqrt, false, -0.0, -INF),
        (FloatOp::Rsqrt, false, 0.0, INF),
        (FloatOp::Rsqrt, false, INF, 0.0),
        (FloatOp::Rsqrt, false, -1.0, nan),
        (FloatOp::Sin, false, -0.0, -0.0),
        (FloatOp::Sin, false, INF, nan),
        (FloatOp::Cos, false, 0.0, 1.0),
        (FloatOp::Cos, false, -INF, nan),
        (FloatOp::Lg2, false, 0.0, -INF),
        (FloatOp::Lg2, false, -0.0, -INF),
        (FloatOp::Lg2, false, -1.0, nan),
        (FloatOp::Lg2, false, INF, INF),
        (FloatOp::Lg2, true, subnormal, -INF),
        (FloatOp::Lg2, false, 8.0, 3.0),
        (FloatOp::Ex2, false, -INF, 0.0),
        (FloatOp::Ex2, false, INF, INF),
        (FloatOp::Ex2, false, -0.0, 1.0),
        (FloatOp::Ex2, true, -subnormal, 1.0),
        (FloatOp::Ex2, true, -127.0, 0.0),
        (FloatOp::Ex2, false, -127.0, f32::from_bits(0x0040_0000)),
        (FloatOp::Ex2, false, 128.0, INF),
        (FloatOp::Ex2, false, -1e30, 0.0),
        (FloatOp::Ex2, false, 5.0, 32.0),
        (FloatOp::Ex2, false, nan, nan),
        (FloatOp::Tanh, false, INF, 1.0),
        (FloatOp::Tanh, false, -INF, -1.0),
        (FloatOp::Tanh, false, -0.0, -0.0),
    ];
    for (op, ftz, x, want) in table {
        assert_eq!(run(op, ftz, x, 0.0), want.to_bits(), "{op:?} {x}");
    }
    // Divisors beyond 2^126 give zero, and NaN under an infinity; the full-range form knows no such thing.
    let large = 2f32.powi(127);
    assert_eq!(run(FloatOp::Div, false, -3.0, large), 0x8000_0000);
    assert_eq!(run(FloatOp::Div, false, INF, large), 0x7fff_ffff);
    assert_eq!(run(FloatOp::Div, false, 2f32.powi(126), 2f32.powi(126)), 1f32.to_bits());
    assert_eq!(run(FloatOp::DivFull, false, large, large), 1f32.to_bits());
    // f64: the lower half of the result is zero.
    let how = FloatMods { approx: true, ftz: true, ..Default::default() };
    for (op, x, want) in [(FloatOp::Rcp, 3.0f64, 1.0 / 3.0), (FloatOp::Rsqrt, 2.0, 0.5f64.sqrt())] {
        let got = eval(&float(op, Ty::F64, how), 64, &[(64, [x.to_bits(); 32]), (64, [0; 32]), (64, [0; 32])])[0];
        assert!(got & 0xffff_ffff == 0 && (f64::from_bits(got) / want - 1.0).abs() < 2f64.powi(-19));
    }
}
