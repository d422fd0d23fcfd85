//! Names while a function is lowered: registers, variables and labels of nested scopes, and the rows of constants.
//!
//! Registers get virtual rows here: a 64-bit register has two, as it will have in the file. A range such as
//! `%r<1000>` is one entry, whatever its count.

use std::collections::HashMap;

use super::PtxError;
use super::ast::{Block, Module, RegName, Statement};
use super::lex::brief;
use super::names::{Names, Register};
use crate::isa::{Reg, Space, Ty};
use crate::program::Special;
use crate::registers::{Lanes, Row, WARP};

/// Registers that a function may declare.
const REGISTERS: u32 = 1_000_000;
/// Virtual rows from here are special registers of the kernel, not of a function.
const SPECIALS: u32 = 1 << 30;

/// A variable: its space, its address there, its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub space: Space,
    pub address: u64,
    pub bytes: u64,
}

/// The rows that all functions of a kernel share.
#[derive(Default)]
pub(super) struct Pool {
    pub constants: Vec<Row>,
    known: HashMap<(u32, u128), Reg>,
    lanes: HashMap<Lanes<u32>, Reg>,
    specials: Vec<(Special, u32)>,
    special_rows: u32,
}

impl Pool {
    fn constant(&mut self, ty: Ty, bits: u128) -> Reg {
        let bits = bits & (u128::MAX >> (128 - ty.bits()));
        let rows = ty.rows();
        let constants = &mut self.constants;
        *self.known.entry((rows, bits)).or_insert_with(|| {
            let word = |at: usize| (bits >> (32 * (at % rows as usize))) as u32;
            let first = constants.len();
            let row = |r: usize| Row(std::array::from_fn(|lane| word(r * WARP + lane)));
            constants.extend((0..rows as usize).map(row));
            Reg::of_constant(first)
        })
    }

    /// Rows of constants so far.
    pub fn constants(&self) -> usize {
        self.constants.len()
    }

    fn lanes(&mut self, values: Lanes<u32>) -> Reg {
        let constants = &mut self.constants;
        *self.lanes.entry(values).or_insert_with(|| {
            constants.push(Row(values));
            Reg::of_constant(constants.len() - 1)
        })
    }

    fn special(&mut self, special: Special) -> Reg {
        let found = self.specials.iter().find(|(s, _)| *s == special).map(|(_, row)| *row);
        let row = found.unwrap_or_else(|| {
            let row = self.special_rows;
            self.special_rows += if special == Special::GridId { 2 } else { 1 };
            self.specials.push((special, row));
            row
        });
        Reg(SPECIALS + row)
    }

    /// The special registers with their final rows, which are the first of the file, and the number of these rows.
    pub fn specials(&self) -> (Vec<(Special, Reg)>, u32) {
        (self.specials.iter().map(|&(special, row)| (special, Reg(row))).collect(), self.special_rows)
    }
}

/// The final row of a virtual register that is a special one.
pub(super) fn special_row(reg: Reg) -> Option<u32> {
    reg.0.checked_sub(SPECIALS).filter(|_| reg.constant().is_none())
}

/// Virtual registers declared together.
struct Range {
    first: u32,
    /// Rows of each.
    rows: u32,
    count: u32,
    name: String,
    numbered: bool,
    temporary: bool,
}

/// One virtual register, as the analysis sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Virtual {
    pub first: u32,
    pub rows: u32,
    /// Made for one instruction: written and read only there.
    pub temporary: bool,
}

#[derive(Clone, Copy)]
enum Declared {
    Values { first: u32, ty: Ty },
    Predicates { first: u32 },
}

#[derive(Default)]
struct Scope<'a> {
    single: HashMap<&'a str, Declared>,
    ranges: HashMap<&'a str, (Declared, u32)>,
    variables: HashMap<&'a str, Placed>,
    labels: HashMap<&'a str, u32>,
    targets: HashMap<&'a str, &'a [String]>,
}

/// What names mean at one place of a function.
pub(super) struct Frame<'a> {
    pool: &'a mut Pool,
    module: &'a Module,
    /// Module-scope variables: the kernel's in shared memory, and the others.
    globals: [&'a HashMap<&'a str, Placed>; 2],
    scopes: Vec<Scope<'a>>,
    ranges: Vec<Range>,
    rows: u32,
    declared: u32,
    predicates: Vec<Range>,
    predicate_count: u32,
    /// Positions of labels, as they become known.
    labels: Vec<Option<u32>>,
}

impl<'a> Frame<'a> {
    pub fn new(pool: &'a mut Pool, module: &'a Module, globals: [&'a HashMap<&'a str, Placed>; 2]) -> Self {
        Frame {
            pool,
            module,
            globals,
            scopes: vec![Scope::default()],
            ranges: Vec::new(),
            rows: 0,
            declared: 0,
            predicates: Vec::new(),
            predicate_count: 0,
            labels: Vec::new(),
        }
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Enters a scope: its labels are known in all of it.
    pub fn enter(&mut self, block: &'a Block) -> Result<(), PtxError> {
        let mut scope = Scope::default();
        for statement in &block.statements {
            let (name, line, fresh) = match statement {
                Statement::Label { name, line } => {
                    self.labels.push(None);
                    (name, line, scope.labels.insert(name, self.labels.len() as u32 - 1).is_none())
                }
                Statement::BranchTargets { name, labels, line } => {
                    (name, line, scope.targets.insert(name, labels).is_none())
                }
                _ => continue,
            };
            if !fresh {
                return Err(PtxError::new(*line, format!("the label `{name}` stands twice in one scope")));
            }
        }
        self.scopes.push(scope);
        Ok(())
    }

    pub fn leave(&mut self) {
        self.scopes.pop();
    }

    /// Notes where a label of the innermost scope stands.
    pub fn place_label(&mut self, name: &str, position: u32) {
        if let Some(&label) = self.scope().labels.get(name) {
            self.labels[label as usize] = Some(position);
        }
    }

    /// Where a label (as `Names::label` numbers them) stands.
    pub fn position(&self, label: u32) -> u32 {
        self.labels[label as usize].unwrap_or(0)
    }

    pub fn declare_variable(&mut self, name: &'a str, placed: Placed) -> Result<(), String> {
        match self.scope().variables.insert(name, placed) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` is declared twice in one scope")),
        }
    }

    /// `.reg .ty names`.
    pub fn declare(&mut self, ty: &str, names: &'a [RegName]) -> Result<(), String> {
        let ty = register_type(ty).ok_or_else(|| format!("registers of `.{ty}` are not known here"))?;
        for RegName { name, count } in names {
            let declared = self.allot(name, *count, ty)?;
            let scope = self.scope();
            let fresh = match count {
                Some(count) => scope.ranges.insert(name, (declared, *count)).is_none(),
                None => scope.single.insert(name, declared).is_none(),
            };
            if !fresh {
                return Err(format!("the register `{name}` is declared twice in one scope"));
            }
        }
        Ok(())
    }

    fn allot(&mut self, name: &str, count: Option<u32>, ty: Ty) -> Result<Declared, String> {
        let number = count.unwrap_or(1);
        self.declared = self.declared.saturating_add(number);
        if self.declared > REGISTERS {
            return Err(format!("a function declares more than {REGISTERS} registers"));
        }
        let range = |first| Range {
            first,
            rows: ty.rows(),
            count: number,
            name: name.to_owned(),
            numbered: count.is_some(),
            temporary: false,
        };
        if ty == Ty::Pred {
            let first = self.predicate_count;
            self.predicates.push(range(first));
            self.predicate_count += number;
            if self.predicate_count > u32::from(u16::MAX) {
                return Err(format!("a function declares more than {} predicates", u16::MAX));
            }
            return Ok(Declared::Predicates { first });
        }
        let first = self.rows;
        self.ranges.push(range(first));
        self.rows += number * ty.rows();
        Ok(Declared::Values { first, ty })
    }

    /// Rows of constants of the kernel so far.
    pub fn constants(&self) -> usize {
        self.pool.constants()
    }

    /// The variable with its size.
    pub fn placed(&self, name: &str) -> Option<Placed> {
        let local = self.scopes.iter().rev().find_map(|s| s.variables.get(name));
        local.or_else(|| self.globals.iter().find_map(|g| g.get(name))).copied()
    }

    /// A predicate for one instruction.
    pub fn temporary_predicate(&mut self) -> Result<u16, String> {
        match self.allot("", None, Ty::Pred)? {
            Declared::Predicates { first } => {
                if let Some(range) = self.predicates.last_mut() {
                    range.temporary = true;
                }
                Ok(first as u16)
            }
            Declared::Values { .. } => Err("a predicate is no value".into()),
        }
    }

    /// The register that a virtual row belongs to; None for constants and special registers.
    pub fn owner(&self, reg: Reg) -> Option<Virtual> {
        if reg.constant().is_some() || special_row(reg).is_some() {
            return None;
        }
        let range = range_of(&self.ranges, reg.0)?;
        let first = reg.0 - (reg.0 - range.first) % range.rows;
        Some(Virtual { first, rows: range.rows, temporary: range.temporary })
    }

    /// Whether a predicate was made for one instruction.
    pub fn temporary_pred(&self, p: u16) -> bool {
        range_of(&self.predicates, p.into()).is_some_and(|r| r.temporary)
    }

    /// The declared name of a virtual row's register.
    pub fn register_name(&self, row: u32) -> String {
        range_of(&self.ranges, row).map_or_else(String::new, |r| r.name_of(row))
    }

    pub fn predicate_name(&self, p: u16) -> String {
        range_of(&self.predicates, p.into()).map_or_else(String::new, |r| r.name_of(p.into()))
    }
}

impl Range {
    /// The name of a register, for messages.
    fn name_of(&self, row: u32) -> String {
        let name = brief(&self.name);
        if self.numbered { format!("{name}{}", (row - self.first) / self.rows) } else { name.to_owned() }
    }
}

/// The range that holds `row`: they are in ascending order.
fn range_of(ranges: &[Range], row: u32) -> Option<&Range> {
    let after = ranges.partition_point(|r| r.first <= row);
    // Empty ranges (`%r<0>`) begin where the next one does, so the last that begins at or before the row is the one.
    ranges[..after].last().filter(|r| row - r.first < r.count * r.rows)
}

/// Numbers that a name may end in: `%r1<5>` and `%r<50>` both have a `%r12`.
fn numbered(name: &str) -> impl Iterator<Item = (&str, u32)> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    (1..=digits.min(7)).filter_map(move |n| {
        let (prefix, number) = name.split_at(name.len() - n);
        let canonical = n == 1 || !number.starts_with('0');
        canonical.then(|| Some((prefix, number.parse().ok()?)))?
    })
}

impl Scope<'_> {
    fn register(&self, name: &str) -> Option<Register> {
        let (declared, index) = match self.single.get(name) {
            Some(&declared) => (declared, 0),
            None => numbered(name).find_map(|(prefix, index)| {
                let &(declared, count) = self.ranges.get(prefix)?;
                (index < count).then_some((declared, index))
            })?,
        };
        Some(match declared {
            Declared::Values { first, ty } => Register::Value { reg: Reg(first + index * ty.rows()), ty },
            Declared::Predicates { first } => Register::Predicate((first + index) as u16),
        })
    }
}

impl Names for Frame<'_> {
    fn target(&self) -> ((u32, u32), u32) {
        (self.module.version, self.module.target)
    }

    fn register(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| scope.register(name))
    }

    fn variable(&self, name: &str) -> Option<(Space, u64)> {
        self.placed(name).map(|p| (p.space, p.address))
    }

    fn label(&mut self, name: &str) -> Option<u32> {
        self.scopes.iter().rev().find_map(|scope| scope.labels.get(name)).copied()
    }

    fn branch_targets(&mut self, name: &str) -> Option<Vec<u32>> {
        let labels = self.scopes.iter().rev().find_map(|scope| scope.targets.get(name).copied())?;
        labels.iter().map(|label| self.label(label)).collect()
    }

    fn constant(&mut self, ty: Ty, bits: u128) -> Reg {
        self.pool.constant(ty, bits)
    }

    fn lanes(&mut self, values: [u32; 32]) -> Reg {
        self.pool.lanes(values)
    }

    fn special(&mut self, special: Special) -> Reg {
        self.pool.special(special)
    }

    fn temporary(&mut self, ty: Ty) -> Reg {
        let first = self.rows;
        let (rows, name) = (ty.rows(), String::new());
        self.ranges.push(Range { first, rows, count: 1, name, numbered: false, temporary: true });
        self.rows += rows;
        Reg(first)
    }
}

fn register_type(ty: &str) -> Option<Ty> {
    Some(match ty {
        "pred" => Ty::Pred,
        "b8" | "u8" | "s8" => Ty::B8,
        "b16" | "u16" | "s16" | "f16" | "bf16" => Ty::B16,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => Ty::B32,
        "b64" | "u64" | "s64" | "f64" => Ty::B64,
        "b128" => Ty::B128,
        _ => return None,
    })
}
