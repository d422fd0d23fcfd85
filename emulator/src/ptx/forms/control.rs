//! Branches, ends, and hints to the scheduler.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::Op;

type Result = std::result::Result<(), String>;

pub(super) static FORMS: &[Form] = &[
    form("bra{.uni} to:label", |o| {
        let name = o.label("to")?;
        let target = o.names.label(name).ok_or_else(|| format!("`{name}` is not a label of this function"))?;
        o.emit(Op::Branch { target })
    }),
    form("brx.idx{.uni} a:u32, list:labels", |o| {
        let (index, name) = (o.source("a")?, o.label("list")?);
        let targets = o.names.branch_targets(name).ok_or_else(|| format!("`{name}` names no `.branchtargets`"))?;
        o.emit(Op::BranchIndexed { index, targets: targets.into() })
    }),
    form("exit", |o| o.emit(Op::Exit)),
    form("trap", |o| o.emit(Op::Trap)),
    // Without a debugger a breakpoint is an error, as on a GPU.
    form("brkpt", |o| o.emit(Op::Trap)),
    form("nanosleep.u32 a", |o| {
        o.source("a")?;
        o.emit(Op::Yield)
    }),
    form("griddepcontrol.(launch_dependents|wait)", |o| o.emit(Op::Nop)).since(7, 8, 90),
    form("setmaxnreg.(inc|dec).sync.aligned.u32 n:imm", set_registers).since(8, 0, 90),
    form("pmevent n:imm", |o| {
        o.number("n", 0..=15)?;
        o.emit(Op::Nop)
    }),
    form("pmevent.mask n:imm", |o| {
        o.number("n", 0..=0xffff)?;
        o.emit(Op::Nop)
    }),
];

fn set_registers(o: &mut Operands<'_>) -> Result {
    let n = o.number("n", 24..=256)?;
    if n % 8 != 0 {
        return Err(format!("a register count must be a multiple of 8, not {n}"));
    }
    o.emit(Op::Nop)
}
