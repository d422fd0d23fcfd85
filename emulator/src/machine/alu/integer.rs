//! Integer arithmetic. One generic function knows every operation; 16-bit, 32-bit and 64-bit types are its instances and
//! packed pairs run it on their halves.

use super::lanes::{Element, halves, lanes_where, map3};
use crate::isa::{CarryOp, IntOp, Reg, Ty};
use crate::machine::simd::vectorised;
use crate::registers::{Lanes, Mask, Registers};
use std::array::from_fn;

/// The integer types, as far as the operations need them.
trait Integer: Element + PartialOrd {
    const BITS: u32;
    const SIGNED: bool;
    /// The type that holds a product.
    type Wide: Element;

    fn of(x: u64) -> Self;
    /// Sign- or zero-extended.
    fn bits(self) -> u64;
    fn add(self, b: Self) -> Self;
    fn add_sat(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn sub_sat(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn mul_high(self, b: Self) -> Self;
    fn mul_wide(self, b: Self) -> Self::Wide;
    /// `self * b + c`.
    fn mad_wide(self, b: Self, c: Self::Wide) -> Self::Wide;
    fn div(self, b: Self) -> Self;
    fn rem(self, b: Self) -> Self;
    fn shr(self, by: u32) -> Self;
}

macro_rules! integer {
    ($($ty:ty, $wide:ty, $product:ty;)*) => {$(
        impl Integer for $ty {
            const BITS: u32 = <$ty>::BITS;
            const SIGNED: bool = <$ty>::MIN != 0;
            type Wide = $wide;

            #[inline(always)]
            fn of(x: u64) -> Self { x as $ty }
            #[inline(always)]
            fn bits(self) -> u64 { self as u64 }
            #[inline(always)]
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)]
            fn add_sat(self, b: Self) -> Self { self.saturating_add(b) }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)]
            fn sub_sat(self, b: Self) -> Self { self.saturating_sub(b) }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)]
            fn mul_high(self, b: Self) -> Self { (self as $product * b as $product >> Self::BITS) as $ty }
            #[inline(always)]
            fn mul_wide(self, b: Self) -> $wide { (self as $wide).wrapping_mul(b as $wide) }
            #[inline(always)]
            fn mad_wide(self, b: Self, c: $wide) -> $wide { self.mul_wide(b).wrapping_add(c) }
            #[inline(always)]
            fn div(self, b: Self) -> Self { if b == 0 { !0 } else { self.wrapping_div(b) } }
            #[inline(always)]
            fn rem(self, b: Self) -> Self { if b == 0 { self } else { self.wrapping_rem(b) } }
            #[inline(always)]
            fn shr(self, by: u32) -> Self { self >> by }
        }
    )*};
}

// A 64-bit product has no register type: `mul.wide` ends at 32 bits.
integer! {
    u16, u32, u32;
    i16, i32, i32;
    u32, u64, u64;
    i32, i64, i64;
    u64, u64, u128;
    i64, i64, i128;
}

vectorised! {
pub fn run(op: IntOp, ty: Ty, d: Reg, a: [Reg; 3], registers: &mut Registers, mask: Mask) {
    match ty {
        Ty::U16x2 => map3(registers, mask, d, a, |a, b, c| halves(a, b, c, |a, b, c| packed::<u16>(op, a, b, c))),
        Ty::S16x2 => map3(registers, mask, d, a, |a, b, c| halves(a, b, c, |a, b, c| packed::<i16>(op, a, b, c))),
        Ty::U16 | Ty::B16 | Ty::U8 | Ty::B8 => typed::<u16>(op, d, a, registers, mask),
        Ty::S16 | Ty::S8 => typed::<i16>(op, d, a, registers, mask),
        Ty::S32 => typed::<i32>(op, d, a, registers, mask),
        Ty::U64 | Ty::B64 => typed::<u64>(op, d, a, registers, mask),
        Ty::S64 => typed::<i64>(op, d, a, registers, mask),
        _ => typed::<u32>(op, d, a, registers, mask),
    }
}
}

/// The operations that the ISA has on packed pairs.
#[inline(always)]
fn packed<T: Integer>(op: IntOp, a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| T::of(x as u64));
    let result = match op {
        IntOp::Add => a.add(b),
        IntOp::AddSat => a.add_sat(b),
        IntOp::Sub => a.sub(b),
        IntOp::SubSat => a.sub_sat(b),
        IntOp::Min => min(a, b),
        IntOp::Max => max(a, b),
        IntOp::MadLo => a.mul(b).add(c),
        IntOp::MulLo => a.mul(b),
        IntOp::Neg => T::of(0).sub(a),
        _ => absolute(a),
    };
    result.bits() as u16
}

#[inline(always)]
fn typed<T: Integer>(op: IntOp, d: Reg, a: [Reg; 3], r: &mut Registers, mask: Mask) {
    // Shapes of operations: by the types of sources and result.
    macro_rules! same {
        ($f:expr) => {
            map3::<T, T, T, T>(r, mask, d, a, $f)
        };
    }
    macro_rules! shift {
        ($f:expr) => {
            map3::<T, u32, u32, T>(r, mask, d, a, $f)
        };
    }
    macro_rules! count {
        ($f:expr) => {
            map3::<T, u32, u32, u32>(r, mask, d, a, $f)
        };
    }
    match op {
        IntOp::Add => same!(|a, b, _| a.add(b)),
        IntOp::AddSat => same!(|a, b, _| a.add_sat(b)),
        IntOp::Sub => same!(|a, b, _| a.sub(b)),
        IntOp::SubSat => same!(|a, b, _| a.sub_sat(b)),
        IntOp::MulLo => same!(|a, b, _| a.mul(b)),
        IntOp::MulHi => same!(|a, b, _| a.mul_high(b)),
        IntOp::MulWide => map3::<T, T, u32, T::Wide>(r, mask, d, a, |a, b, _| a.mul_wide(b)),
        IntOp::MadLo => same!(|a, b, c| a.mul(b).add(c)),
        IntOp::MadHi => same!(|a, b, c| a.mul_high(b).add(c)),
        IntOp::MadHiSat => same!(|a, b, c| a.mul_high(b).add_sat(c)),
        IntOp::MadWide => map3::<T, T, T::Wide, T::Wide>(r, mask, d, a, |a, b, c| a.mad_wide(b, c)),
        IntOp::Mul24Lo => same!(|a, b, _| T::of(mul24(a, b))),
        IntOp::Mul24Hi => same!(|a, b, _| T::of(mul24(a, b) >> 16)),
        IntOp::Mad24Lo => same!(|a, b, c| T::of(mul24(a, b)).add(c)),
        IntOp::Mad24Hi => same!(|a, b, c| T::of(mul24(a, b) >> 16).add(c)),
        IntOp::Mad24HiSat => same!(|a, b, c| T::of(mul24(a, b) >> 16).add_sat(c)),
        IntOp::Sad => same!(|a, b, c| c.add(max(a, b).sub(min(a, b)))),
        IntOp::Div => same!(|a, b, _| a.div(b)),
        IntOp::Rem => same!(|a, b, _| a.rem(b)),
        IntOp::Abs => same!(|a, _, _| absolute(a)),
        IntOp::Neg => same!(|a, _, _| T::of(0).sub(a)),
        IntOp::Min => same!(|a, b, _| min(a, b)),
        IntOp::Max => same!(|a, b, _| max(a, b)),
        IntOp::And => same!(|a, b, _| T::of(a.bits() & b.bits())),
        IntOp::Or => same!(|a, b, _| T::of(a.bits() | b.bits())),
        IntOp::Xor => same!(|a, b, _| T::of(a.bits() ^ b.bits())),
        IntOp::Not => same!(|a, _, _| T::of(!a.bits())),
        IntOp::Cnot => same!(|a, _, _| T::of((a == T::of(0)) as u64)),
        IntOp::Shl => shift!(|a, by, _| if by < T::BITS { T::of(a.bits() << by) } else { T::of(0) }),
        IntOp::Shr => shift!(|a, by, _| {
            let shifted = a.shr(by.min(T::BITS - 1));
            if by < T::BITS || T::SIGNED { shifted } else { T::of(0) }
        }),
        IntOp::Popc => count!(|a, _, _| pattern(a).count_ones()),
        IntOp::Clz => count!(|a, _, _| pattern(a).leading_zeros() - (64 - T::BITS)),
        IntOp::Bfind => count!(|a, _, _| top_bit(a)),
        IntOp::BfindShift => count!(|a, _, _| match top_bit(a) {
            u32::MAX => u32::MAX,
            bit => T::BITS - 1 - bit,
        }),
        IntOp::Brev => same!(|a, _, _| T::of(pattern(a).reverse_bits() >> (64 - T::BITS))),
        IntOp::Bfe => shift!(|a, pos, len| extract(a, pos & 0xff, len & 0xff)),
        IntOp::Fns => map3(r, mask, d, a, nth_set),
        IntOp::SzextClamp => shift!(|a, width, _| extract(a, 0, width)),
        IntOp::SzextWrap => shift!(|a, width, _| extract(a, 0, width % T::BITS)),
        IntOp::BmskClamp => map3(r, mask, d, a, |from, width, _: u32| bit_mask(from, width)),
        IntOp::BmskWrap => map3(r, mask, d, a, |from: u32, width: u32, _: u32| bit_mask(from % 32, width % 32)),
        IntOp::AbsDiff4 => {
            map3(r, mask, d, a, |a, b, _: u32| (0..4).fold(0, |all, i| all | byte_apart(a, b, i) << (8 * i)))
        }
        IntOp::AbsDiff4Add => {
            map3(r, mask, d, a, |a, b, c: u32| (0..4).fold(c, |sum, i| sum.wrapping_add(byte_apart(a, b, i))))
        }
        IntOp::Dp4a { a_signed, b_signed } => map3(r, mask, d, a, |a, b, c: u32| {
            (0..4).fold(c, |sum, i| {
                sum.wrapping_add(field(a, 8 * i, 8, a_signed).wrapping_mul(field(b, 8 * i, 8, b_signed)))
            })
        }),
        IntOp::Dp2a { a_signed, b_signed, high } => map3(r, mask, d, a, |a, b, c: u32| {
            let first = if high { 16 } else { 0 };
            (0..2).fold(c, |sum, i| {
                sum.wrapping_add(field(a, 16 * i, 16, a_signed).wrapping_mul(field(b, first + 8 * i, 8, b_signed)))
            })
        }),
    }
}

#[inline(always)]
fn min<T: PartialOrd>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

#[inline(always)]
fn max<T: PartialOrd>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

#[inline(always)]
fn absolute<T: Integer>(a: T) -> T {
    if a < T::of(0) { T::of(0).sub(a) } else { a }
}

/// The bits of `a` without its sign extension.
#[inline(always)]
fn pattern<T: Integer>(a: T) -> u64 {
    a.bits() & (u64::MAX >> (64 - T::BITS))
}

/// The 48-bit product of the low 24 bits, sign- or zero-extended.
#[inline(always)]
fn mul24<T: Integer>(a: T, b: T) -> u64 {
    let low = |x: T| if T::SIGNED { ((x.bits() << 40) as i64 >> 40) as u64 } else { x.bits() & 0xff_ffff };
    low(a).wrapping_mul(low(b))
}

/// The highest bit that differs from the sign; all ones if there is none.
#[inline(always)]
fn top_bit<T: Integer>(a: T) -> u32 {
    let bits = if a < T::of(0) { pattern(T::of(!a.bits())) } else { pattern(a) };
    63u32.wrapping_sub(bits.leading_zeros())
}

/// `len` bits of `a` from `pos`, extended by their sign; beyond the top of `a` its sign counts.
#[inline(always)]
fn extract<T: Integer>(a: T, pos: u32, len: u32) -> T {
    let bits = pattern(a);
    if len == 0 {
        return T::of(0);
    }
    let last = (pos + len - 1).min(T::BITS - 1);
    let sign = T::SIGNED && bits >> last & 1 == 1;
    let field = if pos < T::BITS { bits >> pos } else { 0 };
    let width = len.min(T::BITS.saturating_sub(pos));
    let keep = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
    T::of((field & keep) | if sign { !keep } else { 0 })
}

/// `fns`: the `offset`-th set bit at or above `base` (below, if negative; 0 asks for `base` itself).
#[inline(always)]
fn nth_set(bits: u32, base: u32, offset: i32) -> u32 {
    if base >= 32 {
        return u32::MAX;
    }
    let step = if offset < 0 { -1 } else { 1 };
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        let set = bits >> at & 1 == 1;
        if left <= 1 && set {
            return at as u32;
        }
        if left == 0 {
            break;
        }
        left -= set as u32;
        at += step;
    }
    u32::MAX
}

/// `width` ones from bit `from`; what lies beyond bit 31 is cut.
#[inline(always)]
fn bit_mask(from: u32, width: u32) -> u32 {
    let ones = (1u64 << width.min(32)) - 1;
    if from >= 32 { 0 } else { (ones << from) as u32 }
}

/// A field of a register, extended to 32 bits.
#[inline(always)]
fn field(x: u32, pos: u32, width: u32, signed: bool) -> u32 {
    let top = x << (32 - width - pos);
    if signed { (top as i32 >> (32 - width)) as u32 } else { top >> (32 - width) }
}

/// How far byte `i` of one register is from that of another.
#[inline(always)]
fn byte_apart(a: u32, b: u32, i: u32) -> u32 {
    let byte = |x: u32| x >> (8 * i) & 0xff;
    byte(a).abs_diff(byte(b))
}

/// `add.cc` and friends: the carry flag of a subtraction is its borrow.
pub fn carry(
    op: CarryOp,
    ty: Ty,
    d: Reg,
    a: [Reg; 3],
    (carry_in, carry_out): (bool, bool),
    registers: &mut Registers,
    mask: Mask,
) {
    let flags = if carry_in { registers.carry } else { 0 };
    let out = match ty {
        Ty::S32 => chain::<i32>(op, d, a, flags, registers, mask),
        Ty::U64 | Ty::B64 => chain::<u64>(op, d, a, flags, registers, mask),
        Ty::S64 => chain::<i64>(op, d, a, flags, registers, mask),
        _ => chain::<u32>(op, d, a, flags, registers, mask),
    };
    if carry_out {
        registers.carry = (registers.carry & !mask) | (out & mask);
    }
}

/// Writes the results; returns the flags that come out.
fn chain<T: Integer>(op: CarryOp, d: Reg, a: [Reg; 3], flags: Mask, registers: &mut Registers, mask: Mask) -> Mask {
    let [a, b, c] = a.map(|reg| T::get(registers, reg));
    let sums: Lanes<u128> = from_fn(|lane| {
        let (a, b, c) = (a[lane], b[lane], c[lane]);
        let flag = (flags >> lane & 1) as u128;
        let value = |x: T| pattern(x) as u128;
        match op {
            CarryOp::Add => value(a) + value(b) + flag,
            CarryOp::Sub => value(a).wrapping_sub(value(b) + flag),
            CarryOp::MadLo => value(a.mul(b)) + value(c) + flag,
            CarryOp::MadHi => value(a.mul_high(b)) + value(c) + flag,
        }
    });
    T::put(registers, d, mask, &from_fn(|lane| T::of(sums[lane] as u64)));
    lanes_where(|lane| sums[lane] >> T::BITS & 1 == 1)
}
