//! Kernels: every function that a kernel reaches, one after the other in one list, with final rows and positions.

use std::collections::HashMap;

use super::ast::{Function, Module};
use super::frames::{Frames, Symbols, frames};
use super::lower::{Lowered, lower};
use super::scope::{Placed, Pool, special_row};
use super::variables::Key;
use super::{PtxError, ast};
use crate::device::Device;
use crate::isa::{Inst, Op, Operand, Pred, Reg, Space};
use crate::program::{Program, Tracked};

/// The work that the kernels of a module may make together, in the units of `lower`: a million instructions, or for a
/// long text as many units as it has bytes.
const WORK: usize = 4_000_000;

/// Makes a program of every kernel of a text of so many bytes.
pub(super) fn kernels(
    module: &Module,
    globals: &HashMap<&str, Placed>,
    device: &Device,
    bytes: usize,
) -> Result<Vec<Program>, PtxError> {
    let symbols = Symbols::of(module)?;
    let mut budget = WORK.max(bytes);
    let mut programs = Vec::new();
    for kernel in module.functions.iter().filter(|f| f.entry) {
        if let Some(body) = &kernel.body {
            let frames = frames(&symbols, kernel, body, device)?;
            programs.push(program(module, kernel, &frames, globals, &mut budget)?);
        }
    }
    Ok(programs)
}

fn program(
    module: &ast::Module,
    kernel: &Function,
    frames: &Frames,
    globals: &HashMap<&str, Placed>,
    budget: &mut usize,
) -> Result<Program, PtxError> {
    let mut pool = Pool::default();
    let mut lowered = Vec::new();
    for index in 0..frames.functions.len() {
        lowered.push(lower(module, frames, globals, index, &mut pool, budget)?);
    }
    let (specials, special_rows) = pool.specials();
    let layout = Layout::new(frames, &lowered, special_rows);
    if layout.predicates > u32::from(u16::MAX) {
        let why = format!("`{}` and what it calls need more than {} predicates at once", kernel.name, u16::MAX);
        return Err(PtxError::new(kernel.line, why));
    }
    let (mut code, mut places, mut tracked) = (Vec::new(), Vec::new(), Watch::default());
    for (at, function) in lowered.into_iter().enumerate() {
        tracked.add(&function, layout.starts[at]);
        let Lowered { code: mut part, places: part_places, rows } = function;
        for inst in &mut part {
            layout.settle(inst, at, &|key| rows.row(key));
        }
        // Most kernels are one function, which need not be copied.
        if code.is_empty() {
            (code, places) = (part, part_places);
        } else {
            code.append(&mut part);
            places.extend(part_places);
        }
    }
    let needs = crate::program::Needs {
        shared_granule: code.iter().filter_map(|inst| width(&inst.op)).min().unwrap_or(4),
        registers: layout.registers.max(1),
        ..frames.needs.clone()
    };
    Ok(Program {
        name: kernel.name.clone(),
        code,
        places,
        rows: layout.rows,
        predicates: layout.predicates,
        constants: pool.constants,
        specials,
        tracked: tracked.sorted(),
        params: frames.params.clone(),
        needs,
    })
}

/// Where the functions' code and rows begin. A function's rows are above those of everyone who calls it.
struct Layout {
    starts: Vec<u32>,
    row_bases: Vec<u32>,
    pred_bases: Vec<u32>,
    rows: u32,
    predicates: u32,
    registers: u32,
}

impl Layout {
    fn new(frames: &Frames, lowered: &[Lowered], special_rows: u32) -> Layout {
        let count = lowered.len();
        let mut layout = Layout {
            starts: Vec::with_capacity(count),
            row_bases: Vec::with_capacity(count),
            pred_bases: Vec::with_capacity(count),
            rows: special_rows,
            predicates: 0,
            registers: 0,
        };
        let mut peaks: Vec<u32> = Vec::with_capacity(count);
        let mut start = 0;
        for (placing, function) in frames.functions.iter().zip(lowered) {
            // Callers come before callees, so theirs are known.
            let above = |of: &dyn Fn(usize) -> u32| placing.callers.iter().map(|&c| of(c)).max();
            let row = above(&|c| layout.row_bases[c] + lowered[c].rows.rows).unwrap_or(special_rows);
            let pred = above(&|c| layout.pred_bases[c].saturating_add(lowered[c].rows.predicates)).unwrap_or(0);
            peaks.push(above(&|c| peaks[c]).unwrap_or(0) + function.rows.peak);
            layout.rows = layout.rows.max(row + function.rows.rows);
            layout.predicates = layout.predicates.max(pred.saturating_add(function.rows.predicates));
            layout.row_bases.push(row);
            layout.pred_bases.push(pred);
            layout.starts.push(start);
            start += function.code.len() as u32;
        }
        layout.registers = peaks.into_iter().max().unwrap_or(0);
        layout
    }

    /// Gives an instruction of function `at` its final rows and positions.
    fn settle(&self, inst: &mut Inst, at: usize, row: &dyn Fn(Key) -> u32) {
        let start = self.starts[at];
        let (rows, preds) = (self.row_bases[at], self.pred_bases[at]);
        let predicate = |p: u16| (preds + row(Key::Pred(p))) as u16;
        let settle_pred = |pred: &mut Pred| match pred {
            Pred::Always => {}
            Pred::If(p) | Pred::Unless(p) => *p = predicate(*p),
        };
        settle_pred(&mut inst.guard);
        match &mut inst.op {
            Op::Call { target, link } => {
                *link = Reg(self.row_bases[*target as usize]);
                *target = self.starts[*target as usize];
                return;
            }
            Op::Return { link } => {
                *link = Reg(rows);
                return;
            }
            Op::Branch { target } => *target += start,
            Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(|t| *t += start),
            _ => {}
        }
        inst.op.registers(&mut |operand| match operand {
            Operand::Read(reg, _) | Operand::Write(reg, _) => match special_row(*reg) {
                Some(special) => *reg = Reg(special),
                None if reg.constant().is_some() => {}
                None => *reg = Reg(rows + row(Key::Rows(reg.0))),
            },
            Operand::ReadPred(pred) => settle_pred(pred),
            Operand::WritePred(p) => *p = predicate(*p),
        });
    }
}

/// The tracked registers of all functions.
#[derive(Default)]
struct Watch {
    count: u32,
    guards: Vec<(u32, Vec<(u32, String)>)>,
    reads: Vec<(u32, u32, String)>,
    writes: Vec<(u32, u32)>,
    sources: Vec<(u32, Vec<Option<u32>>)>,
}

impl Watch {
    fn add(&mut self, function: &Lowered, start: u32) {
        let doubts = &function.rows.doubts;
        let first = self.count;
        let shifted = |sources: &[Option<u32>]| sources.iter().map(|id| id.map(|id| first + id)).collect();
        self.sources.extend(doubts.sources.iter().map(|(at, sources)| (start + at, shifted(sources))));
        for watched in &doubts.watched {
            let id = self.count;
            self.count += 1;
            self.guards.extend(watched.guards.iter().map(|at| (start + at, vec![(id, watched.name.clone())])));
            self.reads.extend(watched.uses.iter().map(|at| (start + at, id, watched.name.clone())));
            self.writes.extend(watched.writes.iter().map(|at| (start + at, id)));
        }
    }

    fn sorted(mut self) -> Tracked {
        self.guards.sort();
        self.reads.sort();
        self.writes.sort_unstable();
        let reads = self.reads.chunk_by(|a, b| a.0 == b.0);
        let writes = self.writes.chunk_by(|a, b| a.0 == b.0);
        Tracked {
            count: self.count,
            guards: self.guards,
            reads: reads.map(|same| (same[0].0, same.iter().map(|r| (r.1, r.2.clone())).collect())).collect(),
            writes: writes.map(|same| (same[0].0, same.iter().map(|w| w.1).collect())).collect(),
            sources: self.sources,
        }
    }
}

/// Bytes of an access to shared memory, or what may be, as far as they matter: 1, 2 or 4.
fn width(op: &Op) -> Option<u32> {
    let (space, bytes) = match op {
        Op::Load(load) => (load.space, load.ty.bytes()),
        Op::Store(store) => (store.space, store.ty.bytes()),
        Op::Atom(atom) => (atom.space, atom.ty.bytes()),
        Op::CpAsync(copy) => (Space::Shared, copy.bytes),
        _ => return None,
    };
    matches!(space, Space::Shared | Space::Generic).then_some(bytes.min(4))
}
