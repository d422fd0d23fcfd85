//! One line of text to an `ast::Instruction`, and a scope in which every name of the usual spelling means something.

use crate::isa::{Reg, Space, Ty};
use crate::program::Special;
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::names::{Names, Register};

/// Temporaries have numbers from here.
pub const TEMPORARIES: u32 = 1_000_000;

/// The prefixes of register names by width, as nvcc chooses them; `%f` and `%fd` are also 32 and 64 bits.
const PREFIXES: [(&str, Ty); 8] = [
    ("%rb", Ty::B8),
    ("%rs", Ty::B16),
    ("%rd", Ty::B64),
    ("%rq", Ty::B128),
    ("%fd", Ty::F64),
    ("%r", Ty::B32),
    ("%f", Ty::F32),
    ("%h", Ty::F16),
];

/// The register of this width and number.
pub fn name(bits: u32, number: usize) -> String {
    let prefix = match bits {
        8 => "%rb",
        16 => "%rs",
        32 => "%r",
        64 => "%rd",
        _ => "%rq",
    };
    format!("{prefix}{number}")
}

/// The register's index: its number, in a thousand of its own per prefix.
pub fn number(name: &str) -> u32 {
    let (i, n) = parts(name).expect("a register");
    (i as u32 + 1) * 10_000 + n
}

fn parts(name: &str) -> Option<(usize, u32)> {
    PREFIXES.iter().enumerate().find_map(|(i, (prefix, _))| Some((i, name.strip_prefix(prefix)?.parse().ok()?)))
}

/// The constants that were asked for: type and bits.
pub struct Scope {
    pub target: ((u32, u32), u32),
    pub constants: Vec<(Ty, u128)>,
    pub temporaries: u32,
}

impl Default for Scope {
    fn default() -> Self {
        Scope { target: ((9, 0), 90), constants: Vec::new(), temporaries: TEMPORARIES }
    }
}

impl Scope {
    fn row(&mut self, ty: Ty, bits: u128) -> Reg {
        let found = self.constants.iter().position(|c| *c == (ty, bits));
        Reg::of_constant(found.unwrap_or_else(|| {
            self.constants.push((ty, bits));
            self.constants.len() - 1
        }))
    }
}

impl Names for Scope {
    fn target(&self) -> ((u32, u32), u32) {
        self.target
    }

    fn register(&self, name: &str) -> Option<Register> {
        if let Some(n) = name.strip_prefix("%p").and_then(|n| n.parse().ok()) {
            return Some(Register::Predicate(n));
        }
        match name {
            "%SP" => Some(Register::Value { reg: Reg(1), ty: Ty::B64 }),
            "%SPL" => Some(Register::Value { reg: Reg(2), ty: Ty::B64 }),
            _ => parts(name).map(|(i, _)| Register::Value { reg: Reg(number(name)), ty: PREFIXES[i].1 }),
        }
    }

    fn variable(&self, name: &str) -> Option<(Space, u64)> {
        let space = match name {
            _ if name.contains("_param_") => Space::Param,
            _ if name.starts_with("param") || name.starts_with("retval") => Space::Local,
            _ if name.starts_with("local") || name.starts_with("__local_depot") => Space::Local,
            _ if name.starts_with("shared") => Space::Shared,
            _ if name.starts_with("const") => Space::Const,
            _ if name.starts_with("global") => Space::Global,
            _ => return None,
        };
        Some((space, 0x40))
    }

    fn label(&mut self, name: &str) -> Option<u32> {
        name.starts_with("$L").then_some(7)
    }

    fn branch_targets(&mut self, name: &str) -> Option<Vec<u32>> {
        name.starts_with("$T").then(|| vec![7, 8])
    }

    fn constant(&mut self, ty: Ty, bits: u128) -> Reg {
        self.row(ty, bits)
    }

    fn lanes(&mut self, values: [u32; 32]) -> Reg {
        self.row(Ty::Pred, values.iter().map(|&v| u128::from(v)).sum())
    }

    fn special(&mut self, special: Special) -> Reg {
        self.row(Ty::B8, format!("{special:?}").bytes().fold(0, |h, b| h << 8 | u128::from(b)))
    }

    fn temporary(&mut self, _ty: Ty) -> Reg {
        self.temporaries += 1;
        Reg(self.temporaries - 1)
    }
}

/// Reads `opcode.mod a, b;`, without a guard.
pub fn instruction(text: &str) -> Instruction {
    let text = text.trim().trim_end_matches(';');
    let (head, tail) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let mut words = head.split('.').map(str::to_owned);
    Instruction {
        guard: None,
        opcode: words.next().unwrap_or_default(),
        modifiers: words.collect(),
        operands: split(tail).into_iter().map(operand).collect(),
        line: 1,
        text: text.into(),
    }
}

/// Splits at commas outside brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn operand(text: &str) -> Operand {
    if let Some((a, b)) = text.split_once('|') {
        return Operand::Pair(operand(a.trim()).into(), operand(b.trim()).into());
    }
    if let Some(inner) = text.strip_prefix('{') {
        return Operand::Vector(split(inner.trim_end_matches('}')).into_iter().map(operand).collect());
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.trim_end_matches(']').trim();
        if let [base, at] = split(inner)[..] {
            return Operand::Memory { base: operand(base).into(), offset: 0, rest: vec![operand(at)] };
        }
        return match operand(inner) {
            Operand::NameOffset(name, offset) => {
                Operand::Memory { base: Operand::Name(name).into(), offset, rest: Vec::new() }
            }
            base => Operand::Memory { base: base.into(), offset: 0, rest: Vec::new() },
        };
    }
    if let Some(name) = text.strip_prefix('!') {
        return Operand::Not(name.to_owned());
    }
    if let Some(hex) = text.strip_prefix("0f") {
        return Operand::Single(u32::from_str_radix(hex, 16).expect("bits"));
    }
    if let Some(hex) = text.strip_prefix("0d") {
        return Operand::Double(u64::from_str_radix(hex, 16).expect("bits"));
    }
    if text == "_" {
        return Operand::Sink;
    }
    if let Some(n) = integer(text) {
        return Operand::Integer(n);
    }
    match text.split_once('+') {
        Some((name, offset)) => {
            Operand::NameOffset(name.trim().to_owned(), integer(offset.trim()).expect("an offset") as i64)
        }
        None if text.contains('.') && !text.starts_with('%') => {
            Operand::Double(text.parse::<f64>().expect("a number").to_bits())
        }
        None => Operand::Name(text.to_owned()),
    }
}

fn integer(text: &str) -> Option<i128> {
    let text = text.trim_end_matches('U');
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
