//! Comparison and selection.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Alu, BoolOp, Cmp, Compare};

type Result<T = ()> = std::result::Result<T, String>;

pub(super) static FORMS: &[Form] = &[
    form("setp.ORDERED.(s16|s32|s64) p:pred{|q:pred}, a, b", setp),
    form("setp.ORDERED.BOOL.(s16|s32|s64) p:pred{|q:pred}, a, b, !c:pred", setp),
    form("setp.UNSIGNED.(u16|u32|u64) p:pred{|q:pred}, a, b", setp),
    form("setp.UNSIGNED.BOOL.(u16|u32|u64) p:pred{|q:pred}, a, b, !c:pred", setp),
    form("setp.(eq|ne).BITS p:pred{|q:pred}, a, b", setp),
    form("setp.(eq|ne).BOOL.BITS p:pred{|q:pred}, a, b, !c:pred", setp),
    form("setp.FLOAT{.ftz}.f32 p:pred{|q:pred}, a, b", setp),
    form("setp.FLOAT.BOOL{.ftz}.f32 p:pred{|q:pred}, a, b, !c:pred", setp),
    form("setp.FLOAT{.ftz}.f16 p:pred, a, b", setp),
    form("setp.FLOAT.BOOL{.ftz}.f16 p:pred, a, b, !c:pred", setp),
    form("setp.FLOAT{.ftz}.f16x2 p:pred|q:pred, a, b", setp),
    form("setp.FLOAT.BOOL{.ftz}.f16x2 p:pred|q:pred, a, b, !c:pred", setp),
    form("setp.FLOAT.f64 p:pred{|q:pred}, a, b", setp),
    form("setp.FLOAT.BOOL.f64 p:pred{|q:pred}, a, b, !c:pred", setp),
    form("setp.FLOAT.bf16 p:pred, a, b", setp).since(7, 8, 90),
    form("setp.FLOAT.BOOL.bf16 p:pred, a, b, !c:pred", setp).since(7, 8, 90),
    form("setp.FLOAT.bf16x2 p:pred|q:pred, a, b", setp).since(7, 8, 90),
    form("setp.FLOAT.BOOL.bf16x2 p:pred|q:pred, a, b, !c:pred", setp).since(7, 8, 90),
    form("set.ORDERED.(u32|s32|f32|f16).(s16|s32|s64) d, a:U, b:U", set),
    form("set.ORDERED.BOOL.(u32|s32|f32|f16).(s16|s32|s64) d, a:U, b:U, !c:pred", set),
    form("set.UNSIGNED.(u32|s32|f32|f16).(u16|u32|u64) d, a:U, b:U", set),
    form("set.UNSIGNED.BOOL.(u32|s32|f32|f16).(u16|u32|u64) d, a:U, b:U, !c:pred", set),
    form("set.(eq|ne).(u32|s32|f32|f16).BITS d, a:U, b:U", set),
    form("set.(eq|ne).BOOL.(u32|s32|f32|f16).BITS d, a:U, b:U, !c:pred", set),
    form("set.FLOAT{.ftz}.(u32|s32|f32|f16).f32 d, a:U, b:U", set),
    form("set.FLOAT.BOOL{.ftz}.(u32|s32|f32|f16).f32 d, a:U, b:U, !c:pred", set),
    form("set.FLOAT.(u32|s32|f32|f16).f64 d, a:U, b:U", set),
    form("set.FLOAT.BOOL.(u32|s32|f32|f16).f64 d, a:U, b:U, !c:pred", set),
    form("set.FLOAT{.ftz}.(u16|s16|u32|s32|f16).f16 d, a:U, b:U", set),
    form("set.FLOAT.BOOL{.ftz}.(u16|s16|u32|s32|f16).f16 d, a:U, b:U, !c:pred", set),
    form("set.FLOAT{.ftz}.(f16x2|u32|s32).f16x2 d, a:U, b:U", set),
    form("set.FLOAT.BOOL{.ftz}.(f16x2|u32|s32).f16x2 d, a:U, b:U, !c:pred", set),
    form("set.FLOAT.(u16|s16|u32|s32|bf16).bf16 d, a:U, b:U", set).since(7, 8, 90),
    form("set.FLOAT.BOOL.(u16|s16|u32|s32|bf16).bf16 d, a:U, b:U, !c:pred", set).since(7, 8, 90),
    form("set.FLOAT.(bf16x2|u32|s32).bf16x2 d, a:U, b:U", set).since(7, 8, 90),
    form("set.FLOAT.BOOL.(bf16x2|u32|s32).bf16x2 d, a:U, b:U, !c:pred", set).since(7, 8, 90),
    form("selp.(BITS|INT|f32|f64) d, a, b, c:pred", |o| {
        let (ty, a, b) = (o.ty(), o.source("a")?, o.source("b")?);
        let (p, d) = (o.pred("c")?, o.dest("d")?);
        o.alu(Alu::SelP { ty, d, a, b, p })
    }),
    form("slct.(BITS|INT|f32|f64).s32 d, a, b, c:U", slct),
    form("slct{.ftz}.(BITS|INT|f32|f64).f32 d, a, b, c:f32", slct),
];

fn slct(o: &mut Operands<'_>) -> Result {
    let (ty, cty, ftz) = (o.ty(), o.ty2(), o.has("ftz"));
    let (a, b, c, d) = (o.source("a")?, o.source("b")?, o.source("c")?, o.dest("d")?);
    o.alu(Alu::Slct { ty, cty, ftz, d, a, b, c })
}

fn setp(o: &mut Operands<'_>) -> Result {
    let compare = Compare { ty: o.ty(), ..compare(o)? };
    let (a, b) = (o.source("a")?, o.source("b")?);
    let (p, q) = (o.dest_pred_some("p")?, o.dest_pred_some("q")?);
    o.alu(Alu::SetP { compare, p, q, a, b })
}

fn set(o: &mut Operands<'_>) -> Result {
    let compare = compare(o)?;
    let (dty, a, b, d) = (o.ty(), o.source("a")?, o.source("b")?, o.dest("d")?);
    o.alu(Alu::Set { compare, dty, d, a, b })
}

/// The comparison of operands of the second type.
fn compare(o: &mut Operands<'_>) -> Result<Compare> {
    let cmp = o.pick(comparison).ok_or("a comparison is missing")?;
    let combine = match o.pick(boolean) {
        Some(op) => Some((op, o.pred("c")?)),
        None => None,
    };
    Ok(Compare { cmp, ty: o.ty2(), ftz: o.has("ftz"), combine })
}

fn boolean(word: &str) -> Option<BoolOp> {
    Some(match word {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return None,
    })
}

fn comparison(word: &str) -> Option<Cmp> {
    Some(match word {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" | "lo" => Cmp::Lt,
        "le" | "ls" => Cmp::Le,
        "gt" | "hi" => Cmp::Gt,
        "ge" | "hs" => Cmp::Ge,
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return None,
    })
}
