//! Comparisons, selections, tests, predicates, and moves of parts of registers.

mod lanes;

use cuda_emulator::isa::{Alu, BoolOp, Cmp, Compare, FloatTest, Lop3Pred, Pred, Ty};
use cuda_emulator::machine::alu;
use cuda_emulator::registers::Registers;
use lanes::{D, FOURTH, Random, SOURCES, eval, file};
use std::cmp::Ordering;

const CMPS: [Cmp; 14] = [
    Cmp::Eq,
    Cmp::Ne,
    Cmp::Lt,
    Cmp::Le,
    Cmp::Gt,
    Cmp::Ge,
    Cmp::Equ,
    Cmp::Neu,
    Cmp::Ltu,
    Cmp::Leu,
    Cmp::Gtu,
    Cmp::Geu,
    Cmp::Num,
    Cmp::Nan,
];

/// The ISA's table: the outcomes (less, equal, greater, unordered) under which a comparison holds.
fn holds(cmp: Cmp, outcome: Option<Ordering>) -> bool {
    let outcomes = match cmp {
        Cmp::Eq => "=",
        Cmp::Ne => "<>",
        Cmp::Lt => "<",
        Cmp::Le => "<=",
        Cmp::Gt => ">",
        Cmp::Ge => ">=",
        Cmp::Equ => "=?",
        Cmp::Neu => "<>?",
        Cmp::Ltu => "<?",
        Cmp::Leu => "<=?",
        Cmp::Gtu => ">?",
        Cmp::Geu => ">=?",
        Cmp::Num => "<=>",
        Cmp::Nan => "?",
    };
    outcomes.contains(match outcome {
        Some(Ordering::Less) => '<',
        Some(Ordering::Equal) => '=',
        Some(Ordering::Greater) => '>',
        None => '?',
    })
}

fn outcome(ty: Ty, ftz: bool, a: u64, b: u64) -> Option<Ordering> {
    let float = |x: u64| match ty {
        Ty::F16 | Ty::F16x2 => half::f16::from_bits(x as u16).to_f64(),
        Ty::BF16 | Ty::BF16x2 => half::bf16::from_bits(x as u16).to_f64(),
        Ty::F64 => f64::from_bits(x),
        _ => f32::from_bits(x as u32) as f64,
    };
    let smallest = match ty {
        Ty::F16 | Ty::F16x2 => 2f64.powi(-14),
        _ => 2f64.powi(-126),
    };
    let flush = |x: f64| if ftz && x.abs() < smallest { 0.0 } else { x };
    match ty {
        Ty::U16 | Ty::B16 => (a as u16).partial_cmp(&(b as u16)),
        Ty::S16 => (a as i16).partial_cmp(&(b as i16)),
        Ty::U32 | Ty::B32 => (a as u32).partial_cmp(&(b as u32)),
        Ty::S32 => (a as i32).partial_cmp(&(b as i32)),
        Ty::U64 | Ty::B64 => a.partial_cmp(&b),
        Ty::S64 => (a as i64).partial_cmp(&(b as i64)),
        _ => flush(float(a)).partial_cmp(&flush(float(b))),
    }
}

fn operand(random: &mut Random, ty: Ty) -> u64 {
    match ty {
        Ty::F16 => random.float(10, 5),
        Ty::BF16 => random.float(7, 8),
        Ty::F16x2 => random.float(10, 5) << 16 | random.float(10, 5),
        Ty::BF16x2 => random.float(7, 8) << 16 | random.float(7, 8),
        Ty::F32 => random.float(23, 8),
        Ty::F64 => random.float(52, 11),
        _ => random.integer(ty.bits()),
    }
}

fn combined(combine: Option<(BoolOp, Pred)>, truth: bool, other: bool) -> bool {
    match combine {
        None => truth,
        Some((BoolOp::And, _)) => truth && other,
        Some((BoolOp::Or, _)) => truth || other,
        Some((BoolOp::Xor, _)) => truth != other,
    }
}

const TYPES: [Ty; 15] = [
    Ty::U16,
    Ty::S16,
    Ty::B16,
    Ty::U32,
    Ty::S32,
    Ty::B32,
    Ty::U64,
    Ty::S64,
    Ty::B64,
    Ty::F16,
    Ty::BF16,
    Ty::F16x2,
    Ty::BF16x2,
    Ty::F32,
    Ty::F64,
];

#[test]
fn comparisons_of_every_type() {
    let mut random = Random(1);
    for ty in TYPES {
        let packed = matches!(ty, Ty::F16x2 | Ty::BF16x2);
        for (i, cmp) in CMPS.into_iter().cycle().take(14 * 24).enumerate() {
            let ftz = i / 14 % 2 == 1 && matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2);
            // The third predicate, negated now and then, is also the first result.
            let other = if i % 3 == 0 { Pred::If(1) } else { Pred::Unless(1) };
            let combine =
                [None, Some((BoolOp::And, other)), Some((BoolOp::Or, other)), Some((BoolOp::Xor, other))][i / 14 % 4];
            let compare = Compare { cmp, ty, ftz, combine };
            let width = ty.bits().max(32);
            let a = random.lanes(|r| operand(r, ty));
            let b = std::array::from_fn(|lane| if lane % 3 == 0 { a[lane] } else { operand(&mut random, ty) });
            let mut registers = file(&[(width, a), (width, b)]);
            let (c, mask) = (random.bits() as u32, random.bits() as u32);
            registers.set_pred(1, u32::MAX, c);
            alu::run(
                &Alu::SetP { compare, p: Some(1), q: Some(2), a: SOURCES[0], b: SOURCES[1] },
                &mut registers,
                mask,
            );
            let set = |dty: Ty| {
                let mut registers = file(&[(width, a), (width, b)]);
                registers.set_pred(1, u32::MAX, c);
                alu::run(&Alu::Set { compare, dty, d: D, a: SOURCES[0], b: SOURCES[1] }, &mut registers, u32::MAX);
                *registers.b32(D)
            };
            let (as_integer, as_float, as_pair) = (set(Ty::U32), set(Ty::F32), set(Ty::F16x2));
            for lane in 0..32 {
                let bit = |mask: u32| mask >> lane & 1 == 1;
                let third = if i % 3 == 0 { bit(c) } else { !bit(c) };
                let truth = |shift: u32| holds(cmp, outcome(ty, ftz, a[lane] >> shift, b[lane] >> shift));
                let p = combined(combine, truth(0), third);
                let q = combined(combine, if packed { truth(16) } else { !truth(0) }, third);
                let written = if bit(mask) { (p, q) } else { (bit(c), false) };
                let got = (bit(registers.pred(Pred::If(1))), bit(registers.pred(Pred::If(2))));
                assert_eq!(got, written, "{compare:?} {:x} {:x}", a[lane], b[lane]);
                if packed {
                    assert_eq!(as_pair[lane], p as u32 * 0x3c00 + q as u32 * 0x3c00_0000);
                    assert_eq!(as_integer[lane], p as u32 * 0xffff + q as u32 * 0xffff_0000);
                } else {
                    assert_eq!(as_integer[lane], if p { u32::MAX } else { 0 });
                    assert_eq!(as_float[lane], if p { 1f32.to_bits() } else { 0 });
                }
            }
        }
    }
}

#[test]
fn selections() {
    let mut random = Random(2);
    for _ in 0..100 {
        let a = random.lanes(|r| r.bits());
        let b = random.lanes(|r| r.bits());
        let c = random.lanes(|r| r.float(23, 8));
        for (cty, ftz) in [(Ty::S32, false), (Ty::F32, false), (Ty::F32, true)] {
            let op = Alu::Slct { ty: Ty::B64, cty, ftz, d: D, a: SOURCES[0], b: SOURCES[1], c: SOURCES[2] };
            let got = eval(&op, 64, &[(64, a), (64, b), (32, c)]);
            for lane in 0..32 {
                let bits = c[lane] as u32;
                // NaN selects the second; -0 is not negative, and neither is what flushes to it.
                let first = match cty {
                    Ty::S32 => bits < 1 << 31,
                    _ if bits & 0x7fff_ffff > 0x7f80_0000 => false,
                    _ => bits <= 1 << 31 || (ftz && bits & 0x7f80_0000 == 0),
                };
                assert_eq!(got[lane], if first { a[lane] } else { b[lane] }, "{cty:?} {bits:x}");
            }
        }
        let p = random.bits() as u32;
        let mut registers = file(&[(64, a), (64, b)]);
        registers.set_pred(3, u32::MAX, p);
        alu::run(
            &Alu::SelP { ty: Ty::F64, d: D, a: SOURCES[0], b: SOURCES[1], p: Pred::Unless(3) },
            &mut registers,
            u32::MAX,
        );
        for lane in 0..32 {
            assert_eq!(registers.b64(D)[lane], if p >> lane & 1 == 1 { b[lane] } else { a[lane] });
        }
    }
}

#[test]
fn tests_of_kinds() {
    use FloatTest::*;
    // Pattern of f32, pattern of f64, the tests that hold.
    let table: [(u32, u64, &[FloatTest]); 6] = [
        (0x8000_0000, 1 << 63, &[Finite, Number, Normal]),
        (0x0000_0001, 1, &[Finite, Number, Subnormal]),
        (0x807f_ffff, 0x800f_ffff_ffff_ffff, &[Finite, Number, Subnormal]),
        (0x0080_0000, 0x0010_0000_0000_0000, &[Finite, Number, Normal]),
        (0xff80_0000, 0xfff0_0000_0000_0000, &[Infinite, Number]),
        (0x7f80_0001, 0x7ff0_0000_0000_0001, &[NotANumber]),
    ];
    for (single, double, holding) in table {
        for test in [Finite, Infinite, Number, NotANumber, Normal, Subnormal] {
            for (ty, bits) in [(Ty::F32, single as u64), (Ty::F64, double)] {
                let mut registers = file(&[(ty.bits(), [bits; 32])]);
                alu::run(&Alu::TestP { test, ty, d: 0, a: SOURCES[0] }, &mut registers, 0xffff);
                assert_eq!(
                    registers.pred(Pred::If(0)),
                    if holding.contains(&test) { 0xffff } else { 0 },
                    "{test:?} {bits:x}"
                );
            }
        }
    }
}

#[test]
fn predicates() {
    let mut registers = Registers::new(8, 8, &[]);
    let (a, b, mask) = (0x0f0f_3355, 0x00ff_0f33, 0xffff_00ff);
    registers.set_pred(0, u32::MAX, a);
    registers.set_pred(1, u32::MAX, b);
    let mut run = |op: Alu| {
        registers.set_pred(2, u32::MAX, 0xaaaa_aaaa);
        alu::run(&op, &mut registers, mask);
        registers.pred(Pred::If(2))
    };
    let under = |value: u32| value & mask | 0xaaaa_aaaa & !mask;
    assert_eq!(run(Alu::MovPred { d: 2, a: Pred::Unless(0) }), under(!a));
    assert_eq!(run(Alu::MovPred { d: 2, a: Pred::Always }), under(u32::MAX));
    assert_eq!(run(Alu::NotPred { d: 2, a: Pred::If(0) }), under(!a));
    for (op, want) in [(BoolOp::And, a & !b), (BoolOp::Or, a | !b), (BoolOp::Xor, a ^ !b)] {
        assert_eq!(run(Alu::PredLogic { op, d: 2, a: Pred::If(0), b: Pred::Unless(1) }), under(want));
    }
    let mut registers = file(&[(32, [3; 32]), (32, std::array::from_fn(|lane| lane as u64 % 4)), (32, [0; 32])]);
    registers.set_pred(0, u32::MAX, a);
    // 0xc0 is a & b.
    let p = Some(Lop3Pred { op: BoolOp::Xor, p: 2, q: Pred::If(0) });
    alu::run(&Alu::Lop3 { d: D, a: SOURCES, table: 0xc0, p }, &mut registers, u32::MAX);
    assert_eq!(registers.pred(Pred::If(2)), 0xeeee_eeee ^ a);
}

#[test]
fn moves_packs_and_unpacks() {
    let mut random = Random(3);
    let sources = [16, 16, 64, 64].map(|bits| (bits, random.lanes(|r| r.integer(bits))));
    let with = [(32, sources[0].1), (32, sources[1].1), sources[2], sources[3]];
    let [a, b, c, d] = [SOURCES[0], SOURCES[1], SOURCES[2], FOURTH];
    for (ty, width) in [(Ty::B16, 32), (Ty::F32, 32)] {
        assert_eq!(eval(&Alu::Mov { ty, d: D, a }, width, &with), sources[0].1);
    }
    assert_eq!(eval(&Alu::Mov { ty: Ty::F64, d: D, a: c }, 64, &with), sources[2].1);
    let pair = eval(&Alu::Pack { ty: Ty::B32, d: D, parts: Box::new([a, b]) }, 32, &with);
    let quad = eval(&Alu::Pack { ty: Ty::B64, d: D, parts: Box::new([b, a, a, b]) }, 64, &with);
    for lane in 0..32 {
        let (x, y) = (sources[0].1[lane], sources[1].1[lane]);
        assert_eq!(pair[lane], y << 16 | x);
        assert_eq!(quad[lane], y << 48 | x << 32 | x << 16 | y);
    }
    // Into its own source: the source is read first. The low part is dropped.
    let mut registers = file(&with);
    alu::run(&Alu::Unpack { ty: Ty::B64, parts: Box::new([None, Some(c)]), a: c }, &mut registers, u32::MAX);
    assert_eq!(registers.b32(c).map(|x| x as u64), sources[2].1.map(|x| x >> 32));
    let mut registers = file(&with);
    alu::run(&Alu::Pack { ty: Ty::B128, d: D, parts: Box::new([c, d]) }, &mut registers, 0xff);
    alu::run(&Alu::Unpack { ty: Ty::B128, parts: Box::new([Some(d), Some(c)]), a: D }, &mut registers, 0xff);
    assert_eq!((registers.b64(d)[3], registers.b64(c)[3]), (sources[2].1[3], sources[3].1[3]));
    assert_eq!((registers.b64(d)[9], registers.b64(c)[9]), (sources[3].1[9], sources[2].1[9]));
}
