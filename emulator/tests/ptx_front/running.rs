//! Programs do what their texts say. The judge is an interpreter of the text by names, which knows no rows, frames or
//! blocks; the programs run on one lane, for the operations that these texts use.

use std::collections::HashMap;

use cuda_emulator::device::A100;
use cuda_emulator::isa::{Alu, IntOp, Op, Pred, Reg, Space};
use cuda_emulator::program::Program;
use cuda_emulator::ptx::ast::{Operand, Statement};
use cuda_emulator::ptx::{load, parse};
use proptest::prelude::*;

use super::{HEAD, kernel, loaded, memory, well_formed, wide};

/// One lane of a linked program, for the operations that the tests' texts use. What it stores to global memory is its result.
struct Lane<'p> {
    program: &'p Program,
    rows: Vec<u32>,
    predicates: Vec<bool>,
    local: Vec<u8>,
    stores: Vec<u64>,
}

impl Lane<'_> {
    fn run(program: &Program, steps: usize) -> Vec<u64> {
        let mut lane = Lane {
            program,
            rows: vec![0xdead_beef; program.rows as usize],
            predicates: vec![false; program.predicates as usize],
            local: vec![0xee; program.needs.local as usize],
            stores: Vec::new(),
        };
        let mut at = 0;
        for _ in 0..steps {
            match lane.step(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        lane.stores
    }

    fn get(&self, reg: Reg, rows: u32) -> u64 {
        match reg.constant() {
            Some(_) if rows == 2 => wide(self.program, reg),
            Some(i) => self.program.constants[i].0[0].into(),
            None if rows == 2 => u64::from(self.rows[reg.0 as usize]) | u64::from(self.rows[reg.0 as usize + 1]) << 32,
            None => self.rows[reg.0 as usize].into(),
        }
    }

    fn set(&mut self, reg: Reg, rows: u32, value: u64) {
        self.rows[reg.0 as usize] = value as u32;
        if rows == 2 {
            self.rows[reg.0 as usize + 1] = (value >> 32) as u32;
        }
    }

    fn pred(&self, pred: Pred) -> bool {
        match pred {
            Pred::Always => true,
            Pred::If(p) => self.predicates[p as usize],
            Pred::Unless(p) => !self.predicates[p as usize],
        }
    }

    /// The next position; None at the end.
    fn step(&mut self, at: usize) -> Option<usize> {
        let inst = &self.program.code[at];
        if !self.pred(inst.guard) {
            return Some(at + 1);
        }
        match &inst.op {
            Op::Alu(Alu::Mov { ty, d, a }) => self.set(*d, ty.rows(), self.get(*a, ty.rows())),
            Op::Alu(Alu::MovPred { d, a }) => self.predicates[*d as usize] = self.pred(*a),
            Op::Alu(Alu::Int { op: IntOp::Add, ty, d, a }) => {
                let [x, y] = [a[0], a[1]].map(|r| self.get(r, ty.rows()));
                self.set(*d, ty.rows(), x.wrapping_add(y));
            }
            Op::Alu(Alu::SetP { compare, p, a, b, .. }) => {
                let [x, y] = [*a, *b].map(|r| self.get(r, compare.ty.rows()));
                self.predicates[p.unwrap() as usize] = x < y;
            }
            Op::Load(load) if load.space == Space::Local => {
                let from = (self.get(load.at.base, 2) as i64 + load.at.offset) as usize;
                let mut bytes = [0; 8];
                let count = load.ty.bytes() as usize;
                bytes[..count].copy_from_slice(&self.local[from..][..count]);
                self.set(load.d.as_slice()[0].unwrap(), load.reg.rows(), u64::from_le_bytes(bytes));
            }
            Op::Store(store) if store.space == Space::Local => {
                let to = (self.get(store.at.base, 2) as i64 + store.at.offset) as usize;
                let value = self.get(store.a.as_slice()[0], store.reg.rows());
                let count = store.ty.bytes() as usize;
                self.local[to..][..count].copy_from_slice(&value.to_le_bytes()[..count]);
            }
            Op::Store(store) => self.stores.push(self.get(store.a.as_slice()[0], store.reg.rows())),
            Op::Branch { target } => return Some(*target as usize),
            Op::BranchIndexed { index, targets } => return Some(targets[self.get(*index, 1) as usize] as usize),
            Op::Call { target, link } => {
                self.set(*link, 1, at as u64 + 1);
                return Some(*target as usize);
            }
            Op::Return { link } => return Some(self.get(*link, 1) as usize),
            Op::Exit => return None,
            other => panic!("{other:?}"),
        }
        Some(at + 1)
    }
}

fn results(body: &str) -> Vec<u64> {
    Lane::run(&kernel(body), 10_000)
}

#[test]
fn scopes_shadow_registers_labels_and_variables() {
    let text = ".entry k()\n{\n.reg .b32 %r, %r1<5>; .reg .b64 %rd;\n.local .u32 x;\nmov.u64 %rd, 0;\nmov.u32 %r, 1; mov.u32 %r12, 7;\n\
        { .reg .b32 %r, %r<20>; .local .u32 x;\nmov.u32 %r, 2; mov.u32 %r12, 8; st.local.u32 [x], 5;\n\
        bra L; st.global.u32 [%rd], 99;\nL: st.global.u32 [%rd], %r; st.global.u32 [%rd], %r12; }\n\
        st.local.u32 [x], 6;\nst.global.u32 [%rd], %r; st.global.u32 [%rd], %r12;\nbra L;\nst.global.u32 [%rd], 98;\n\
        L: { .local .u32 y; .reg .b32 %z; st.local.u32 [y], 3; ld.local.u32 %z, [x]; st.global.u32 [%rd], %z; } }";
    assert_eq!(results(text), [2, 8, 1, 7, 6]);
}

#[test]
fn calls_pass_arguments_and_come_back() {
    let text = ".func (.param .b64 out) inner(.param .b64 a, .param .b32 b)\n{ .reg .b64 %a, %c; .reg .b32 %b;\n\
        ld.param.u64 %a, [a]; ld.param.u32 %b, [b]; st.global.u32 [%a], %b;\nadd.u64 %c, %a, 5; st.param.b64 [out], %c; ret; }\n\
        .alias also, inner;\n\
        .func (.param .align 4 .b8 out[12]) outer(.param .align 4 .b8 s[12], .param .b32 n)\n\
        { .reg .b32 %n, %x; .reg .b64 %r, %keep;\nmov.u64 %keep, 1000; ld.param.u32 %n, [n]; ld.param.u32 %x, [s+8];\n\
        call (%r), inner, (100, %n);\nst.global.u64 [%r], %r;\ncall (_), also, (%keep, %x);\nst.global.u64 [%r], %keep;\n\
        add.u32 %x, %x, 1; st.param.b32 [out+8], %x; st.param.b32 [out], %n; }\n\
        .entry k()\n{ .reg .b32 %x, %n; .reg .b64 %rd; mov.u64 %rd, 0; mov.u32 %n, 3;\nAGAIN:\n\
        { .param .align 4 .b8 p[12]; .param .b32 q; .param .align 4 .b8 back[12];\n\
        st.param.b32 [p+8], 40; st.param.b32 [q+0], %n;\ncall.uni (back), outer, (p, q);\n\
        ld.param.b32 %x, [back+8]; st.global.u32 [%rd], %x; ld.param.b32 %x, [back]; st.global.u32 [%rd], %x; }\n\
        .reg .pred %p; add.u32 %n, %n, 1; setp.lt.u32 %p, %n, 5;\n@%p bra AGAIN;\nst.global.u32 [%rd], %n; }";
    let round = |n| [n, 105, 40, 1000, 41, n];
    let expected: Vec<u64> = [3, 4].into_iter().flat_map(round).chain([5]).collect();
    assert_eq!(results(text), expected);
}

#[test]
fn calls_must_fit() {
    let f = ".func (.param .b64 o) f(.param .b64 a, .param .align 4 .b8 s[12]) { ret; }\n";
    for call in [
        "call f;",
        "call (%d), f, (%d);",
        "call (%d), f, (%d, %d);",
        "{ .param .align 4 .b8 s[8]; call (%d), f, (%d, s); }",
        "{ .param .align 4 .b8 s[12]; call (%w), f, (%d, s); }",
        "{ .param .align 4 .b8 s[12]; call (%d), f, (%w, s); }",
        "call k;",
        "call vprintf, (1);",
    ] {
        let text = format!("{f}.entry k() {{\n.reg .b64 %d; .reg .b32 %w; mov.u64 %d, 0; mov.u32 %w, 0;\n{call} }}");
        assert_eq!(loaded(&text).err().map(|e| e.line), Some(7), "{call}");
    }
}

#[test]
fn indexed_branches_go_where_their_list_says() {
    let text = |i| {
        format!(
            ".entry k()\n{{ .reg .b64 %rd; .reg .b32 %i; mov.u64 %rd, 0; mov.u32 %i, {i};\nT: .branchtargets A, B, C;\n\
             brx.idx %i, T;\nA: st.global.u32 [%rd], 1; ret;\nB: st.global.u32 [%rd], 2;\nC: }}"
        )
    };
    assert_eq!([0, 1, 2].map(|i| results(&text(i))), [vec![1], vec![2], vec![]]);
}

/// Runs a text by names: the independent judge of scopes, rows and links.
fn by_names(text: &str, steps: usize) -> Vec<u64> {
    let module = parse(text).unwrap();
    let statements = &module.functions[0].body.as_ref().unwrap().statements;
    let mut values: HashMap<String, u64> = HashMap::new();
    let label = |name: &str| {
        statements.iter().position(|s| matches!(s, Statement::Label { name: l, .. } if l == name)).unwrap()
    };
    let (mut at, mut stores, mut left) = (0, Vec::new(), steps);
    while let (Some(statement), 1..) = (statements.get(at), left) {
        at += 1;
        let Statement::Instruction(inst) = statement else { continue };
        left -= 1;
        let value = |o: &Operand| match o {
            Operand::Name(name) => values[name],
            Operand::Integer(i) => *i as u64,
            other => panic!("{other:?}"),
        };
        if inst.guard.as_ref().is_some_and(|(p, negated)| (values[p] == 1) == *negated) {
            continue;
        }
        let mask = if inst.modifiers.last().is_some_and(|m| m == "u64") { u64::MAX } else { u32::MAX.into() };
        let (target, result) = match (inst.opcode.as_str(), &inst.operands[..]) {
            ("mov", [d, a]) => (d, value(a) & mask),
            ("add", [d, a, b]) => (d, value(a).wrapping_add(value(b)) & mask),
            ("setp", [p, a, b]) => (p, u64::from(value(a) < value(b))),
            ("st", [_, a]) => {
                stores.push(value(a));
                continue;
            }
            ("bra", [Operand::Name(name)]) => {
                at = label(name);
                continue;
            }
            ("exit", _) => break,
            other => panic!("{other:?}"),
        };
        let Operand::Name(target) = target else { panic!("{target:?}") };
        values.insert(target.clone(), result);
    }
    stores
}

/// Ten narrow and four wide registers, four predicates, all written first; then anything.
fn random_kernel() -> impl Strategy<Value = String> {
    let (r, d, p, label) = (0..10u32, 0..4u32, 0..4u32, 0..6usize);
    let guard = prop_oneof![3 => Just(String::new()), 1 => (p.clone(), any::<bool>()).prop_map(|(p, n)| {
        format!("@{}%p{p} ", if n { "!" } else { "" })
    })];
    let plain = prop_oneof![
        (r.clone(), r.clone(), r.clone()).prop_map(|(a, b, c)| format!("add.u32 %r{a}, %r{b}, %r{c};")),
        (r.clone(), 0..9u32).prop_map(|(a, n)| format!("mov.u32 %r{a}, {n};")),
        (d.clone(), d.clone(), d.clone()).prop_map(|(a, b, c)| format!("add.u64 %d{a}, %d{b}, %d{c};")),
        (d.clone(), 0..1u64 << 40).prop_map(|(a, n)| format!("mov.u64 %d{a}, {n};")),
        (p, r.clone(), r.clone()).prop_map(|(p, a, b)| format!("setp.lt.u32 %p{p}, %r{a}, %r{b};")),
        r.prop_map(|a| format!("st.global.u32 [%x], %r{a};")),
        d.prop_map(|a| format!("st.global.u64 [%x], %d{a};")),
        label.prop_map(|l| format!("bra L{l};")),
    ];
    let line = (guard, plain).prop_map(|(g, i)| g + &i);
    proptest::collection::vec(proptest::collection::vec(line, 0..7), 6).prop_map(|blocks| {
        let mut text =
            format!("{HEAD}.entry k()\n{{\n.reg .b32 %r<10>; .reg .b64 %d<4>, %x; .reg .pred %p<4>;\nmov.u64 %x, 0;\n");
        (0..10).for_each(|i| text += &format!("mov.u32 %r{i}, {};\n", i * 3 % 7));
        (0..4).for_each(|i| {
            text += &format!("mov.u64 %d{i}, {};\nsetp.lt.u32 %p{i}, %r{i}, %r{};\n", 7_000_000_000u64 * i, i + 2)
        });
        for (i, block) in blocks.iter().enumerate() {
            text += &format!("L{i}:\n{}\n", block.join("\n"));
        }
        text + "exit;\n}\n"
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn programs_do_what_their_text_says(text in random_kernel()) {
        let program = load(&text, &A100, &memory()).unwrap().kernels.remove(0);
        well_formed(&program);
        prop_assert_eq!(program.tracked.count, 0);
        // Every instruction of these texts is one operation, so the same number of steps is the same way.
        prop_assert_eq!(Lane::run(&program, 300), by_names(&text, 300));
    }
}
