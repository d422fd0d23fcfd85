//! Moves: registers, vectors, special registers, addresses and their spaces.

use super::operands::{Operands, window};
use super::{Form, form};
use crate::isa::{Alu, IntOp, Op, Pred, PrmtMode, Space, Ty};

type Result = std::result::Result<(), String>;

pub(super) static FORMS: &[Form] = &[
    form("mov.pred d:pred, a:pred", mov_pred),
    form("mov.(BITS|INT|f32|f64) d, a", mov),
    form("mov.b128 d, a", mov).since(8, 3, 80),
    form("mov.b16 d, a*2:b8", pack),
    form("mov.b32 d, a*2:b16", pack),
    form("mov.b32 d, a*4:b8", pack),
    form("mov.b64 d, a*2:b32", pack),
    form("mov.b64 d, a*4:b16", pack),
    form("mov.b128 d, a*2:b64", pack).since(8, 3, 80),
    form("mov.b16 d*2:b8, a", unpack),
    form("mov.b32 d*2:b16, a", unpack),
    form("mov.b32 d*4:b8, a", unpack),
    form("mov.b64 d*2:b32, a", unpack),
    form("mov.b64 d*4:b16, a", unpack),
    form("mov.b128 d*2:b64, a", unpack).since(8, 3, 80),
    form("prmt.b32{.f4e|.b4e|.rc8|.ecl|.ecr|.rc16} d, a, b, c", prmt),
    form("cvta.(global|SHARED|local|const|param|param::entry).u64 d, a", |o| cvta(o, IntOp::Add)),
    form("cvta.to.(global|SHARED|local|const|param|param::entry).u64 d, a", |o| cvta(o, IntOp::Sub)),
    form("isspacep.(global|SHARED|local|const|param|param::entry) p:pred, a:u64", |o| {
        let (space, a, p) = (o.space(), o.source("a")?, o.dest_pred("p")?);
        o.emit(Op::IsSpace { space, p, a })
    }),
    // A cluster is one block here: every shared address is in block 0 of it.
    form("mapa{.shared::cluster}.(u32|u64) d, a, b:u32", mov).since(7, 8, 90),
    form("getctarank{.shared::cluster}.(u32|u64) d:u32, a", |o| {
        o.source("a")?;
        zero(o, Ty::U32)
    })
    .since(7, 8, 90),
];

fn mov(o: &mut Operands<'_>) -> Result {
    let (ty, a, d) = (o.ty(), o.source("a")?, o.dest("d")?);
    o.alu(Alu::Mov { ty, d, a })
}

/// Writes a zero of this type to `d`.
pub(super) fn zero(o: &mut Operands<'_>, ty: Ty) -> Result {
    let (d, a) = (o.dest("d")?, o.names.constant(ty, 0));
    o.alu(Alu::Mov { ty, d, a })
}

fn mov_pred(o: &mut Operands<'_>) -> Result {
    let d = o.dest_pred("d")?;
    if o.number("a", 0..=0).is_ok() {
        return o.alu(Alu::NotPred { d, a: Pred::Always });
    }
    let a = o.pred("a")?;
    o.alu(Alu::MovPred { d, a })
}

fn pack(o: &mut Operands<'_>) -> Result {
    let (ty, parts, d) = (o.ty(), o.source_all("a")?, o.dest("d")?);
    o.alu(Alu::Pack { ty, d, parts })
}

fn unpack(o: &mut Operands<'_>) -> Result {
    let (ty, a) = (o.ty(), o.source("a")?);
    let (parts, width) = o.dest_vector("d")?;
    if width.bits() * parts.len() as u32 != ty.bits() {
        return Err(format!("{} registers of {} bits do not make {}", parts.len(), width.bits(), ty.bits()));
    }
    o.alu(Alu::Unpack { ty, parts: parts.into(), a })
}

fn prmt(o: &mut Operands<'_>) -> Result {
    let mode = |w: &str| {
        Some(match w {
            "f4e" => PrmtMode::F4e,
            "b4e" => PrmtMode::B4e,
            "rc8" => PrmtMode::Rc8,
            "ecl" => PrmtMode::Ecl,
            "ecr" => PrmtMode::Ecr,
            "rc16" => PrmtMode::Rc16,
            _ => return None,
        })
    };
    let mode = o.pick(mode).unwrap_or(PrmtMode::Index);
    let (a, d) = (o.sources(["a", "b", "c"])?, o.dest("d")?);
    o.alu(Alu::Prmt { mode, d, a })
}

/// Adds or subtracts the base of the space's window; global and constant addresses are generic as they are.
fn cvta(o: &mut Operands<'_>, op: IntOp) -> Result {
    let space: Space = o.space();
    if window(space) == 0 {
        return mov(o);
    }
    let (a, d) = (o.source("a")?, o.dest("d")?);
    let (base, zero) = (o.names.constant(Ty::U64, window(space).into()), o.names.constant(Ty::U64, 0));
    o.alu(Alu::Int { op, ty: Ty::U64, d, a: [a, base, zero] })
}
