//! Races in shared memory, asynchronous copies and mbarriers: every broken kernel beside a correct twin.

mod build;

use build::*;
use cuda_emulator::config::{Check, Checks};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::isa::*;
use cuda_emulator::program::{Program, Special};

fn fault(program: &Program, block: u32) -> Box<Fault> {
    Run { block, ..Run::new(program, &memory()) }.go().expect_err("a broken kernel")
}

fn fine(program: &Program, block: u32) {
    Run { block, ..Run::new(program, &memory()) }.go().unwrap_or_else(|fault| panic!("{fault}"));
}

/// Writes its element, then reads one 32 further on, in another warp.
fn neighbour(synced: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 256;
    let tid = b.special(Special::Tid(0));
    let at = b.times(tid, 4);
    b.store_shared(at, tid);
    if synced {
        b.sync();
    }
    let flip = b.imm(128);
    let other = b.int(IntOp::Xor, at, flip);
    b.load_shared(other);
    b.done()
}

#[test]
fn a_read_of_another_warps_write() {
    fine(&neighbour(true), 64);
    let broken = neighbour(false);
    // Whichever warp runs first: it reads what nobody wrote, or the write comes after the read.
    let checks = Checks::ALL.without(Check::Uninitialised);
    let fault = Run { block: 64, checks, ..Run::new(&broken, &memory()) }.go().expect_err("no barrier");
    assert_eq!(fault.kind, FaultKind::SharedRace);
    assert!(fault.why.contains("write of 4 bytes") && fault.why.contains("PTX line 4 (instruction 3)"), "{fault}");
    let checks = checks.without(Check::Races);
    Run { block: 64, checks, ..Run::new(&broken, &memory()) }.go().expect("unchecked");
}

/// Two stages of a loop over one buffer; without the second barrier a warp overwrites what another still reads.
fn double_use(second_barrier: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 256;
    let tid = b.special(Special::Tid(0));
    let (at, flip) = (b.times(tid, 4), b.imm(128));
    let other = b.int(IntOp::Xor, at, flip);
    for _ in 0..2 {
        b.store_shared(at, tid);
        b.sync();
        b.load_shared(other);
        if second_barrier {
            b.sync();
        }
    }
    b.done()
}

#[test]
fn a_write_over_what_another_warp_reads() {
    fine(&double_use(true), 64);
    let fault = fault(&double_use(false), 64);
    assert_eq!(fault.kind, FaultKind::SharedRace);
    // The second store and the load before it, in whichever order the warps ran.
    let (here, there) = (fault.place.ptx, if fault.why.contains("PTX line 6") { 6 } else { 5 });
    assert_eq!(here + there, 5 + 6, "{fault}");
}

#[test]
fn shared_bytes_that_nobody_wrote() {
    let program = |offset| {
        let mut b = Build::new();
        b.needs.static_shared = 256;
        let (tid, at) = (b.special(Special::Tid(0)), b.lanes(|i| 4 * i));
        b.store_shared(at, tid);
        let at = b.lanes(|i| 4 * i + offset);
        b.load_shared(at);
        b.done()
    };
    fine(&program(0), 32);
    let fault = fault(&program(4), 32);
    assert_eq!((fault.kind, fault.thread.expect("a thread").thread), (FaultKind::UninitialisedShared, [31, 0, 0]));
    assert!(fault.why.contains("byte 0x80"), "{fault}");
}

#[test]
fn lanes_of_one_store_must_agree() {
    let program = |same: bool| {
        let mut b = Build::new();
        b.needs.static_shared = 16;
        let (zero, value) = (b.imm(0), b.lanes(|i| if same { 3 } else { i }));
        b.store_shared(zero, value);
        b.done()
    };
    fine(&program(true), 32);
    assert_eq!(fault(&program(false), 32).kind, FaultKind::SharedRace);
}

/// Everyone adds to one word; `atomic` or by hand.
fn histogram(atomic: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 16;
    let (tid, zero, one) = (b.special(Special::Tid(0)), b.imm(0), b.imm(1));
    let first = b.setp(Cmp::Eq, tid, zero);
    b.when(Pred::If(first), store(Space::Shared, Ty::B32, zero, narrow(zero)));
    b.sync();
    if atomic {
        b.op(atom(Space::Shared, AtomOp::Add, None, narrow(zero), one, zero));
    } else {
        let d = b.load_shared(zero);
        b.int_to(d, IntOp::Add, d, one);
        b.store_shared(zero, d);
    }
    b.sync();
    let total = b.load_shared(zero);
    b.output(0, total);
    b.done()
}

#[test]
fn atomics_do_not_race_with_each_other() {
    assert_eq!(outputs(&histogram(true), 1, 128), [128; 128]);
    let memory = memory();
    let out = memory.alloc(512, "out").expect("memory");
    let program = histogram(false);
    let fault = Run { block: 128, params: vec![out], ..Run::new(&program, &memory) }.go().expect_err("a race");
    assert_eq!(fault.kind, FaultKind::SharedRace);
}

/// Warp 0 writes data and raises a flag, warp 1 spins on the flag and reads the data.
fn flag(fenced: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 256;
    let (tid, zero, one, bound) = (b.special(Special::Tid(0)), b.imm(0), b.imm(1), b.imm(32));
    let (data, seen, p) = (b.lanes(|i| 16 + 4 * i), b.r32(), b.p());
    let first = b.setp(Cmp::Eq, tid, zero);
    b.when(Pred::If(first), store(Space::Shared, Ty::B32, zero, narrow(zero)));
    b.sync();
    let producer = b.setp(Cmp::Lt, tid, bound);
    let (consume, end) = (b.label(), b.label());
    let fence = Op::Fence { scope: Scope::Cta, order: Order::AcqRel };
    b.jump(Pred::Unless(producer), consume);
    b.store_shared(data, tid);
    let members = b.imm(u32::MAX);
    b.op(Op::WarpSync { members });
    if fenced {
        b.op(fence.clone());
    }
    let Op::Store(raise) = store(Space::Shared, Ty::B32, one, narrow(zero)) else { unreachable!() };
    b.when(Pred::If(first), Op::Store(Store { order: Order::Volatile, ..raise }));
    b.jump(Pred::Always, end);
    b.bind(consume);
    let top = b.here();
    let Op::Load(look) = load(Space::Shared, Ty::B32, seen, narrow(zero)) else { unreachable!() };
    b.op(Op::Load(Load { order: Order::Volatile, ..look }));
    b.setp_to(p, Cmp::Eq, seen, zero);
    b.jump(Pred::If(p), top);
    if fenced {
        b.op(fence);
    }
    b.load_shared(data);
    b.bind(end);
    b.done()
}

#[test]
fn a_flag_orders_only_with_fences() {
    fine(&flag(true), 64);
    assert_eq!(fault(&flag(false), 64).kind, FaultKind::SharedRace);
}

/// A lock around a plain counter in shared memory, taken by lane 0 of every warp.
fn lock(acquire: Order, release: Order) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 16;
    let (tid, zero, one, four) = (b.special(Special::Tid(0)), b.imm(0), b.imm(1), b.imm(4));
    let first = b.setp(Cmp::Eq, tid, zero);
    b.when(Pred::If(first), store(Space::Shared, Ty::B32, zero, narrow(zero)));
    b.when(Pred::If(first), store(Space::Shared, Ty::B32, zero, narrow(four)));
    b.sync();
    let (lane, old, p) = (b.lanes(|i| i), b.r32(), b.p());
    let leader = b.setp(Cmp::Eq, lane, zero);
    let end = b.label();
    b.jump(Pred::Unless(leader), end);
    let top = b.here();
    let with = |order, op| {
        let Op::Atom(a) = atom(Space::Shared, op, Some(old), narrow(zero), zero, one) else { unreachable!() };
        Op::Atom(Atom { order, ..a })
    };
    b.op(with(acquire, AtomOp::Cas));
    b.setp_to(p, Cmp::Ne, old, zero);
    b.jump(Pred::If(p), top);
    let got = b.load_shared(four);
    b.int_to(got, IntOp::Add, got, one);
    b.store_shared(four, got);
    b.op(with(release, AtomOp::Exch));
    b.bind(end);
    b.sync();
    let total = b.load_shared(four);
    b.output(0, total);
    b.done()
}

#[test]
fn a_lock_orders_by_acquire_and_release() {
    assert_eq!(outputs(&lock(Order::Acquire, Order::Release), 1, 128), [4; 128]);
    let memory = memory();
    let out = memory.alloc(512, "out").expect("memory");
    let program = lock(Order::Relaxed, Order::Relaxed);
    let fault = Run { block: 128, params: vec![out], ..Run::new(&program, &memory) }.go().expect_err("a relaxed lock");
    assert_eq!(fault.kind, FaultKind::SharedRace);
}

/// Copies 16 bytes a lane, waits (or not), and reads: the lane's own bytes, or those of the other warp.
fn staged(waits: bool, synced: bool, other_warp: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 1024;
    let (input, tid) = (b.param(0), b.special(Special::Tid(0)));
    let (to, from) = (b.times(tid, 16), b.element(input, tid, 16));
    b.op(Op::CpAsync(CpAsync { to: narrow(to), from: wide(from), bytes: 16, src_size: None, ignore: None }));
    b.op(Op::CpAsyncCommit);
    if waits {
        b.op(Op::CpAsyncWait { pending: Some(0) });
    }
    if synced {
        b.sync();
    }
    let flip = b.imm(if other_warp { 512 } else { 0 });
    let at = b.int(IntOp::Xor, to, flip);
    let got = b.load_shared(at);
    b.output(1, got);
    b.done()
}

#[test]
fn copies_land_when_their_lane_has_waited() {
    let run = |program: &Program| {
        let memory = memory();
        let (input, out) = (upload(&memory, &(0..256).collect::<Vec<_>>()), memory.alloc(256, "out").expect("memory"));
        let done = Run { block: 64, params: vec![input, out], ..Run::new(program, &memory) }.go();
        done.map(|_| download(&memory, out, 64))
    };
    let own: Vec<u32> = (0..64).map(|t| 4 * t).collect();
    let other: Vec<u32> = (0..64).map(|t| 4 * (t ^ 32)).collect();
    assert_eq!(run(&staged(true, false, false)).expect("own bytes"), own);
    assert_eq!(run(&staged(true, true, true)).expect("behind a barrier"), other);
    let under_way = run(&staged(false, true, false)).expect_err("not waited for");
    assert_eq!(under_way.kind, FaultKind::SharedRace);
    assert!(under_way.why.contains("asynchronous copy that is still under way"), "{under_way}");
    assert!(matches!(
        run(&staged(true, false, true)).expect_err("no barrier").kind,
        FaultKind::SharedRace | FaultKind::UninitialisedShared
    ));
}

/// Two groups; waiting for all but the newest lands the first only. A short source is filled up with zeros.
#[test]
fn groups_land_in_order_and_short_copies_are_filled() {
    let program = |pending| {
        let mut b = Build::new();
        b.needs.static_shared = 512;
        let (input, lane, six) = (b.param(0), b.lanes(|i| 8 * i), b.imm(6));
        let index = b.lanes(|i| i);
        let (second, from) = (b.lanes(|i| 256 + 8 * i), b.element(input, index, 8));
        let copy =
            |to, src_size| Op::CpAsync(CpAsync { to: narrow(to), from: wide(from), bytes: 8, src_size, ignore: None });
        b.op(copy(lane, None));
        b.op(Op::CpAsyncCommit);
        b.op(copy(second, Some(six)));
        b.op(Op::CpAsyncCommit);
        b.op(Op::CpAsyncWait { pending: Some(1) });
        let first = b.load_shared(lane);
        b.output(1, first);
        b.op(Op::CpAsyncWait { pending: Some(pending) });
        let high = b.add(second, 4);
        let high = b.load_shared(high);
        b.output(2, high);
        b.done()
    };
    let memory = memory();
    let input = upload(&memory, &(0..64).map(|i| 0x0101_0101 * i).collect::<Vec<_>>());
    let out: Vec<u64> = (0..2).map(|_| memory.alloc(128, "out").expect("memory")).collect();
    let params = vec![input, out[0], out[1]];
    Run { params: params.clone(), ..Run::new(&program(0), &memory) }.go().unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(download(&memory, out[0], 32), (0..32).map(|i| 0x0101_0101 * 2 * i).collect::<Vec<_>>());
    assert_eq!(download(&memory, out[1], 32), (0..32).map(|i| 0x0101 * (2 * i + 1)).collect::<Vec<_>>());
    let fault = Run { params, ..Run::new(&program(1), &memory) }.go().expect_err("the second is under way");
    assert_eq!(fault.kind, FaultKind::SharedRace);
}

/// Warp 0 writes and arrives, warp 1 waits for phase 0 by its parity (or reads at once).
fn mbarrier(waits: bool) -> Program {
    let mut b = Build::new();
    b.needs.static_shared = 256;
    let (tid, zero, bound) = (b.special(Special::Tid(0)), b.imm(0), b.imm(32));
    let (data, p) = (b.lanes(|i| 64 + 4 * i), b.p());
    let object = |op| Op::MBarrier(Box::new(MBarrier { at: narrow(zero), space: Space::Shared, op }));
    let first = b.setp(Cmp::Eq, tid, zero);
    b.when(Pred::If(first), object(MBarrierOp::Init { count: bound }));
    b.sync();
    let producer = b.setp(Cmp::Lt, tid, bound);
    let (consume, end) = (b.label(), b.label());
    b.jump(Pred::Unless(producer), consume);
    b.store_shared(data, tid);
    b.op(object(MBarrierOp::Arrive { state: None, count: None, expect_tx: None, drop: false }));
    b.jump(Pred::Always, end);
    b.bind(consume);
    if waits {
        let top = b.here();
        b.op(object(MBarrierOp::TestWaitParity { p, parity: zero, may_block: false }));
        b.jump(Pred::Unless(p), top);
    }
    b.load_shared(data);
    b.bind(end);
    b.done()
}

#[test]
fn an_mbarrier_orders_arrivals_before_waits() {
    fine(&mbarrier(true), 64);
    assert!(matches!(fault(&mbarrier(false), 64).kind, FaultKind::SharedRace | FaultKind::UninitialisedShared));
}

/// Rows of a matrix by `ldmatrix`, plain and transposed: the fragment layout of the ISA document, by hand.
#[test]
fn ldmatrix_hands_out_fragments() {
    for transposed in [false, true] {
        let mut b = Build::new();
        b.needs.static_shared = 128;
        let (words, at) = (b.lanes(|i| 4 * i), b.lanes(|i| 16 * (i % 8)));
        // Element (row, column) is 8 row + column.
        let values = b.lanes(|i| (2 * i) | (2 * i + 1) << 16);
        let (d, members) = (b.r32(), b.imm(u32::MAX));
        b.store_shared(words, values);
        b.op(Op::WarpSync { members });
        let registers = Box::new([d]);
        b.op(Op::LdMatrix(Box::new(MatrixAccess { transposed, registers, space: Space::Shared, at: narrow(at) })));
        b.output(0, d);
        let got = outputs(&b.done(), 1, 32);
        for (t, got) in got.into_iter().enumerate() {
            let (row, column) = (t as u32 / 4, 2 * (t as u32 % 4));
            let element = |r: u32, c: u32| if transposed { 8 * c + r } else { 8 * r + c };
            assert_eq!(got, element(row, column) | element(row, column + 1) << 16, "lane {t}");
        }
    }
}
