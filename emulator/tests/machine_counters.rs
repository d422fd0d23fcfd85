//! Counters of access patterns whose values are worked out by hand.

mod build;

use build::*;
use cuda_emulator::counters::Counters;
use cuda_emulator::isa::*;
use cuda_emulator::program::{Program, Special};

fn count(program: &Program, grid: u32, block: u32, params: &[u64], memory: &cuda_emulator::memory::Memory) -> Counters {
    let run = Run { grid, block, params: params.to_vec(), threads: 2, ..Run::new(program, memory) };
    run.go().unwrap_or_else(|fault| panic!("{fault}"))
}

/// `out[thread] = in[thread * stride]`.
fn strided(stride: u32) -> Program {
    let mut b = Build::new();
    let (input, thread, d) = (b.param(0), b.thread(), b.r32());
    let at = b.element(input, thread, 4 * stride);
    b.op(load(Space::Global, Ty::B32, d, wide(at)));
    b.output(1, d);
    b.done()
}

#[test]
fn sectors_of_global_accesses() {
    let memory = memory();
    let input = upload(&memory, &vec![1; 64 * 16]);
    // Sectors of 32 bytes for 32 lanes: 128 bytes are 4; every second element takes 8; every eighth or rarer 32.
    for (stride, sectors) in [(1, 4), (2, 8), (8, 32), (16, 32), (0, 1)] {
        let out = memory.alloc(256, "out").expect("memory");
        let c = count(&strided(stride), 1, 64, &[input, out], &memory);
        assert_eq!((c.global_load_requests, c.global_load_sectors), (2, 2 * sectors), "stride {stride}");
        assert_eq!((c.global_store_requests, c.global_store_sectors), (2, 8));
        let distinct = if stride == 0 { 4 } else { 256 };
        assert_eq!((c.global_bytes_read, c.global_bytes_written), (distinct, 256));
    }
}

#[test]
fn what_a_launch_reads_back_after_writing_it_is_no_traffic() {
    // `twice[thread]` is written and read; `out[thread]` gets what was read.
    let mut b = Build::new();
    let (twice, thread, d) = (b.param(0), b.thread(), b.r32());
    let at = b.element(twice, thread, 4);
    let one = b.imm(1);
    b.op(store(Space::Global, Ty::B32, one, wide(at)));
    b.op(load(Space::Global, Ty::B32, d, wide(at)));
    b.output(1, d);
    let (program, memory) = (b.done(), memory());
    let [twice, out] = ["twice", "out"].map(|name| memory.alloc(256, name).expect("memory"));
    let c = count(&program, 1, 64, &[twice, out], &memory);
    assert_eq!((c.global_load_sectors, c.global_bytes_read, c.global_bytes_written), (8, 0, 512));
}

#[test]
fn instructions_lanes_and_classes() {
    let mut b = Build::new();
    let (tid, bound, end) = (b.special(Special::Tid(0)), b.imm(8), b.label());
    let p = b.setp(Cmp::Lt, tid, bound);
    b.jump(Pred::Unless(p), end);
    b.add(tid, 1);
    b.add(tid, 1);
    b.bind(end);
    b.sync();
    let (program, memory) = (b.done(), memory());
    let c = count(&program, 3, 32, &[], &memory);
    // Per block: setp, branch with 32 lanes, two adds with 8, barrier and exit with 32 again.
    assert_eq!((c.warp_instructions, c.active_lanes), (3 * 6, 3 * (2 * 32 + 2 * 8 + 2 * 32)));
    assert_eq!((c.blocks, c.threads_per_block, c.barriers), (3, 32, 3));
    let expected = [("control", 9), ("integer", 9)];
    assert_eq!(c.by_class.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn bank_conflicts_by_line() {
    let mut b = Build::new();
    b.needs.static_shared = 4096;
    let (straight, column, zero) = (b.lanes(|i| 4 * i), b.lanes(|i| 128 * i), b.imm(0));
    b.store_shared(straight, zero);
    b.store_shared(column, zero);
    b.load_shared(zero);
    let (program, memory) = (b.done(), memory());
    let c = count(&program, 2, 32, &[], &memory);
    assert_eq!((c.shared_wavefronts, c.shared_wavefronts_ideal), (2 * (1 + 32 + 1), 2 * 3));
    assert_eq!(c.shared_conflicts.into_iter().collect::<Vec<_>>(), [(2, (64, 2))]);
}

#[test]
fn the_table_has_every_counter_by_its_name() {
    let mut counters = Counters { warp_instructions: 12, local_bytes: 7, ..Counters::default() };
    counters.by_class.insert("control", 5);
    counters.shared_conflicts.insert(3, (64, 2));
    let table = counters.to_string();
    let json = serde_json::to_value(&counters).expect("numbers");
    let nested = ["by_class", "shared_conflicts"];
    for (name, _) in json.as_object().expect("an object").iter().filter(|(name, _)| !nested.contains(&name.as_str())) {
        assert!(table.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name} in\n{table}");
    }
    let line = |name: &str| table.lines().find(|l| l.contains(name)).map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert_eq!(line("warp_instructions"), Some(vec!["warp_instructions", "12", "smsp__inst_executed.sum"]));
    assert_eq!(line("control"), Some(vec!["control", "5"]));
    assert_eq!(line("PTX line 3"), Some(vec!["PTX", "line", "3", "64", "instead", "of", "2"]));
}

#[test]
fn atomics_and_local_memory() {
    let mut b = Build::new();
    (b.needs.local, b.needs.static_shared) = (16, 16);
    let (at, zero, one, d) = (b.param(0), b.imm(0), b.imm(1), b.r32());
    b.op(store(Space::Local, Ty::B32, one, narrow(zero)));
    b.op(load(Space::Local, Ty::B32, d, narrow(zero)));
    b.op(atom(Space::Global, AtomOp::Add, None, wide(at), one, one));
    b.op(atom(Space::Global, AtomOp::Add, None, wide(at), one, one));
    b.store_shared(zero, one);
    b.op(atom(Space::Shared, AtomOp::Add, None, narrow(zero), one, one));
    let (program, memory) = (b.done(), memory());
    let c = count(&program, 1, 32, &[upload(&memory, &[0])], &memory);
    assert_eq!((c.global_atomics, c.shared_atomics, c.local_bytes), (2, 1, 2 * 32 * 4));
    assert_eq!((c.global_load_requests, c.global_store_requests), (0, 0));
}
