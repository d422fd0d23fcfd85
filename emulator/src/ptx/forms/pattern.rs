//! The notation of the table: one line that is the matcher, the documentation and the source of the tests.
//!
//! ```text
//! fma.ROUND{.ftz}{.sat}.f32 d, a, b, c
//! ```
//!
//! Modifiers: `.word`; `.(a|b)` one of; `{.a|.b}` one of or none; `<...>` what is inside, in any order; `.NAME` one of
//! the list of that name in [`SETS`]. Operands: `d` a register (a source may also be an immediate) of the first type
//! among the modifiers; `d:U` of the second, `d:W` of twice the width of the first, `d:u32` of that type; `p:pred` a
//! predicate, `!p:pred` one that may be negated; `n:imm` a number; `[a]` an address; `[m,c]` one with as many coordinates as `.2d` says; `a*4` a vector of four, `a*V` of
//! as many as `.v2` says, `a*X` as `.x4` says, `a*n/2` of half as many as the shape has columns; `d|p`, `d{|p}` a pair; `_` itself; `{, b}` may be left out; `{, hint}` a cache policy, there
//! exactly when `.L2::cache_hint` is.
//!
//! It knows no instruction and no register.

use crate::isa::Ty;

/// The shapes of `wgmma` for some n, and (`EVEN`) for all multiples of 16.
macro_rules! shapes {
    ($k:literal: $($n:literal)*, EVEN) => {
        shapes!($k: $($n)* 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240 256)
    };
    ($k:literal: $first:literal $($n:literal)*) => {
        concat!("m64n", $first, $k, $("|m64n", $n, $k),*)
    };
}

/// Lists that patterns name.
pub(super) static SETS: &[(&str, &str)] = &[
    ("INT", "u16|u32|u64|s16|s32|s64"),
    ("INT8", "u8|u16|u32|u64|s8|s16|s32|s64"),
    ("BITS", "b16|b32|b64"),
    ("ROUND", "rn|rz|rm|rp"),
    ("IROUND", "rni|rzi|rmi|rpi"),
    ("BOOL", "and|or|xor"),
    ("ORDERED", "eq|ne|lt|le|gt|ge"),
    ("UNSIGNED", "eq|ne|lt|le|gt|ge|lo|ls|hi|hs"),
    ("FLOAT", "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan"),
    ("SHARED", "shared|shared::cta|shared::cluster"),
    ("OWN", "shared|shared::cta"),
    ("SCOPE", "cta|cluster|gpu|sys"),
    ("ELEMENT", "{.v2|.v4}.(b8|b16|b32|u8|u16|u32|s8|s16|s32|f32)|{.v2}.(b64|u64|s64|f64)|b128"),
    ("L1EVICT", "L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate"),
    ("POLICY", "L2::evict_normal|L2::evict_unchanged|L2::evict_first|L2::evict_last"),
    ("SEM", "relaxed|acquire|release|acq_rel"),
    ("PREFETCH", "L2::64B|L2::128B|L2::256B"),
    ("M64K8", shapes!("k8": 8 24 40 56 72 88 104 120 136 152 168 184 200 216 232 248, EVEN)),
    ("M64K16", shapes!("k16": 8 24 40 56 72 88 104 120 136 152 168 184 200 216 232 248, EVEN)),
    ("M64K32", shapes!("k32": 8 24 40 56 72 88 104 120 136 152 168 184 200 216 232 248, EVEN)),
    ("M64K32INT", shapes!("k32": 8 24, EVEN)),
];

/// More modifiers than any instruction has; their positions are bits of a word.
const MOST_WORDS: usize = 31;

/// Modifiers one after the other.
pub(super) type Sequence = Vec<Node>;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Word(&'static str),
    /// One of several, or with `optional` none.
    Choice {
        of: Vec<Sequence>,
        optional: bool,
    },
    AnyOrder(Sequence),
}

/// An operand of a pattern.
#[derive(Debug)]
pub(super) struct Slot {
    pub name: &'static str,
    pub kind: Kind,
    pub count: Count,
    /// Not all texts have it.
    pub optional: bool,
    /// Joined to the slot before it by `|`.
    pub paired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Value(Width),
    Predicate {
        negatable: bool,
    },
    Number,
    Memory,
    /// An address and coordinates.
    Tensor,
    /// `_`
    Sink,
    Label,
    Labels,
}

/// Which type a register has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    First,
    Second,
    Twice,
    Of(Ty),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    One,
    Fixed(usize),
    /// As `.v4` says; one, without braces, where nothing is said.
    Elements,
    /// As `.x4` says.
    Matrices,
    /// The columns of the shape, divided by this.
    Columns(usize),
}

/// A compiled line of the table.
#[derive(Debug)]
pub(super) struct Pattern {
    pub opcode: &'static str,
    pub modifiers: Sequence,
    pub slots: Vec<Slot>,
}

impl Pattern {
    /// Compiles a line. The lines are ours: one that breaks the notation is a panic in the first test.
    pub fn compile(syntax: &'static str) -> Pattern {
        let (head, tail) = syntax.split_once(' ').unwrap_or((syntax, ""));
        let end = head.find(['.', '{', '<']).unwrap_or(head.len());
        let mut rest = &head[end..];
        let modifiers = sequence(&mut rest);
        assert!(rest.is_empty(), "{syntax}: cannot read {rest:?}");
        Pattern { opcode: &head[..end], modifiers, slots: slots(tail) }
    }

    /// How many of the words fit from the start, and whether all do.
    pub fn fit(&self, words: &[String]) -> (u32, bool) {
        let mut far = 0;
        let ends = advance(&self.modifiers, words, 1, &mut far);
        (far, words.len() < MOST_WORDS && ends >> words.len() & 1 == 1)
    }
}

/// From each of the positions in `starts` (a bit each), where the sequence can end; `far` is the farthest word that fitted.
fn advance(sequence: &[Node], words: &[String], starts: u32, far: &mut u32) -> u32 {
    sequence.iter().fold(starts, |starts, node| step(node, words, starts, far))
}

fn step(node: &Node, words: &[String], starts: u32, far: &mut u32) -> u32 {
    if starts == 0 {
        return 0;
    }
    match node {
        Node::Word(word) => {
            let fits = (0..words.len().min(MOST_WORDS)).filter(|&i| words[i] == *word).fold(0, |m, i| m | 1 << i);
            let ends = (starts & fits) << 1;
            *far = (*far).max(31 - (ends | 1).leading_zeros());
            ends
        }
        Node::Choice { of, optional } => {
            let none = if *optional { starts } else { 0 };
            of.iter().fold(none, |ends, s| ends | advance(s, words, starts, far))
        }
        Node::AnyOrder(nodes) => any_order(&nodes.iter().collect::<Vec<_>>(), words, starts, far),
    }
}

fn any_order(nodes: &[&Node], words: &[String], starts: u32, far: &mut u32) -> u32 {
    let mut ends = if nodes.iter().all(|n| matches!(n, Node::Choice { optional: true, .. })) { starts } else { 0 };
    for (i, node) in nodes.iter().enumerate() {
        let next = step(node, words, starts, far) & !starts;
        if next != 0 {
            let others: Vec<_> = nodes.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, n)| *n).collect();
            ends |= any_order(&others, words, next, far);
        }
    }
    ends
}

fn sequence(rest: &mut &'static str) -> Sequence {
    let mut nodes = Vec::new();
    if rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        nodes.push(word(rest));
    }
    loop {
        if let Some(after) = rest.strip_prefix(".(") {
            *rest = after;
            nodes.push(Node::Choice { of: alternatives(rest, ')'), optional: false });
        } else if let Some(after) = rest.strip_prefix('.') {
            *rest = after;
            nodes.push(word(rest));
        } else if let Some(after) = rest.strip_prefix('{') {
            *rest = after;
            nodes.push(Node::Choice { of: alternatives(rest, '}'), optional: true });
        } else if let Some(after) = rest.strip_prefix('<') {
            *rest = after;
            nodes.push(Node::AnyOrder(sequence(rest)));
            *rest = rest.strip_prefix('>').expect("`<` without `>`");
        } else {
            return nodes;
        }
    }
}

fn alternatives(rest: &mut &'static str, close: char) -> Vec<Sequence> {
    let mut of = vec![sequence(rest)];
    while let Some(after) = rest.strip_prefix('|') {
        *rest = after;
        of.push(sequence(rest));
    }
    if close != '\0' {
        *rest = rest.strip_prefix(close).expect("an alternative that is not closed");
    }
    of
}

fn word(rest: &mut &'static str) -> Node {
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    match SETS.iter().find(|(name, _)| *name == word) {
        Some(&(_, mut list)) => Node::Choice { of: alternatives(&mut list, '\0'), optional: false },
        None => Node::Word(word),
    }
}

fn slots(tail: &'static str) -> Vec<Slot> {
    let mut slots = Vec::new();
    for operand in tail.split(", ").filter(|o| !o.is_empty()) {
        // `a{, b}` is split in `a{` and `b}`.
        let optional = operand.trim_end_matches('{').ends_with('}') && !operand.contains("{|");
        let operand = operand.trim_end_matches('{').trim_end_matches('}');
        let (first, second) = operand.split_once('|').unwrap_or((operand, ""));
        slots.push(Slot { optional, ..slot(first.trim_end_matches('{')) });
        if !second.is_empty() {
            slots.push(Slot { optional: first.ends_with('{'), paired: true, ..slot(second) });
        }
    }
    slots
}

fn slot(text: &'static str) -> Slot {
    let plain = text.trim_start_matches('!').trim_start_matches('[').trim_end_matches(']');
    let (plain, ty) = plain.split_once(':').unwrap_or((plain, if plain == "hint" { "b64" } else { "" }));
    let (name, count) = match plain.split_once('*') {
        None => (plain, Count::One),
        Some((name, "V")) => (name, Count::Elements),
        Some((name, "X")) => (name, Count::Matrices),
        Some((name, "n/2")) => (name, Count::Columns(2)),
        Some((name, "n/4")) => (name, Count::Columns(4)),
        Some((name, n)) => (name, Count::Fixed(n.parse().expect("a count"))),
    };
    let (name, kind) = match (name.split_once(','), ty) {
        (Some((map, _)), _) => (map, Kind::Tensor),
        (None, ty) => (name, kind(text, ty)),
    };
    Slot { name, kind, count, optional: false, paired: false }
}

fn kind(text: &str, ty: &str) -> Kind {
    match ty {
        _ if text.starts_with('[') => Kind::Memory,
        _ if text == "_" => Kind::Sink,
        "pred" => Kind::Predicate { negatable: text.starts_with('!') },
        "imm" => Kind::Number,
        "label" => Kind::Label,
        "labels" => Kind::Labels,
        "" => Kind::Value(Width::First),
        "U" => Kind::Value(Width::Second),
        "W" => Kind::Value(Width::Twice),
        ty => Kind::Value(Width::Of(named(ty).expect("a type"))),
    }
}

/// A type by its name in PTX.
pub(super) fn named(word: &str) -> Option<Ty> {
    Some(match word {
        "pred" => Ty::Pred,
        "b8" => Ty::B8,
        "b16" => Ty::B16,
        "b32" => Ty::B32,
        "b64" => Ty::B64,
        "b128" => Ty::B128,
        "u8" => Ty::U8,
        "u16" => Ty::U16,
        "u32" => Ty::U32,
        "u64" => Ty::U64,
        "s8" => Ty::S8,
        "s16" => Ty::S16,
        "s32" => Ty::S32,
        "s64" => Ty::S64,
        "f16" => Ty::F16,
        "f16x2" => Ty::F16x2,
        "bf16" => Ty::BF16,
        "bf16x2" => Ty::BF16x2,
        "tf32" => Ty::TF32,
        "f32" => Ty::F32,
        "f64" => Ty::F64,
        "u16x2" => Ty::U16x2,
        "s16x2" => Ty::S16x2,
        "e4m3x2" => Ty::E4M3x2,
        "e5m2x2" => Ty::E5M2x2,
        _ => return None,
    })
}
