//! One function: from statements to operations over virtual registers, then to rows.
//!
//! Instructions are decoded by `forms`; here is what needs the whole function: scopes, labels, guards, calls and ends.

use std::collections::HashMap;
use std::sync::Arc;

use super::PtxError;
use super::ast::{Block, Instruction, Module, Spot, Statement};
use super::call::{LINK, call, provided};
use super::flow::ends;
use super::forms::decode;
use super::frames::{Call, Frames};
use super::names::{Names, Register};
use super::rows::Rows;
use super::scope::{Frame, Placed, Pool};
use crate::fault::Place;
use crate::isa::{Alu, Inst, Op, Operand, Pred, Reg, WgmmaA, WgmmaSync};

/// Callers that a place names.
const MOST_CALLERS: usize = 16;
/// What loading costs, in memory and time, is counted in units of about 64 bytes: an operation has some of them, a
/// statement one, a target of an indexed branch one, and so many steps of the analysis.
const OPERATION: usize = 4;
/// Rows of constants that a kernel may have, 128 bytes each.
const CONSTANTS: usize = 1 << 16;
const STEPS: usize = 16;

/// A function's code: virtual registers, branch targets within it, calls by index.
pub(super) struct Lowered {
    pub code: Vec<Inst>,
    pub places: Vec<Place>,
    pub rows: Rows,
}

struct Lowering<'a> {
    module: &'a Module,
    frames: &'a Frames<'a>,
    frame: Frame<'a>,
    entry: bool,
    /// Places of the body's variables that are still to come.
    variables: std::slice::Iter<'a, Placed>,
    code: Vec<Inst>,
    places: Vec<Place>,
    source: Option<(Arc<str>, u32)>,
    callers: Arc<[(Arc<str>, u32)]>,
    /// Of places in functions that were inlined, where they were: the newest `.loc` for it.
    inlined: HashMap<Spot, Spot>,
    /// Of the function.
    line: u32,
    /// Units of work that the module may still make.
    budget: &'a mut usize,
}

/// Lowers function number `index` of `frames`, and takes what that costs from the `budget`.
pub(super) fn lower<'a>(
    module: &'a Module,
    frames: &'a Frames<'a>,
    globals: &'a HashMap<&'a str, Placed>,
    index: usize,
    pool: &'a mut Pool,
    budget: &'a mut usize,
) -> Result<Lowered, PtxError> {
    let placing = &frames.functions[index];
    let function = placing.function;
    let at = |why| PtxError::new(function.line, why);
    let mut lowering = Lowering {
        module,
        frames,
        frame: Frame::new(pool, module, [&frames.shared, globals]),
        entry: function.entry,
        variables: placing.variables.iter(),
        code: Vec::new(),
        places: Vec::new(),
        source: None,
        callers: Arc::default(),
        inlined: HashMap::new(),
        line: function.line,
        budget,
    };
    let returns = function.returns.iter().zip(&placing.returns);
    for (variable, &placed) in returns.chain(function.params.iter().zip(&placing.params)) {
        lowering.frame.declare_variable(&variable.name, placed).map_err(at)?;
    }
    if let Some(body) = &function.body {
        lowering.block(body)?;
    }
    lowering.finish();
    hold(&mut lowering.code);
    // Row 0 of a callee is where each lane goes back to.
    let reserved = if function.entry { 0 } else { 1 };
    let rows = Rows::new(&mut lowering.code, &lowering.frame, reserved).map_err(at)?;
    lowering.spend(rows.steps as usize / STEPS).map_err(at)?;
    lowering.code.shrink_to_fit();
    lowering.places.shrink_to_fit();
    Ok(Lowered { code: lowering.code, places: lowering.places, rows })
}

impl<'a> Lowering<'a> {
    fn block(&mut self, block: &'a Block) -> Result<(), PtxError> {
        self.frame.enter(block)?;
        for statement in &block.statements {
            self.statement(statement)?;
        }
        self.frame.leave();
        Ok(())
    }

    fn spend(&mut self, units: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(units);
        *self.budget = left.ok_or(
            "the kernels of this module are too large: above a million instructions, and one for four bytes of the text",
        )?;
        Ok(())
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<(), PtxError> {
        self.spend(1).map_err(|why| PtxError::new(self.line, why))?;
        let (line, done) = match statement {
            Statement::Registers { ty, names, line } => (*line, self.frame.declare(ty, names)),
            Statement::Variable(variable) => {
                let declared = match self.variables.next() {
                    Some(&placed) => self.frame.declare_variable(&variable.name, placed),
                    None => Err(format!("`{}` has no place", variable.name)),
                };
                (variable.line, declared)
            }
            Statement::Label { name, .. } => {
                self.frame.place_label(name, self.code.len() as u32);
                return Ok(());
            }
            Statement::Loc { at, inlined_at } => {
                self.locate(*at, *inlined_at);
                return Ok(());
            }
            Statement::BranchTargets { .. } | Statement::CallPrototype { .. } => return Ok(()),
            Statement::Instruction(inst) => (inst.line, self.instruction(inst)),
            Statement::Block(inner) => return self.block(inner),
        };
        done.map_err(|why| PtxError::new(line, why))
    }

    /// What follows comes from `at`. nvcc writes the `.loc` of an outer function before those that were inlined into it.
    fn locate(&mut self, at: Spot, inlined_at: Option<Spot>) {
        match inlined_at {
            Some(caller) => self.inlined.insert(at, caller),
            None => self.inlined.remove(&at),
        };
        self.source = self.named(at);
        // Text that is not nvcc's may name a ring of callers.
        let callers = std::iter::successors(inlined_at, |spot| self.inlined.get(spot).copied()).take(MOST_CALLERS);
        self.callers = callers.filter_map(|spot| self.named(spot)).collect();
    }

    fn named(&self, spot: Spot) -> Option<(Arc<str>, u32)> {
        Some((self.module.files.get(&spot.file)?.clone(), spot.line))
    }

    fn instruction(&mut self, inst: &'a Instruction) -> Result<(), String> {
        let guard = self.guard(inst)?;
        let ops = match inst.opcode.as_str() {
            "call" => self.call(inst)?,
            "ret" if !self.entry => vec![Op::Return { link: LINK }],
            "ret" | "exit" => vec![Op::Exit],
            _ => decode(inst, &mut self.frame)?,
        };
        self.push(guard, ops, inst)
    }

    fn guard(&self, inst: &Instruction) -> Result<Pred, String> {
        let Some((name, negated)) = &inst.guard else { return Ok(Pred::Always) };
        match self.frame.register(name) {
            Some(Register::Predicate(p)) if *negated => Ok(Pred::Unless(p)),
            Some(Register::Predicate(p)) => Ok(Pred::If(p)),
            _ => Err(format!("the guard `{name}` is not a predicate that is declared here")),
        }
    }

    fn call(&mut self, inst: &'a Instruction) -> Result<Vec<Op>, String> {
        if let Some(ops) = provided(inst, &mut self.frame)? {
            return Ok(ops);
        }
        let name = Call::of(inst)?.callee;
        match self.frames.callee(name) {
            Some(callee) => call(inst, self.frames, callee, &mut self.frame),
            None => Err(format!("there is no function `{name}` in this module")),
        }
    }

    fn push(&mut self, mut guard: Pred, mut ops: Vec<Op>, inst: &Instruction) -> Result<(), String> {
        if let Pred::If(p) | Pred::Unless(p) = guard
            && let Some((_, first)) = ops.split_last_mut()
            && first.iter_mut().any(|op| writes(op, p))
        {
            // The guard decides about the whole instruction, whatever its parts make of the predicate.
            let kept = self.frame.temporary_predicate()?;
            self.emit(Pred::Always, Op::Alu(Alu::MovPred { d: kept, a: guard }), inst.line, &inst.text);
            guard = Pred::If(kept);
        }
        self.spend(ops.len() * OPERATION)?;
        if self.frame.constants() > CONSTANTS {
            return Err(format!("the constants of a kernel need more than {CONSTANTS} rows of 32 words"));
        }
        for op in ops {
            if let Op::BranchIndexed { targets, .. } = &op {
                self.spend(targets.len())?;
            }
            self.emit(guard, op, inst.line, &inst.text);
        }
        Ok(())
    }

    fn emit(&mut self, guard: Pred, op: Op, line: u32, text: &Arc<str>) {
        self.code.push(Inst { guard, op });
        self.places.push(Place {
            ptx: line,
            text: text.clone(),
            source: self.source.clone(),
            callers: self.callers.clone(),
        });
    }

    /// Ends the function, if its last instruction or a label behind it does not, and resolves the labels.
    fn finish(&mut self) {
        let end = if self.entry { Op::Exit } else { Op::Return { link: LINK } };
        // Labels behind the last instruction stand where the next would be.
        self.emit(Pred::Always, end, self.line, &Arc::from("ret"));
        let frame = &self.frame;
        let mut used = self.code.len() < 2 || !ends(&self.code[self.code.len() - 2]);
        let last = self.code.len() as u32 - 1;
        for inst in &mut self.code {
            let targets = match &mut inst.op {
                Op::Branch { target } => std::slice::from_mut(target),
                Op::BranchIndexed { targets, .. } => &mut targets[..],
                _ => continue,
            };
            for target in targets {
                *target = frame.position(*target);
                used |= *target == last;
            }
        }
        if !used {
            self.code.pop();
            self.places.pop();
        }
    }
}

/// Tells every wait of `wgmma` which registers the function's products use, so that nobody else gets their rows before.
fn hold(code: &mut [Inst]) {
    let mut used: Vec<Reg> = Vec::new();
    for inst in code.iter() {
        if let Op::Wgmma(wgmma) = &inst.op {
            used.extend(&wgmma.d);
            if let WgmmaA::Registers(a) = &wgmma.a {
                used.extend(a.iter().filter(|reg| reg.constant().is_none()));
            }
        }
    }
    used.sort_unstable();
    used.dedup();
    for inst in code {
        if let Op::WgmmaSync(WgmmaSync::Wait { held, .. }) = &mut inst.op {
            *held = used.as_slice().into();
        }
    }
}

fn writes(op: &mut Op, predicate: u16) -> bool {
    let mut found = false;
    op.registers(&mut |operand| {
        if let Operand::WritePred(p) = operand {
            found |= *p == predicate;
        }
    });
    found
}
