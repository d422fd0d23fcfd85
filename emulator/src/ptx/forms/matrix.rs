//! Matrix multiplication and the moves of its operands.
//!
//! One line per shape: how many registers the fragments take is written there, not computed.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::{MatTy, MatrixAccess, Mma, Op};

type Result<T = ()> = std::result::Result<T, String>;

#[rustfmt::skip]
pub(super) static FORMS: &[Form] = &[
    form("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 d*2:b32, a*2:b32, b*1:b32, c*2:b32", mma),
    form("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 d*4:f32, a*2:b32, b*1:b32, c*4:f32", mma),
    form("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 d*2:b32, a*4:b32, b*2:b32, c*2:b32", mma),
    form("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 d*4:f32, a*4:b32, b*2:b32, c*4:f32", mma),
    form("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 d*4:f32, a*2:b32, b*1:b32, c*4:f32", mma),
    form("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d*4:f32, a*4:b32, b*2:b32, c*4:f32", mma),
    form("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 d*4:f32, a*2:b32, b*1:b32, c*4:f32", mma),
    form("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 d*4:f32, a*4:b32, b*2:b32, c*4:f32", mma),
    form("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 d*2:f64, a*1:f64, b*1:f64, c*2:f64", mma),
    form("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 d*4:f64, a*2:f64, b*1:f64, c*4:f64", mma).since(7, 8, 90),
    form("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 d*4:f64, a*4:f64, b*2:f64, c*4:f64", mma).since(7, 8, 90),
    form("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 d*4:f64, a*8:f64, b*4:f64, c*4:f64", mma).since(7, 8, 90),
    form("mma.sync.aligned.m8n8k16.row.col{.satfinite}.s32.(s8|u8).(s8|u8).s32 d*2:b32, a*1:b32, b*1:b32, c*2:b32", mma),
    form("mma.sync.aligned.m16n8k16.row.col{.satfinite}.s32.(s8|u8).(s8|u8).s32 d*4:b32, a*2:b32, b*1:b32, c*4:b32", mma),
    form("mma.sync.aligned.m16n8k32.row.col{.satfinite}.s32.(s8|u8).(s8|u8).s32 d*4:b32, a*4:b32, b*2:b32, c*4:b32", mma),
    form("mma.sync.aligned.m8n8k32.row.col{.satfinite}.s32.(s4|u4).(s4|u4).s32 d*2:b32, a*1:b32, b*1:b32, c*2:b32", mma),
    form("mma.sync.aligned.m16n8k32.row.col{.satfinite}.s32.(s4|u4).(s4|u4).s32 d*4:b32, a*2:b32, b*1:b32, c*4:b32", mma),
    form("mma.sync.aligned.m16n8k64.row.col{.satfinite}.s32.(s4|u4).(s4|u4).s32 d*4:b32, a*4:b32, b*2:b32, c*4:b32", mma),
    form("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.(xor|and).popc d*2:b32, a*1:b32, b*1:b32, c*2:b32", mma),
    form("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.(xor|and).popc d*4:b32, a*2:b32, b*1:b32, c*4:b32", mma),
    form("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.(xor|and).popc d*4:b32, a*4:b32, b*2:b32, c*4:b32", mma),
    form("mma.sync.aligned.m16n8k16.row.col.f32.(e4m3|e5m2).(e4m3|e5m2).f32 d*4:f32, a*2:b32, b*1:b32, c*4:f32", mma).since(8, 7, 89),
    form("mma.sync.aligned.m16n8k32.row.col.f32.(e4m3|e5m2).(e4m3|e5m2).f32 d*4:f32, a*4:b32, b*2:b32, c*4:f32", mma).since(8, 4, 89),
    form("mma.sync.aligned.m16n8k16.row.col.f16.(e4m3|e5m2).(e4m3|e5m2).f16 d*2:b32, a*2:b32, b*1:b32, c*2:b32", mma).since(8, 7, 89),
    form("mma.sync.aligned.m16n8k32.row.col.f16.(e4m3|e5m2).(e4m3|e5m2).f16 d*2:b32, a*4:b32, b*2:b32, c*2:b32", mma).since(8, 7, 89),
    form("ldmatrix.sync.aligned<.m8n8.(x1|x2|x4){.trans}>{.OWN}.b16 d*X:b32, [a]", |o| {
        let (registers, access) = (o.dest_all("d")?, access(o)?);
        o.emit(Op::LdMatrix(Box::new(MatrixAccess { registers, ..access })))
    }),
    form("stmatrix.sync.aligned<.m8n8.(x1|x2|x4){.trans}>{.OWN}.b16 [a], b*X:b32", |o| {
        let (registers, access) = (o.source_all("b")?, access(o)?);
        o.emit(Op::StMatrix(Box::new(MatrixAccess { registers, ..access })))
    }).since(7, 8, 90),
    form("movmatrix.sync.aligned.m8n8.trans.b16 d:b32, a:b32", |o| {
        let (a, d) = (o.source("a")?, o.dest("d")?);
        o.emit(Op::MovMatrix { d, a })
    }).since(7, 8, 80),
];

/// All but the registers.
fn access(o: &mut Operands<'_>) -> Result<MatrixAccess> {
    let (space, at) = o.at("a")?;
    Ok(MatrixAccess { transposed: o.has("trans"), registers: Box::default(), space, at })
}

fn mma(o: &mut Operands<'_>) -> Result {
    let [m, n, k] = o.pick(shape).ok_or("a shape is missing")?;
    let and = o.has("and");
    let [d_ty, a_ty, b_ty, c_ty] = o.all(|w| element(w, and))[..] else {
        return Err("four types are needed: of d, a, b and c".to_owned());
    };
    let (a, b, c, d) = (o.source_all("a")?, o.source_all("b")?, o.source_all("c")?, o.dest_all("d")?);
    let satfinite = o.has("satfinite");
    let mma = Mma { m, n, k, a_ty, b_ty, c_ty, d_ty, satfinite, d, a, b, c };
    crate::machine::matrix::check(&mma)?;
    o.emit(Op::Mma(Box::new(mma)))
}

/// `m16n8k16` as numbers.
fn shape(word: &str) -> Option<[u32; 3]> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// An element type by its name; `and` is the operation of one-bit ones.
pub(super) fn element(word: &str, and: bool) -> Option<MatTy> {
    Some(match word {
        "f16" => MatTy::F16,
        "bf16" => MatTy::BF16,
        "tf32" => MatTy::TF32,
        "f64" => MatTy::F64,
        "s8" => MatTy::S8,
        "u8" => MatTy::U8,
        "s4" => MatTy::S4,
        "u4" => MatTy::U4,
        "b1" if and => MatTy::B1And,
        "b1" => MatTy::B1Xor,
        "e4m3" => MatTy::E4M3,
        "e5m2" => MatTy::E5M2,
        "f32" => MatTy::F32,
        "s32" => MatTy::S32,
        _ => return None,
    })
}
