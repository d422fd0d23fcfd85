//! `cvt`: every target format against a search of its patterns, integers against arithmetic in i128, all 16-bit and 8-bit
//! sources exhaustively.
// A lane or a place indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

mod lanes;

use cuda_emulator::isa::{Alu, CvtMods, Round, Ty};
use lanes::{D, Random, SOURCES, eval};

const ROUNDS: [Round; 5] = [Round::Nearest, Round::Down, Round::Up, Round::Zero, Round::NearestAway];

fn cvt(to: Ty, from: Ty, how: CvtMods, source: [u64; 32]) -> [u64; 32] {
    let op = Alu::Cvt { to, from, how, d: D, a: SOURCES[0], b: None };
    eval(&op, to.bits().max(32), &[(from.bits().max(32), source)])
}

/// Two sources, the first above the second.
fn cvt2(to: Ty, how: CvtMods, high: [u64; 32], low: [u64; 32]) -> [u64; 32] {
    let op = Alu::Cvt { to, from: Ty::F32, how, d: D, a: SOURCES[0], b: Some(SOURCES[1]) };
    eval(&op, 32, &[(32, high), (32, low)])
}

/// Fraction and exponent bits of a format.
fn layout(ty: Ty) -> (u32, u32) {
    match ty {
        Ty::F16 | Ty::F16x2 => (10, 5),
        Ty::BF16 | Ty::BF16x2 => (7, 8),
        Ty::TF32 => (10, 8),
        Ty::E4M3x2 => (3, 4),
        Ty::E5M2x2 => (2, 5),
        Ty::F64 => (52, 11),
        _ => (23, 8),
    }
}

/// The value of a positive pattern as the formula says it; the first pattern after the finite ones counts on.
fn value(ty: Ty, bits: u64) -> f64 {
    let (fraction, exponent) = layout(ty);
    let bias = (1 << (exponent - 1)) - 1;
    let (field, part) = ((bits >> fraction) as i32, (bits % (1 << fraction)) as f64 / (1u64 << fraction) as f64);
    if field == 0 { part * 2f64.powi(1 - bias) } else { (1.0 + part) * 2f64.powi(field - bias) }
}

/// The first pattern that is not finite.
fn end(ty: Ty) -> u64 {
    let (fraction, exponent) = layout(ty);
    if ty == Ty::E4M3x2 { 0x7f } else { ((1 << exponent) - 1) << fraction }
}

/// The pattern that a number rounds to, by bisection.
fn rounded(ty: Ty, x: f64, round: Round) -> u64 {
    let (fraction, exponent) = layout(ty);
    let sign = (x.is_sign_negative() as u64) << (fraction + exponent);
    let magnitude = x.abs();
    let (mut low, mut high) = (0, end(ty));
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(ty, middle) <= magnitude { low = middle } else { high = middle }
    }
    if value(ty, low) == magnitude {
        return sign | low;
    }
    // Beyond the last finite number the next is as far as its exponent would have it.
    let (below, above) = (magnitude - value(ty, low), value(ty, high) - magnitude);
    let up = match round {
        Round::Zero => false,
        Round::Down => x < 0.0,
        Round::Up => x > 0.0,
        Round::NearestAway => below >= above,
        Round::Nearest => below > above || (below == above && low % 2 == 1),
    };
    sign | if up { high } else { low }
}

/// Numbers near patterns of a format and near the middles between them, as f32.
fn near(random: &mut Random, ty: Ty) -> u64 {
    if random.below(4) == 0 {
        return random.float(23, 8);
    }
    let pattern = random.below(end(ty) + 1);
    let x = value(ty, pattern) + [0.0, 0.5][random.below(2) as usize] * (value(ty, pattern + 1) - value(ty, pattern));
    let bits = (x as f32).to_bits() as u64;
    (bits + random.below(3)).saturating_sub(1).min(0x7f7f_ffff) | random.below(2) << 31
}

#[test]
fn f32_to_narrower_formats() {
    let mut random = Random(1);
    for (to, nan) in [
        (Ty::F16, 0x7fff),
        (Ty::BF16, 0x7fff),
        (Ty::TF32, 0x7fff_ffff),
        (Ty::F16x2, 0x7fff),
        (Ty::BF16x2, 0x7fff),
        (Ty::E4M3x2, 0x7f),
        (Ty::E5M2x2, 0x7f),
    ] {
        let eighth = to.bits() == 16 && matches!(to, Ty::E4M3x2 | Ty::E5M2x2);
        for turn in 0..1500 {
            let how = CvtMods {
                round: if eighth { Round::Nearest } else { ROUNDS[turn % 5] },
                relu: turn % 3 == 1,
                satfinite: eighth || turn % 7 == 1,
                ..Default::default()
            };
            let one = |bits: u64| {
                let x = f32::from_bits(bits as u32) as f64;
                let shift = if to == Ty::TF32 { 13 } else { 0 };
                match x {
                    x if x.is_nan() => nan,
                    x if how.relu && x <= 0.0 => 0,
                    x => {
                        let bits = if x.is_infinite() {
                            end(to) | rounded(to, x.signum() * 0.0, how.round)
                        } else {
                            rounded(to, x, how.round)
                        };
                        let sign = rounded(to, -0.0, how.round);
                        let finite = (bits & !sign).min(end(to) - 1) | bits & sign;
                        (if how.satfinite { finite } else { bits }) << shift
                    }
                }
            };
            let (a, b) = (random.lanes(|r| near(r, to)), random.lanes(|r| near(r, to)));
            let half = to.bits() / 2;
            let (got, pair) = match to {
                Ty::F16 | Ty::BF16 | Ty::TF32 => (cvt(to, Ty::F32, how, a), false),
                _ => (cvt2(to, how, a, b), true),
            };
            for lane in 0..32 {
                let want = if pair { one(a[lane]) << half | one(b[lane]) } else { one(a[lane]) };
                assert_eq!(got[lane], want, "{to:?} {how:?} {:x} {:x}", a[lane], b[lane]);
            }
        }
    }
}

#[test]
fn f64_to_narrower_formats() {
    let mut random = Random(2);
    for to in [Ty::F16, Ty::BF16, Ty::F32] {
        for turn in 0..1500 {
            let how = CvtMods {
                round: ROUNDS[turn % 4],
                sat: turn % 3 == 1,
                ftz: turn % 5 == 1 && to == Ty::F32,
                ..Default::default()
            };
            let a = random.lanes(|r| {
                if r.below(2) == 0 {
                    r.float(52, 11)
                } else {
                    (f32::from_bits(near(r, to) as u32) as f64).to_bits().wrapping_add(r.below(3))
                }
            });
            let got = cvt(to, Ty::F64, how, a);
            for lane in 0..32 {
                let x = f64::from_bits(a[lane]);
                let one = rounded(to, 1.0, Round::Zero);
                let want = match x {
                    x if how.sat && (x.is_nan() || x <= 0.0) => 0,
                    x if x.is_nan() => {
                        if to == Ty::F32 {
                            0x7fff_ffff
                        } else {
                            0x7fff
                        }
                    }
                    x if how.sat && x >= 1.0 => one,
                    x if x.is_infinite() => end(to) | rounded(to, 0.0 * x.signum(), Round::Zero),
                    x => rounded(to, x, how.round),
                };
                let flush = how.ftz && want & 0x7f80_0000 == 0;
                assert_eq!(got[lane], if flush { want & 0x8000_0000 } else { want }, "{to:?} {how:?} {x:e}");
            }
        }
    }
}

#[test]
fn f32_to_f32_and_f64() {
    let mut random = Random(3);
    for _ in 0..500 {
        let a = random.lanes(|r| r.float(23, 8));
        let wide = cvt(Ty::F64, Ty::F32, CvtMods::default(), a);
        let flushed = cvt(Ty::F32, Ty::F32, CvtMods { ftz: true, ..Default::default() }, a);
        let integral = cvt(Ty::F32, Ty::F32, CvtMods { integer: true, ..Default::default() }, a);
        let sat = cvt(Ty::F32, Ty::F32, CvtMods { sat: true, ..Default::default() }, a);
        for lane in 0..32 {
            let x = f32::from_bits(a[lane] as u32);
            if x.is_nan() {
                assert!(
                    f64::from_bits(wide[lane]).is_nan()
                        && [flushed[lane], integral[lane], sat[lane]] == [0x7fff_ffff, 0x7fff_ffff, 0]
                );
                continue;
            }
            assert_eq!(wide[lane], (x as f64).to_bits());
            let zero = a[lane] & 0x8000_0000;
            assert_eq!(flushed[lane], if x.is_subnormal() { zero } else { a[lane] });
            // Adding 2^23 rounds to an integer; from there on all are.
            let magnitude = if x.abs() < 8388608.0 { (x.abs() + 8388608.0) - 8388608.0 } else { x.abs() };
            assert_eq!(integral[lane], magnitude.to_bits() as u64 | zero, "rni {x}");
            assert_eq!(sat[lane], if x <= 0.0 { 0 } else { x.min(1.0).to_bits() as u64 }, "sat {x}");
        }
    }
}

#[test]
fn halves_and_eighths_exhaustively() {
    for block in 0..2048u64 {
        let a: [u64; 32] = std::array::from_fn(|lane| block * 32 + lane as u64);
        let f16 = cvt(Ty::F32, Ty::F16, CvtMods::default(), a);
        let bf16 = cvt(Ty::F32, Ty::BF16, CvtMods::default(), a);
        let back = cvt(Ty::F16, Ty::F32, CvtMods::default(), f16);
        let slow = cvt(Ty::F64, Ty::F16, CvtMods::default(), a);
        let e4m3 = cvt(Ty::F16x2, Ty::E4M3x2, CvtMods::default(), a);
        let e5m2 = cvt(Ty::F16x2, Ty::E5M2x2, CvtMods::default(), a);
        for lane in 0..32 {
            let h = half::f16::from_bits(a[lane] as u16);
            let b = half::bf16::from_bits(a[lane] as u16);
            assert_eq!(f16[lane] as u32, if h.is_nan() { 0x7fff_ffff } else { h.to_f32().to_bits() });
            assert_eq!(bf16[lane] as u32, if b.is_nan() { 0x7fff_ffff } else { b.to_f32().to_bits() });
            assert_eq!(back[lane], if h.is_nan() { 0x7fff } else { a[lane] });
            assert!(h.is_nan() || slow[lane] == h.to_f64().to_bits());
            let widened = |ty: Ty, byte: u64| match byte & 0x7f {
                0x7f if ty == Ty::E4M3x2 => 0x7fff,
                0x7d.. if ty == Ty::E5M2x2 => 0x7fff,
                0x7c if ty == Ty::E5M2x2 => 0x7c00 | (byte & 0x80) << 8,
                magnitude => half::f16::from_f64(value(ty, magnitude)).to_bits() as u64 | (byte & 0x80) << 8,
            };
            for (ty, got) in [(Ty::E4M3x2, e4m3[lane]), (Ty::E5M2x2, e5m2[lane])] {
                assert_eq!(got, widened(ty, a[lane] >> 8) << 16 | widened(ty, a[lane] & 255), "{ty:?} {:x}", a[lane]);
            }
        }
    }
}

#[test]
fn f16_pairs_to_eighths() {
    let how = CvtMods { satfinite: true, ..Default::default() };
    for to in [Ty::E4M3x2, Ty::E5M2x2] {
        for block in 0..2048u64 {
            let pair = |lane: u64| (block * 32 + lane) << 16 | (block * 32 + lane) ^ 0x8000;
            let a: [u64; 32] = std::array::from_fn(|lane| pair(lane as u64));
            let got = cvt(to, Ty::F16x2, how, a);
            for lane in 0..32 {
                let one = |bits: u64| match half::f16::from_bits(bits as u16).to_f64() {
                    x if x.is_nan() => 0x7f,
                    x => {
                        let bits = rounded(to, x.clamp(-1e6, 1e6), Round::Nearest);
                        (bits & 0x7f).min(end(to) - 1) | bits & 0x80
                    }
                };
                assert_eq!(got[lane], one(a[lane] >> 16) << 8 | one(a[lane] & 0xffff));
            }
        }
    }
}

const INTEGERS: [Ty; 8] = [Ty::U8, Ty::S8, Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];

fn number(ty: Ty, bits: u64) -> i128 {
    let value = bits as i128 & ((1 << ty.bits()) - 1);
    if ty.signed() && value >= 1 << (ty.bits() - 1) { value - (1 << ty.bits()) } else { value }
}

fn clamp(ty: Ty, x: i128) -> i128 {
    let all = 1i128 << ty.bits();
    if ty.signed() { x.max(-all / 2).min(all / 2 - 1) } else { x.max(0).min(all - 1) }
}

fn wrap(ty: Ty, x: i128) -> u64 {
    (x & ((1 << ty.bits()) - 1)) as u64
}

#[test]
fn integers_to_integers() {
    let mut random = Random(4);
    for from in INTEGERS {
        for to in INTEGERS {
            for sat in [false, true] {
                for _ in 0..50 {
                    let a = random.lanes(|r| r.integer(from.bits().max(32)));
                    let got = cvt(to, from, CvtMods { sat, ..Default::default() }, a);
                    for lane in 0..32 {
                        let x = number(from, a[lane]);
                        assert_eq!(
                            got[lane],
                            wrap(to, if sat { clamp(to, x) } else { x }),
                            "{to:?} {from:?} {sat} {x}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn floats_to_integers() {
    let mut random = Random(5);
    for from in [Ty::F16, Ty::BF16, Ty::F32, Ty::F64] {
        let (fraction, exponent) = layout(from);
        for to in INTEGERS {
            for turn in 0..200 {
                let round = ROUNDS[turn % 4];
                let ftz = from == Ty::F32 && turn % 3 == 1;
                let a = random.lanes(|r| r.float(fraction, exponent));
                let got = cvt(to, from, CvtMods { round, integer: true, ftz, ..Default::default() }, a);
                for lane in 0..32 {
                    let sign = 1u64 << (fraction + exponent);
                    let magnitude = a[lane] & (sign - 1);
                    let infinity = ((1u64 << exponent) - 1) << fraction;
                    let negative = a[lane] & sign != 0;
                    let want = if magnitude > infinity {
                        if from == Ty::F64 || to.bits() == 64 { 1 << (to.bits() - 1) } else { 0 }
                    } else {
                        let x = if magnitude == infinity { 1e30 } else { value(from, magnitude).min(1e30) };
                        let x = if ftz && magnitude < 1 << fraction { 0.0 } else { x };
                        // Whole part and what is left, compared with a half.
                        let whole = x as i128;
                        let rest = x - whole as f64;
                        let up = match round {
                            Round::Nearest => rest > 0.5 || (rest == 0.5 && whole % 2 == 1),
                            Round::Down => negative && rest > 0.0,
                            Round::Up => !negative && rest > 0.0,
                            _ => false,
                        };
                        let whole = whole + up as i128;
                        wrap(to, clamp(to, if negative { -whole } else { whole }))
                    };
                    assert_eq!(got[lane], want, "{to:?} {from:?} {round:?} {:x}", a[lane]);
                }
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    let mut random = Random(6);
    for from in INTEGERS {
        for turn in 0..400 {
            let a = random.lanes(|r| r.integer(from.bits()));
            let nearest = CvtMods::default();
            let (single, double) = (cvt(Ty::F32, from, nearest, a), cvt(Ty::F64, from, nearest, a));
            let how = CvtMods { round: ROUNDS[turn % 4], ..nearest };
            let directed = [Ty::F16, Ty::BF16, Ty::F32].map(|to| (to, cvt(to, from, how, a)));
            for lane in 0..32 {
                let x = number(from, a[lane]);
                assert_eq!(single[lane], (x as f32).to_bits() as u64, "{from:?} {x}");
                assert_eq!(double[lane], (x as f64).to_bits(), "{from:?} {x}");
                for (to, got) in directed {
                    if x as f64 as i128 == x {
                        assert_eq!(got[lane], rounded(to, x as f64, how.round), "{to:?} {how:?} {x}");
                    }
                }
            }
        }
    }
}

#[test]
fn packing_with_saturation() {
    let mut random = Random(7);
    for to in [Ty::U8, Ty::S8, Ty::U16, Ty::S16] {
        for _ in 0..200 {
            let sources = [0; 3].map(|_| {
                (
                    32,
                    random.lanes(|r| {
                        let bits = 1 + r.below(32) as u32;
                        r.integer(bits)
                    }),
                )
            });
            let third = (to.bits() == 8).then_some(SOURCES[2]);
            let got = eval(&Alu::CvtPack { to, d: D, a: SOURCES[0], b: SOURCES[1], c: third }, 32, &sources);
            for lane in 0..32 {
                let [a, b] = [0, 1].map(|i| wrap(to, clamp(to, number(Ty::S32, sources[i].1[lane]))));
                let above = if to.bits() == 8 { sources[2].1[lane] << 16 } else { 0 };
                assert_eq!(got[lane], (above | a << to.bits() | b) & 0xffff_ffff, "{to:?}");
            }
        }
    }
}
