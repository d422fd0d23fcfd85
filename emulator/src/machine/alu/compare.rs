//! Comparisons and tests: their results are predicates, or all ones or 1.0 in a register.

use super::half::format;
use super::lanes::{Element, combine, lanes_where};
use crate::isa::{Cmp, Compare, FloatTest, Reg, Ty};
use crate::machine::simd::vectorised;
use crate::registers::{Lanes, Mask, Registers};
use std::array::from_fn;

pub fn setp(
    compare: Compare,
    (p, q): (Option<u16>, Option<u16>),
    (a, b): (Reg, Reg),
    registers: &mut Registers,
    mask: Mask,
) {
    let [low, high] = holds(compare, a, b, registers);
    // `p` may be the predicate that both are combined with: it is read before anything is written.
    let with = |truth: Mask| compare.combine.map_or(truth, |(op, c)| combine(op, truth, registers.pred(c)));
    let first = with(low);
    let second = if packed(compare.ty) { with(high) } else { with(!low) };
    for (to, value) in [(p, first), (q, second)] {
        if let Some(to) = to {
            registers.set_pred(to, mask, value);
        }
    }
}

pub fn set(compare: Compare, dty: Ty, d: Reg, (a, b): (Reg, Reg), registers: &mut Registers, mask: Mask) {
    let [low, high] = holds(compare, a, b, registers).map(|truth| match compare.combine {
        Some((op, c)) => combine(op, truth, registers.pred(c)),
        None => truth,
    });
    let one: u32 = match dty {
        Ty::F32 => 0x3f80_0000,
        Ty::F16 | Ty::F16x2 => 0x3c00,
        Ty::BF16 | Ty::BF16x2 => 0x3f80,
        _ if packed(compare.ty) || dty.bits() == 16 => 0xffff,
        _ => u32::MAX,
    };
    let second = if packed(compare.ty) { one << 16 } else { 0 };
    let value = |lane: usize| ((low >> lane & 1) * one) | ((high >> lane & 1) * second);
    registers.set_b32(d, mask, &from_fn(value));
}

fn packed(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::BF16x2)
}

/// The lanes in which the comparison holds; of packed halves those of the low and of the high half.
fn holds(compare: Compare, a: Reg, b: Reg, registers: &Registers) -> [Mask; 2] {
    let Compare { cmp, ty, ftz, .. } = compare;
    if packed(ty) {
        return [0, 16]
            .map(|shift| ordered(cmp, &halves(ty, ftz, a, shift, registers), &halves(ty, ftz, b, shift, registers)));
    }
    let low = match ty {
        Ty::F16 | Ty::BF16 => ordered(cmp, &halves(ty, ftz, a, 0, registers), &halves(ty, ftz, b, 0, registers)),
        Ty::F32 => singles(cmp, ftz, a, b, registers),
        Ty::F64 => typed::<f64>(cmp, a, b, registers),
        Ty::U16 | Ty::B16 => typed::<u16>(cmp, a, b, registers),
        Ty::S16 => typed::<i16>(cmp, a, b, registers),
        Ty::S32 => typed::<i32>(cmp, a, b, registers),
        Ty::U64 | Ty::B64 => typed::<u64>(cmp, a, b, registers),
        Ty::S64 => typed::<i64>(cmp, a, b, registers),
        _ => words(cmp, a, b, registers),
    };
    [low, 0]
}

/// One half of every lane as a double.
fn halves(ty: Ty, ftz: bool, reg: Reg, shift: u32, registers: &Registers) -> Lanes<f64> {
    let format = format(ty);
    registers.b32(reg).map(|x| {
        let bits = (x >> shift) as u16 as u64;
        if ftz && format.subnormal(bits) { 0.0 } else { format.value(bits) }
    })
}

vectorised! {
fn singles(cmp: Cmp, ftz: bool, a: Reg, b: Reg, registers: &Registers) -> Mask {
    let read = |reg| f32::get(registers, reg).map(|x| if ftz { super::float::flush(x) } else { x });
    ordered(cmp, &read(a), &read(b))
}
}

vectorised! {
fn words(cmp: Cmp, a: Reg, b: Reg, registers: &Registers) -> Mask {
    typed::<u32>(cmp, a, b, registers)
}
}

#[inline(always)]
fn typed<T: Element + PartialOrd>(cmp: Cmp, a: Reg, b: Reg, registers: &Registers) -> Mask {
    ordered(cmp, &T::get(registers, a), &T::get(registers, b))
}

// Negated comparisons are how "or unordered" is said.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
#[inline(always)]
fn ordered<T: PartialOrd + Copy>(cmp: Cmp, a: &Lanes<T>, b: &Lanes<T>) -> Mask {
    let number = |x: T| x == x;
    match cmp {
        Cmp::Eq => lanes_where(|i| a[i] == b[i]),
        Cmp::Ne => lanes_where(|i| a[i] != b[i] && number(a[i]) && number(b[i])),
        Cmp::Lt => lanes_where(|i| a[i] < b[i]),
        Cmp::Le => lanes_where(|i| a[i] <= b[i]),
        Cmp::Gt => lanes_where(|i| a[i] > b[i]),
        Cmp::Ge => lanes_where(|i| a[i] >= b[i]),
        Cmp::Equ => lanes_where(|i| a[i] == b[i] || !number(a[i]) || !number(b[i])),
        Cmp::Neu => lanes_where(|i| a[i] != b[i]),
        Cmp::Ltu => lanes_where(|i| !(a[i] >= b[i])),
        Cmp::Leu => lanes_where(|i| !(a[i] > b[i])),
        Cmp::Gtu => lanes_where(|i| !(a[i] <= b[i])),
        Cmp::Geu => lanes_where(|i| !(a[i] < b[i])),
        Cmp::Num => lanes_where(|i| number(a[i]) && number(b[i])),
        Cmp::Nan => lanes_where(|i| !number(a[i]) || !number(b[i])),
    }
}

/// `slct`: the lanes in which `c >= 0`.
pub fn not_negative(ty: Ty, ftz: bool, c: Reg, registers: &Registers) -> Mask {
    match ty {
        Ty::F32 => lanes_where(|i| {
            let x = f32::from_bits(registers.b32(c)[i]);
            x >= 0.0 || (ftz && x.is_subnormal())
        }),
        _ => lanes_where(|i| registers.b32(c)[i] as i32 >= 0),
    }
}

/// `testp`: zero counts as normal.
pub fn test(test: FloatTest, ty: Ty, a: Reg, registers: &Registers) -> Mask {
    // A single is as normal as its pattern says, not as its value in a double.
    if ty == Ty::F64 {
        let x = registers.b64(a).map(f64::from_bits);
        lanes_where(|i| is(test, x[i].is_nan(), x[i].is_infinite(), x[i].is_subnormal()))
    } else {
        let x = registers.b32(a).map(f32::from_bits);
        lanes_where(|i| is(test, x[i].is_nan(), x[i].is_infinite(), x[i].is_subnormal()))
    }
}

fn is(test: FloatTest, nan: bool, infinite: bool, subnormal: bool) -> bool {
    match test {
        FloatTest::Finite => !nan && !infinite,
        FloatTest::Infinite => infinite,
        FloatTest::Number => !nan,
        FloatTest::NotANumber => nan,
        FloatTest::Normal => !nan && !infinite && !subnormal,
        FloatTest::Subnormal => subnormal,
    }
}
