//! The PTX front end from outside: what it reads, what it refuses and on which line, how it lays things out, and that a
//! linked program does what its text says.

mod layout;
mod reading;
mod running;
mod units;

use cuda_emulator::device::A100;
use cuda_emulator::isa::Operand as Role;
use cuda_emulator::isa::{Op, Pred, Reg};
use cuda_emulator::memory::Memory;
use cuda_emulator::program::Program;
use cuda_emulator::ptx::{Module, PtxError, load};

pub const CALLS: &str = include_str!("../data/calls.ptx");
pub const VARIABLES: &str = include_str!("../data/variables.ptx");
pub const TILE: &str = include_str!("../data/tile.ptx");

pub const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

pub fn memory() -> Memory {
    Memory::new(1 << 20).unwrap()
}

pub fn loaded(body: &str) -> Result<Module, PtxError> {
    load(&format!("{HEAD}{body}"), &A100, &memory())
}

pub fn kernel(body: &str) -> Program {
    let program = loaded(body).unwrap_or_else(|e| panic!("{e}\n{body}")).kernels.remove(0);
    well_formed(&program);
    program
}

/// What the machine relies on: registers, predicates and targets exist, and nothing runs off the end.
pub fn well_formed(program: &Program) {
    let (code, name) = (program.code.len() as u32, &program.name);
    assert_eq!(program.places.len(), program.code.len(), "{name}");
    let predicate = |p: Pred| match p {
        Pred::Always => {}
        Pred::If(p) | Pred::Unless(p) => assert!(u32::from(p) < program.predicates, "{name}"),
    };
    let register = |reg: Reg, rows: u32| match reg.constant() {
        Some(i) => assert!(i + rows as usize <= program.constants.len(), "{name}"),
        None => assert!(reg.0 + rows <= program.rows, "{name}"),
    };
    for inst in &program.code {
        predicate(inst.guard);
        inst.op.clone().registers(&mut |operand| match operand {
            Role::Read(reg, rows) => register(*reg, rows),
            Role::Write(reg, rows) => {
                assert!(reg.constant().is_none() && program.specials.iter().all(|(_, s)| s != reg), "{name}");
                register(*reg, rows);
            }
            Role::ReadPred(pred) => predicate(*pred),
            Role::WritePred(p) => predicate(Pred::If(*p)),
        });
        match &inst.op {
            Op::Branch { target } | Op::Call { target, .. } => assert!(*target < code, "{name}"),
            Op::BranchIndexed { targets, .. } => assert!(targets.iter().all(|t| *t < code), "{name}"),
            _ => {}
        }
    }
    let last = program.code.last().unwrap();
    let ends =
        matches!(last.op, Op::Exit | Op::Trap | Op::Return { .. } | Op::Branch { .. } | Op::BranchIndexed { .. });
    assert!(ends && last.guard == Pred::Always, "{name}");
}

/// A 64-bit constant.
pub fn wide(program: &Program, reg: Reg) -> u64 {
    let rows = &program.constants[reg.constant().unwrap()..][..2];
    u64::from(rows[0].0[0]) | u64::from(rows[0].0[1]) << 32
}
