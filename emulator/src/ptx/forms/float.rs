//! Floating-point arithmetic of all precisions.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Alu, FloatOp, FloatTest};

type Result = std::result::Result<(), String>;

pub(super) static FORMS: &[Form] = &[
    form("add{.ROUND}{.ftz}{.sat}.f32 d, a, b", |o| float(o, FloatOp::Add)),
    form("add{.ROUND}.f64 d, a, b", |o| float(o, FloatOp::Add)),
    form("add{.rn}{.ftz}{.sat}.(f16|f16x2) d, a, b", |o| float(o, FloatOp::Add)),
    form("add{.rn}.(bf16|bf16x2) d, a, b", |o| float(o, FloatOp::Add)).since(7, 8, 90),
    form("sub{.ROUND}{.ftz}{.sat}.f32 d, a, b", |o| float(o, FloatOp::Sub)),
    form("sub{.ROUND}.f64 d, a, b", |o| float(o, FloatOp::Sub)),
    form("sub{.rn}{.ftz}{.sat}.(f16|f16x2) d, a, b", |o| float(o, FloatOp::Sub)),
    form("sub{.rn}.(bf16|bf16x2) d, a, b", |o| float(o, FloatOp::Sub)).since(7, 8, 90),
    form("mul{.ROUND}{.ftz}{.sat}.f32 d, a, b", |o| float(o, FloatOp::Mul)),
    form("mul{.ROUND}.f64 d, a, b", |o| float(o, FloatOp::Mul)),
    form("mul{.rn}{.ftz}{.sat}.(f16|f16x2) d, a, b", |o| float(o, FloatOp::Mul)),
    form("mul{.rn}.(bf16|bf16x2) d, a, b", |o| float(o, FloatOp::Mul)).since(7, 8, 90),
    form("fma.ROUND{.ftz}{.sat}.f32 d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("fma.ROUND.f64 d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("fma.rn{.ftz}{.sat|.relu}.(f16|f16x2) d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("fma.rn{.relu}.(bf16|bf16x2) d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("mad.ROUND{.ftz}{.sat}.f32 d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("mad.ROUND.f64 d, a, b, c", |o| float(o, FloatOp::Fma)),
    form("div.(ROUND|approx){.ftz}.f32 d, a, b", |o| float(o, FloatOp::Div)),
    form("div.full{.ftz}.f32 d, a, b", |o| float(o, FloatOp::DivFull)),
    form("div.ROUND.f64 d, a, b", |o| float(o, FloatOp::Div)),
    form("abs{.ftz}.(f32|f16|f16x2) d, a", |o| float(o, FloatOp::Abs)),
    form("abs.(f64|bf16|bf16x2) d, a", |o| float(o, FloatOp::Abs)),
    form("neg{.ftz}.(f32|f16|f16x2) d, a", |o| float(o, FloatOp::Neg)),
    form("neg.(f64|bf16|bf16x2) d, a", |o| float(o, FloatOp::Neg)),
    form("min{.ftz}{.NaN}{.xorsign.abs}.(f32|f16|f16x2) d, a, b", |o| float(o, FloatOp::Min)),
    form("min{.NaN}{.xorsign.abs}.(bf16|bf16x2) d, a, b", |o| float(o, FloatOp::Min)),
    form("min.f64 d, a, b", |o| float(o, FloatOp::Min)),
    form("max{.ftz}{.NaN}{.xorsign.abs}.(f32|f16|f16x2) d, a, b", |o| float(o, FloatOp::Max)),
    form("max{.NaN}{.xorsign.abs}.(bf16|bf16x2) d, a, b", |o| float(o, FloatOp::Max)),
    form("max.f64 d, a, b", |o| float(o, FloatOp::Max)),
    form("rcp.(ROUND|approx){.ftz}.f32 d, a", |o| float(o, FloatOp::Rcp)),
    form("rcp.(ROUND|approx.ftz).f64 d, a", |o| float(o, FloatOp::Rcp)),
    form("sqrt.(ROUND|approx){.ftz}.f32 d, a", |o| float(o, FloatOp::Sqrt)),
    form("sqrt.ROUND.f64 d, a", |o| float(o, FloatOp::Sqrt)),
    form("rsqrt.approx{.ftz}.(f32|f64) d, a", |o| float(o, FloatOp::Rsqrt)),
    form("sin.approx{.ftz}.f32 d, a", |o| float(o, FloatOp::Sin)),
    form("cos.approx{.ftz}.f32 d, a", |o| float(o, FloatOp::Cos)),
    form("lg2.approx{.ftz}.f32 d, a", |o| float(o, FloatOp::Lg2)),
    form("ex2.approx{.ftz}.f32 d, a", |o| float(o, FloatOp::Ex2)),
    form("ex2.approx.(f16|f16x2) d, a", |o| float(o, FloatOp::Ex2)),
    form("ex2.approx.ftz.(bf16|bf16x2) d, a", |o| float(o, FloatOp::Ex2)).since(7, 8, 90),
    form("tanh.approx.(f32|f16|f16x2) d, a", |o| float(o, FloatOp::Tanh)),
    form("tanh.approx.(bf16|bf16x2) d, a", |o| float(o, FloatOp::Tanh)).since(7, 8, 90),
    form("copysign.(f32|f64) d, a, b", |o| float(o, FloatOp::Copysign)),
    form("testp.(finite|infinite|number|notanumber|normal|subnormal).(f32|f64) p:pred, a", testp),
];

fn float(o: &mut Operands<'_>, op: FloatOp) -> Result {
    let (ty, how) = (o.ty(), o.float_mods());
    let (a, d) = (o.sources(["a", "b", "c"])?, o.dest("d")?);
    o.alu(Alu::Float { op, ty, how, d, a })
}

fn testp(o: &mut Operands<'_>) -> Result {
    let test = |w: &str| {
        Some(match w {
            "finite" => FloatTest::Finite,
            "infinite" => FloatTest::Infinite,
            "number" => FloatTest::Number,
            "notanumber" => FloatTest::NotANumber,
            "normal" => FloatTest::Normal,
            "subnormal" => FloatTest::Subnormal,
            _ => return None,
        })
    };
    let test = o.pick(test).ok_or("a test is missing")?;
    let (ty, a, d) = (o.ty(), o.source("a")?, o.dest_pred("p")?);
    o.alu(Alu::TestP { test, ty, d, a })
}
