//! Integer arithmetic, bits, shifts, logic.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Alu, BoolOp, CarryOp, IntOp, Lop3Pred, Ty};

type Result = std::result::Result<(), String>;

pub(super) static FORMS: &[Form] = &[
    form("add.INT d, a, b", |o| int(o, IntOp::Add)),
    form("add.sat.s32 d, a, b", |o| int(o, IntOp::AddSat)),
    form("add.(u16x2|s16x2) d, a, b", |o| int(o, IntOp::Add)).since(8, 0, 90),
    form("sub.INT d, a, b", |o| int(o, IntOp::Sub)),
    form("sub.sat.s32 d, a, b", |o| int(o, IntOp::SubSat)),
    form("add.cc.(u32|u64|s32|s64) d, a, b", |o| carry(o, CarryOp::Add, false)),
    form("addc{.cc}.(u32|u64|s32|s64) d, a, b", |o| carry(o, CarryOp::Add, true)),
    form("sub.cc.(u32|u64|s32|s64) d, a, b", |o| carry(o, CarryOp::Sub, false)),
    form("subc{.cc}.(u32|u64|s32|s64) d, a, b", |o| carry(o, CarryOp::Sub, true)),
    form("mad.lo.cc.(u32|u64|s32|s64) d, a, b, c", |o| carry(o, CarryOp::MadLo, false)),
    form("mad.hi.cc.(u32|u64|s32|s64) d, a, b, c", |o| carry(o, CarryOp::MadHi, false)),
    form("madc.lo{.cc}.(u32|u64|s32|s64) d, a, b, c", |o| carry(o, CarryOp::MadLo, true)),
    form("madc.hi{.cc}.(u32|u64|s32|s64) d, a, b, c", |o| carry(o, CarryOp::MadHi, true)),
    form("mul.lo.INT d, a, b", |o| int(o, IntOp::MulLo)),
    form("mul.hi.INT d, a, b", |o| int(o, IntOp::MulHi)),
    form("mul.wide.(u16|u32|s16|s32) d:W, a, b", |o| int(o, IntOp::MulWide)),
    form("mad.lo.INT d, a, b, c", |o| int(o, IntOp::MadLo)),
    form("mad.hi.INT d, a, b, c", |o| int(o, IntOp::MadHi)),
    form("mad.hi.sat.s32 d, a, b, c", |o| int(o, IntOp::MadHiSat)),
    form("mad.wide.(u16|u32|s16|s32) d:W, a, b, c:W", |o| int(o, IntOp::MadWide)),
    form("mul24.lo.(u32|s32) d, a, b", |o| int(o, IntOp::Mul24Lo)),
    form("mul24.hi.(u32|s32) d, a, b", |o| int(o, IntOp::Mul24Hi)),
    form("mad24.lo.(u32|s32) d, a, b, c", |o| int(o, IntOp::Mad24Lo)),
    form("mad24.hi.(u32|s32) d, a, b, c", |o| int(o, IntOp::Mad24Hi)),
    form("mad24.hi.sat.s32 d, a, b, c", |o| int(o, IntOp::Mad24HiSat)),
    form("sad.INT d, a, b, c", |o| int(o, IntOp::Sad)),
    form("div.INT d, a, b", |o| int(o, IntOp::Div)),
    form("rem.INT d, a, b", |o| int(o, IntOp::Rem)),
    form("abs.(s16|s32|s64) d, a", |o| int(o, IntOp::Abs)),
    form("neg.(s16|s32|s64) d, a", |o| int(o, IntOp::Neg)),
    form("min.INT d, a, b", |o| int(o, IntOp::Min)),
    form("max.INT d, a, b", |o| int(o, IntOp::Max)),
    form("min.(u16x2|s16x2) d, a, b", |o| int(o, IntOp::Min)).since(8, 0, 90),
    form("max.(u16x2|s16x2) d, a, b", |o| int(o, IntOp::Max)).since(8, 0, 90),
    form("min.relu.(s16x2|s32) d, a, b", |o| relu(o, IntOp::Min)).since(8, 0, 90),
    form("max.relu.(s16x2|s32) d, a, b", |o| relu(o, IntOp::Max)).since(8, 0, 90),
    form("vabsdiff4.u32.u32.u32 d, a, b, c", |o| int(o, IntOp::AbsDiff4)),
    form("vabsdiff4.u32.u32.u32.add d, a, b, c", |o| int(o, IntOp::AbsDiff4Add)),
    form("dp4a.(u32|s32).(u32|s32) d:b32, a:b32, b:b32, c:b32", |o| {
        dot(o, |a_signed, b_signed, _| IntOp::Dp4a { a_signed, b_signed })
    }),
    form("dp2a.(lo|hi).(u32|s32).(u32|s32) d:b32, a:b32, b:b32, c:b32", |o| {
        dot(o, |a_signed, b_signed, high| IntOp::Dp2a { a_signed, b_signed, high })
    }),
    form("and.BITS d, a, b", |o| int(o, IntOp::And)),
    form("or.BITS d, a, b", |o| int(o, IntOp::Or)),
    form("xor.BITS d, a, b", |o| int(o, IntOp::Xor)),
    form("not.BITS d, a", |o| int(o, IntOp::Not)),
    form("cnot.BITS d, a", |o| int(o, IntOp::Cnot)),
    form("and.pred d:pred, !a:pred, !b:pred", |o| predicates(o, BoolOp::And)),
    form("or.pred d:pred, !a:pred, !b:pred", |o| predicates(o, BoolOp::Or)),
    form("xor.pred d:pred, !a:pred, !b:pred", |o| predicates(o, BoolOp::Xor)),
    form("not.pred d:pred, a:pred", |o| {
        let (a, d) = (o.pred("a")?, o.dest_pred("d")?);
        o.alu(Alu::NotPred { d, a })
    }),
    form("lop3.b32 d, a, b, c, table:imm", |o| lop3(o, None)),
    form("lop3.or.b32 d|p:pred, a, b, c, table:imm, !q:pred", |o| lop3(o, Some(BoolOp::Or))).since(8, 2, 80),
    form("lop3.and.b32 d|p:pred, a, b, c, table:imm, !q:pred", |o| lop3(o, Some(BoolOp::And))).since(8, 2, 80),
    form("shl.BITS d, a, b:u32", |o| int(o, IntOp::Shl)),
    form("shr.(b16|b32|b64|u16|u32|u64|s16|s32|s64) d, a, b:u32", |o| int(o, IntOp::Shr)),
    form("shf.(l|r).(clamp|wrap).b32 d, a, b, c:u32", |o| {
        let (left, clamp) = (o.has("l"), o.has("clamp"));
        let (a, d) = (o.sources(["a", "b", "c"])?, o.dest("d")?);
        o.alu(Alu::Shf { left, clamp, d, a })
    }),
    form("popc.(b32|b64) d:u32, a", |o| int(o, IntOp::Popc)),
    form("clz.(b32|b64) d:u32, a", |o| int(o, IntOp::Clz)),
    form("bfind.(u32|u64|s32|s64) d:u32, a", |o| int(o, IntOp::Bfind)),
    form("bfind.shiftamt.(u32|u64|s32|s64) d:u32, a", |o| int(o, IntOp::BfindShift)),
    form("brev.(b32|b64) d, a", |o| int(o, IntOp::Brev)),
    form("bfe.(u32|u64|s32|s64) d, a, b:u32, c:u32", |o| int(o, IntOp::Bfe)),
    form("bfi.(b32|b64) d, a, b, c:u32, e:u32", |o| {
        let (ty, a, b) = (o.ty(), o.source("a")?, o.source("b")?);
        let (pos, len, d) = (o.source("c")?, o.source("e")?, o.dest("d")?);
        o.alu(Alu::Bfi { ty, d, a, b, pos, len })
    }),
    form("fns.b32 d, a, b, c", |o| int(o, IntOp::Fns)),
    form("szext.clamp.(u32|s32) d, a, b:u32", |o| int(o, IntOp::SzextClamp)).since(7, 6, 80),
    form("szext.wrap.(u32|s32) d, a, b:u32", |o| int(o, IntOp::SzextWrap)).since(7, 6, 80),
    form("bmsk.clamp.b32 d, a:u32, b:u32", |o| int(o, IntOp::BmskClamp)).since(7, 6, 80),
    form("bmsk.wrap.b32 d, a:u32, b:u32", |o| int(o, IntOp::BmskWrap)).since(7, 6, 80),
];

fn int(o: &mut Operands<'_>, op: IntOp) -> Result {
    let (ty, a, d) = (o.ty(), o.sources(["a", "b", "c"])?, o.dest("d")?);
    o.alu(Alu::Int { op, ty, d, a })
}

/// The result, then its maximum with zero.
fn relu(o: &mut Operands<'_>, op: IntOp) -> Result {
    let (ty, a, d) = (o.ty(), o.sources(["a", "b", "c"])?, o.dest("d")?);
    let (between, zero) = (o.names.temporary(ty), o.names.constant(ty, 0));
    o.alu(Alu::Int { op, ty, d: between, a })?;
    o.alu(Alu::Int { op: IntOp::Max, ty, d, a: [between, zero, zero] })
}

fn carry(o: &mut Operands<'_>, op: CarryOp, carry_in: bool) -> Result {
    let (ty, a, d) = (o.ty(), o.sources(["a", "b", "c"])?, o.dest("d")?);
    let carry_out = o.has("cc");
    o.alu(Alu::Carry { op, ty, d, a, carry_in, carry_out })
}

/// The result is signed where one of the factors is.
fn dot(o: &mut Operands<'_>, op: fn(bool, bool, bool) -> IntOp) -> Result {
    let (a_signed, b_signed) = (o.ty().signed(), o.ty2().signed());
    let op = op(a_signed, b_signed, o.has("hi"));
    let ty = if a_signed || b_signed { Ty::S32 } else { Ty::U32 };
    let (a, d) = (o.sources(["a", "b", "c"])?, o.dest("d")?);
    o.alu(Alu::Int { op, ty, d, a })
}

fn predicates(o: &mut Operands<'_>, op: BoolOp) -> Result {
    let (a, b, d) = (o.pred("a")?, o.pred("b")?, o.dest_pred("d")?);
    o.alu(Alu::PredLogic { op, d, a, b })
}

fn lop3(o: &mut Operands<'_>, op: Option<BoolOp>) -> Result {
    let (a, table) = (o.sources(["a", "b", "c"])?, o.number("table", 0..=255)? as u8);
    let Some(op) = op else {
        let d = o.dest("d")?;
        return o.alu(Alu::Lop3 { d, a, table, p: None });
    };
    let d = match o.dest_some("d")? {
        Some(d) => d,
        None => o.names.temporary(Ty::B32),
    };
    let (p, q) = (o.dest_pred("p")?, o.pred("q")?);
    o.alu(Alu::Lop3 { d, a, table, p: Some(Lop3Pred { op, p, q }) })
}
