//! Every lane-wise form runs in a kernel on random operands, and its results are those of `model`.
//!
//! Floats are normal and between 2^-3 and 2^4, so that the model's arithmetic is exact; what is special about zeros,
//! subnormals, infinities and NaN is tested with the machine's operations (tests/alu_*.rs).

use super::expand::pairwise;
use super::model::Lane;
use super::reader::{Scope, instruction};
use super::{Form, Pattern, find, many, types, width};
use crate::config::Config;
use crate::device::H100;
use crate::gpu::{Arg, Gpu};
use crate::isa::Ty;
use crate::ptx::ast::Operand;
use crate::ptx::forms::pattern::{Kind, Slot, Width};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of one operand of a spelling: 8 for each lane.
const OPERAND: usize = 256;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A normal float between 2^-3 and 2^4.
    fn float(&mut self, fraction: u32, exponent: u32) -> u64 {
        let field = (1 << (exponent - 1)) - 4 + self.bits() % 7;
        let mantissa = self.bits() & ((1 << fraction) - 1) & (u64::MAX << (self.bits() % u64::from(fraction)));
        (self.bits() & 1) << (fraction + exponent) | field << fraction | mantissa
    }

    fn value(&mut self, ty: Ty, opcode: &str, to: Ty) -> u64 {
        let pair = |low: u64, high: u64, bits: u32| low | high << bits;
        match ty {
            Ty::F16 => self.float(10, 5),
            Ty::BF16 => self.float(7, 8),
            Ty::F32 => self.float(23, 8),
            Ty::F64 => self.float(52, 11),
            Ty::F16x2 => pair(self.float(10, 5), self.float(10, 5), 16),
            Ty::BF16x2 => pair(self.float(7, 8), self.float(7, 8), 16),
            Ty::E4M3x2 => pair(self.float(3, 4), self.float(3, 4), 8),
            Ty::E5M2x2 => pair(self.float(2, 5), self.float(2, 5), 8),
            // What f16 holds without an overflow.
            _ if opcode == "cvt" && to == Ty::F16 && ty.signed() => (self.bits() as i64 >> 49) as u64,
            _ if opcode == "cvt" && to == Ty::F16 => self.bits() >> 49,
            _ => self.bits() >> (self.bits() % u64::from(ty.bits().min(63))),
        }
    }
}

/// One spelling in the kernel: its words and operands, with the names of the pattern.
struct Case {
    text: String,
    opcode: String,
    words: Vec<String>,
    sources: Vec<(&'static str, Vec<Source>)>,
    /// Results: name and which of its registers, in the order of the output.
    results: Vec<(&'static str, usize)>,
}

enum Source {
    Number(u64),
    /// Number of the input, and whether it is negated.
    Input(usize, bool),
}

/// A kernel under construction.
#[derive(Default)]
struct Kernel {
    body: String,
    inputs: Vec<[u64; 32]>,
    outputs: usize,
}

impl Kernel {
    fn input(&mut self, values: [u64; 32]) -> usize {
        self.inputs.push(values);
        self.inputs.len() - 1
    }

    /// Writes the code of one spelling.
    fn case(&mut self, text: &str, random: &mut Random) -> Case {
        let inst = instruction(text);
        let scope = Scope::default();
        let (_, bound) = find(&inst, &scope).expect("decoded by another test");
        let mut case = Case {
            text: text.to_owned(),
            opcode: inst.opcode.clone(),
            words: inst.modifiers.clone(),
            sources: Vec::new(),
            results: Vec::new(),
        };
        let (mut after, mut before) = (String::new(), String::new());
        let carries = inst.modifiers.iter().any(|w| w == "cc") || matches!(&*inst.opcode, "addc" | "subc" | "madc");
        let to = types(&inst.modifiers).next().unwrap_or(Ty::B32);
        for (slot, operand) in bound {
            let items = if let Operand::Vector(items) = operand { &items[..] } else { std::slice::from_ref(operand) };
            assert_eq!(items.len(), many(slot, &inst.modifiers), "{text}");
            let ty = width(slot, &inst.modifiers);
            if written(slot) {
                for (i, item) in items.iter().enumerate() {
                    case.results.push((slot.name, i));
                    after += &self.result(slot, item, ty);
                }
                continue;
            }
            let sources = items.iter().map(|item| self.source(slot, item, ty, &case.opcode, to, random)).collect();
            case.sources.push((slot.name, sources));
        }
        if carries {
            let flag = self.input(std::array::from_fn(|_| random.bits() & 1));
            case.sources.push(("carry", vec![Source::Input(flag, false)]));
            before = format!("ld.global.b32 %r99, [%in+{}]; add.cc.u32 %r99, %r99, -1;\n", flag * OPERAND);
            after += "addc.u32 %r98, 0, 0;\n";
            case.results.push(("carry", 0));
            after += &self.result_of(Kind::Value(Width::First), "%r98", Ty::B32);
        }
        writeln!(self.body, "{before}{text}\n{after}").expect("text");
        case
    }

    /// The code that stores a result.
    fn result(&mut self, slot: &Slot, operand: &Operand, ty: Ty) -> String {
        let Operand::Name(name) = operand else { panic!("{operand:?}") };
        self.result_of(slot.kind, name, ty)
    }

    fn result_of(&mut self, kind: Kind, name: &str, ty: Ty) -> String {
        let at = self.outputs * OPERAND;
        self.outputs += 1;
        match kind {
            Kind::Predicate { .. } => format!("selp.b32 %r99, 1, 0, {name}; st.global.b32 [%out+{at}], %r99;"),
            _ => format!("st.global.b{} [%out+{at}], {name};", ty.bits()),
        }
    }

    fn source(&mut self, slot: &Slot, operand: &Operand, ty: Ty, opcode: &str, to: Ty, random: &mut Random) -> Source {
        let (name, negated) = match operand {
            Operand::Integer(n) => return Source::Number(*n as u64),
            Operand::Name(name) => (name, false),
            Operand::Not(name) => (name, true),
            other => panic!("{other:?}"),
        };
        if matches!(slot.kind, Kind::Predicate { .. }) {
            let input = self.input(std::array::from_fn(|_| random.bits() & 1));
            let at = input * OPERAND;
            writeln!(self.body, "ld.global.b32 %r99, [%in+{at}]; setp.ne.u32 {name}, %r99, 0;").expect("text");
            return Source::Input(input, negated);
        }
        let amount = match opcode {
            "shl" | "shr" | "shf" | "bfe" | "bfi" | "szext" | "bmsk" => {
                (ty == Ty::U32 || opcode == "bmsk").then_some(70)
            }
            _ => None,
        };
        let input = self.input(std::array::from_fn(|_| match (opcode, slot.name, amount) {
            ("fns", "b", _) => random.bits() % 32,
            ("fns", "c", _) => (random.bits() % 9).wrapping_sub(4),
            ("szext", "a", _) => random.value(ty, opcode, to),
            (.., Some(most)) if slot.name != "a" || opcode == "bmsk" => random.bits() % most,
            _ => random.value(ty, opcode, to),
        }));
        writeln!(self.body, "ld.global.b{} {name}, [%in+{}];", ty.bits(), input * OPERAND).expect("text");
        Source::Input(input, false)
    }

    /// Runs it; what every lane stored for every result.
    fn run(&self) -> Vec<[u64; 32]> {
        let text = format!(
            ".version 9.0\n.target sm_90\n.address_size 64\n.entry k(.param .u64 in, .param .u64 out) {{
            .reg .b8 %rb<2100>; .reg .b16 %rs<2100>; .reg .b32 %r<2100>; .reg .b64 %rd<2100>; .reg .pred %p<2100>;
            .reg .b64 %in, %out;
            ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %r99, %laneid;
            mad.wide.u32 %in, %r99, 8, %in; mad.wide.u32 %out, %r99, 8, %out;
            {}\nret; }}",
            self.body
        );
        let gpu = Gpu::new(H100, Config::default()).expect("address space");
        let module = gpu.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let input: Vec<u8> = self.inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let [from, to] = [input.len(), self.outputs * OPERAND].map(|n| gpu.alloc(n.max(1) as u64).expect("memory"));
        gpu.write(from, &input).expect("allocated");
        gpu.write(to, &vec![0; self.outputs * OPERAND]).expect("allocated");
        let done = gpu.launch(&module.kernels[0], [1; 3], [32, 1, 1], 0, &[Arg::U64(from), Arg::U64(to)]);
        done.unwrap_or_else(|fault| panic!("{fault}"));
        let bytes = gpu.read(to, self.outputs * OPERAND).expect("allocated");
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        words.as_chunks().0.to_vec()
    }
}

fn written(slot: &Slot) -> bool {
    matches!(slot.name, "d" | "p") || slot.name == "q" && slot.paired
}

impl Case {
    /// Compares all lanes; whether there is a model.
    fn check(&self, inputs: &[[u64; 32]], got: &[[u64; 32]]) -> bool {
        for lane in 0..32 {
            let value = |source: &Source| match *source {
                Source::Number(n) => n,
                Source::Input(input, negated) => inputs[input][lane] ^ u64::from(negated),
            };
            let sources: BTreeMap<_, _> =
                self.sources.iter().map(|(name, all)| (*name, all.iter().map(value).collect::<Vec<_>>())).collect();
            let parts = self.results.iter().filter(|(name, _)| *name == "d").count() as u32;
            let model = Lane { opcode: &self.opcode, words: &self.words, sources: &sources, parts };
            if let Some(near) = model.approximated(got[0][lane]) {
                assert!(near, "{} of {sources:x?} is {:x}", self.text, got[0][lane]);
                continue;
            }
            let Some(expected) = model.results() else { return false };
            for ((name, part), got) in self.results.iter().zip(got) {
                let (_, expected) =
                    expected.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{}: no {name}", self.text));
                assert_eq!(got[lane], expected[*part], "{} {name} of {sources:x?}", self.text);
            }
        }
        true
    }
}

/// Runs a form in all pairs of its alternatives; whether all have a model.
pub fn modelled(form: &Form) -> bool {
    let pattern = Pattern::compile(form.syntax);
    let all = pairwise(&pattern);
    let (mut kernel, mut random) = (Kernel::default(), Random(form.syntax.len() as u64));
    let cases: Vec<Case> = all.iter().map(|text| kernel.case(&text.text, &mut random)).collect();
    let got = kernel.run();
    let mut rest = &got[..];
    cases.iter().fold(true, |modelled, case| {
        let (own, others) = rest.split_at(case.results.len());
        rest = others;
        case.check(&kernel.inputs, own) && modelled
    })
}
