//! What a program holds beside its operations: variables, parameters, special registers, places, tracked registers.

use cuda_emulator::device::A100;
use cuda_emulator::isa::{Alu, Inst, Op};
use cuda_emulator::program::{Param, Special, Tracked};
use cuda_emulator::ptx::load;

use super::{HEAD, VARIABLES, kernel, loaded, memory, wide};

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
    assert_eq!((place.ptx, &*place.text), (9, "mov.u32 %a, 1"));
    assert_eq!(place.source, Some(("x.cu".into(), 17)));
    assert_eq!(program.places[1].source, None);
    assert_eq!(program.places.len(), program.code.len());
    assert!(matches!(program.code.last(), Some(Inst { op: Op::Exit, .. })), "the end was fallen through");
}

#[test]
fn places_name_the_callers_of_inlined_functions() {
    let program = kernel(
        ".file 1 \"x.cu\"\n.file 2 \"h.hpp\"\n.entry k()\n{\n.reg .b32 %a;\n.loc 1 5 2, function_name f, inlined_at 1 20 4\n\
         mov.u32 %a, 1;\n.loc 2 9 1, function_name g+8, inlined_at 1 5 2\nmov.u32 %a, 2;\n.loc 1 5 2\nmov.u32 %a, 3;\n}",
    );
    let callers =
        |i: usize| program.places[i].callers.iter().map(|(file, line)| format!("{file}:{line}")).collect::<Vec<_>>();
    assert_eq!(program.places[1].source, Some(("h.hpp".into(), 9)));
    assert_eq!(callers(0), ["x.cu:20"]);
    assert_eq!(callers(1), ["x.cu:5", "x.cu:20"]);
    assert!(callers(2).is_empty());
}

#[test]
fn tracked_are_those_that_a_path_may_leave_unwritten() {
    let names = |body: &str| -> Vec<(u32, String)> {
        let program = kernel(&format!(
            ".entry k(.param .u64 p)\n{{\n.reg .b32 %r<9>; .reg .pred %p<4>; .reg .b64 %rd;\nld.param.u64 %rd, [p];\n\
             setp.lt.u32 %p0, %tid.x, 5;\n{body}\nret; }}"
        ));
        let Tracked { count, guards, reads, .. } = program.tracked;
        assert_eq!(count == 0, guards.is_empty() && reads.is_empty());
        guards.iter().chain(&reads).flat_map(|(at, r)| r.iter().map(|(_, name)| (*at, name.clone()))).collect()
    };
    assert_eq!(names("mov.u32 %r1, 1; st.global.u32 [%rd], %r1;"), []);
    assert_eq!(names("st.global.u32 [%rd], %r1;"), [(2, "%r1".into())]);
    assert_eq!(names("@%p0 mov.u32 %r1, 1; st.global.u32 [%rd], %r1;"), [(3, "%r1".into())]);
    assert_eq!(names("@%p0 bra L; mov.u32 %r1, 1; L: st.global.u32 [%rd], %r1;"), [(4, "%r1".into())]);
    assert_eq!(names("@%p0 bra L; mov.u32 %r1, 1; bra M; L: mov.u32 %r1, 2; M: st.global.u32 [%rd], %r1;"), []);
    assert_eq!(names("L: mov.u32 %r2, 1; @%p0 bra L; st.global.u32 [%rd], %r2;"), []);
    assert_eq!(names("L: @%p1 bra M; mov.pred %p1, %p0; bra L; M: exit;"), [(2, "%p1".into())]);
    // What is made of it is followed to where it is used; the second read is behind a write on every path.
    let made = "add.u32 %r2, %r1, 1; mov.u32 %r1, 1; add.u32 %r3, %r1, %r2; st.global.u32 [%rd], %r3;";
    assert_eq!(names(made), [(5, "%r3, made of %r1,".into())]);
    assert_eq!(
        names("setp.eq.u32 %p2, %r1, 0; selp.b32 %r3, 1, 2, %p2; @%p2 exit;"),
        [(4, "%p2, made of %r1,".into())]
    );
    assert_eq!(names("selp.b32 %r3, 1, 2, %p1; vote.sync.any.pred %p2, %p1, -1;"), [(3, "%p1".into())]);
    // Without a use nothing is tracked; local memory is none.
    assert_eq!(names("mov.u32 %r2, %r1; selp.b32 %r3, %r2, %r1, %p0; { .local .u32 x; st.local.u32 [x], %r3; }"), []);
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
    let chain: String = (0..1000).map(|i| format!(".func f{i}() {{ call f{}; ret; }}\n", i + 1)).collect();
    let error = loaded(&format!("{chain}.func f1000() {{ ret; }}\n.entry k() {{ call f0; ret; }}")).err().unwrap();
    assert!(error.why.contains("deeper"), "{error}");
}
