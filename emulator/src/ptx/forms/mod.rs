//! Instructions to operations. Stand-in.

use super::ast::{Instruction, Operand};
use super::parse::element_bytes;
use super::names::{Names, Register};
use crate::isa::*;
use crate::program::Special;

fn ty(modifier: &str) -> Option<Ty> {
    Some(match modifier {
        "pred" => Ty::Pred,
        "b16" | "u16" => Ty::B16,
        "f32" => Ty::F32,
        "s32" => Ty::S32,
        "s64" => Ty::S64,
        other => match element_bytes(other)? {
            4 => Ty::U32,
            8 => Ty::U64,
            _ => return None,
        },
    })
}

fn source(operand: &Operand, ty: Ty, names: &mut dyn Names) -> Result<Reg, String> {
    match operand {
        Operand::Name(name) => match names.register(name) {
            Some(Register::Value { reg, .. }) => Ok(reg),
            _ if name == "%laneid" => Ok(names.lanes(std::array::from_fn(|lane| lane as u32))),
            _ if name == "%tid.x" => Ok(names.special(Special::Tid(0))),
            _ if name == "%ctaid.y" => Ok(names.special(Special::CtaId(1))),
            _ => match names.variable(name) {
                Some((_, address)) => Ok(names.constant(ty, address.into())),
                None => Err(format!("`{name}` is not declared here")),
            },
        },
        Operand::Integer(i) => Ok(names.constant(ty, *i as u128)),
        Operand::Single(bits) => Ok(names.constant(ty, (*bits).into())),
        other => Err(format!("{other:?} is no source")),
    }
}

fn predicate(name: &str, names: &dyn Names) -> Result<u16, String> {
    match names.register(name) {
        Some(Register::Predicate(p)) => Ok(p),
        _ => Err(format!("`{name}` is no predicate")),
    }
}

fn address(operand: &Operand, names: &mut dyn Names) -> Result<(Space, Address), String> {
    let Operand::Memory { base, offset, .. } = operand else { return Err("an address belongs here".into()) };
    let space = match &**base {
        Operand::Name(name) => names.variable(name).map(|(space, _)| space),
        _ => None,
    };
    let base = source(base, Ty::B64, names)?;
    Ok((space.unwrap_or(Space::Generic), Address { base, wide: true, offset: *offset }))
}

fn destination(operand: &Operand, names: &dyn Names) -> Result<Reg, String> {
    match operand {
        Operand::Name(name) => match names.register(name) {
            Some(Register::Value { reg, .. }) => Ok(reg),
            _ => Err(format!("`{name}` is not declared here")),
        },
        other => Err(format!("{other:?} is no destination")),
    }
}

/// One instruction as operations, without its guard.
pub fn decode(inst: &Instruction, names: &mut dyn Names) -> Result<Vec<Op>, String> {
    let last = inst.modifiers.last().and_then(|m| ty(m)).unwrap_or(Ty::U32);
    let operands = &inst.operands[..];
    Ok(vec![match (inst.opcode.as_str(), operands) {
        ("mov", [d, a]) if last == Ty::Pred => match (d, a) {
            (Operand::Name(d), Operand::Name(a)) => {
                Op::Alu(Alu::MovPred { d: predicate(d, names)?, a: Pred::If(predicate(a, names)?) })
            }
            _ => return Err("predicates belong here".into()),
        },
        ("mov", [d, a]) => {
            Op::Alu(Alu::Mov { ty: last, d: destination(d, names)?, a: source(a, last, names)? })
        }
        ("add", [d, a, b]) => {
            let a = [source(a, last, names)?, source(b, last, names)?, names.constant(last, 0)];
            Op::Alu(Alu::Int { op: IntOp::Add, ty: last, d: destination(d, names)?, a })
        }
        ("setp", [Operand::Name(p), a, b]) => {
            let compare = Compare { cmp: Cmp::Lt, ty: last, ftz: false, combine: None };
            let (a, b) = (source(a, last, names)?, source(b, last, names)?);
            Op::Alu(Alu::SetP { compare, p: Some(predicate(p, names)?), q: None, a, b })
        }
        ("ld", [d, at]) => {
            let (space, at) = address(at, names)?;
            let d = Vector::new(&[Some(destination(d, names)?)]);
            Op::Load(Load { space, order: Order::Weak, nc: false, ty: last, reg: last, d, at })
        }
        ("st", [at, a]) => {
            let (mut space, at) = address(at, names)?;
            if inst.modifiers[0] == "shared" {
                space = Space::Shared;
            }
            let a = Vector::new(&[source(a, last, names)?]);
            Op::Store(Store { space, order: Order::Weak, ty: last, reg: last, a, at })
        }
        ("bra", [Operand::Name(label)]) => match names.label(label) {
            Some(target) => Op::Branch { target },
            None => return Err(format!("there is no label `{label}` here")),
        },
        ("brx", [index, Operand::Name(list)]) => {
            let index = source(index, Ty::U32, names)?;
            let targets = names.branch_targets(list).ok_or("no such list")?.into();
            Op::BranchIndexed { index, targets }
        }
        _ => return Err(format!("`{}` is not known", inst.opcode)),
    }])
}
