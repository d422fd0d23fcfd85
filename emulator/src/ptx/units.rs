//! Translation units that follow each other in one text become one module, as a linker makes them.
//!
//! Every `.version` begins a unit. Names that a unit keeps to itself get its number where another unit has them too; of
//! `.weak` definitions the first counts. What is defined twice beyond that, or nowhere, is refused where it is used.

use super::ast::{Block, Function, Init, Linkage, Module, Operand, Statement, Variable};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One module of all units.
pub(super) fn merge(mut units: Vec<Module>) -> Module {
    if units.len() < 2 {
        return units.pop().unwrap_or_default();
    }
    let mut mentioned: HashMap<String, u32> = HashMap::new();
    for unit in &units {
        names(unit).into_iter().for_each(|(name, _)| *mentioned.entry(name.to_owned()).or_default() += 1);
    }
    let mut whole = Module::default();
    for (number, mut unit) in units.into_iter().enumerate() {
        let clashes = names(&unit).into_iter().filter(|(name, own)| *own && mentioned[*name] > 1);
        let new = clashes.map(|(name, _)| (name.to_owned(), format!("{name}@{number}"))).collect();
        let files = unit.files.keys().zip(whole.files.len() as u32..).map(|(old, new)| (*old, new)).collect();
        Renaming { new, files }.module(&mut unit);
        whole.append(unit);
    }
    whole
}

/// The names at a unit's module scope, and whether the unit keeps them to itself. A kernel's is everyone's.
fn names(unit: &Module) -> BTreeMap<&str, bool> {
    let functions = unit.functions.iter().map(|f| (f.name.as_str(), f.linkage == Linkage::Own && !f.entry));
    let variables = unit.variables.iter().map(|v| (v.name.as_str(), v.linkage == Linkage::Own));
    functions.chain(variables).collect()
}

impl Module {
    /// Takes in what another unit has.
    fn append(&mut self, unit: Module) {
        self.version = self.version.max(unit.version);
        if unit.target >= self.target {
            let same = unit.target == self.target;
            self.target_suffix = unit.target_suffix.or(self.target_suffix.filter(|_| same));
            self.target = unit.target;
        }
        let functions: HashSet<&str> = self.functions.iter().filter(|f| f.body.is_some()).map(|f| &*f.name).collect();
        let variables: HashSet<&str> = self.variables.iter().map(|v| &*v.name).collect();
        let weaker = |f: &Function| f.linkage == Linkage::Weak && functions.contains(&*f.name);
        let known = |v: &Variable| v.linkage == Linkage::Weak && variables.contains(&*v.name);
        let new_functions: Vec<Function> = unit.functions.into_iter().filter(|f| !weaker(f)).collect();
        let new_variables: Vec<Variable> = unit.variables.into_iter().filter(|v| !known(v)).collect();
        self.functions.extend(new_functions);
        self.variables.extend(new_variables);
        self.files.extend(unit.files);
        self.aliases.extend(unit.aliases);
    }
}

/// New names, and new numbers of files.
struct Renaming {
    new: HashMap<String, String>,
    files: HashMap<u32, u32>,
}

impl Renaming {
    fn module(&self, unit: &mut Module) {
        unit.files = std::mem::take(&mut unit.files).into_iter().map(|(n, path)| (self.files[&n], path)).collect();
        unit.aliases.iter_mut().for_each(|(alias, of)| [alias, of].into_iter().for_each(|name| self.name(name)));
        for variable in &mut unit.variables {
            self.name(&mut variable.name);
            for init in &mut variable.init {
                if let Init::Address { name, .. } = init {
                    self.name(name);
                }
            }
        }
        for function in &mut unit.functions {
            self.name(&mut function.name);
            if let Some(body) = &mut function.body {
                let hidden = function.params.iter().chain(&function.returns).map(|v| v.name.clone()).collect();
                self.block(body, &hidden);
            }
        }
    }

    fn name(&self, name: &mut String) {
        if let Some(new) = self.new.get(name.as_str()) {
            name.clone_from(new);
        }
    }

    /// `hidden` are names that mean something else where the block is.
    fn block(&self, block: &mut Block, hidden: &HashSet<String>) {
        let mut hidden = hidden.clone();
        for statement in &block.statements {
            match statement {
                Statement::Registers { names, .. } => hidden.extend(names.iter().map(|n| n.name.clone())),
                Statement::Variable(variable) => drop(hidden.insert(variable.name.clone())),
                Statement::Label { name, .. } => drop(hidden.insert(name.clone())),
                _ => {}
            }
        }
        hidden.retain(|name| self.new.contains_key(name));
        for statement in &mut block.statements {
            match statement {
                Statement::Loc { at, inlined_at } => std::iter::once(at)
                    .chain(inlined_at)
                    .for_each(|spot| spot.file = self.files.get(&spot.file).copied().unwrap_or(u32::MAX)),
                Statement::Instruction(inst) => inst.operands.iter_mut().for_each(|o| self.operand(o, &hidden)),
                Statement::Block(inner) => self.block(inner, &hidden),
                _ => {}
            }
        }
    }

    fn operand(&self, operand: &mut Operand, hidden: &HashSet<String>) {
        match operand {
            Operand::Name(name) | Operand::NameOffset(name, _) if !hidden.contains(name) => self.name(name),
            Operand::Memory { base, rest, .. } => {
                self.operand(base, hidden);
                rest.iter_mut().for_each(|o| self.operand(o, hidden));
            }
            Operand::Vector(items) | Operand::List(items) => items.iter_mut().for_each(|o| self.operand(o, hidden)),
            _ => {}
        }
    }
}
