//! Moves, selections and operations on bit patterns.

use super::lanes::{Element, combine, lanes_where, map2, map3};
use crate::isa::{Lop3Pred, PrmtMode, Reg, Ty};
use crate::machine::simd::vectorised;
use crate::registers::{Lanes, Mask, Registers, WARP};
use std::array::from_fn;

pub fn mov(ty: Ty, d: Reg, a: Reg, registers: &mut Registers, mask: Mask) {
    fn copy<T: Element>(d: Reg, a: Reg, registers: &mut Registers, mask: Mask) {
        let value = T::get(registers, a);
        T::put(registers, d, mask, &value);
    }
    match ty.rows() {
        1 => copy::<u32>(d, a, registers, mask),
        2 => copy::<u64>(d, a, registers, mask),
        _ => copy::<u128>(d, a, registers, mask),
    }
}

/// `d = if p { a } else { b }`.
pub fn select(ty: Ty, d: Reg, (a, b): (Reg, Reg), p: Mask, registers: &mut Registers, mask: Mask) {
    fn choose<T: Element>(d: Reg, (a, b): (Reg, Reg), p: Mask, registers: &mut Registers, mask: Mask) {
        let (a, b) = (T::get(registers, a), T::get(registers, b));
        T::put(registers, d, mask, &from_fn(|lane| if p >> lane & 1 == 1 { a[lane] } else { b[lane] }));
    }
    match ty.rows() {
        1 => choose::<u32>(d, (a, b), p, registers, mask),
        2 => choose::<u64>(d, (a, b), p, registers, mask),
        _ => choose::<u128>(d, (a, b), p, registers, mask),
    }
}

/// A register of up to 64 bits, zero-extended.
#[inline(always)]
fn read(bits: u32, reg: Reg, registers: &Registers) -> Lanes<u64> {
    if bits == 64 { *registers.b64(reg) } else { registers.b32(reg).map(|x| x as u64) }
}

#[inline(always)]
fn write(bits: u32, reg: Reg, values: &Lanes<u64>, registers: &mut Registers, mask: Mask) {
    if bits == 64 {
        registers.set_b64(reg, mask, values);
    } else {
        registers.set_b32(reg, mask, &values.map(|x| x as u32));
    }
}

vectorised! {
pub fn pack(ty: Ty, d: Reg, parts: &[Reg], registers: &mut Registers, mask: Mask) {
    let width = ty.bits() / parts.len() as u32;
    if ty.bits() == 128 {
        let (low, high) = (read(width, parts[0], registers), read(width, parts[1], registers));
        return registers.set_b128(d, mask, &from_fn(|lane| (high[lane] as u128) << 64 | low[lane] as u128));
    }
    let keep = u64::MAX >> (64 - width);
    let mut whole = [0; WARP];
    for (i, &part) in parts.iter().enumerate() {
        let part = read(width, part, registers);
        for lane in 0..WARP {
            whole[lane] |= (part[lane] & keep) << (i as u32 * width);
        }
    }
    write(ty.bits(), d, &whole, registers, mask);
}
}

vectorised! {
pub fn unpack(ty: Ty, parts: &[Option<Reg>], a: Reg, registers: &mut Registers, mask: Mask) {
    let width = ty.bits() / parts.len() as u32;
    let keep = u64::MAX >> (64 - width);
    let mut whole = [[0; WARP]; 2];
    if ty.bits() == 128 {
        let a = registers.b128(a);
        whole = [a.map(|x| x as u64), a.map(|x| (x >> 64) as u64)];
    } else {
        whole[0] = read(ty.bits(), a, registers);
    }
    for (i, part) in parts.iter().enumerate() {
        let Some(part) = *part else { continue };
        let at = i as u32 * width;
        write(width, part, &whole[at as usize / 64].map(|x| x >> (at % 64) & keep), registers, mask);
    }
}
}

/// `a` into `b` at `pos` for `len` bits.
pub fn bfi(ty: Ty, d: Reg, (a, b): (Reg, Reg), (pos, len): (Reg, Reg), registers: &mut Registers, mask: Mask) {
    let (a, b) = (read(ty.bits(), a, registers), read(ty.bits(), b, registers));
    let (pos, len) = (*registers.b32(pos), *registers.b32(len));
    let merged = from_fn(|lane| {
        let (pos, len) = (pos[lane] & 0xff, len[lane] & 0xff);
        let ones = if len < 64 { (1 << len) - 1 } else { u64::MAX };
        // Bits beyond the type's width are cut when the result is written.
        let up = |x: u64| x.checked_shl(pos).unwrap_or(0);
        (b[lane] & !up(ones)) | up(a[lane] & ones)
    });
    write(ty.bits(), d, &merged, registers, mask);
}

vectorised! {
pub fn lop3(d: Reg, a: [Reg; 3], table: u8, p: Option<Lop3Pred>, registers: &mut Registers, mask: Mask) {
    let [a, b, c] = a.map(|reg| *registers.b32(reg));
    let minterm: [u32; 8] = from_fn(|i| if table >> i & 1 == 1 { u32::MAX } else { 0 });
    let result: Lanes<u32> = from_fn(|lane| {
        let (a, b, c) = (a[lane], b[lane], c[lane]);
        // A multiplexer tree: c picks of each pair, b of those, a of those.
        let pick = |i: usize| (minterm[i] & !c) | (minterm[i + 1] & c);
        let low = (pick(0) & !b) | (pick(2) & b);
        let high = (pick(4) & !b) | (pick(6) & b);
        (low & !a) | (high & a)
    });
    if let Some(Lop3Pred { op, p, q }) = p {
        let holds = combine(op, lanes_where(|lane| result[lane] != 0), registers.pred(q));
        registers.set_pred(p, mask, holds);
    }
    registers.set_b32(d, mask, &result);
}
}

/// Selectors, one nibble per byte of the result, of the modes that take them from two bits of `c`.
fn selectors(mode: PrmtMode) -> [u32; 4] {
    match mode {
        PrmtMode::Index => unreachable!("index mode has its selectors in c"),
        PrmtMode::F4e => [0x3210, 0x4321, 0x5432, 0x6543],
        PrmtMode::B4e => [0x5670, 0x6701, 0x7012, 0x0123],
        PrmtMode::Rc8 => [0x0000, 0x1111, 0x2222, 0x3333],
        PrmtMode::Ecl => [0x3210, 0x3211, 0x3222, 0x3333],
        PrmtMode::Ecr => [0x0000, 0x1110, 0x2210, 0x3210],
        PrmtMode::Rc16 => [0x1010, 0x3232, 0x1010, 0x3232],
    }
}

vectorised! {
pub fn prmt(mode: PrmtMode, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    if mode == PrmtMode::Index {
        return map3(registers, mask, d, a, permute);
    }
    let table = selectors(mode);
    map3(registers, mask, d, a, |a, b, c: u32| permute(a, b, table[(c & 3) as usize]));
}
}

/// Every nibble of `selector` picks a byte of `b:a`, or with its top bit set eight copies of that byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let mut result = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        result |= (byte as u32) << (8 * i);
    }
    result
}

vectorised! {
pub fn shf(left: bool, clamp: bool, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    map3(registers, mask, d, a, |low: u32, high: u32, by: u32| {
        let whole = (high as u64) << 32 | low as u64;
        let by = if clamp { by.min(32) } else { by & 31 };
        if left { (whole << by >> 32) as u32 } else { (whole >> by) as u32 }
    });
}
}

/// `copysign`: the sign of `a` with the value of `b`.
pub fn copysign(ty: Ty, d: Reg, a: (Reg, Reg), registers: &mut Registers, mask: Mask) {
    if ty.bits() == 64 {
        const SIGN: u64 = 1 << 63;
        map2(registers, mask, d, a, |a: u64, b: u64| (a & SIGN) | (b & !SIGN));
    } else {
        const SIGN: u32 = 1 << 31;
        map2(registers, mask, d, a, |a: u32, b: u32| (a & SIGN) | (b & !SIGN));
    }
}
