//! Registers that may hold nothing, and what is made of them.
//!
//! To read a register before it is written is no fault yet: compilers shuffle, add and select values that only some
//! lanes have, and use the results where they are good. So a result is as good as what it was made of, which is followed
//! at run time. A use is what goes on from there: an address, a value for memory, a guard, a vote or a matrix. Local
//! memory is no use, because structures are copied there with their padding; what it holds is not followed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::scope::Frame;
use super::variables::{Key, Variable};
use crate::isa::{Alu, Inst, Op, Operand, Pred, Space};

/// A variable that is watched at run time.
pub(super) struct Watched {
    pub name: String,
    /// Positions where it is a guard, of other uses, and of all writes.
    pub guards: Vec<u32>,
    pub uses: Vec<u32>,
    pub writes: Vec<u32>,
}

/// What to watch; nothing if there is no use.
#[derive(Default)]
pub(super) struct Doubts {
    pub watched: Vec<Watched>,
    /// By position: the watched variables among the sources, in the order of `Op::registers`.
    pub sources: Vec<(u32, Vec<Option<u32>>)>,
}

/// Reads that may find nothing, by variable.
type Reads = BTreeMap<usize, BTreeSet<u32>>;

impl Doubts {
    /// Follows reads that a path reaches before any write (variable, positions) to their uses.
    pub fn new(code: &mut [Inst], variables: &[Variable], frame: &Frame, unproven: Vec<(usize, Vec<u32>)>) -> Doubts {
        let index: HashMap<Key, usize> = variables.iter().enumerate().map(|(i, v)| (v.key, i)).collect();
        let (reads, made) = spread(code, variables, frame, &index, unproven);
        let watched: Vec<Watched> = reads
            .iter()
            .map(|(&at, reads)| {
                let variable = &variables[at];
                let places = |holds: &dyn Fn(&Inst) -> bool| -> Vec<u32> {
                    reads.iter().copied().filter(|&at| holds(&code[at as usize])).collect()
                };
                Watched {
                    name: name(at, variables, frame, &made),
                    guards: places(&|inst| predicate(inst.guard) == Some(variable.key)),
                    uses: places(&|inst| uses(inst, variable.key)),
                    writes: variable.writes(),
                }
            })
            .collect();
        if watched.iter().all(|w| w.guards.is_empty() && w.uses.is_empty()) {
            return Doubts::default();
        }
        let number: HashMap<usize, u32> = reads.keys().zip(0..).map(|(&variable, n)| (variable, n)).collect();
        let mut sources = Vec::new();
        for at in reads.values().flatten().copied().collect::<BTreeSet<u32>>() {
            let op = &mut code[at as usize].op;
            if !makes(op) || parts(op) {
                continue;
            }
            let mut here = Vec::new();
            operands(op, frame, &mut |key, read| {
                let doubtful = |v: &&usize| reads.get(v).is_some_and(|reads| reads.contains(&at));
                let watched = key.and_then(|key| index.get(&key)).filter(doubtful).map(|v| number[v]);
                here.extend(read.then_some(watched));
            });
            sources.push((at, here));
        }
        Doubts { watched, sources }
    }
}

/// Adds what is made of doubtful values: all reads of it. Beside that, what each is made of.
fn spread(
    code: &mut [Inst],
    variables: &[Variable],
    frame: &Frame,
    index: &HashMap<Key, usize>,
    mut open: Vec<(usize, Vec<u32>)>,
) -> (Reads, HashMap<usize, usize>) {
    let mut reads = Reads::new();
    let mut made = HashMap::new();
    while let Some((variable, at)) = open.pop() {
        let known = reads.entry(variable).or_default();
        for at in at {
            let op = &mut code[at as usize].op;
            if !known.insert(at) || !makes(op) || parts(op) {
                continue;
            }
            operands(op, frame, &mut |key, read| {
                let Some(&result) = key.and_then(|key| index.get(&key)).filter(|_| !read) else { return };
                if let Entry::Vacant(source) = made.entry(result) {
                    source.insert(variable);
                    open.push((result, variables[result].reads()));
                }
            });
        }
    }
    (reads, made)
}

/// A variable for reports, with the one at the beginning of what it is made of.
fn name(variable: usize, variables: &[Variable], frame: &Frame, made: &HashMap<usize, usize>) -> String {
    let mut passed = HashSet::from([variable]);
    let sources = std::iter::successors(Some(variable), |at| made.get(at).copied().filter(|next| passed.insert(*next)));
    let (name, first) = (variables[variable].name(frame), sources.last().map(|first| variables[first].name(frame)));
    first.filter(|first| *first != name).map_or(name.clone(), |first| format!("{name}, made of {first},"))
}

/// Shows the registers and predicates of an operation, without its guard; None for constants.
fn operands(op: &mut Op, frame: &Frame, visit: &mut dyn FnMut(Option<Key>, bool)) {
    op.registers(&mut |operand| match operand {
        Operand::Read(reg, _) => visit(frame.owner(*reg).map(|owner| Key::Rows(owner.first)), true),
        Operand::Write(reg, _) => visit(frame.owner(*reg).map(|owner| Key::Rows(owner.first)), false),
        Operand::ReadPred(pred) => visit(predicate(*pred), true),
        Operand::WritePred(p) => visit(Some(Key::Pred(*p)), false),
    });
}

fn predicate(pred: Pred) -> Option<Key> {
    match pred {
        Pred::Always => None,
        Pred::If(p) | Pred::Unless(p) => Some(Key::Pred(p)),
    }
}

/// Whether an operation makes values of its sources and does nothing else.
fn makes(op: &Op) -> bool {
    matches!(op, Op::Alu(_) | Op::Shfl(_))
}

/// Whether an operation takes parts of its sources: of a register that is good in part, compilers take that part, so what
/// is taken counts as good.
fn parts(op: &Op) -> bool {
    matches!(op, Op::Alu(Alu::Unpack { .. } | Alu::Prmt { .. }))
}

/// Whether an instruction uses a variable that it reads, other than as its guard.
fn uses(inst: &Inst, key: Key) -> bool {
    let kept = matches!(&inst.op, Op::Store(store) if store.space == Space::Local) && matches!(key, Key::Rows(_));
    predicate(inst.guard) != Some(key) && !makes(&inst.op) && !kept
}
