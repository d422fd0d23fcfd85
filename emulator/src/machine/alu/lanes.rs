//! Reads and writes registers as the types that the operations compute with.

use crate::isa::{BoolOp, Reg};
use crate::registers::{Lanes, Mask, Registers, WARP};
use std::array::from_fn;

/// A type that a register's lanes can be read as. 16-bit values are the low half of a row.
pub trait Element: Copy + Default {
    fn get(registers: &Registers, reg: Reg) -> Lanes<Self>;
    fn put(registers: &mut Registers, reg: Reg, mask: Mask, values: &Lanes<Self>);
}

macro_rules! element {
    ($($ty:ty, $get:ident, $set:ident, $read:expr, $write:expr;)*) => {$(
        impl Element for $ty {
            #[inline(always)]
            fn get(registers: &Registers, reg: Reg) -> Lanes<Self> {
                let from = registers.$get(reg);
                from_fn(|lane| $read(from[lane]))
            }

            #[inline(always)]
            fn put(registers: &mut Registers, reg: Reg, mask: Mask, values: &Lanes<Self>) {
                registers.$set(reg, mask, &from_fn(|lane| $write(values[lane])));
            }
        }
    )*};
}

element! {
    u16, b32, set_b32, |x| x as u16, |x| x as u32;
    i16, b32, set_b32, |x| x as u16 as i16, |x| x as u16 as u32;
    u32, b32, set_b32, |x| x, |x| x;
    i32, b32, set_b32, |x| x as i32, |x| x as u32;
    u64, b64, set_b64, |x| x, |x| x;
    i64, b64, set_b64, |x| x as i64, |x| x as u64;
    f32, b32, set_b32, f32::from_bits, f32::to_bits;
    f64, b64, set_b64, f64::from_bits, f64::to_bits;
    u128, b128, set_b128, |x| x, |x| x;
}

/// `d = f(a)` in every lane of the mask.
#[inline(always)]
pub fn map1<A: Element, D: Element>(registers: &mut Registers, mask: Mask, d: Reg, a: Reg, f: impl Fn(A) -> D) {
    let a = A::get(registers, a);
    put(registers, d, mask, |lane| f(a[lane]));
}

/// `d = f(a, b)` in every lane of the mask.
#[inline(always)]
pub fn map2<A: Element, B: Element, D: Element>(
    registers: &mut Registers,
    mask: Mask,
    d: Reg,
    (a, b): (Reg, Reg),
    f: impl Fn(A, B) -> D,
) {
    let (a, b) = (A::get(registers, a), B::get(registers, b));
    put(registers, d, mask, |lane| f(a[lane], b[lane]));
}

/// `d = f(a, b, c)` in every lane of the mask.
#[inline(always)]
pub fn map3<A: Element, B: Element, C: Element, D: Element>(
    registers: &mut Registers,
    mask: Mask,
    d: Reg,
    [a, b, c]: [Reg; 3],
    f: impl Fn(A, B, C) -> D,
) {
    let (a, b, c) = (A::get(registers, a), B::get(registers, b), C::get(registers, c));
    put(registers, d, mask, |lane| f(a[lane], b[lane], c[lane]));
}

/// A plain loop: it vectorises where `from_fn` may not.
#[inline(always)]
fn put<D: Element>(registers: &mut Registers, d: Reg, mask: Mask, f: impl Fn(usize) -> D) {
    let mut values = [D::default(); WARP];
    for (lane, value) in values.iter_mut().enumerate() {
        *value = f(lane);
    }
    D::put(registers, d, mask, &values);
}

/// The lanes in which `f` holds.
#[inline(always)]
pub fn lanes_where(f: impl Fn(usize) -> bool) -> Mask {
    (0..WARP).fold(0, |mask, lane| mask | (f(lane) as Mask) << lane)
}

/// Applies `f` to both halves of packed values.
#[inline(always)]
pub fn halves(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16, c as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    low as u32 | (high as u32) << 16
}

/// A logical operation on predicates, all lanes at once.
pub fn combine(op: BoolOp, a: Mask, b: Mask) -> Mask {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}
