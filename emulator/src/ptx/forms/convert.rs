//! `cvt` and `cvt.pack`.
//!
//! Integer operands may sit in registers wider than their type: what is above is cut off or filled here, so that the
//! machine only converts between registers of the types' own widths.

use super::operands::{Operands, untyped};
use super::{Form, form};
use crate::isa::{Alu, CvtMods, Reg, Ty};

type Result<T = ()> = std::result::Result<T, String>;

pub(super) static FORMS: &[Form] = &[
    form("cvt.INT8.INT8 d, a:U", cvt),
    form("cvt.sat.(u8.(u16|u32|u64|s8|s16|s32|s64)|u16.(u32|u64|s8|s16|s32|s64)|u32.(u64|s8|s16|s32|s64)) d, a:U", cvt),
    form("cvt.sat.(u64.(s8|s16|s32|s64)|s8.(u8|u16|u32|u64|s16|s32|s64)|s16.(u16|u32|u64|s32|s64)) d, a:U", cvt),
    form("cvt.sat.(s32.(u32|u64|s64)|s64.u64) d, a:U", cvt),
    form("cvt.ROUND{.ftz}{.sat}.f32.INT8 d, a:U", cvt),
    form("cvt.ROUND{.sat}.(f16|f64).INT8 d, a:U", cvt),
    form("cvt.ROUND.bf16.INT8 d, a:U", cvt).since(7, 8, 90),
    form("cvt.IROUND{.ftz}{.sat}.INT8.f32 d, a:U", cvt),
    form("cvt.IROUND{.sat}.INT8.(f16|f64) d, a:U", cvt),
    form("cvt.IROUND.INT8.bf16 d, a:U", cvt).since(7, 8, 90),
    form("cvt{.ftz}{.sat}.(f32.f16|f64.f32) d, a:U", cvt),
    form("cvt{.sat}.f64.f16 d, a:U", cvt),
    form("cvt.ROUND{.ftz}{.sat}.(f32.f64|f16.f32) d, a:U", cvt),
    form("cvt.ROUND{.sat}.f16.f64 d, a:U", cvt),
    form("cvt{.IROUND}{.ftz}{.sat}.f32.f32 d, a:U", cvt),
    form("cvt{.IROUND}{.sat}.(f16.f16|f64.f64) d, a:U", cvt),
    form("cvt{.IROUND}.bf16.bf16 d, a:U", cvt).since(7, 8, 90),
    form("cvt.(rn|rz).relu.f16.f32 d, a:U", cvt),
    form("cvt.(rn|rz){.relu}.bf16.f32 d, a:U", cvt),
    form("cvt.(rn|rz){.relu}.satfinite.(f16|bf16).f32 d, a:U", cvt).since(8, 1, 80),
    form("cvt.(rm|rp).bf16.f32 d, a:U", cvt).since(7, 8, 90),
    form("cvt.ROUND.(bf16.f64|bf16.f16|f16.bf16) d, a:U", cvt).since(7, 8, 90),
    form("cvt.f32.bf16 d, a:U", cvt).since(7, 1, 80),
    form("cvt.f64.bf16 d, a:U", cvt).since(7, 8, 90),
    form("cvt.(rn|rz){.relu}.(f16x2|bf16x2).f32 d, a:U, b:U", cvt),
    form("cvt.(rn|rz){.relu}.satfinite.(f16x2|bf16x2).f32 d, a:U, b:U", cvt).since(8, 1, 80),
    form("cvt.rna.tf32.f32 d, a:U", cvt),
    form("cvt.rna.satfinite.tf32.f32 d, a:U", cvt).since(8, 1, 80),
    form("cvt.(rn|rz){.relu}.tf32.f32 d, a:U", cvt).since(7, 8, 90),
    form("cvt.rn.satfinite{.relu}.(e4m3x2|e5m2x2).f32 d, a:U, b:U", cvt).since(7, 8, 89),
    form("cvt.rn.satfinite{.relu}.(e4m3x2|e5m2x2).f16x2 d, a:U", cvt).since(7, 8, 89),
    form("cvt.rn{.relu}.f16x2.(e4m3x2|e5m2x2) d, a:U", cvt).since(7, 8, 89),
    form("cvt.pack.sat.(u16|s16).s32 d:b32, a:s32, b:s32", pack),
    form("cvt.pack.sat.(u8|s8).s32.b32 d:b32, a:s32, b:s32, c:b32", pack),
];

fn cvt(o: &mut Operands<'_>) -> Result {
    let (to, from) = (o.ty(), o.ty2());
    let how = CvtMods {
        round: o.round(),
        integer: o.has("rni") || o.has("rzi") || o.has("rmi") || o.has("rpi"),
        ftz: o.has("ftz"),
        sat: o.has("sat"),
        satfinite: o.has("satfinite"),
        relu: o.has("relu"),
    };
    let (a, b) = (narrow_source(o, from)?, o.source_some("b")?);
    let (d, width) = o.dest_wide("d")?;
    let fill = width.bits() > to.bits() && (to.signed() || width.rows() > to.rows());
    if !fill {
        return o.alu(Alu::Cvt { to, from, how, d, a, b });
    }
    let narrow = o.names.temporary(to);
    o.alu(Alu::Cvt { to, from, how, d: narrow, a, b })?;
    o.alu(Alu::Cvt { to: integer(width, to.signed()), from: to, how: CvtMods::default(), d, a: narrow, b: None })
}

/// The source. The machine reads the low bits of a row, but the low half of a 64-bit register is not a row.
fn narrow_source(o: &mut Operands<'_>, from: Ty) -> Result<Reg> {
    let (a, width) = o.source_wide("a")?;
    if width.rows() == from.rows() {
        return Ok(a);
    }
    let low = o.names.temporary(Ty::U32);
    let cut = Alu::Cvt { to: Ty::U32, from: integer(width, false), how: CvtMods::default(), d: low, a, b: None };
    o.alu(cut)?;
    Ok(low)
}

/// The integer type of a register's width.
fn integer(width: Ty, signed: bool) -> Ty {
    match (untyped(width.bits()), signed) {
        (Ty::B8, false) => Ty::U8,
        (Ty::B8, true) => Ty::S8,
        (Ty::B16, false) => Ty::U16,
        (Ty::B16, true) => Ty::S16,
        (Ty::B32, false) => Ty::U32,
        (Ty::B32, true) => Ty::S32,
        (_, false) => Ty::U64,
        (_, true) => Ty::S64,
    }
}

fn pack(o: &mut Operands<'_>) -> Result {
    let (to, a, b) = (o.ty(), o.source("a")?, o.source("b")?);
    let (c, d) = (o.source_some("c")?, o.dest("d")?);
    o.alu(Alu::CvtPack { to, d, a, b, c })
}
