//! The PTX front end from outside: what it reads, what it refuses and on which line, and that a linked program does what
//! its text says. The judge of the last is an interpreter of the text by names, which knows no rows, frames or blocks.

use std::collections::HashMap;

use cuda_emulator::device::{A100, H100, RTX_4090};
use cuda_emulator::isa::{Alu, Inst, IntOp, Op, Pred, Reg, Space};
use cuda_emulator::memory::Memory;
use cuda_emulator::operands::Operand as Role;
use cuda_emulator::program::{Param, Program, Special};
use cuda_emulator::ptx::ast::{Instruction, Operand, Statement, VarSpace};
use cuda_emulator::ptx::{Module, PtxError, load, parse};
use proptest::prelude::*;

const CALLS: &str = include_str!("data/calls.ptx");
const VARIABLES: &str = include_str!("data/variables.ptx");
const TILE: &str = include_str!("data/tile.ptx");

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn memory() -> Memory {
    Memory::new(1 << 20).unwrap()
}

fn loaded(body: &str) -> Result<Module, PtxError> {
    load(&format!("{HEAD}{body}"), &A100, &memory())
}

fn kernel(body: &str) -> Program {
    let program = loaded(body).unwrap_or_else(|e| panic!("{e}\n{body}")).kernels.remove(0);
    well_formed(&program);
    program
}

/// What the machine relies on: registers, predicates and targets exist, and nothing runs off the end.
fn well_formed(program: &Program) {
    let (code, name) = (program.code.len() as u32, &program.name);
    assert_eq!(program.places.len(), program.code.len(), "{name}");
    let predicate = |p: Pred| match p {
        Pred::Always => {}
        Pred::If(p) | Pred::Unless(p) => assert!(u32::from(p) < program.predicates, "{name}"),
    };
    let register = |reg: Reg, rows: u32| match reg.constant() {
        Some(i) => assert!(i + rows as usize <= program.constants.len(), "{name}"),
        None => assert!(reg.0 + rows <= program.rows, "{name}"),
    };
    for inst in &program.code {
        predicate(inst.guard);
        inst.op.clone().registers(&mut |operand| match operand {
            Role::Read(reg, rows) => register(*reg, rows),
            Role::Write(reg, rows) => {
                assert!(reg.constant().is_none() && program.specials.iter().all(|(_, s)| s != reg), "{name}");
                register(*reg, rows);
            }
            Role::ReadPred(pred) => predicate(*pred),
            Role::WritePred(p) => predicate(Pred::If(*p)),
        });
        match &inst.op {
            Op::Branch { target } | Op::Call { target, .. } => assert!(*target < code, "{name}"),
            Op::BranchIndexed { targets, .. } => assert!(targets.iter().all(|t| *t < code), "{name}"),
            _ => {}
        }
    }
    let last = program.code.last().unwrap();
    let ends =
        matches!(last.op, Op::Exit | Op::Trap | Op::Return { .. } | Op::Branch { .. } | Op::BranchIndexed { .. });
    assert!(ends && last.guard == Pred::Always, "{name}");
}

#[test]
fn reads_what_nvcc_writes() {
    for (text, functions, kernels) in [(CALLS, 6, 1), (VARIABLES, 2, 2), (TILE, 1, 1)] {
        let module = parse(text).unwrap();
        assert_eq!((module.version, module.target), ((9, 0), 80));
        assert_eq!(
            module.functions.len(),
            functions,
            "{:?}",
            module.functions.iter().map(|f| &f.name).collect::<Vec<_>>()
        );
        assert_eq!(module.functions.iter().filter(|f| f.entry).count(), kernels);
        assert!(!module.files.is_empty());
    }
}

#[test]
fn what_nvcc_writes_becomes_programs() {
    let programs: Vec<Program> =
        [CALLS, VARIABLES, TILE].iter().flat_map(|text| load(text, &A100, &memory()).unwrap().kernels).collect();
    assert_eq!(programs.iter().map(|p| &*p.name).collect::<Vec<_>>(), ["calls", "variables", "choose", "tile"]);
    for program in &programs {
        well_formed(program);
        assert_eq!(program.tracked.count, 0, "{}: {:?}", program.name, program.tracked);
    }
    let [calls, _, _, tile] = &programs[..] else { panic!() };
    let targets = calls.code.iter().filter_map(|inst| match inst.op {
        Op::Call { target, .. } => Some(target),
        _ => None,
    });
    let targets: std::collections::BTreeSet<u32> = targets.collect();
    assert_eq!(targets.len(), 3, "weigh, make and both, each once");
    assert_eq!((calls.needs.static_shared, calls.needs.dynamic_align, calls.needs.shared_granule), (512, 16, 1));
    assert_eq!(calls.needs.max_threads, Some([128, 1, 1]));
    assert_eq!((tile.needs.static_shared, tile.needs.local), (512, 0));
    assert!(tile.code.iter().any(|inst| matches!(inst.op, Op::Mma(_))));
}

fn instructions(text: &str) -> Vec<Instruction> {
    fn walk(statements: &[Statement], out: &mut Vec<Instruction>) {
        for statement in statements {
            match statement {
                Statement::Instruction(inst) => out.push(inst.clone()),
                Statement::Block(block) => walk(&block.statements, out),
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    for function in parse(text).unwrap().functions {
        walk(&function.body.unwrap_or_default().statements, &mut out);
    }
    out
}

fn one(instruction: &str) -> Instruction {
    instructions(&format!("{HEAD}.entry k() {{ {instruction} }}")).remove(0)
}

#[test]
fn operands_of_every_shape() {
    use Operand::*;
    let name = |s: &str| Name(s.into());
    let at = |base, offset| Memory { base: Box::new(base), offset, rest: vec![] };
    let cases = [
        ("mov.u32 %r1, %tid.x;", vec![name("%r1"), name("%tid.x")]),
        ("mov.b64 %rd1, {%r1, _};", vec![name("%rd1"), Vector(vec![name("%r1"), Sink])]),
        (
            "setp.lt.and.f32 %p1|%p2, %f1, 0fBF800000, !%p3;",
            vec![
                Pair(Box::new(name("%p1")), Box::new(name("%p2"))),
                name("%f1"),
                Single(0xbf80_0000),
                Not("%p3".into()),
            ],
        ),
        (
            "ld.global.L1::no_allocate.L2::cache_hint.v2.b32 {%r1, %r2}, [%rd1+-8], %rd2;",
            vec![Vector(vec![name("%r1"), name("%r2")]), at(name("%rd1"), -8), name("%rd2")],
        ),
        ("st.param.b32 [param0+0], -0x10;", vec![at(name("param0"), 0), Integer(-16)]),
        ("mov.u64 %rd1, table + 4 * 3;", vec![name("%rd1"), NameOffset("table".into(), 12)]),
        ("ld.shared.u32 %r1, [64];", vec![name("%r1"), at(Integer(64), 0)]),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global [%r1], [%rd1, {%r2, %r3}], [%r4];",
            vec![
                at(name("%r1"), 0),
                Memory { base: Box::new(name("%rd1")), offset: 0, rest: vec![Vector(vec![name("%r2"), name("%r3")])] },
                at(name("%r4"), 0),
            ],
        ),
        (
            "call.uni (retval0), f, (param0, 5);",
            vec![List(vec![name("retval0")]), name("f"), List(vec![name("param0"), Integer(5)])],
        ),
        (
            "fma.rn.f64 %fd1, 1.5, 0d4000000000000000, %fd2;",
            vec![name("%fd1"), Double(1.5f64.to_bits()), Double(2f64.to_bits()), name("%fd2")],
        ),
    ];
    for (text, operands) in cases {
        assert_eq!(one(text).operands, operands, "{text}");
    }
    let inst =
        one("@!%p1 /* why */ mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32\n {%f1}, // d\n {%r1}, {%r2}, {%f1};");
    assert_eq!(inst.guard, Some(("%p1".into(), true)));
    assert_eq!(inst.opcode, "mma");
    assert_eq!(inst.modifiers.join("."), "sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
    assert_eq!(inst.text, "@!%p1 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1}");
    assert_eq!(one("ld.global.L2::128B.u8 %r1, [x];").modifiers, ["global", "L2::128B", "u8"]);
}

#[test]
fn directives_of_modules_and_functions() {
    let text = ".version 9.1\n.target sm_90a, debug\n.address_size 64\n.file 1 \"a.cu\", 12, 34\n\
        .extern .shared .align 16 .b8 dyn[];\n.visible .const .align 8 .f64 c[2][3] = {{1.0}, {0d4000000000000000, 3}};\n\
        .global .v4 .f32 v[2];\n.global .attribute(.managed) .u8 m = 3;\n\
        .weak .func (.param .align 8 .b8 r[24]) f(.param .u64 .ptr .global .align 16 x, .param .b32 y) .noreturn ;\n\
        .alias g, f;\n.pragma \"nounroll\";\n\
        .visible .entry k(.param .u64 .ptr .shared .align 4 p) .maxntid 128, 2 .minnctapersm 3 .reqnctapercluster 2, 1, 1\n\
        .explicitcluster .maxnreg 64 .pragma \"x\"; {\n.loc 1 7 3, function_name $L__s0+4, inlined_at 1 2 3\n\
        .reg .b32 %r<5>, %x;\n L: .branchtargets A, B;\n P: .callprototype (.param .b32 _) _ (.param .b64 _);\n A: B: ret; }\n\
        .section .debug_str { $L__s0: .b8 1, 2\n { .b8 3 } }\n";
    let module = parse(text).unwrap();
    assert_eq!((module.target, module.target_suffix), (90, Some('a')));
    assert_eq!(module.files, [(1, "a.cu".into())]);
    assert_eq!(module.aliases, [("g".into(), "f".into())]);
    let [dynamic, table, vector, managed] = &module.variables[..] else { panic!("{:?}", module.variables) };
    assert_eq!((dynamic.external, dynamic.count, dynamic.align, dynamic.space), (true, None, 16, VarSpace::Shared));
    assert_eq!((table.count, table.init.len()), (Some(6), 6));
    let image: Vec<f64> = table
        .init
        .iter()
        .map(|i| match i {
            cuda_emulator::ptx::ast::Init::Bits(bits) => f64::from_bits(*bits),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(image, [1.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
    assert_eq!((vector.element, vector.count, vector.align), (4, Some(8), 16));
    assert_eq!(managed.init.len(), 1);
    let [f, k] = &module.functions[..] else { panic!() };
    assert!(f.body.is_none() && f.returns[0].bytes() == 24 && f.params[0].align == 8);
    let directives: Vec<_> = k.directives.iter().map(|(n, c)| (n.as_str(), &c[..])).collect();
    let expected: [(&str, &[u32]); 5] = [
        ("maxntid", &[128, 2]),
        ("minnctapersm", &[3]),
        ("reqnctapercluster", &[2, 1, 1]),
        ("explicitcluster", &[]),
        ("maxnreg", &[64]),
    ];
    assert_eq!(directives, expected);
    assert_eq!(k.body.as_ref().unwrap().statements.len(), 7);
}

#[test]
fn refusals_name_the_line() {
    let deep = "{".repeat(100_000);
    let brackets = format!("mov.u32 %r, {};", "{".repeat(100_000));
    let in_kernel = |body: &str| format!(".entry k()\n{{\n{body}\n}}");
    let cases = [
        ("\n.global .u32 x\n.global .u32 y;".to_owned(), 6, "`;`"),
        (".global .u32 x = {1};".into(), 4, "number"),
        (".global .u32 x[2] = {1, 2, 3};".into(), 4, "more initialisers"),
        (".global .b8 x[4294967295][4294967295][64];".into(), 4, "terabyte"),
        (".global .b8 x[1000000000000];".into(), 4, "32 bits"),
        (".global .b8 x[4294967295];".into(), 4, "GiB"),
        (".global .b8 x[2000000];".into(), 4, "memory"),
        (".global .align 3 .b8 x;".into(), 4, "alignment"),
        (".global .u64 x = y;".into(), 4, "`y`"),
        (".global .u32 x;\n.global .u32 x;".into(), 5, "twice"),
        (".extern .global .u32 x;".into(), 4, "link"),
        (".tex .u32 x;".into(), 4, "`.tex`"),
        (".entry k(.param .b8 x[40000]) { ret; }".into(), 4, "32764"),
        (in_kernel(".reg .b32 %r<1000001>;"), 6, "registers"),
        (in_kernel("\n.reg .pred %p<70000>;"), 7, "predicates"),
        (in_kernel(".local .b8 x[600000];"), 6, "512 KiB"),
        (in_kernel(".shared .b8 x[60000];"), 4, "static shared"),
        (in_kernel("@%p bra L;\nL: ret;"), 6, "`%p`"),
        (in_kernel("ret;\nbra M;"), 7, "`M`"),
        (in_kernel("L: ret;\nL: ret;"), 7, "twice"),
        (in_kernel("call malloc, (1);"), 6, "`malloc`"),
        (in_kernel("call %r1, (1), proto;"), 6, "direct"),
        (in_kernel("nonsense.b32 %r1;"), 6, "nonsense"),
        (in_kernel("mov.u32 %r1, 12ab;"), 6, "12ab"),
        (in_kernel("/* open"), 6, "comment"),
        (in_kernel("\"open"), 6, "string"),
        (in_kernel("mov.u32 %r1, é;"), 6, "'é'"),
        (in_kernel(&brackets), 6, "deeper"),
        (format!(".entry k() {deep}"), 4, "deeper"),
    ];
    for (text, line, why) in cases {
        let error = loaded(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
        let shown = &text[..text.len().min(80)];
        assert!(error.why.contains(why), "{shown}: {error}");
        assert_eq!(error.line, line, "{shown}: {error}");
    }
}

#[test]
fn a_refused_module_leaves_no_memory_behind() {
    let memory = memory();
    let text = format!("{HEAD}.global .b8 x[1000];\n.entry k() {{ nonsense; }}");
    assert!(load(&text, &A100, &memory).is_err());
    assert_eq!(memory.usage().0, 0);
}

#[test]
fn targets_against_devices() {
    let runs = |target: &str, device| {
        load(&format!(".version 8.0\n.target {target}\n.address_size 64\n"), device, &memory()).is_ok()
    };
    assert!(runs("sm_80", &A100) && runs("sm_80", &H100) && runs("sm_50", &RTX_4090) && runs("sm_89", &RTX_4090));
    assert!(!runs("sm_86", &A100) && !runs("sm_90", &RTX_4090) && !runs("sm_100", &H100));
    assert!(runs("sm_90a", &H100) && !runs("sm_90a", &A100));
    assert!(!runs("sm_80a", &H100) && !runs("sm_80ab", &A100) && !runs("sm_", &A100) && !runs("80", &A100));
    assert!(load(".version 8.0\n.target sm_80\n.address_size 32\n", &A100, &memory()).is_err());
    assert!(load(".version 10.0\n.target sm_80\n", &A100, &memory()).is_err());
    assert!(load("", &A100, &memory()).is_err());
}

#[test]
fn variables_hold_their_initialisers() {
    let memory = memory();
    let (declarations, _) = VARIABLES.split_once(".visible .entry").unwrap();
    let module = load(declarations, &A100, &memory).unwrap();
    let bytes = |name: &str| {
        let global = module.globals.iter().find(|g| g.name == name).unwrap();
        let mut out = vec![0xee; global.bytes as usize];
        memory.read(global.address, &mut out).unwrap();
        let allocation = memory.table().find(global.address).cloned().unwrap();
        assert!(allocation.written().all(0, global.bytes), "{name} counts as written");
        out
    };
    // As `variables.cu` says.
    let table = [[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7i32]];
    assert_eq!(bytes("table"), table.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let weights = [1.5f32, -2.0, 0.25, 1e10];
    assert_eq!(bytes("weights"), weights.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    assert_eq!(bytes("text"), b"osprey\0");
    assert_eq!(bytes("counter"), [0; 8]);
    let last = module.globals.iter().find(|g| g.name == "last").unwrap();
    let first = bytes("first");
    assert_eq!((first[0], &first[8..]), (5, &last.address.to_le_bytes()[..]));

    let text = ".global .u32 x = 1;\n.global .b8 p[8] = {0xff(x), 0xff00(generic(x)), mask(0xff0000, x+2), 9};\n.global .s16 n = -2;";
    let module = load(&format!("{HEAD}{text}"), &A100, &memory).unwrap();
    let read = |i: usize, n| {
        let mut out = vec![0; n];
        memory.read(module.globals[i].address, &mut out).unwrap();
        out
    };
    let (x, moved) = (module.globals[0].address.to_le_bytes(), (module.globals[0].address + 2).to_le_bytes());
    assert_eq!(read(1, 8), [x[0], x[1], moved[2], 9, 0, 0, 0, 0]);
    assert_eq!(read(2, 2), (-2i16).to_le_bytes());
}

#[test]
fn layouts_of_parameters_and_shared_memory() {
    let program = kernel(
        ".shared .align 4 .b8 unused[400];\n.shared .align 16 .b8 first[20];\n.extern .shared .align 32 .b8 dyn[];\n\
         .entry k(.param .u32 a, .param .u64 b, .param .b8 c, .param .align 16 .b8 d[12], .param .u16 e)\n\
         .maxntid 64, 2\n.reqntid 32\n{\n.reg .u64 %x, %a, %b, %c;\n.shared .align 8 .b8 second[12];\n\
         .local .align 8 .b8 depot[40];\n\
         mov.u64 %x, first; mov.u64 %a, second; mov.u64 %b, dyn; mov.u64 %c, depot; ret; }",
    );
    let at = |offset, bytes, align| Param { offset, bytes, align };
    assert_eq!(program.params, [at(0, 4, 4), at(8, 8, 8), at(16, 1, 1), at(32, 12, 16), at(44, 2, 2)]);
    let moved: Vec<u64> = program
        .code
        .iter()
        .filter_map(|inst| match &inst.op {
            Op::Alu(Alu::Mov { a, .. }) => Some(wide(&program, *a)),
            _ => None,
        })
        .collect();
    // first, then second aligned to 8 behind its 20 bytes, then dynamic memory aligned to 32 behind 36 bytes.
    assert_eq!(moved, [0, 24, 64, 0]);
    let needs = &program.needs;
    assert_eq!((needs.static_shared, needs.dynamic_align, needs.local), (36, 32, 40));
    assert_eq!((needs.max_threads, needs.required_threads), (Some([64, 2, 1]), Some([32, 1, 1])));
    assert_eq!(needs.shared_granule, 4);
    let narrow = kernel(".shared .u16 x;\n.entry k() { st.shared.u16 [x], 5; ret; }");
    assert_eq!(narrow.needs.shared_granule, 2);
}

fn wide(program: &Program, reg: Reg) -> u64 {
    let rows = &program.constants[reg.constant().unwrap()..][..2];
    u64::from(rows[0].0[0]) | u64::from(rows[0].0[1]) << 32
}

#[test]
fn special_registers_have_rows_of_their_own() {
    let program = kernel(
        ".entry k(.param .u64 p)\n{\n.reg .b32 %r<4>; .reg .b64 %rd;\nld.param.u64 %rd, [p];\nmov.u32 %r0, %tid.x;\n\
         add.u32 %r1, %r0, %ctaid.y;\nadd.u32 %r2, %r1, %tid.x;\nadd.u32 %r3, %r2, %laneid; st.global.u32 [%rd], %r3; ret; }",
    );
    let specials: Vec<_> = program.specials.iter().map(|(s, _)| *s).collect();
    assert_eq!(specials, [Special::Tid(0), Special::CtaId(1)]);
    let written = |op: &Op| match op {
        Op::Alu(Alu::Mov { d, .. } | Alu::Int { d, .. }) => Some(*d),
        _ => None,
    };
    for (_, row) in &program.specials {
        assert!(program.code.iter().filter_map(|i| written(&i.op)).all(|d| d != *row));
    }
    assert!(program.constants.iter().any(|row| row.0 == std::array::from_fn(|lane| lane as u32)));
}

#[test]
fn places_name_text_and_source() {
    let program = kernel(
        ".file 3 \"x.cu\"\n.entry k()\n{\n.reg .b32 %a;\n.loc 3 17 2\nmov.u32\t%a, // one\n  1;\n.loc 9 1 1\nmov.u32 %a, 2;\n}",
    );
    let place = &program.places[0];
    assert_eq!((place.ptx, place.text.as_str()), (9, "mov.u32 %a, 1"));
    assert_eq!(place.source, Some(("x.cu".into(), 17)));
    assert_eq!(program.places[1].source, None);
    assert_eq!(program.places.len(), program.code.len());
    assert!(matches!(program.code.last(), Some(Inst { op: Op::Exit, .. })), "the end was fallen through");
}

#[test]
fn tracked_are_those_that_a_path_may_leave_unwritten() {
    let names = |body: &str| -> Vec<(u32, String)> {
        let program = kernel(&format!(
            ".entry k(.param .u64 p)\n{{\n.reg .b32 %r<9>; .reg .pred %p<4>; .reg .b64 %rd;\nld.param.u64 %rd, [p];\n\
             setp.lt.u32 %p0, %tid.x, 5;\n{body}\nret; }}"
        ));
        assert_eq!(program.tracked.count == 0, program.tracked.reads.is_empty() || body.contains("loop"));
        program.tracked.reads.iter().flat_map(|(at, r)| r.iter().map(|(_, name)| (*at, name.clone()))).collect()
    };
    assert_eq!(names("mov.u32 %r1, 1; st.global.u32 [%rd], %r1;"), []);
    assert_eq!(names("st.global.u32 [%rd], %r1;"), [(2, "%r1".into())]);
    assert_eq!(names("@%p0 mov.u32 %r1, 1; st.global.u32 [%rd], %r1;"), [(3, "%r1".into())]);
    assert_eq!(names("@%p0 bra L; mov.u32 %r1, 1; L: st.global.u32 [%rd], %r1;"), [(4, "%r1".into())]);
    assert_eq!(names("@%p0 bra L; mov.u32 %r1, 1; bra M; L: mov.u32 %r1, 2; M: st.global.u32 [%rd], %r1;"), []);
    assert_eq!(names("L: mov.u32 %r2, 1; @%p0 bra L; st.global.u32 [%rd], %r2;"), []);
    assert_eq!(names("L: @%p1 bra M; mov.pred %p1, %p0; bra L; M: exit;"), [(2, "%p1".into())]);
    // The second read is behind a write on every path.
    assert_eq!(names("add.u32 %r2, %r1, 1; mov.u32 %r1, 1; add.u32 %r3, %r1, %r2;"), [(2, "%r1".into())]);
    // Copies are no uses, but what chooses between them is one.
    assert_eq!(names("mov.u32 %r2, %r1; selp.b32 %r3, %r2, %r1, %p0; { .local .u32 x; st.local.u32 [x], %r1; }"), []);
    assert_eq!(names("selp.b32 %r3, 1, 2, %p1;"), [(2, "%p1".into())]);
    // A guarded write alone needs no check, and unreachable reads none.
    assert_eq!(names("@%p0 mov.u32 %r1, 1; exit; st.global.u32 [%rd], %r1;"), []);
}

#[test]
fn recursion_names_both_functions() {
    let error =
        loaded(".func g();\n.func f() { call g; ret; }\n.func g() { call f; ret; }\n.entry k() { call f; ret; }");
    let error = error.err().unwrap();
    assert!(error.why.contains("`g`") && error.why.contains("`f`"), "{error}");
    assert_eq!(error.line, 6);
    let chain: String = (0..100_000).map(|i| format!(".func f{i}() {{ call f{}; ret; }}\n", i + 1)).collect();
    let error = loaded(&format!("{chain}.func f100000() {{ ret; }}\n.entry k() {{ call f0; ret; }}")).err().unwrap();
    assert!(error.why.contains("deeper"), "{error}");
}

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

/// One change to a text: a stretch removed, repeated elsewhere, or a number or a bracket put in its place.
fn mutate(text: &str, changes: &[(usize, usize, usize, u8)]) -> String {
    const PIECES: [&str; 10] = ["4294967295", "-1", "{", "}", "[", "(", ";", "0f3F800000", ".align 4096", "%r<999999>"];
    let mut bytes = text.as_bytes().to_vec();
    for &(at, length, to, kind) in changes {
        let from = at % bytes.len();
        let stretch: Vec<u8> = bytes[from..(from + length % 60).min(bytes.len())].to_vec();
        match kind % 4 {
            0 => drop(bytes.drain(from..from + stretch.len())),
            1 => drop(bytes.splice(to % bytes.len()..to % bytes.len(), stretch)),
            2 => drop(bytes.splice(from..from, PIECES[to % PIECES.len()].bytes())),
            _ => bytes[from] = to as u8 & 0x7f,
        }
        if bytes.is_empty() {
            break;
        }
    }
    String::from_utf8(bytes).unwrap()
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

    #[test]
    fn damaged_texts_are_refused_or_taken(
        which in 0..3usize,
        changes in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<usize>(), any::<u8>()), 1..6),
    ) {
        let text = mutate([CALLS, VARIABLES, TILE][which], &changes);
        let started = std::time::Instant::now();
        let memory = memory();
        match load(&text, &A100, &memory) {
            Ok(module) => module.kernels.iter().for_each(well_formed),
            Err(error) => {
                prop_assert!(error.line as usize <= text.lines().count() + 1, "{}", error);
                prop_assert!(!error.why.is_empty());
                prop_assert_eq!(memory.usage().0, 0);
            }
        }
        prop_assert!(started.elapsed().as_secs() < 10);
    }
}
