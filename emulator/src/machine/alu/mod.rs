//! Lane-wise instructions: computes all 32 lanes, writes those of the mask. Nothing here faults: the values of inactive
//! lanes are garbage that may go through any operation.
//!
//! Results are those of the PTX ISA document. Where it leaves room, this is what happens: integer `x / 0` is all ones and
//! `x % 0` is `x`; approximations (`.approx`, `.full`) are correctly rounded or within 2^-30 before their last rounding;
//! NaN results are 0x7fffffff in f32 and 0x7fff in the 16-bit formats, while f64 keeps the payload of the first NaN
//! operand, quieted; `.ftz` flushes what is subnormal after rounding. An 8-bit result of `cvt` is zero-extended: the
//! front end adds the extension that a wider destination asks for.

mod approx;
mod bits;
mod compare;
mod convert;
mod exact;
mod float;
mod half;
mod integer;
mod lanes;
mod number;

use crate::isa::{Alu, FloatOp, Ty};
use crate::registers::{Mask, Registers};

pub(crate) use half::scalar;
pub(crate) use number::{e4m3_to_f32, half_to_f32, round_f16};

/// Runs one instruction for the lanes of `mask`.
pub fn run(op: &Alu, registers: &mut Registers, mask: Mask) {
    match *op {
        Alu::Mov { ty, d, a } => bits::mov(ty, d, a, registers, mask),
        Alu::MovPred { d, a } => registers.set_pred(d, mask, registers.pred(a)),
        Alu::Pack { ty, d, ref parts } => bits::pack(ty, d, parts, registers, mask),
        Alu::Unpack { ty, ref parts, a } => bits::unpack(ty, parts, a, registers, mask),
        Alu::Int { op, ty, d, a } => integer::run(op, ty, d, a, registers, mask),
        Alu::Bfi { ty, d, a, b, pos, len } => bits::bfi(ty, d, (a, b), (pos, len), registers, mask),
        Alu::Carry { op, ty, d, a, carry_in, carry_out } => {
            integer::carry(op, ty, d, a, (carry_in, carry_out), registers, mask)
        }
        Alu::Float { op: FloatOp::Copysign, ty: ty @ (Ty::F32 | Ty::F64), d, a, .. } => {
            bits::copysign(ty, d, (a[0], a[1]), registers, mask);
        }
        Alu::Float { op, ty: Ty::F32, how, d, a } => float::single(op, how, d, a, registers, mask),
        Alu::Float { op, ty: Ty::F64, how, d, a } => float::double(op, how, d, a, registers, mask),
        Alu::Float { op, ty, how, d, a } => half::run(op, ty, how, d, a, registers, mask),
        Alu::Lop3 { d, a, table, p } => bits::lop3(d, a, table, p, registers, mask),
        Alu::Prmt { mode, d, a } => bits::prmt(mode, d, a, registers, mask),
        Alu::Shf { left, clamp, d, a } => bits::shf(left, clamp, d, a, registers, mask),
        Alu::SetP { compare, p, q, a, b } => compare::setp(compare, (p, q), (a, b), registers, mask),
        Alu::Set { compare, dty, d, a, b } => compare::set(compare, dty, d, (a, b), registers, mask),
        Alu::SelP { ty, d, a, b, p } => bits::select(ty, d, (a, b), registers.pred(p), registers, mask),
        Alu::Slct { ty, cty, ftz, d, a, b, c } => {
            let first = compare::not_negative(cty, ftz, c, registers);
            bits::select(ty, d, (a, b), first, registers, mask);
        }
        Alu::TestP { test, ty, d, a } => {
            let holds = compare::test(test, ty, a, registers);
            registers.set_pred(d, mask, holds);
        }
        Alu::PredLogic { op, d, a, b } => {
            registers.set_pred(d, mask, lanes::combine(op, registers.pred(a), registers.pred(b)));
        }
        Alu::NotPred { d, a } => registers.set_pred(d, mask, !registers.pred(a)),
        Alu::Cvt { to, from, how, d, a, b } => convert::run(to, from, how, d, (a, b), registers, mask),
        Alu::CvtPack { to, d, a, b, c } => convert::pack(to, d, (a, b, c), registers, mask),
    }
}
