//! PTX as it is written: what the parser makes and `lower` reads. Names are kept as text, scopes as nesting.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A translation unit.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`: 80 of `sm_80`, and the suffix (`a`, `f`).
    pub target: u32,
    pub target_suffix: Option<char>,
    /// Where `.target` stands; 0 if nowhere.
    pub target_line: u32,
    /// Module-scope variables, definitions and `.extern` declarations.
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
    /// `.file` directives: number and path.
    pub files: BTreeMap<u32, Arc<str>>,
    /// `.alias name, of;`
    pub aliases: Vec<(String, String)>,
}

/// A variable of `.global`, `.const`, `.shared`, `.local` or `.param` space.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: VarSpace,
    pub align: u32,
    /// Type of an element as written (`b8`, `f32`), and its bytes.
    pub ty: String,
    pub element: u32,
    /// Elements; None for `name[]`, whose size the launch or the initialiser gives.
    pub count: Option<u64>,
    pub init: Vec<Init>,
    pub linkage: Linkage,
    pub line: u32,
}

/// Who else sees a name of the module scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    /// No other unit.
    #[default]
    Own,
    Visible,
    /// `.weak`, `.common`: of several definitions one counts.
    Weak,
    /// `.extern`: defined elsewhere.
    Extern,
}

impl Variable {
    pub fn external(&self) -> bool {
        self.linkage == Linkage::Extern
    }

    /// Its size; of `name[]` without initialiser, 0.
    pub fn bytes(&self) -> u64 {
        self.count.unwrap_or(self.init.len() as u64).saturating_mul(self.element.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// The element's bits.
    Bits(u64),
    /// Address of a variable plus an offset; generic if written as `generic(name)`. With `mask(...)`, the byte of the address that is taken.
    Address { name: String, offset: i64, generic: bool, byte: Option<u8> },
}

/// `.entry` or `.func`.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    pub linkage: Linkage,
    /// `.func (ret) name (params)`: return and parameter variables.
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    /// `.maxntid 128, 1, 1` and the like: name without the dot, numbers.
    pub directives: Vec<(String, Vec<u32>)>,
    /// None for a declaration.
    pub body: Option<Block>,
    pub line: u32,
}

/// `{ ... }`: a scope.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub statements: Vec<Statement>,
}

#[derive(Clone, Debug)]
pub enum Statement {
    /// `.reg .b32 %r<100>, %x;`: expanded ranges stay a prefix and a count.
    Registers {
        ty: String,
        names: Vec<RegName>,
        line: u32,
    },
    Variable(Box<Variable>),
    Label {
        name: String,
        line: u32,
    },
    /// `.loc file line column`, and where that was inlined.
    Loc {
        at: Spot,
        inlined_at: Option<Spot>,
    },
    /// `label: .branchtargets a, b, c;`
    BranchTargets {
        name: String,
        labels: Vec<String>,
        line: u32,
    },
    /// `label: .callprototype ...;` is kept by name only.
    CallPrototype {
        name: String,
    },
    Instruction(Box<Instruction>),
    Block(Block),
}

/// A place in a source file, by the file's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegName {
    pub name: String,
    /// `%r<5>` declares `%r0` to `%r4`.
    pub count: Option<u32>,
}

/// `@!p opcode.mod.mod a, b, c;`
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Register and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// `add`, then modifiers without dots; a modifier keeps its `::` (`shared::cta`).
    pub opcode: String,
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// As written, without comments.
    pub text: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, a special register (`%tid.x`), a label or a variable: told apart when lowered. With `.x` components kept in the name.
    Name(String),
    /// `!p`.
    Not(String),
    /// `name + 4`, `name - 4` outside brackets.
    NameOffset(String, i64),
    Integer(i128),
    /// `0f3F800000` and `1.0`: the bits of a double, or of a single where written as one.
    Double(u64),
    Single(u32),
    /// `[base + offset]`; more operands within the brackets (tensor coordinates) follow.
    Memory {
        base: Box<Operand>,
        offset: i64,
        rest: Vec<Operand>,
    },
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}
