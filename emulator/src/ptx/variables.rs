//! The registers and predicates of a function, and where its code reads and writes them.

use std::collections::HashMap;

use super::flow::{Event, Kind};
use super::scope::Frame;
use crate::isa::{Inst, Operand, Pred, Reg};

/// A register or a predicate of the function, by its virtual number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Rows(u32),
    Pred(u16),
}

/// One of them, with what the code does to it.
pub(super) struct Variable {
    pub key: Key,
    pub rows: u32,
    pub events: Vec<Event>,
    /// First and last position at which it is live.
    pub span: (u32, u32),
}

impl Variable {
    pub fn name(&self, frame: &Frame) -> String {
        match self.key {
            Key::Rows(first) => frame.register_name(first),
            Key::Pred(p) => frame.predicate_name(p),
        }
    }

    /// Positions of its reads.
    pub fn reads(&self) -> Vec<u32> {
        self.events.iter().filter(|e| e.kind == Kind::Read).map(|e| e.at).collect()
    }

    /// Positions of its writes, guarded or not.
    pub fn writes(&self) -> Vec<u32> {
        let mut writes: Vec<u32> = self.events.iter().filter(|e| e.kind != Kind::Read).map(|e| e.at).collect();
        writes.dedup();
        writes
    }
}

/// Every variable that the code mentions, with its events in order.
pub(super) fn collect(code: &mut [Inst], frame: &Frame) -> Vec<Variable> {
    let mut index: HashMap<Key, usize> = HashMap::new();
    let mut variables: Vec<Variable> = Vec::new();
    for (at, inst) in code.iter_mut().enumerate() {
        let at = at as u32;
        let guarded = inst.guard != Pred::Always;
        let mut note = |key, rows, temporary: bool, kind| {
            let variable = *index.entry(key).or_insert_with(|| {
                variables.push(Variable { key, rows, events: Vec::new(), span: (0, 0) });
                variables.len() - 1
            });
            // A temporary is read where it was written, under the same guard.
            let kind = if kind == Kind::Write && guarded && !temporary { Kind::Touch } else { kind };
            variables[variable].events.push(Event { at, kind });
        };
        let mut register = |reg: Reg, rows: u32, kind| {
            let Some(owner) = frame.owner(reg) else { return };
            // Part of a wide register: the rest lives on.
            let kind = if kind == Kind::Write && rows < owner.rows { Kind::Touch } else { kind };
            note(Key::Rows(owner.first), owner.rows, owner.temporary, kind);
        };
        inst.op.registers(&mut |operand| match operand {
            Operand::Read(reg, rows) => register(*reg, rows, Kind::Read),
            Operand::Write(reg, rows) => register(*reg, rows, Kind::Write),
            Operand::ReadPred(_) | Operand::WritePred(_) => {}
        });
        let mut predicate = |pred, kind| {
            if let Pred::If(p) | Pred::Unless(p) = pred {
                note(Key::Pred(p), 1, frame.temporary_pred(p), kind);
            }
        };
        predicate(inst.guard, Kind::Read);
        inst.op.registers(&mut |operand| match operand {
            Operand::ReadPred(pred) => predicate(*pred, Kind::Read),
            Operand::WritePred(p) => predicate(Pred::If(*p), Kind::Write),
            Operand::Read(..) | Operand::Write(..) => {}
        });
    }
    for variable in &mut variables {
        variable.events.sort_unstable();
        variable.events.dedup();
    }
    variables
}
