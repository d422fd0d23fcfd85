//! Texts in: what nvcc writes, every shape of operand and directive, refusals by line, damaged texts.

use cuda_emulator::device::{A100, H100, RTX_4090};
use cuda_emulator::isa::Op;
use cuda_emulator::program::Program;
use cuda_emulator::ptx::ast::{Init, Instruction, Operand, Statement, VarSpace};
use cuda_emulator::ptx::{load, parse};
use proptest::prelude::*;

use super::{CALLS, HEAD, TILE, VARIABLES, loaded, memory, well_formed};

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
                Statement::Instruction(inst) => out.push((**inst).clone()),
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
    assert_eq!(&*inst.text, "@!%p1 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1}");
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
    assert_eq!(module.files.into_iter().collect::<Vec<_>>(), [(1, "a.cu".into())]);
    assert_eq!(module.aliases, [("g".into(), "f".into())]);
    let [dynamic, table, vector, managed] = &module.variables[..] else { panic!("{:?}", module.variables) };
    assert_eq!((dynamic.external(), dynamic.count, dynamic.align, dynamic.space), (true, None, 16, VarSpace::Shared));
    assert_eq!((table.count, table.init.len()), (Some(6), 6));
    let image: Vec<f64> = table
        .init
        .iter()
        .map(|i| match i {
            Init::Bits(bits) => f64::from_bits(*bits),
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
        // Twenty thousand targets for each of two thousand branches.
        (
            format!(
                ".entry k() {{ .reg .b32 %r; mov.u32 %r, 0; t: .branchtargets {}L; L: {} }}",
                "L, ".repeat(20_000),
                "brx.idx %r, t; ".repeat(2_000)
            ),
            4,
            "too large",
        ),
        (".global .u8 x[3][4000000] = {{}, {1}};".into(), 4, "leave out more than 4194304"),
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
