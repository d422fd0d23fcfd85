//! Who calls whom, and where their variables lie: shared memory of the kernel, local memory of every function.
//!
//! Frames are static, for nothing is recursive: a function's local memory begins above that of everyone who calls it.
//! Nested scopes that follow one another use the same bytes.

use std::collections::{HashMap, HashSet};

use super::PtxError;
use super::ast::{Block, Function, Instruction, Module, Operand, Statement, VarSpace, Variable};
use super::scope::Placed;
use crate::device::Device;
use crate::isa::Space;
use crate::program::{Needs, Param};

/// Functions that the driver provides.
pub(super) const PRINT: &str = "vprintf";
pub(super) const ASSERT: &str = "__assertfail";

/// Bytes of local memory of a thread (CUDA programming guide, technical specifications).
const LARGEST_LOCAL: u64 = 512 << 10;
/// Bytes of kernel parameters (CUDA 12.1 and later).
const LARGEST_PARAMS: u64 = 32764;
/// Calls within one another.
const CALL_DEPTH: usize = 256;
/// What every frame is aligned to.
const FRAME_ALIGN: u64 = 16;

/// The parts of a `call`.
pub(super) struct Call<'a> {
    pub returns: &'a [Operand],
    pub callee: &'a str,
    pub arguments: &'a [Operand],
}

impl<'a> Call<'a> {
    /// Reads `call (returns), callee, (arguments)`, where either list may be missing.
    pub fn of(inst: &'a Instruction) -> Result<Self, String> {
        let (returns, rest) = match &inst.operands[..] {
            [Operand::List(returns), rest @ ..] => (&returns[..], rest),
            rest => (&[][..], rest),
        };
        match rest {
            [Operand::Name(callee)] => Ok(Call { returns, callee, arguments: &[] }),
            [Operand::Name(callee), Operand::List(arguments)] => Ok(Call { returns, callee, arguments }),
            _ => Err("only direct calls are known here: `call (results), function, (arguments)`".into()),
        }
    }
}

/// A function of the kernel with the places of its variables.
pub(super) struct Placing<'a> {
    pub function: &'a Function,
    pub returns: Vec<Placed>,
    pub params: Vec<Placed>,
    /// Of variables in the body, in the order in which they are written.
    pub variables: Vec<Placed>,
    /// Functions that call this one.
    pub callers: Vec<usize>,
}

/// A kernel and everything it calls, callers before callees; the kernel is the first.
pub(super) struct Frames<'a> {
    pub functions: Vec<Placing<'a>>,
    /// By name, the index in `functions`.
    index: HashMap<&'a str, usize>,
    /// Module-scope variables in shared memory.
    pub shared: HashMap<&'a str, Placed>,
    pub params: Vec<Param>,
    pub needs: Needs,
    /// Other names of functions.
    aliases: HashMap<&'a str, &'a str>,
}

impl Frames<'_> {
    /// The index of a function by its name or an alias.
    pub fn callee(&self, name: &str) -> Option<usize> {
        self.index.get(self.aliases.get(name).copied().unwrap_or(name)).copied()
    }
}

/// A module's functions by name; definitions win over declarations.
pub(super) fn by_name(module: &Module) -> Result<HashMap<&str, &Function>, PtxError> {
    let mut functions: HashMap<&str, &Function> = HashMap::new();
    for function in &module.functions {
        match functions.get(function.name.as_str()) {
            Some(known) if known.body.is_some() && function.body.is_some() => {
                let why = format!("`{}` is defined twice", function.name);
                return Err(PtxError::new(function.line, why));
            }
            Some(known) if known.body.is_some() => {}
            _ => drop(functions.insert(&function.name, function)),
        }
    }
    for (alias, of) in &module.aliases {
        let Some(&function) = functions.get(of.as_str()) else {
            return Err(PtxError::new(0, format!("`.alias {alias}` is of `{of}`, which is not here")));
        };
        functions.insert(alias, function);
    }
    Ok(functions)
}

/// What a body mentions.
#[derive(Default)]
struct Survey<'a> {
    calls: Vec<(&'a str, u32)>,
    names: HashSet<&'a str>,
}

impl<'a> Survey<'a> {
    fn block(&mut self, block: &'a Block) -> Result<(), PtxError> {
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Instruction(inst) => {
                    if inst.opcode == "call" {
                        let call = Call::of(inst).map_err(|why| PtxError::new(inst.line, why))?;
                        self.calls.push((call.callee, inst.line));
                    }
                    inst.operands.iter().for_each(|o| self.operand(o));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn operand(&mut self, operand: &'a Operand) {
        match operand {
            Operand::Name(name) | Operand::NameOffset(name, _) => drop(self.names.insert(name)),
            Operand::Memory { base, rest, .. } => {
                self.operand(base);
                rest.iter().for_each(|o| self.operand(o));
            }
            Operand::Vector(items) | Operand::List(items) => items.iter().for_each(|o| self.operand(o)),
            _ => {}
        }
    }
}

/// The functions that a kernel reaches, found depth first.
struct Reach<'m, 'a> {
    known: &'m HashMap<&'a str, &'a Function>,
    /// Function names on the way from the kernel to here.
    path: Vec<&'a str>,
    /// Callees before callers.
    done: Vec<(&'a Function, Survey<'a>)>,
    seen: HashSet<&'a str>,
}

impl<'a> Reach<'_, 'a> {
    fn visit(&mut self, function: &'a Function, body: &'a Block) -> Result<(), PtxError> {
        self.path.push(&function.name);
        let mut survey = Survey::default();
        survey.block(body)?;
        for (name, line) in &mut survey.calls {
            let refuse = |why| Err(PtxError::new(*line, why));
            if matches!(*name, PRINT | ASSERT) {
                continue;
            }
            let Some(&callee) = self.known.get(name) else {
                return refuse(format!("there is no function `{name}` in this module"));
            };
            *name = &callee.name;
            if self.path.contains(name) {
                return refuse(format!(
                    "`{}` calls `{name}`, which leads back to it: recursion is refused",
                    function.name
                ));
            }
            if self.path.len() == CALL_DEPTH {
                return refuse(format!("calls nest deeper than {CALL_DEPTH} functions"));
            }
            match &callee.body {
                _ if self.seen.contains(name) => {}
                _ if callee.entry => return refuse(format!("`{name}` is a kernel: it cannot be called")),
                Some(body) => self.visit(callee, body)?,
                None => {
                    return refuse(format!(
                        "`{name}` has no body: of the driver's functions there are {PRINT} and {ASSERT}"
                    ));
                }
            }
        }
        self.path.pop();
        self.seen.insert(&function.name);
        self.done.push((function, survey));
        Ok(())
    }
}

/// Places all variables of a kernel.
pub(super) fn frames<'a>(
    module: &'a Module,
    known: &HashMap<&'a str, &'a Function>,
    kernel: &'a Function,
    body: &'a Block,
    device: &Device,
) -> Result<Frames<'a>, PtxError> {
    let mut reach = Reach { known, path: Vec::new(), done: Vec::new(), seen: HashSet::new() };
    reach.visit(kernel, body)?;
    let reached: Vec<_> = reach.done.into_iter().rev().collect();
    let index: HashMap<&str, usize> = reached.iter().enumerate().map(|(i, (f, _))| (f.name.as_str(), i)).collect();
    let mut shared = Shared::default();
    let module_shared = shared.module_scope(module, &reached)?;

    let mut functions: Vec<Placing> = Vec::new();
    let mut bases = vec![0u64; reached.len()];
    let mut local = 0;
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); reached.len()];
    for (at, (function, survey)) in reached.iter().enumerate() {
        let mut layout = Layout { local: bases[at], top: bases[at], shared: &mut shared, variables: Vec::new() };
        let [returns, params] = if function.entry {
            [Vec::new(), Vec::new()]
        } else {
            [layout.formals(&function.returns)?, layout.formals(&function.params)?]
        };
        if let Some(body) = &function.body {
            layout.block(body)?;
        }
        let Layout { top, variables, .. } = layout;
        local = local.max(top);
        for callee in survey.calls.iter().filter_map(|(name, _)| index.get(name)) {
            bases[*callee] = bases[*callee].max(top.next_multiple_of(FRAME_ALIGN));
            callers[*callee].push(at);
        }
        let callers = std::mem::take(&mut callers[at]);
        functions.push(Placing { function, returns, params, variables, callers });
    }
    functions[0].params = parameters(kernel)?;
    let params = kernel.params.iter().zip(&functions[0].params).map(|(v, placed)| Param {
        offset: placed.address as u32,
        bytes: placed.bytes as u32,
        align: v.align,
    });
    let params = params.collect();
    let needs = Needs { local: local as u32, ..shared.needs(kernel, device)? };
    let aliases = module.aliases.iter().map(|(alias, of)| (alias.as_str(), of.as_str())).collect();
    let mut frames = Frames { aliases, functions, index, shared: module_shared, params, needs };
    shared.place_dynamic(&mut frames);
    Ok(frames)
}

/// Kernel parameters, each at its natural place in the launch's bytes.
fn parameters(kernel: &Function) -> Result<Vec<Placed>, PtxError> {
    let mut end = 0u64;
    let mut places = Vec::new();
    for param in &kernel.params {
        let address = end.next_multiple_of(param.align.into());
        end = address.saturating_add(param.bytes());
        if end > LARGEST_PARAMS {
            let why = format!("the parameters of `{}` have more than {LARGEST_PARAMS} bytes", kernel.name);
            return Err(PtxError::new(param.line, why));
        }
        places.push(Placed { space: Space::Param, address, bytes: param.bytes() });
    }
    Ok(places)
}

/// A block's shared memory as it is laid out: static variables, then the dynamic ones, all at one address.
#[derive(Default)]
struct Shared {
    end: u64,
    dynamic_align: u32,
}

/// Stands for the address of dynamic shared memory until the static part is complete.
const DYNAMIC: u64 = u64::MAX;

impl Shared {
    /// Variables of the module that one of the functions names.
    fn module_scope<'a>(
        &mut self,
        module: &'a Module,
        reached: &[(&Function, Survey)],
    ) -> Result<HashMap<&'a str, Placed>, PtxError> {
        let used = |v: &&Variable| reached.iter().any(|(_, survey)| survey.names.contains(v.name.as_str()));
        let shared = module.variables.iter().filter(|v| v.space == VarSpace::Shared);
        shared.filter(used).map(|v| Ok((v.name.as_str(), self.place(v)?))).collect()
    }

    fn place(&mut self, variable: &Variable) -> Result<Placed, PtxError> {
        let bytes = variable.bytes();
        if variable.external {
            self.dynamic_align = self.dynamic_align.max(variable.align);
            return Ok(Placed { space: Space::Shared, address: DYNAMIC, bytes });
        }
        let address = self.end.next_multiple_of(variable.align.into());
        self.end = address.saturating_add(bytes);
        if self.end > u32::MAX.into() {
            let why = format!("`{}` does not fit into shared memory", variable.name);
            return Err(PtxError::new(variable.line, why));
        }
        Ok(Placed { space: Space::Shared, address, bytes })
    }

    fn needs(&self, kernel: &Function, device: &Device) -> Result<Needs, PtxError> {
        let limit = device.shared_per_block;
        if self.end > limit.into() {
            let why = format!("`{}` has {} bytes of static shared memory, of {limit} there are", kernel.name, self.end);
            return Err(PtxError::new(kernel.line, why));
        }
        let several =
            |(name, counts): &(String, Vec<u32>)| name == "reqnctapercluster" && counts.iter().any(|c| *c != 1);
        if kernel.directives.iter().any(several) {
            let why = format!("`{}` wants clusters of more than one block, which are not supported", kernel.name);
            return Err(PtxError::new(kernel.line, why));
        }
        let shape = |name| {
            let (_, counts) = kernel.directives.iter().find(|(directive, _)| directive == name)?;
            Some([0, 1, 2].map(|d| counts.get(d).copied().unwrap_or(1)))
        };
        Ok(Needs {
            static_shared: self.end as u32,
            dynamic_align: self.dynamic_align.max(1),
            max_threads: shape("maxntid"),
            required_threads: shape("reqntid"),
            ..Needs::default()
        })
    }

    /// Dynamic shared memory begins behind the static part.
    fn place_dynamic(&self, frames: &mut Frames) {
        let address = self.end.next_multiple_of(self.dynamic_align.max(1).into());
        let bodies = frames.functions.iter_mut().flat_map(|f| &mut f.variables);
        for placed in bodies.chain(frames.shared.values_mut()) {
            if placed.space == Space::Shared && placed.address == DYNAMIC {
                placed.address = address;
            }
        }
    }
}

/// One function's variables.
struct Layout<'s> {
    /// Where the next local variable goes, and the highest that this ever was.
    local: u64,
    top: u64,
    shared: &'s mut Shared,
    variables: Vec<Placed>,
}

impl Layout<'_> {
    fn formals(&mut self, variables: &[Variable]) -> Result<Vec<Placed>, PtxError> {
        variables.iter().map(|v| self.local(v)).collect()
    }

    fn local(&mut self, variable: &Variable) -> Result<Placed, PtxError> {
        let (address, bytes) = (self.local.next_multiple_of(variable.align.into()), variable.bytes());
        self.local = address.saturating_add(bytes);
        self.top = self.top.max(self.local);
        if self.top > LARGEST_LOCAL {
            let why = format!("with `{}` a thread needs more than 512 KiB of local memory", variable.name);
            return Err(PtxError::new(variable.line, why));
        }
        Ok(Placed { space: Space::Local, address, bytes })
    }

    fn block(&mut self, block: &Block) -> Result<(), PtxError> {
        let outer = self.local;
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Variable(variable) => {
                    let placed = match variable.space {
                        VarSpace::Shared => self.shared.place(variable)?,
                        VarSpace::Local | VarSpace::Param => self.local(variable)?,
                        VarSpace::Global | VarSpace::Const => {
                            let why = format!("`{}` belongs outside of the function", variable.name);
                            return Err(PtxError::new(variable.line, why));
                        }
                    };
                    self.variables.push(placed);
                }
                _ => {}
            }
        }
        self.local = outer;
        Ok(())
    }
}
