//! Integer instructions against arithmetic in i128, bit by bit where the ISA defines bits.
// A lane indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

mod lanes;

use cuda_emulator::isa::{Alu, CarryOp, IntOp, PrmtMode, Ty};
use cuda_emulator::machine::alu;
use cuda_emulator::registers::Lanes;
use lanes::{D, FOURTH, Random, SOURCES, eval, file};

const TYPES: [Ty; 6] = [Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];

/// The number that the low bits stand for.
fn number(ty: Ty, bits: u64) -> i128 {
    let width = ty.bits();
    let value = (bits as i128) & ((1i128 << width) - 1);
    if ty.signed() && value >> (width - 1) == 1 { value - (1i128 << width) } else { value }
}

fn wrap(value: i128, bits: u32) -> u64 {
    (value & ((1i128 << bits) - 1)) as u64
}

fn clamp(ty: Ty, value: i128) -> i128 {
    let half = 1i128 << (ty.bits() - 1);
    if ty.signed() { value.clamp(-half, half - 1) } else { value.clamp(0, 2 * half - 1) }
}

/// Floor division by a power of two: the upper part of a product.
fn upper(ty: Ty, a: i128, b: i128) -> i128 {
    if ty == Ty::U64 { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b).div_euclid(1i128 << ty.bits()) }
}

/// The product modulo 2^64 and more: u64 products do not fit an i128.
fn product(a: i128, b: i128) -> i128 {
    a.wrapping_mul(b)
}

fn low24(ty: Ty, x: i128) -> i128 {
    let low = x & 0xff_ffff;
    if ty.signed() && low >= 1 << 23 { low - (1 << 24) } else { low }
}

/// Result in mathematical integers, before wrapping; operations on sources of one type.
fn arithmetic(op: IntOp, ty: Ty, a: i128, b: i128, c: i128) -> i128 {
    match op {
        IntOp::Add => a + b,
        IntOp::AddSat => clamp(ty, a + b),
        IntOp::Sub => a - b,
        IntOp::SubSat => clamp(ty, a - b),
        IntOp::MulLo | IntOp::MulWide => product(a, b),
        IntOp::MulHi => upper(ty, a, b),
        IntOp::MadLo | IntOp::MadWide => product(a, b).wrapping_add(c),
        IntOp::MadHi => upper(ty, a, b) + c,
        IntOp::MadHiSat => clamp(ty, upper(ty, a, b) + c),
        IntOp::Mul24Lo => low24(ty, a) * low24(ty, b),
        IntOp::Mul24Hi => (low24(ty, a) * low24(ty, b)).div_euclid(1 << 16),
        IntOp::Mad24Lo => low24(ty, a) * low24(ty, b) + c,
        IntOp::Mad24Hi => (low24(ty, a) * low24(ty, b)).div_euclid(1 << 16) + c,
        IntOp::Mad24HiSat => clamp(ty, (low24(ty, a) * low24(ty, b)).div_euclid(1 << 16) + c),
        IntOp::Sad => c + (a - b).abs(),
        IntOp::Div => {
            if b == 0 {
                -1
            } else {
                a / b
            }
        }
        IntOp::Rem => {
            if b == 0 {
                a
            } else {
                a % b
            }
        }
        IntOp::Abs => a.abs(),
        IntOp::Neg => -a,
        IntOp::Min => a.min(b),
        IntOp::Max => a.max(b),
        IntOp::And => a & b,
        IntOp::Or => a | b,
        IntOp::Xor => a ^ b,
        IntOp::Not => -1 - a,
        IntOp::Cnot => (a == 0) as i128,
        _ => unreachable!(),
    }
}

fn check(op: IntOp, ty: Ty, widths: [u32; 3], d: u32, seed: u64, model: impl Fn([u64; 3]) -> u64) {
    let mut random = Random(seed);
    for _ in 0..300 {
        // Garbage above 16 bits must not matter.
        let sources = widths.map(|bits| {
            let garbage = if bits == 16 { random.bits() << 16 } else { 0 };
            (bits.max(32), random.lanes(|r| r.integer(bits) | garbage))
        });
        let got = eval(&Alu::Int { op, ty, d: D, a: SOURCES }, d.max(32), &sources);
        for lane in 0..32 {
            let x = [0, 1, 2].map(|i| sources[i].1[lane]);
            assert_eq!(got[lane], model(x), "{op:?} {ty:?} {x:x?}");
        }
    }
}

#[test]
fn arithmetic_of_every_type() {
    use IntOp::*;
    let all = [
        Add, AddSat, Sub, SubSat, MulLo, MulHi, MadLo, MadHi, MadHiSat, Sad, Div, Rem, Abs, Neg, Min, Max, And, Or,
        Xor, Not, Cnot,
    ];
    for (i, op) in all.into_iter().enumerate() {
        for ty in TYPES {
            check(op, ty, [ty.bits(); 3], ty.bits(), i as u64, |x| {
                let [a, b, c] = x.map(|x| number(ty, x));
                wrap(arithmetic(op, ty, a, b, c), ty.bits())
            });
        }
    }
}

#[test]
fn products_of_24_bits_and_of_double_width() {
    for ty in [Ty::U32, Ty::S32] {
        for op in [IntOp::Mul24Lo, IntOp::Mul24Hi, IntOp::Mad24Lo, IntOp::Mad24Hi, IntOp::Mad24HiSat] {
            check(op, ty, [32; 3], 32, 1, |x| {
                let [a, b, c] = x.map(|x| number(ty, x));
                wrap(arithmetic(op, ty, a, b, c), 32)
            });
        }
    }
    for ty in [Ty::U16, Ty::S16, Ty::U32, Ty::S32] {
        let wide = 2 * ty.bits();
        for op in [IntOp::MulWide, IntOp::MadWide] {
            check(op, ty, [ty.bits(), ty.bits(), wide], wide, 2, |[a, b, c]| {
                wrap(arithmetic(op, ty, number(ty, a), number(ty, b), c as i128), wide)
            });
        }
    }
}

#[test]
fn differences_of_bytes() {
    let apart = |a: u64, b: u64| {
        let bytes = a.to_le_bytes().into_iter().zip(b.to_le_bytes()).take(4);
        bytes.map(|(a, b)| (i64::from(a) - i64::from(b)).unsigned_abs())
    };
    check(IntOp::AbsDiff4, Ty::U32, [32; 3], 32, 21, |[a, b, _]| {
        apart(a, b).enumerate().map(|(i, d)| d << (8 * i)).sum()
    });
    check(IntOp::AbsDiff4Add, Ty::U32, [32; 3], 32, 22, |[a, b, c]| {
        apart(a, b).fold(c, |sum, d| (sum + d) & 0xffff_ffff)
    });
}

/// Bit `i`; beyond the ends, nothing.
fn bit(x: u64, i: i64) -> u64 {
    if (0..64).contains(&i) { x >> i & 1 } else { 0 }
}

#[test]
fn bits_one_by_one() {
    use IntOp::*;
    for ty in TYPES {
        let n = ty.bits() as i64;
        let width = ty.bits();
        let sources = [width, 32, 32];
        let of = |f: &dyn Fn(i64) -> u64| (0..n).map(|i| f(i) << i).sum::<u64>();
        let sign = move |x: u64| if ty.signed() { bit(x, n - 1) } else { 0 };
        check(Shl, ty, sources, width, 3, |[a, b, _]| of(&|i| bit(a, i - b as i64)));
        check(Shr, ty, sources, width, 4, |[a, b, _]| {
            of(&|i| if i + (b as i64) < n { bit(a, i + b as i64) } else { sign(a) })
        });
        if width == 16 {
            continue;
        }
        check(Popc, ty, sources, 32, 5, |[a, ..]| (0..n).map(|i| bit(a, i)).sum());
        check(Clz, ty, sources, 32, 6, |[a, ..]| (0..n).rev().take_while(|&i| bit(a, i) == 0).count() as u64);
        let find = move |a: u64| (0..n).rev().find(|&i| bit(a, i) != sign(a));
        check(Bfind, ty, sources, 32, 7, |[a, ..]| find(a).map_or(0xffff_ffff, |i| i as u64));
        check(BfindShift, ty, sources, 32, 8, |[a, ..]| find(a).map_or(0xffff_ffff, |i| (n - 1 - i) as u64));
        check(Brev, ty, sources, width, 9, |[a, ..]| of(&|i| bit(a, n - 1 - i)));
        check(Bfe, ty, sources, width, 10, |[a, pos, len]| {
            let (pos, len) = ((pos & 255) as i64, (len & 255) as i64);
            let fill = if len == 0 || !ty.signed() { 0 } else { bit(a, (pos + len - 1).min(n - 1)) };
            of(&|i| if i < len && pos + i < n { bit(a, pos + i) } else { fill })
        });
    }
}

#[test]
fn field_insertion() {
    for ty in [Ty::B32, Ty::B64] {
        let n = ty.bits() as i64;
        let mut random = Random(11);
        for _ in 0..500 {
            let sources = [
                (ty.bits(), random.lanes(|r| r.bits())),
                (ty.bits(), random.lanes(|r| r.bits())),
                (32, random.lanes(|r| r.integer(7))),
                (32, random.lanes(|r| r.integer(9))),
            ];
            let op = Alu::Bfi { ty, d: D, a: SOURCES[0], b: SOURCES[1], pos: SOURCES[2], len: FOURTH };
            let got = eval(&op, ty.bits(), &sources);
            for lane in 0..32 {
                let [a, b, pos, len] = [0, 1, 2, 3].map(|i| sources[i].1[lane]);
                let (pos, len) = ((pos & 255) as i64, (len & 255) as i64);
                let inside = |i: i64| i >= pos && i < pos + len;
                let want: u64 = (0..n).map(|i| if inside(i) { bit(a, i - pos) } else { bit(b, i) } << i).sum();
                assert_eq!(got[lane], want, "{a:x} {b:x} {pos} {len}");
            }
        }
    }
}

#[test]
fn masks_extensions_and_the_nth_bit() {
    use IntOp::*;
    for ty in [Ty::U32, Ty::S32] {
        let extend = |a: u64, width: u64| match width {
            0 => 0,
            w if w >= 32 => a,
            w => {
                let low = a % (1 << w);
                let negative = ty.signed() && low >> (w - 1) == 1;
                wrap(low as i128 - if negative { 1i128 << w } else { 0 }, 32)
            }
        };
        check(SzextClamp, ty, [32; 3], 32, 12, |[a, b, _]| extend(a, b));
        check(SzextWrap, ty, [32; 3], 32, 13, |[a, b, _]| extend(a, b % 32));
    }
    let ones = |from: u64, width: u64| (from..from.saturating_add(width).min(32)).map(|i| 1u64 << i).sum();
    check(BmskClamp, Ty::B32, [32; 3], 32, 14, |[a, b, _]| ones(a, b));
    check(BmskWrap, Ty::B32, [32; 3], 32, 15, |[a, b, _]| ones(a % 32, b % 32));
    let mut random = Random(16);
    for _ in 0..1000 {
        let sources = [
            (32, random.lanes(|r| r.integer(32))),
            (32, random.lanes(|r| r.below(32))),
            (32, random.lanes(|r| r.below(9).wrapping_sub(4) & 0xffff_ffff)),
        ];
        let got = eval(&Alu::Int { op: Fns, ty: Ty::B32, d: D, a: SOURCES }, 32, &sources);
        for lane in 0..32 {
            let [bits, base, offset] = [0, 1, 2].map(|i| sources[i].1[lane]);
            let offset = offset as u32 as i32;
            let set = |i: &u64| bit(bits, *i as i64) == 1;
            let want = match offset {
                0 => Some(base).filter(set),
                1.. => (base..32).filter(set).nth(offset as usize - 1),
                _ => (0..=base).rev().filter(set).nth(-offset as usize - 1),
            };
            assert_eq!(got[lane], want.unwrap_or(0xffff_ffff), "{bits:x} {base} {offset}");
        }
    }
}

#[test]
fn dot_products() {
    for (a_signed, b_signed) in [(false, false), (false, true), (true, false), (true, true)] {
        let part = |x: u64, at: u32, bits: u32, signed: bool| {
            let ty = match (bits, signed) {
                (8, false) => Ty::U8,
                (8, true) => Ty::S8,
                (_, false) => Ty::U16,
                _ => Ty::S16,
            };
            number(ty, x >> at)
        };
        check(IntOp::Dp4a { a_signed, b_signed }, Ty::S32, [32; 3], 32, 17, |[a, b, c]| {
            let dot: i128 = [0, 8, 16, 24].map(|i| part(a, i, 8, a_signed) * part(b, i, 8, b_signed)).iter().sum();
            wrap(c as i128 + dot, 32)
        });
        for high in [false, true] {
            check(IntOp::Dp2a { a_signed, b_signed, high }, Ty::S32, [32; 3], 32, 18, |[a, b, c]| {
                let b = if high { b >> 16 } else { b };
                let dot = part(a, 0, 16, a_signed) * part(b, 0, 8, b_signed)
                    + part(a, 16, 16, a_signed) * part(b, 8, 8, b_signed);
                wrap(c as i128 + dot, 32)
            });
        }
    }
}

#[test]
fn packed_pairs() {
    for (ty, half) in [(Ty::U16x2, Ty::U16), (Ty::S16x2, Ty::S16)] {
        for op in [IntOp::Add, IntOp::AddSat, IntOp::Sub, IntOp::Min, IntOp::Max] {
            check(op, ty, [32; 3], 32, 19, |x| {
                let one = |shift: u32| {
                    let [a, b, c] = x.map(|x| number(half, x >> shift));
                    wrap(arithmetic(op, half, a, b, c), 16) << shift
                };
                one(0) | one(16)
            });
        }
    }
}

#[test]
fn carry_chains() {
    for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let n = ty.bits();
        for op in [CarryOp::Add, CarryOp::Sub, CarryOp::MadLo, CarryOp::MadHi] {
            let mut random = Random(20);
            for round in 0..400 {
                let (carry_in, carry_out) = (round & 1 == 1, round & 2 == 2);
                let sources = [0; 3].map(|_| (n, random.lanes(|r| r.integer(n))));
                let (flags, mask) = (random.bits() as u32, random.bits() as u32);
                let mut registers = file(&sources);
                registers.carry = flags;
                alu::run(&Alu::Carry { op, ty, d: D, a: SOURCES, carry_in, carry_out }, &mut registers, mask);
                let got: Lanes<u64> = if n == 64 { *registers.b64(D) } else { registers.b32(D).map(|x| x as u64) };
                for lane in 0..32 {
                    let old = flags >> lane & 1;
                    let flag = if carry_in { old as i128 } else { 0 };
                    let bits = [0, 1, 2].map(|i| sources[i].1[lane] as i128);
                    let signed = [0, 1, 2].map(|i| number(ty, sources[i].1[lane]));
                    let exact = match op {
                        CarryOp::Add => bits[0] + bits[1] + flag,
                        CarryOp::Sub => bits[0] - bits[1] - flag,
                        CarryOp::MadLo => wrap(product(signed[0], signed[1]), n) as i128 + bits[2] + flag,
                        CarryOp::MadHi => wrap(upper(ty, signed[0], signed[1]), n) as i128 + bits[2] + flag,
                    };
                    let active = mask >> lane & 1 == 1;
                    let out = if carry_out && active { !(0..1i128 << n).contains(&exact) } else { old == 1 };
                    assert_eq!(registers.carry >> lane & 1 == 1, out, "{op:?} {ty:?} flag of {bits:x?}");
                    assert_eq!(got[lane], if active { wrap(exact, n) } else { 0 }, "{op:?} {ty:?} {bits:x?}");
                }
            }
        }
    }
}

#[test]
fn tables_permutations_and_funnels() {
    let mut random = Random(21);
    for round in 0..1024 {
        let sources = [0; 3].map(|_| (32, random.lanes(|r| r.integer(32))));
        let x = |lane: usize| [0, 1, 2].map(|i| sources[i].1[lane]);
        let table = round as u8;
        let got = eval(&Alu::Lop3 { d: D, a: SOURCES, table, p: None }, 32, &sources);
        for lane in 0..32 {
            let [a, b, c] = x(lane);
            let index = |i| bit(a, i) << 2 | bit(b, i) << 1 | bit(c, i);
            let want: u64 = (0..32).map(|i| bit(table as u64, index(i) as i64) << i).sum();
            assert_eq!(got[lane], want, "lop3 {table:x}");
        }
        for (left, clamp) in [(false, false), (false, true), (true, false), (true, true)] {
            let got = eval(&Alu::Shf { left, clamp, d: D, a: SOURCES }, 32, &sources);
            for lane in 0..32 {
                let [low, high, by] = x(lane);
                let by = if clamp { by.min(32) } else { by % 32 } as i64;
                let both = high << 32 | low;
                let from = if left { 32 - by } else { by };
                let want: u64 = (0..32).map(|i| bit(both, i + from) << i).sum();
                assert_eq!(got[lane], want, "shf {left} {clamp} {by}");
            }
        }
        let got = eval(&Alu::Prmt { mode: PrmtMode::Index, d: D, a: SOURCES }, 32, &sources);
        for lane in 0..32 {
            let [a, b, c] = x(lane);
            let bytes =
                [a.to_le_bytes(), b.to_le_bytes()].map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]).concat();
            let want = [0, 1, 2, 3].map(|i| {
                let selector = c >> (4 * i) & 15;
                let byte = bytes[selector as usize % 8];
                if selector < 8 {
                    byte
                } else if byte < 128 {
                    0
                } else {
                    255
                }
            });
            assert_eq!(got[lane], u32::from_le_bytes(want) as u64, "prmt {c:x}");
        }
    }
}

/// The ISA's table: bytes of {b, a} from the highest of the result to the lowest.
#[test]
fn permutation_modes() {
    let table = [
        (PrmtMode::F4e, ["3210", "4321", "5432", "6543"]),
        (PrmtMode::B4e, ["5670", "6701", "7012", "0123"]),
        (PrmtMode::Rc8, ["0000", "1111", "2222", "3333"]),
        (PrmtMode::Ecl, ["3210", "3211", "3222", "3333"]),
        (PrmtMode::Ecr, ["0000", "1110", "2210", "3210"]),
        (PrmtMode::Rc16, ["1010", "3232", "1010", "3232"]),
    ];
    for (mode, rows) in table {
        for (selector, row) in rows.iter().enumerate() {
            // Byte i of the operands is 0xf0 + i.
            let sources = [0xf3f2_f1f0u64, 0xf7f6_f5f4, selector as u64 + 4 * 77].map(|x| (32, [x; 32]));
            let got = eval(&Alu::Prmt { mode, d: D, a: SOURCES }, 32, &sources)[5];
            let want = row.bytes().fold(0u64, |all, digit| all << 8 | 0xf0 | (digit - b'0') as u64);
            assert_eq!(got, want, "{mode:?} {selector}");
        }
    }
}
