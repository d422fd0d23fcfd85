//! Forms that are more than lane-wise: each runs in small kernels and is compared with a model that stands here.
//!
//! Owns the way from a spelling to a kernel that has run; what is right is said by the files below, one for each kind of
//! instruction. They name every modifier that they know, so that a new one fails until a model has it.

mod atomics;
mod bulk;
mod control;
mod copies;
mod matrices;
mod mbarriers;
mod memory;
mod order;
mod spaces;
mod warpgroups;
mod warps;

use super::expand::pairwise;
use super::reader::{Scope, instruction};
use super::values::Random;
use super::{Form, Pattern, find, types};
use crate::config::Config;
use crate::device::H100;
use crate::fault::{Fault, FaultKind};
use crate::gpu::{Arg, Gpu};
use crate::isa::Ty;
use crate::ptx::ast::Operand;
use crate::ptx::forms::pattern::{Slot, named};
use std::collections::BTreeSet;

/// Runs one spelling, and panics where it does not do what its model says.
type Check = fn(&Spelling<'_>);

/// The model of a form.
fn model(class: &str, syntax: &str, opcode: &str) -> Option<Check> {
    Some(match (class, opcode) {
        ("Data movement", "mov") if syntax.starts_with("mov.b128") => memory::moved,
        ("Memory", "ld" | "ldu") => memory::load,
        ("Memory", "st") => memory::store,
        ("Memory", "membar" | "fence") => order::fence,
        ("Memory", "prefetch" | "prefetchu" | "applypriority" | "discard" | "createpolicy") => memory::hint,
        ("Data movement", "cvta") => spaces::convert,
        ("Data movement", "isspacep") => spaces::asked,
        ("Data movement", "mapa" | "getctarank") => spaces::of_a_cluster,
        ("Atomics", _) => atomics::atomic,
        ("Warps and barriers", "bar" | "barrier") => order::barrier,
        ("Warps and barriers", "shfl") => warps::shuffle,
        ("Warps and barriers", "vote" | "match" | "redux" | "elect" | "activemask") => warps::collect,
        ("Matrices", "mma") => matrices::multiply,
        ("Matrices", "ldmatrix" | "stmatrix" | "movmatrix") => matrices::rearrange,
        ("Warpgroup matrices", _) => warpgroups::product,
        ("Asynchronous", "cp") => copies::asynchronous,
        ("Asynchronous", "mbarrier") => mbarriers::phase,
        ("Bulk copies and clusters", "cp") => bulk::copy,
        ("Bulk copies and clusters", "prefetch") => memory::hint,
        ("Bulk copies and clusters", "barrier") => order::barrier,
        ("Control", _) => control::flow,
        _ => return None,
    })
}

/// Runs a form in all pairs of its alternatives; whether it has a model here.
pub fn modelled(class: &str, form: &Form) -> bool {
    let pattern = Pattern::compile(form.syntax);
    let Some(check) = model(class, form.syntax, pattern.opcode) else { return false };
    for text in pairwise(&pattern) {
        check(&Spelling::new(&text.text));
    }
    true
}

/// One spelling and its operands by the names of the pattern.
pub struct Spelling<'t> {
    pub text: &'t str,
    pub opcode: String,
    pub words: Vec<String>,
    operands: Vec<(&'static Slot, Operand)>,
}

impl<'t> Spelling<'t> {
    fn new(text: &'t str) -> Spelling<'t> {
        let inst = instruction(text);
        let (_, bound) = find(&inst, &Scope::default()).expect("decoded by another test");
        let operands = bound.into_iter().map(|(slot, operand)| (slot, operand.clone())).collect();
        Spelling { text, opcode: inst.opcode.clone(), words: inst.modifiers.clone(), operands }
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// The first of these that is among the modifiers.
    pub fn one_of<'w>(&self, words: &[&'w str]) -> Option<&'w str> {
        words.iter().find(|w| self.has(w)).copied()
    }

    /// Fails for a modifier that is neither a type nor among these: no model would see it.
    pub fn knows(&self, lists: &[&[&str]]) {
        let unknown =
            self.words.iter().find(|w| named(w).is_none() && !lists.iter().any(|list| list.contains(&w.as_str())));
        assert_eq!(unknown, None, "{}: its model does not know this modifier", self.text);
    }

    pub fn ty(&self) -> Ty {
        types(&self.words).next().expect("a type")
    }

    fn operand(&self, name: &str) -> Option<&Operand> {
        self.operands.iter().find(|(slot, _)| slot.name == name).map(|(_, operand)| operand)
    }

    pub fn given(&self, name: &str) -> bool {
        self.operand(name).is_some()
    }

    /// The registers of an operand; of an address, its base.
    pub fn names(&self, name: &str) -> Vec<&str> {
        fn within(operand: &Operand) -> Vec<&str> {
            match operand {
                Operand::Name(name) | Operand::Not(name) | Operand::NameOffset(name, _) => vec![name],
                Operand::Vector(items) => items.iter().flat_map(within).collect(),
                Operand::Memory { base, rest, .. } => {
                    within(base).into_iter().chain(rest.iter().flat_map(within)).collect()
                }
                _ => Vec::new(),
            }
        }
        self.operand(name).map(within).unwrap_or_default()
    }

    /// The only register of an operand, or the base of an address.
    pub fn name(&self, name: &str) -> &str {
        self.names(name).first().copied().unwrap_or_else(|| panic!("{}: no {name}", self.text))
    }

    /// Whether a predicate is turned.
    pub fn turned(&self, name: &str) -> bool {
        matches!(self.operand(name), Some(Operand::Not(_)))
    }

    pub fn number(&self, name: &str) -> Option<i128> {
        match self.operand(name) {
            Some(Operand::Integer(n)) => Some(*n),
            _ => None,
        }
    }

    /// The text, behind a cache policy if it wants one.
    pub fn with_policy(&self) -> String {
        let policy =
            self.names("hint").first().map(|hint| format!("createpolicy.fractional.L2::evict_first.b64 {hint};\n"));
        policy.unwrap_or_default() + self.text
    }
}

/// Bytes that a thread has in front of `%in` and behind `%out`, where a kernel does not say otherwise.
pub const STRIDE: usize = 192;

/// A kernel of one block, where `%in` and `%out` are the thread's own bytes of input and output, `%base` all input,
/// `%t` the thread and `%lane` its lane; `tile` is shared memory, `own` local and `block` a parameter; `%x` (32 bits),
/// `%y` (64 bits) and `%q` (predicates) are eight registers each that no spelling has.
pub struct Kernel {
    pub front: String,
    pub body: String,
    pub threads: usize,
    pub stride: usize,
    pub input: Vec<u8>,
}

impl Kernel {
    /// A warp.
    pub fn new(body: String, input: Vec<u8>) -> Kernel {
        Kernel { front: String::new(), body, threads: 32, stride: STRIDE, input }
    }

    /// What every thread wrote, or zeros.
    pub fn run(&self) -> Result<Vec<u8>, Box<Fault>> {
        let Kernel { front, body, threads, stride, input } = self;
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n{front}
            .entry k(.param .align 16 .b8 block[2048], .param .u64 in, .param .u64 out) {{
            .shared .align 1024 .b8 tile[20480]; .local .align 16 .b8 own[64];
            {COMMON} {}
            ld.param.u64 %base, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %lane, %laneid;
            mad.wide.u32 %in, %t, {stride}, %base; mad.wide.u32 %out, %t, {stride}, %out;
            {body}
            DONE: ret; }}",
            declarations(body)
        );
        let gpu = Gpu::new(H100, Config { threads: 1, patience: 100_000, ..Config::default() }).expect("address space");
        let module = gpu.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let [from, to] = [input.len(), threads * stride].map(|n| gpu.alloc(n.max(1) as u64).expect("memory"));
        gpu.write(from, input).expect("allocated");
        gpu.write(to, &vec![0; threads * stride]).expect("allocated");
        let block = Arg::Bytes(input.iter().copied().chain([0; 2048]).take(2048).collect());
        let args = [block, Arg::U64(from), Arg::U64(to)];
        gpu.launch(&module.kernels[0], [1; 3], [*threads as u32, 1, 1], 0, &args)?;
        Ok(gpu.read(to, threads * stride).expect("allocated"))
    }

    /// The output of a kernel that is right.
    pub fn output(&self) -> Vec<u8> {
        self.run().unwrap_or_else(|fault| panic!("{fault}\n{}", self.body))
    }

    /// Fails unless the kernel is at fault once `part` is left out of it.
    pub fn needs(&self, part: &str, kind: FaultKind) {
        assert!(self.body.contains(part), "{part}");
        let without =
            Kernel { front: self.front.clone(), body: self.body.replace(part, ""), input: self.input.clone(), ..*self };
        let found = without.run().map_err(|fault| fault.kind);
        assert_eq!(found, Err(kind), "without {part}:\n{}", without.body);
    }
}

/// The registers that every kernel has.
const COMMON: &str = ".reg .b64 %base, %in, %out, %y<8>; .reg .b32 %t, %lane, %x<8>; .reg .pred %q<8>;\n";

/// Declares the registers of spellings that a text names.
fn declarations(text: &str) -> String {
    let names: BTreeSet<(&str, &str)> = text.split('%').skip(1).filter_map(register).collect();
    names.into_iter().map(|(ty, name)| format!(".reg .{ty} %{name};\n")).collect()
}

fn register(text: &str) -> Option<(&'static str, &str)> {
    let name = &text[..text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len())];
    let digits = name.find(|c: char| c.is_ascii_digit())?;
    let ty = match &name[..digits] {
        "rb" => "b8",
        "rs" => "b16",
        "r" => "b32",
        "rd" => "b64",
        "rq" => "b128",
        "p" => "pred",
        _ => return None,
    };
    name[digits..].bytes().all(|b| b.is_ascii_digit()).then_some((ty, name))
}

/// Bytes without a pattern for so many threads.
pub fn noise(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.bits() as u8).collect()
}

/// A random generator of a spelling's own.
pub fn random_for(s: &Spelling<'_>) -> Random {
    Random(s.text.bytes().fold(7, |seed, b| seed * 31 % 1_000_003 + u64::from(b)))
}

/// The little-endian number in these bytes.
pub fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |all, b| all << 8 | u128::from(*b))
}

/// The number of `bytes` bytes that thread `t` has at `at`.
pub fn word(all: &[u8], stride: usize, t: usize, at: usize, bytes: usize) -> u128 {
    number(&all[t * stride + at..][..bytes])
}
