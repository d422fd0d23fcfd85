//! Branches, loops, calls, and lanes that come together again.

mod build;

use build::*;
use cuda_emulator::fault::FaultKind;
use cuda_emulator::isa::*;
use cuda_emulator::program::Special;

#[test]
fn both_sides_of_a_branch_and_the_join() {
    let mut b = Build::new();
    let (tid, limit, x, mask) = (b.special(Special::Tid(0)), b.imm(5), b.r32(), b.r32());
    let p = b.setp(Cmp::Lt, tid, limit);
    let (other, join) = (b.label(), b.label());
    b.jump(Pred::Unless(p), other);
    let seven = b.imm(7);
    b.mov(x, seven);
    b.jump(Pred::Always, join);
    b.bind(other);
    let nine = b.imm(9);
    b.mov(x, nine);
    b.bind(join);
    b.op(Op::ActiveMask { d: mask });
    let sum = b.int(IntOp::Add, x, mask);
    b.output(0, sum);
    let program = b.done();
    // All lanes are active at the join: the mask is minus one.
    let expected: Vec<u32> = (0..32).map(|i| if i < 5 { 6 } else { 8 }).collect();
    assert_eq!(outputs(&program, 1, 32), expected);
}

#[test]
fn lanes_leave_a_loop_at_their_own_time() {
    let mut b = Build::new();
    let (tid, count, sum) = (b.special(Special::Tid(0)), b.r32(), b.r32());
    let (zero, one) = (b.imm(0), b.imm(1));
    b.mov(count, zero);
    b.mov(sum, zero);
    let top = b.here();
    b.int_to(sum, IntOp::Add, sum, count);
    b.int_to(count, IntOp::Add, count, one);
    let p = b.setp(Cmp::Ge, tid, count);
    b.jump(Pred::If(p), top);
    b.output(0, sum);
    let program = b.done();
    let expected: Vec<u32> = (0..96).map(|tid| tid * (tid + 1) / 2).collect();
    assert_eq!(outputs(&program, 1, 96), expected);
}

/// A function that returns early for some lanes, called from two places by different lanes.
#[test]
fn calls_return_to_every_lanes_own_caller() {
    let mut b = Build::new();
    let (tid, link, x) = (b.special(Special::Tid(0)), b.r32(), b.r32());
    let (zero, one, two, ten) = (b.imm(0), b.imm(1), b.imm(2), b.imm(10));
    let odd_bit = b.int(IntOp::And, tid, one);
    let odd = b.setp(Cmp::Ne, odd_bit, zero);
    let (function, odd_side, join) = (b.label(), b.label(), b.label());
    b.mov(x, tid);
    let target = b.target(function);
    b.jump(Pred::If(odd), odd_side);
    b.op(Op::Call { target, link });
    b.int_to(x, IntOp::Add, x, one);
    b.jump(Pred::Always, join);
    b.bind(odd_side);
    b.op(Op::Call { target, link });
    b.int_to(x, IntOp::Add, x, two);
    b.bind(join);
    b.output(0, x);
    b.op(Op::Exit);
    b.bind(function);
    let small = b.setp(Cmp::Lt, tid, ten);
    b.when(Pred::If(small), Op::Return { link });
    b.int_to(x, IntOp::Add, x, ten);
    b.op(Op::Return { link });
    let program = b.done();
    let model = |t: u32| t + if t < 10 { 0 } else { 10 } + if t % 2 == 1 { 2 } else { 1 };
    assert_eq!(outputs(&program, 2, 64)[..64], (0..64).map(model).collect::<Vec<_>>());
}

#[test]
fn an_indexed_branch_goes_three_ways_and_an_index_beyond_is_reported() {
    let program = |mask: u32| {
        let mut b = Build::new();
        let (tid, x, mask) = (b.special(Special::Tid(0)), b.r32(), b.imm(mask));
        let index = b.int(IntOp::And, tid, mask);
        let sides = [b.label(), b.label(), b.label(), b.label()];
        let join = b.label();
        let targets = sides.iter().take(3).map(|l| b.target(*l)).collect();
        b.op(Op::BranchIndexed { index, targets });
        for (i, side) in sides.into_iter().enumerate() {
            b.bind(side);
            let value = b.imm(100 + i as u32);
            b.mov(x, value);
            b.jump(Pred::Always, join);
        }
        b.bind(join);
        b.output(0, x);
        b.done()
    };
    assert_eq!(outputs(&program(1), 1, 32), (0..32).map(|t| 100 + t % 2).collect::<Vec<_>>());
    let (memory, broken) = (memory(), program(3));
    let fault = Run::new(&broken, &memory).go().expect_err("index 3 of 3");
    assert_eq!(fault.kind, FaultKind::IllegalInstruction);
    assert_eq!(fault.thread.expect("a thread").thread, [3, 0, 0]);
}

#[test]
fn a_trap_names_block_thread_and_line() {
    let mut b = Build::new();
    let (thread, bad) = (b.thread(), b.imm(70));
    let p = b.setp(Cmp::Eq, thread, bad);
    b.when(Pred::If(p), Op::Trap);
    let (program, memory) = (b.done(), memory());
    let fault = Run { grid: 3, block: 64, ..Run::new(&program, &memory) }.go().expect_err("thread 70 traps");
    assert_eq!((fault.kind, fault.place.ptx), (FaultKind::Trap, 3));
    assert_eq!(fault.thread.map(|t| (t.block, t.thread)), Some(([1, 0, 0], [6, 0, 0])));
}

/// A lane waits for what another lane of its warp does behind the loop.
#[test]
fn a_spinning_lane_lets_the_others_go_ahead() {
    let mut b = Build::new();
    b.needs.static_shared = 4;
    let (tid, zero, one) = (b.special(Special::Tid(0)), b.imm(0), b.imm(1));
    let seen = b.r32();
    b.store_shared(zero, zero);
    let waits = b.setp(Cmp::Ne, tid, one);
    let (top, write, end, p) = (b.label(), b.label(), b.label(), b.p());
    b.jump(Pred::Unless(waits), write);
    b.bind(top);
    b.op(atom(Space::Shared, AtomOp::Add, Some(seen), narrow(zero), zero, zero));
    b.setp_to(p, Cmp::Eq, seen, zero);
    b.jump(Pred::If(p), top);
    b.jump(Pred::Always, end);
    b.bind(write);
    b.op(atom(Space::Shared, AtomOp::Exch, Some(seen), narrow(zero), one, zero));
    b.bind(end);
    b.output(0, seen);
    let program = b.done();
    let expected: Vec<u32> = (0..32).map(|t| u32::from(t != 1)).collect();
    assert_eq!(outputs(&program, 1, 32), expected);
}

#[test]
fn clock_counts_up() {
    let mut b = Build::new();
    let (start, end) = (b.r32(), b.r32());
    b.op(Op::Clock { ty: Ty::U32, d: start });
    b.op(Op::Clock { ty: Ty::U32, d: end });
    let p = b.setp(Cmp::Lt, start, end);
    let (x, one, zero) = (b.r32(), b.imm(1), b.imm(0));
    b.mov(x, zero);
    b.when(Pred::If(p), Op::Alu(Alu::Mov { ty: Ty::B32, d: x, a: one }));
    b.output(0, x);
    let program = b.done();
    assert_eq!(outputs(&program, 1, 32), [1; 32]);
}
