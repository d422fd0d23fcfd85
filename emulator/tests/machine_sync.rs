//! What threads do together: exchanges within a warp, barriers, locks, and who is missing.

mod build;

use build::*;
use cuda_emulator::fault::FaultKind;
use cuda_emulator::isa::*;
use cuda_emulator::program::{Program, Special};
use proptest::prelude::*;

const ALL: u32 = u32::MAX;

/// `shfl` as the CUDA programming guide describes it: sub-groups of `width` lanes, out of range keeps the own value.
fn model(mode: ShflMode, lane: u32, amount: u32, width: u32) -> u32 {
    let (group, index) = (lane / width * width, lane % width);
    match mode {
        ShflMode::Up => {
            if index < amount {
                lane
            } else {
                lane - amount
            }
        }
        ShflMode::Down => {
            if index + amount >= width {
                lane
            } else {
                lane + amount
            }
        }
        ShflMode::Idx => group + amount % width,
        // Lanes of an earlier group may be read, those of a later one not.
        ShflMode::Bfly => {
            if (lane ^ amount) < group + width {
                lane ^ amount
            } else {
                lane
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn shuffles_match_the_guide(mode in 0..4usize, amount in 0u32..32, log in 0u32..6, values in prop::array::uniform32(any::<u32>())) {
        let mode = [ShflMode::Up, ShflMode::Down, ShflMode::Idx, ShflMode::Bfly][mode];
        let width = 1 << log;
        let mut b = Build::new();
        let a = b.lanes(|i| values[i as usize]);
        let (d, amount_row, members) = (b.r32(), b.imm(amount), b.imm(ALL));
        // As `__shfl_*_sync` is compiled: segments by the width, and for `up` no clamp.
        let c = b.imm((32 - width) << 8 | if mode == ShflMode::Up { 0 } else { 31 });
        b.op(Op::Shfl(Shfl { mode, d, p: None, a, b: amount_row, c, members }));
        b.output(0, d);
        let expected: Vec<u32> = (0..32).map(|lane| values[model(mode, lane, amount, width) as usize]).collect();
        prop_assert_eq!(outputs(&b.done(), 1, 32), expected);
    }

    #[test]
    fn votes_matches_and_reductions(values in prop::array::uniform32(0u32..4), bound in 0u32..5) {
        let mut b = Build::new();
        let (a, members, bound_row) = (b.lanes(|i| values[i as usize]), b.imm(ALL), b.imm(bound));
        let p = b.setp(Cmp::Lt, a, bound_row);
        let (ballot, any, same, sum, least) = (b.r32(), b.r32(), b.p(), b.r32(), b.r32());
        b.op(Op::Vote { kind: VoteKind::Ballot, d: VoteDest::Ballot(ballot), a: Pred::If(p), members });
        b.op(Op::Match { all: false, ty: Ty::B32, d: any, p: None, a, members });
        b.op(Op::Vote { kind: VoteKind::Uni, d: VoteDest::Pred(same), a: Pred::If(p), members });
        b.op(Op::Redux { kind: ReduxKind::Add, ty: Ty::U32, d: sum, a, members });
        b.op(Op::Redux { kind: ReduxKind::Min, ty: Ty::S32, d: least, a, members });
        for (i, d) in [ballot, any, sum, least].into_iter().enumerate() {
            b.output(i, d);
        }
        let flag = b.imm(0);
        let x = b.r32();
        b.mov(x, flag);
        let one = b.imm(1);
        b.when(Pred::If(same), Op::Alu(Alu::Mov { ty: Ty::B32, d: x, a: one }));
        b.output(4, x);
        let (program, memory) = (b.done(), memory());
        let out: Vec<u64> = (0..5).map(|_| memory.alloc(128, "out").expect("memory")).collect();
        Run { params: out.clone(), ..Run::new(&program, &memory) }.go().expect("a correct kernel");
        let got: Vec<Vec<u32>> = out.iter().map(|at| download(&memory, *at, 32)).collect();
        let below = values.iter().filter(|v| **v < bound).count();
        let mut bits = 0;
        values.iter().rev().for_each(|v| bits = bits * 2 + u32::from(*v < bound));
        prop_assert_eq!(&got[0], &vec![bits; 32]);
        for (lane, got) in got[1].iter().enumerate() {
            let equal = (0..32).map(|j| u32::from(values[j] == values[lane]) * 2u32.pow(j as u32)).sum::<u32>();
            prop_assert_eq!(*got, equal);
        }
        prop_assert_eq!(&got[2], &vec![values.iter().sum::<u32>(); 32]);
        prop_assert_eq!(&got[3], &vec![*values.iter().min().unwrap(); 32]);
        prop_assert_eq!(&got[4], &vec![u32::from(below == 0 || below == 32); 32]);
    }
}

/// Half of the warp goes another way; both halves reduce among themselves, or the first names lanes that never come.
fn halves_reduce(first_mask: u32) -> Program {
    let mut b = Build::new();
    let (tid, half, d, one) = (b.special(Special::Tid(0)), b.imm(16), b.r32(), b.imm(1));
    let (low, high) = (b.imm(first_mask), b.imm(0xffff_0000));
    let p = b.setp(Cmp::Lt, tid, half);
    let (other, join) = (b.label(), b.label());
    b.jump(Pred::Unless(p), other);
    b.op(Op::Redux { kind: ReduxKind::Add, ty: Ty::U32, d, a: tid, members: low });
    b.jump(Pred::Always, join);
    b.bind(other);
    b.op(Op::Redux { kind: ReduxKind::Add, ty: Ty::U32, d, a: one, members: high });
    b.bind(join);
    let all = b.imm(ALL);
    b.op(Op::WarpSync { members: all });
    b.output(0, d);
    b.done()
}

#[test]
fn members_of_both_halves() {
    let expected: Vec<u32> = (0..32).map(|t| if t < 16 { 120 } else { 16 }).collect();
    assert_eq!(outputs(&halves_reduce(0x0000_ffff), 1, 32), expected);
}

#[test]
fn members_that_never_come_are_reported() {
    let (program, memory) = (halves_reduce(ALL), memory());
    let out = memory.alloc(128, "out").expect("memory");
    let fault =
        Run { params: vec![out], ..Run::new(&program, &memory) }.go().expect_err("lanes 16 to 31 are elsewhere");
    assert_eq!(fault.kind, FaultKind::MissingLanes);
    assert!(fault.why.contains("0xffff0000 never come"), "{fault}");
}

/// One instruction, two groups by their own masks.
#[test]
fn lanes_of_one_instruction_may_name_different_members() {
    let mut b = Build::new();
    let (tid, d) = (b.special(Special::Tid(0)), b.r32());
    let members = b.lanes(|i| 0xff << (i / 8 * 8));
    b.op(Op::Redux { kind: ReduxKind::Max, ty: Ty::U32, d, a: tid, members });
    b.output(0, d);
    assert_eq!(outputs(&b.done(), 1, 32), (0..32).map(|t| t / 8 * 8 + 7).collect::<Vec<_>>());
}

#[test]
fn the_value_of_an_absent_lane_is_reported() {
    let program = |distance| {
        let mut b = Build::new();
        let (tid, d, by, c, members) = (b.special(Special::Tid(0)), b.r32(), b.imm(distance), b.imm(31), b.imm(ALL));
        b.op(Op::Shfl(Shfl { mode: ShflMode::Bfly, d, p: None, a: tid, b: by, c, members }));
        b.output(0, d);
        b.done()
    };
    // 48 threads: the second warp has lanes 0 to 15.
    assert_eq!(outputs(&program(8), 1, 48)[32..], (0..16).map(|t| 32 + (t ^ 8)).collect::<Vec<_>>());
    let (program, memory) = (program(16), memory());
    let out = memory.alloc(192, "out").expect("memory");
    let fault =
        Run { block: 48, params: vec![out], ..Run::new(&program, &memory) }.go().expect_err("lane 16 does not exist");
    assert_eq!(fault.kind, FaultKind::MissingLanes);
}

/// Every thread stores to shared memory and reads its mirror image; `synced` puts the barrier in between.
#[test]
fn a_barrier_makes_the_block_meet_for_every_seed() {
    let mut b = Build::new();
    b.needs.static_shared = 1024;
    let (tid, last) = (b.special(Special::Tid(0)), b.imm(255));
    let at = b.times(tid, 4);
    b.store_shared(at, tid);
    b.sync();
    let mirror = b.int(IntOp::Xor, tid, last);
    let at = b.times(mirror, 4);
    let got = b.load_shared(at);
    b.output(0, got);
    let (program, memory) = (b.done(), memory());
    let out = memory.alloc(1024, "out").expect("memory");
    for seed in 0..8 {
        Run { block: 256, params: vec![out], seed, ..Run::new(&program, &memory) }.go().expect("a correct kernel");
        assert_eq!(download(&memory, out, 256), (0..256).rev().collect::<Vec<_>>());
    }
}

fn barrier(id: Reg, threads: Option<Reg>, kind: BarrierKind) -> Op {
    Op::Barrier(Barrier { aligned: true, id, threads, kind })
}

/// Warp 0 produces for warp 1 over barrier 1 and goes on; warp 1 waits there.
#[test]
fn producer_arrives_and_consumer_waits() {
    let mut b = Build::new();
    b.needs.static_shared = 128;
    let (tid, n, id, both) = (b.special(Special::Tid(0)), b.imm(32), b.imm(1), b.imm(64));
    let (lane, x) = (b.lanes(|i| i * 4), b.r32());
    let producer = b.setp(Cmp::Lt, tid, n);
    let (consume, end) = (b.label(), b.label());
    b.mov(x, tid);
    b.jump(Pred::Unless(producer), consume);
    b.store_shared(lane, tid);
    b.op(barrier(id, Some(both), BarrierKind::Arrive));
    b.jump(Pred::Always, end);
    b.bind(consume);
    b.op(barrier(id, Some(both), BarrierKind::Sync));
    let got = b.load_shared(lane);
    b.mov(x, got);
    b.bind(end);
    b.output(0, x);
    let expected: Vec<u32> = (0..64).map(|t| t % 32).collect();
    assert_eq!(outputs(&b.done(), 1, 64), expected);
}

#[test]
fn barriers_reduce_predicates() {
    let mut b = Build::new();
    let (tid, bound, id) = (b.special(Special::Tid(0)), b.imm(70), b.imm(3));
    let (d, p, q) = (b.r32(), b.p(), b.p());
    let below = b.setp(Cmp::Lt, tid, bound);
    b.op(barrier(id, None, BarrierKind::RedPopc { d, a: Pred::If(below) }));
    b.op(barrier(id, None, BarrierKind::RedAnd { d: p, a: Pred::If(below) }));
    b.op(barrier(id, None, BarrierKind::RedOr { d: q, a: Pred::If(below) }));
    let (hundred, thousand) = (b.imm(100), b.imm(1000));
    let zero = b.imm(0);
    let add = |d, a, c| Op::Alu(Alu::Int { op: IntOp::Add, ty: Ty::U32, d, a: [a, c, zero] });
    b.when(Pred::If(p), add(d, d, hundred));
    b.when(Pred::If(q), add(d, d, thousand));
    b.output(0, d);
    assert_eq!(outputs(&b.done(), 1, 96), [1070; 96]);
}

fn fault_of(program: &Program, block: u32) -> Box<cuda_emulator::fault::Fault> {
    Run { block, ..Run::new(program, &memory()) }.go().expect_err("a broken kernel")
}

/// `if (tid < bound) __syncthreads()`.
fn guarded_barrier(bound: u32) -> Program {
    let mut b = Build::new();
    let (tid, bound, end) = (b.special(Special::Tid(0)), b.imm(bound), b.label());
    let p = b.setp(Cmp::Lt, tid, bound);
    b.jump(Pred::Unless(p), end);
    b.sync();
    b.bind(end);
    let (x, id) = (b.r32(), b.imm(5));
    b.mov(x, tid);
    b.op(barrier(id, None, BarrierKind::Sync));
    b.done()
}

#[test]
fn a_barrier_in_divergent_code() {
    Run { block: 64, ..Run::new(&guarded_barrier(64), &memory()) }.go().expect("everyone comes");
    let fault = fault_of(&guarded_barrier(16), 64);
    assert_eq!(fault.kind, FaultKind::DivergentBarrier);
    assert_eq!(fault.place.ptx, 3);
}

#[test]
fn a_barrier_that_whole_warps_miss_is_a_deadlock() {
    let fault = fault_of(&guarded_barrier(32), 64);
    assert_eq!(fault.kind, FaultKind::Deadlock);
    assert!(
        fault.why.contains("barrier 0 lacks warps 0x2") && fault.why.contains("barrier 5 lacks warps 0x1"),
        "{fault}"
    );
}

/// Threads that have exited are not waited for, be it a part of a warp or whole warps.
#[test]
fn exited_threads_hold_up_no_barrier() {
    let mut b = Build::new();
    let (tid, bound) = (b.special(Special::Tid(0)), b.imm(40));
    let p = b.setp(Cmp::Ge, tid, bound);
    b.when(Pred::If(p), Op::Exit);
    b.sync();
    Run { block: 128, ..Run::new(&b.done(), &memory()) }.go().expect("40 threads meet");
}

#[test]
fn impossible_barriers() {
    for (id, threads, why) in
        [(16, None, "barriers 0 to 15"), (0, Some(33), "multiple of 32"), (0, Some(96), "block of 64")]
    {
        let mut b = Build::new();
        let (id, threads) = (b.imm(id), threads.map(|t| b.imm(t)));
        b.op(barrier(id, threads, BarrierKind::Sync));
        let fault = fault_of(&b.done(), 64);
        assert_eq!(fault.kind, FaultKind::ImpossibleBarrier);
        assert!(fault.why.contains(why), "{fault}");
    }
}

#[test]
fn mismatched_counts_at_one_barrier() {
    let mut b = Build::new();
    let (tid, id) = (b.special(Special::Tid(0)), b.imm(1));
    let threads = {
        let (bound, d, more, fewer) = (b.imm(32), b.r32(), b.imm(96), b.imm(64));
        let p = b.setp(Cmp::Lt, tid, bound);
        b.mov(d, more);
        b.when(Pred::If(p), Op::Alu(Alu::Mov { ty: Ty::B32, d, a: fewer }));
        d
    };
    b.op(barrier(id, Some(threads), BarrierKind::Sync));
    let fault = fault_of(&b.done(), 96);
    assert_eq!(fault.kind, FaultKind::ImpossibleBarrier);
    assert!(fault.why.contains("96") && fault.why.contains("64"), "{fault}");
}

/// `while (atomicCAS(lock, 0, 1)); ++*counter; atomicExch(lock, 0)` by every thread of the grid.
fn locked_counter() -> Program {
    let mut b = Build::new();
    let (lock, counter) = (b.param(0), b.param(1));
    let (zero, one, old, p, got) = (b.imm(0), b.imm(1), b.r32(), b.p(), b.r32());
    let top = b.here();
    b.op(atom(Space::Global, AtomOp::Cas, Some(old), wide(lock), zero, one));
    b.setp_to(p, Cmp::Eq, old, zero);
    let skip = b.label();
    b.jump(Pred::Unless(p), skip);
    b.op(Op::Fence { scope: Scope::Gpu, order: Order::SeqCst });
    b.op(load(Space::Global, Ty::U32, got, wide(counter)));
    b.int_to(got, IntOp::Add, got, one);
    b.op(store(Space::Global, Ty::U32, got, wide(counter)));
    b.op(Op::Fence { scope: Scope::Gpu, order: Order::SeqCst });
    b.op(atom(Space::Global, AtomOp::Exch, Some(old), wide(lock), zero, zero));
    b.op(Op::Exit);
    b.bind(skip);
    b.jump(Pred::Always, top);
    b.done()
}

#[test]
fn a_lock_in_global_memory_across_lanes_warps_and_blocks() {
    let (program, memory) = (locked_counter(), memory());
    for threads in [1, 2] {
        let at = upload(&memory, &[0, 0]);
        Run { grid: 6, block: 96, params: vec![at, at + 4], threads, ..Run::new(&program, &memory) }
            .go()
            .expect("a lock");
        assert_eq!(download(&memory, at, 2), [0, 576]);
    }
}

/// A grid barrier: everyone adds one and waits for all blocks.
#[test]
fn blocks_of_a_cooperative_grid_wait_for_each_other() {
    let mut b = Build::new();
    let (arrived, blocks) = (b.param(0), b.special(Special::NCtaId(0)));
    let (zero, one, old, p) = (b.imm(0), b.imm(1), b.r32(), b.p());
    let first = b.setp(Cmp::Eq, zero, zero);
    let tid = b.special(Special::Tid(0));
    b.setp_to(first, Cmp::Eq, tid, zero);
    b.when(Pred::If(first), atom(Space::Global, AtomOp::Add, None, wide(arrived), one, zero));
    let top = b.here();
    b.op(atom(Space::Global, AtomOp::Add, Some(old), wide(arrived), zero, zero));
    b.setp_to(p, Cmp::Ne, old, blocks);
    b.jump(Pred::If(p), top);
    b.output(1, old);
    let (program, memory) = (b.done(), memory());
    for threads in [1, 2] {
        let (at, out) = (upload(&memory, &[0]), memory.alloc(40 * 64 * 4, "out").expect("memory"));
        let run = Run {
            grid: 40,
            block: 64,
            params: vec![at, out],
            cooperative: true,
            threads,
            ..Run::new(&program, &memory)
        };
        assert_eq!(run.go().expect("all blocks are there").blocks, 40);
        assert_eq!(download(&memory, out, 40 * 64), [40; 40 * 64]);
    }
}
