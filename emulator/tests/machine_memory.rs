//! Loads, stores and atomics, and the rules for global and local memory: every broken kernel beside a correct twin.

mod build;

use build::*;
use cuda_emulator::config::{Check, Checks};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::isa::*;
use cuda_emulator::machine::{Access, Operand};
use cuda_emulator::memory::{LOCAL_WINDOW, Memory, SHARED_WINDOW};
use cuda_emulator::program::{Program, Special};

/// `out[thread] = in[thread + shift]`, with a choice of load.
fn copy(shift: u32, nc: bool) -> Program {
    let mut b = Build::new();
    let (input, thread) = (b.param(0), b.thread());
    let (index, d) = (b.add(thread, shift), b.r32());
    let at = wide(b.element(input, index, 4));
    b.op(Op::Load(Load { nc, ..plain(Space::Global, Ty::B32, d, at) }));
    b.output(1, d);
    b.done()
}

fn plain(space: Space, ty: Ty, d: Reg, at: Address) -> Load {
    Load { space, order: Order::Weak, nc: false, ty, reg: ty, d: Vector::new(&[Some(d)]), at }
}

fn fault(program: &Program, memory: &Memory, params: &[u64]) -> Box<Fault> {
    Run { params: params.to_vec(), ..Run::new(program, memory) }.go().expect_err("a broken kernel")
}

#[test]
fn bounds_are_exact_and_the_report_says_how_far() {
    let memory = memory();
    let (input, out) = (upload(&memory, &[7; 33]), memory.alloc(128, "out").expect("memory"));
    Run { params: vec![input, out], ..Run::new(&copy(1, false), &memory) }.go().expect("33 elements");
    let fault = fault(&copy(2, false), &memory, &[input, out]);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert_eq!(fault.thread.expect("a thread").thread, [31, 0, 0]);
    assert!(fault.why.contains("4 bytes past the end of allocation 1 (input, 132 bytes"), "{fault}");
    let checks = Checks::ALL.without(Check::Memory);
    Run { params: vec![input, out], checks, ..Run::new(&copy(2, false), &memory) }.go().expect("unchecked");
    assert_eq!(download(&memory, out, 32)[30..], [7, 0]);
}

#[test]
fn freed_memory_is_told_from_memory_that_never_was() {
    let memory = memory();
    let (input, out) = (upload(&memory, &[1; 32]), memory.alloc(128, "out").expect("memory"));
    memory.free(input).expect("allocated");
    assert_eq!(fault(&copy(0, false), &memory, &[input, out]).kind, FaultKind::UseAfterFree);
    assert_eq!(fault(&copy(0, false), &memory, &[0, out]).kind, FaultKind::OutOfBounds);
}

#[test]
fn addresses_are_aligned_to_the_access() {
    let memory = memory();
    let (input, out) = (upload(&memory, &[1; 40]), memory.alloc(128, "out").expect("memory"));
    let fault = fault(&copy(0, false), &memory, &[input + 2, out]);
    assert_eq!(fault.kind, FaultKind::Misaligned);
    let checks = Checks::ALL.without(Check::Memory);
    Run { params: vec![input + 2, out], checks, ..Run::new(&copy(0, false), &memory) }.go().expect("unchecked");
    assert_eq!(download(&memory, out, 32), [0; 32]);
    assert!(fault.why.contains("not a multiple of 4"), "{fault}");
}

#[test]
fn bytes_that_nobody_wrote() {
    let memory = memory();
    let (input, out) = (memory.alloc(128, "input").expect("memory"), memory.alloc(128, "out").expect("memory"));
    memory.write(input, &[1; 100]).expect("allocated");
    let fault = fault(&copy(0, false), &memory, &[input, out]);
    assert_eq!(fault.kind, FaultKind::UninitialisedGlobal);
    assert_eq!(fault.thread.expect("a thread").thread, [25, 0, 0]);
    assert!(fault.why.contains("byte 100 of allocation"), "{fault}");
    // What a kernel wrote is known to the next.
    memory.write(input, &[1; 128]).expect("allocated");
    Run { params: vec![input, out], ..Run::new(&copy(0, false), &memory) }.go().expect("all written");
    Run { params: vec![out, input], ..Run::new(&copy(0, false), &memory) }.go().expect("the output of the first");
}

#[test]
fn the_read_only_path_and_writes_exclude_each_other() {
    let memory = memory();
    let (input, out) = (upload(&memory, &[1; 64]), memory.alloc(128, "out").expect("memory"));
    Run { params: vec![input, out], ..Run::new(&copy(0, true), &memory) }.go().expect("apart");
    // In place: read, then written.
    assert_eq!(fault(&copy(0, true), &memory, &[input, input]).kind, FaultKind::ReadOnlyWritten);
    Run { params: vec![input, input], ..Run::new(&copy(0, false), &memory) }.go().expect("plain loads may");
    // Written, then read: the second block reads what the first wrote.
    let (long, program) = (upload(&memory, &[1; 96]), copy(0, true));
    let chained = Run { grid: 2, params: vec![long, long + 128], ..Run::new(&program, &memory) };
    assert_eq!(chained.go().expect_err("a chain").thread.expect("a thread").block, [1, 0, 0]);
}

fn operand(address: u64, access: Access) -> Operand {
    Operand { address, bytes: 128, rows: 1, stride: 128, access }
}

#[test]
fn declared_operands() {
    let memory = memory();
    let (input, out) = (upload(&memory, &[1; 64]), upload(&memory, &[0; 64]));
    let run = |shift, threads, operands: &[Operand]| {
        let operands = Some(operands.to_vec());
        Run { block: threads, params: vec![input, out], operands, ..Run::new(&copy(shift, false), &memory) }.go()
    };
    let fine = [operand(input, Access::Read), operand(out, Access::Write)];
    run(0, 32, &fine).expect("as declared");
    let kind = |shift, threads, operands: &[Operand]| run(shift, threads, operands).expect_err("broken").kind;
    // One element beyond the operand, inside the allocation.
    assert_eq!(kind(1, 32, &fine), FaultKind::Operand);
    assert_eq!(kind(0, 32, &[operand(input, Access::Read), operand(out, Access::Read)]), FaultKind::Operand);
    // An output counts as unwritten, whatever it holds.
    assert_eq!(
        kind(0, 32, &[operand(input, Access::Write), operand(out, Access::Write)]),
        FaultKind::UninitialisedGlobal
    );
    // And must be complete.
    let fault = run(0, 16, &fine).expect_err("16 of 32 elements");
    assert_eq!((fault.kind, fault.thread), (FaultKind::Operand, None));
    assert!(fault.why.contains("operand 1") && fault.why.contains("byte 64 of row 0"), "{fault}");
    run(0, 16, &[operand(input, Access::Read), operand(out, Access::WritePartial)]).expect("may be partial");
    // Rows: 64 bytes of every 128.
    let rows = Operand { address: input, bytes: 64, rows: 2, stride: 128, access: Access::Read };
    run(0, 16, &[rows, operand(out, Access::WritePartial)]).expect("the first row");
    assert_eq!(kind(0, 17, &[rows, operand(out, Access::WritePartial)]), FaultKind::Operand);
}

/// Stores a byte, a half and a word, and loads them back with and without sign.
#[test]
fn narrow_loads_extend_by_their_type() {
    let mut b = Build::new();
    let (buffer, value, d) = (b.param(0), b.imm(0xffff_fff0), b.r32());
    b.op(store(Space::Global, Ty::B32, value, wide(buffer)));
    b.op(Op::Load(Load { reg: Ty::S32, ..plain(Space::Global, Ty::S8, d, wide(buffer)) }));
    b.output(1, d);
    b.op(Op::Load(Load { reg: Ty::S16, ..plain(Space::Global, Ty::S8, d, wide(buffer)) }));
    b.output(2, d);
    b.op(Op::Load(Load { reg: Ty::U32, ..plain(Space::Global, Ty::U16, d, wide(buffer)) }));
    b.output(3, d);
    let (program, memory) = (b.done(), memory());
    let at: Vec<u64> = (0..4).map(|_| memory.alloc(128, "buffer").expect("memory")).collect();
    Run { params: at.clone(), ..Run::new(&program, &memory) }.go().expect("correct");
    let got: Vec<u32> = at[1..].iter().map(|at| download(&memory, *at, 1)[0]).collect();
    assert_eq!(got, [0xffff_fff0, 0xfff0, 0xfff0]);
}

/// Generic addresses: lanes of one load in global, shared and local memory.
#[test]
fn generic_addresses_find_their_space_lane_by_lane() {
    let mut b = Build::new();
    (b.needs.static_shared, b.needs.local) = (16, 16);
    let (global, address, d) = (b.param(0), b.r64(), b.r32());
    let (zero, five, six) = (b.imm(0), b.imm(5), b.imm(6));
    let lane = b.lanes(|i| i);
    b.store_shared(zero, five);
    b.op(store(Space::Local, Ty::B32, six, narrow(zero)));
    b.op(Op::Alu(Alu::Mov { ty: Ty::B64, d: address, a: global }));
    for (bound, window) in [(20, SHARED_WINDOW), (10, LOCAL_WINDOW)] {
        let (bound, window) = (b.imm(bound), b.imm64(window));
        let p = b.setp(Cmp::Lt, lane, bound);
        b.when(Pred::If(p), Op::Alu(Alu::Mov { ty: Ty::B64, d: address, a: window }));
    }
    b.op(load(Space::Generic, Ty::B32, d, wide(address)));
    b.output(1, d);
    let (program, memory) = (b.done(), memory());
    let (input, out) = (upload(&memory, &[7]), memory.alloc(128, "out").expect("memory"));
    Run { params: vec![input, out], ..Run::new(&program, &memory) }.go().expect("correct");
    let expected: Vec<u32> = (0..32)
        .map(|i| {
            if i < 10 {
                6
            } else if i < 20 {
                5
            } else {
                7
            }
        })
        .collect();
    assert_eq!(download(&memory, out, 32), expected);
}

#[test]
fn local_and_shared_memory_end_where_they_end() {
    for (space, offset, fine) in
        [(Space::Local, 28, true), (Space::Local, 32, false), (Space::Shared, 12, true), (Space::Shared, 16, false)]
    {
        let mut b = Build::new();
        (b.needs.static_shared, b.needs.local) = (16, 32);
        let (at, one) = (b.imm(offset), b.imm(1));
        b.op(store(space, Ty::B32, one, narrow(at)));
        let (program, memory) = (b.done(), memory());
        match Run::new(&program, &memory).go() {
            Ok(_) => assert!(fine),
            Err(fault) => assert_eq!((fault.kind, fine), (FaultKind::OutOfBounds, false), "{fault}"),
        }
    }
}

/// Every operation by 64 threads of each of 4 blocks on one word, from 2 workers, against a serial model where the
/// order does not matter.
#[test]
fn atomics_do_not_lose_updates() {
    type Model = fn(u32, u32) -> u32;
    let cases: [(AtomOp, Ty, u32, Model); 9] = [
        (AtomOp::Add, Ty::U32, 5, |a, t| a.wrapping_add(t)),
        (AtomOp::Min, Ty::U32, 9, |a, t| a.min(t)),
        (AtomOp::Min, Ty::S32, 9, |a, t| (a as i32).min(t as i32) as u32),
        (AtomOp::Max, Ty::U32, 9, |a, t| a.max(t)),
        (AtomOp::And, Ty::B32, u32::MAX, |a, t| a & t),
        (AtomOp::Or, Ty::B32, 0, |a, t| a | t),
        (AtomOp::Xor, Ty::B32, 0, |a, t| a ^ t),
        (AtomOp::Inc, Ty::U32, 0, |a, _| if a >= 6 { 0 } else { a + 1 }),
        (AtomOp::Dec, Ty::U32, 3, |a, _| if a == 0 || a > 6 { 6 } else { a - 1 }),
    ];
    for (op, ty, start, model) in cases {
        let counting = matches!(op, AtomOp::Inc | AtomOp::Dec);
        let mut b = Build::new();
        let (at, thread, six) = (b.param(0), b.thread(), b.imm(6));
        let value = if counting { six } else { thread };
        let value = if counting { value } else { b.add(value, u32::MAX - 3) };
        b.op(Op::Atom(Atom { ty, ..atom_of(op, wide(at), value) }));
        let (program, memory) = (b.done(), memory());
        let at = upload(&memory, &[start]);
        Run { grid: 4, block: 64, params: vec![at], threads: 2, ..Run::new(&program, &memory) }.go().expect("correct");
        let expected = (0..256u32).fold(start, |a, t| model(a, t.wrapping_add(u32::MAX - 3)));
        assert_eq!(download(&memory, at, 1), [expected], "{op:?} {ty:?}");
    }
}

fn atom_of(op: AtomOp, at: Address, b: Reg) -> Atom {
    let Op::Atom(atom) = atom(Space::Global, op, None, at, b, b) else { unreachable!() };
    atom
}

/// Small integers in halves: their sums are exact, so the order does not matter.
#[test]
fn packed_halves_add_apart() {
    let mut b = Build::new();
    let (at, ones) = (b.param(0), b.imm(0x4000_3c00)); // 2.0 and 1.0
    b.op(Op::Atom(Atom { ty: Ty::F16x2, ..atom_of(AtomOp::Add, wide(at), ones) }));
    let (program, memory) = (b.done(), memory());
    let at = upload(&memory, &[0]);
    Run { block: 64, params: vec![at], threads: 1, ..Run::new(&program, &memory) }.go().expect("correct");
    assert_eq!(download(&memory, at, 1), [0x5800_5400]); // 128 and 64
}

#[test]
fn a_register_that_some_path_leaves_unwritten() {
    let program = |bound| {
        let mut b = Build::new();
        let (tid, bound, x) = (b.special(Special::Tid(0)), b.imm(bound), b.r32());
        let p = b.setp(Cmp::Lt, tid, bound);
        b.when(Pred::If(p), Op::Alu(Alu::Mov { ty: Ty::B32, d: x, a: tid }));
        b.mov(x, x);
        (b.tracked.count, b.tracked.writes, b.tracked.reads) =
            (1, vec![(1, vec![0])], vec![(2, vec![(0, "%r1".into())])]);
        b.done()
    };
    Run::new(&program(32), &memory()).go().expect("all lanes wrote");
    let fault = Run::new(&program(20), &memory()).go().expect_err("lanes 20 to 31 did not");
    assert_eq!((fault.kind, fault.thread.expect("a thread").thread), (FaultKind::UninitialisedRegister, [20, 0, 0]));
}

fn text(memory: &Memory, text: &str) -> u64 {
    let at = memory.alloc(text.len() as u64 + 1, "text").expect("memory");
    memory.write(at, format!("{text}\0").as_bytes()).expect("allocated");
    at
}

#[test]
fn a_failed_assert_says_what_the_source_says() {
    let mut b = Build::new();
    let (message, file, line, function) = (b.param(0), b.param(1), b.imm(12), b.param(2));
    b.op(Op::AssertFail { message, file, line, function });
    let (program, memory) = (b.done(), memory());
    let params = ["x > 0", "k.cu", "kernel"].map(|t| text(&memory, t));
    let fault = fault(&program, &memory, &params);
    assert_eq!((fault.kind, fault.why.as_str()), (FaultKind::Assert, "k.cu:12: kernel: assertion `x > 0` failed"));
}

/// Prints and returns how many values it took; what it printed is seen by the test that runs this one.
#[test]
fn printing() {
    let mut b = Build::new();
    b.needs.local = 32;
    let (format, zero, d) = (b.param(0), b.imm(0), b.r32());
    let (minus, half, arguments) = (b.imm(-7i32 as u32), b.imm64(2.5f64.to_bits()), b.imm64(LOCAL_WINDOW));
    let first = b.lanes(|i| i);
    let first = b.setp(Cmp::Eq, first, zero);
    b.op(store(Space::Local, Ty::B32, minus, narrow(zero)));
    b.op(store(Space::Local, Ty::B64, half, Address { offset: 8, ..narrow(zero) }));
    b.op(store(Space::Local, Ty::B64, format, Address { offset: 16, ..narrow(zero) }));
    b.when(Pred::If(first), Op::Print { d: Some(d), format, arguments });
    b.output(1, d);
    let (program, memory) = (b.done(), memory());
    let (format, out) = (text(&memory, "[%4d|%.2f|%-28s|%%]\n"), memory.alloc(128, "out").expect("memory"));
    Run { params: vec![format, out], ..Run::new(&program, &memory) }.go().expect("correct");
    assert_eq!(download(&memory, out, 2), [3, 0]);
}

#[test]
fn printed_text_is_what_c_would_print() {
    let this = std::env::current_exe().expect("a test");
    let run = std::process::Command::new(this).args(["--exact", "printing", "--nocapture"]).output().expect("a test");
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(out.contains("[  -7|2.50|[%4d|%.2f|%-28s|%%]\n        |%]\n"), "{out}");
}
