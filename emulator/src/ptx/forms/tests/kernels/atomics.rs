//! `atom` and `red`, lane after lane, with a place for each lane and with places for every eight.

use super::memory::dump;
use super::spaces::{PLACE, Place, SPACES, run};
use super::{STRIDE, Spelling, random_for, word};
use crate::isa::Ty;
use half::{bf16, f16};

const OPERATIONS: &[&str] = &["and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max"];
const MANNERS: &[&str] = &[
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "noftz",
    "L2::cache_hint",
    "v2",
    "v4",
    "v8",
];

pub fn atomic(s: &Spelling<'_>) {
    s.knows(&[SPACES, OPERATIONS, MANNERS]);
    for place in Place::meant(s).into_iter().filter(|p| *p != Place::Local) {
        for own in [true, false] {
            check(s, place, own);
        }
    }
}

fn check(s: &Spelling<'_>, place: Place, own: bool) {
    let (ty, size, elements) = (s.ty(), s.ty().bytes() as usize, s.names("b").len());
    let random = &mut random_for(s);
    // A place of 16-byte slots: the elements together, then `b` and `c` of each.
    let mut input = vec![0; 32 * STRIDE];
    for lane in input.chunks_mut(STRIDE) {
        let mut put = |at: usize, value: u64| lane[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        for i in 0..elements {
            put(16 + i * size, value(ty, random.bits()));
            put(PLACE + 16 * i, value(ty, random.bits()));
        }
        put(PLACE + 16 * 7, value(ty, random.bits()));
    }
    let bits = ty.bits();
    let loads: String = s
        .names("b")
        .into_iter()
        .enumerate()
        .map(|(i, b)| (PLACE + 16 * i, b))
        .chain(s.names("c").into_iter().map(|c| (PLACE + 16 * 7, c)))
        .map(|(at, name)| format!("ld.global.b{bits} {name}, [%in+{at}];\n"))
        .collect();
    let stores: String = s
        .names("d")
        .into_iter()
        .enumerate()
        .map(|(i, d)| format!("st.global.b{bits} [%out+{}], {d};\n", PLACE + 16 * i))
        .collect();
    let generic = s.one_of(SPACES).is_none();
    let (base, load) = (s.name("a"), if generic { "ld".to_owned() } else { format!("ld.{}", place.word()) });
    let step = if place == Place::Global { STRIDE } else { PLACE };
    let share = if own {
        String::new()
    } else {
        format!("and.b32 %x0, %lane, 28; mul.wide.u32 %y1, %x0, {step}; sub.u64 {base}, {base}, %y1;\n")
    };
    let filled = place.fill_as(base, generic);
    let body = format!("{filled}{loads}{share}{}\n bar.warp.sync -1;\n{stores}{}", s.with_policy(), dump(&load, base));
    let got = run(body, &input);
    // Lane after lane: the order that the emulator keeps.
    let mut memory = input.clone();
    for lane in 0..32 {
        let at = STRIDE * if own { lane } else { lane % 4 } + 16;
        for i in 0..elements {
            let operand = |slot: usize| word(&input, STRIDE, lane, PLACE + 16 * slot, size) as u64;
            let old = word(&memory[at..], 0, 0, i * size, size) as u64;
            let new = after(s, ty, old, operand(i), operand(7)).to_le_bytes();
            memory[at + i * size..][..size].copy_from_slice(&new[..size]);
            if s.given("d") {
                let got = word(&got, STRIDE, lane, PLACE + 16 * i, size) as u64;
                assert_eq!(got, old, "{} lane {lane} element {i}", s.text);
            }
        }
    }
    for lane in 0..32 {
        let at = STRIDE * if own { lane } else { lane % 4 };
        assert_eq!(got[lane * STRIDE..][..PLACE], memory[at..][..PLACE], "{} lane {lane}", s.text);
    }
}

/// Values that meet often; floats are quarters, so that sums are exact in every format.
fn value(ty: Ty, random: u64) -> u64 {
    let quarter = (random % 33) as f32 / 4.0 - 4.0;
    let half = |x: f32| u64::from(f16::from_f32(x).to_bits());
    let brain = |x: f32| u64::from(bf16::from_f32(x).to_bits());
    let other = (random >> 8) as f32 % 16.0 / 4.0;
    match ty {
        Ty::F16 => half(quarter),
        Ty::F16x2 => half(quarter) | half(other) << 16,
        Ty::BF16 => brain(quarter),
        Ty::BF16x2 => brain(quarter) | brain(other) << 16,
        Ty::F32 => quarter.to_bits().into(),
        Ty::F64 => f64::from(quarter).to_bits(),
        _ if random & 3 == 0 => random,
        _ => (random >> 2 & 7).wrapping_sub(3),
    }
}

/// What is in memory afterwards.
fn after(s: &Spelling<'_>, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let operation = s.one_of(OPERATIONS).expect("an operation");
    let of = |f: fn(f64, f64) -> f64, of: fn(u64) -> f64, to: fn(f64) -> u64, x: u64, y: u64| to(f(of(x), of(y)));
    let float: fn(f64, f64) -> f64 = match operation {
        "add" => |x, y| x + y,
        "min" => f64::min,
        _ => f64::max,
    };
    let half = |x, y| of(float, |x| f16::from_bits(x as u16).to_f64(), |x| f16::from_f64(x).to_bits().into(), x, y);
    let brain = |x, y| of(float, |x| bf16::from_bits(x as u16).to_f64(), |x| bf16::from_f64(x).to_bits().into(), x, y);
    match ty {
        Ty::F16 => half(old, b),
        Ty::F16x2 => half(old, b) | half(old >> 16, b >> 16) << 16,
        Ty::BF16 => brain(old, b),
        Ty::BF16x2 => brain(old, b) | brain(old >> 16, b >> 16) << 16,
        Ty::F32 => (f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits().into(),
        Ty::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        _ => {
            let signed = |x: u64| ((x << (64 - ty.bits())) as i64) >> (64 - ty.bits());
            let smaller = if ty.signed() { signed(old) < signed(b) } else { old < b };
            match operation {
                "and" => old & b,
                "or" => old | b,
                "xor" => old ^ b,
                "exch" => b,
                "cas" if old == b => c,
                "cas" => old,
                "add" => old.wrapping_add(b),
                "inc" if old >= b => 0,
                "inc" => old + 1,
                "dec" if old == 0 || old > b => b,
                "dec" => old - 1,
                "min" if smaller => old,
                "max" if !smaller => old,
                _ => b,
            }
        }
    }
}
