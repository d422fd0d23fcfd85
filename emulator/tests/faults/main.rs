//! Planted faults, in kernels compiled by nvcc (`cu/faults.cu`) and in PTX written by hand (`unproven.rs`): every check
//! must report its own, with the thread and the line, and nothing in the correct twin. `deletions.rs` takes the barriers
//! out of correct kernels.

#[path = "../common/mod.rs"]
mod common;

mod declared;
mod deletions;
mod unproven;

use common::*;
use cuda_emulator::fault::{Fault, FaultKind, Thread};
use cuda_emulator::gpu::{Arg, Shape};

const THREADS: u32 = 64;

/// A kernel with a fault in it.
struct Planted {
    name: &'static str,
    kind: FaultKind,
    /// By the number of a thread, whether it may be the one that is reported.
    by: fn(u32) -> bool,
}

const fn planted(name: &'static str, kind: FaultKind, by: fn(u32) -> bool) -> Planted {
    Planted { name, kind, by }
}

fn anyone(_: u32) -> bool {
    true
}

/// The lines of a kernel that are marked, from 1.
fn marked(source: &str, kernel: &str) -> Vec<u32> {
    let starts = |line: &str| {
        line.contains(&format!("KERNEL({kernel})")) || line.contains(&format!("__global__ void {kernel}("))
    };
    let body = (1..).zip(source.lines()).skip_while(|(_, line)| !starts(line));
    body.take_while(|(_, line)| *line != "}").filter(|(_, line)| line.ends_with("// fault")).map(|(n, _)| n).collect()
}

/// Two arrays of 64 floats; of the first the host writes and keeps as much as asked for.
fn arrays(bench: &Bench, allocated: usize, written: usize) -> [Arg; 2] {
    let (from, to) = (bench.space::<f32>(allocated), bench.space::<f32>(THREADS as usize));
    let Arg::U64(at) = from else { panic!("an address") };
    let bytes: Vec<u8> = (0..written).flat_map(|i| (i as f32).to_le_bytes()).collect();
    bench.gpu.write(at, &bytes).expect("allocated");
    [from, to]
}

fn launch(bench: &Bench, name: &str, [from, to]: [Arg; 2], broken: bool) -> Result<(), Box<Fault>> {
    let shape = Shape { shared: 256, ..shape(1, THREADS) };
    bench.try_run(name, &shape, &[from, to, Arg::S32(broken.into())]).map(|_| ())
}

/// Whether the report names one of the lines of `faults.cu`. Intrinsic functions are in NVIDIA's headers: then it is the
/// line of a caller.
fn is_at(fault: &Fault, lines: &[u32]) -> bool {
    let mut named = fault.place.source.iter().chain(&*fault.place.callers);
    named.any(|(file, line)| file.ends_with("faults.cu") && lines.contains(line))
}

/// The report is the planted one.
fn expect(fault: &Fault, planted: &Planted, lines: &[u32], context: &str) {
    let Planted { name, kind, by } = planted;
    assert_eq!(fault.kind, *kind, "{context}: {fault}");
    assert_eq!(fault.kernel, *name);
    let Some(Thread { block: [0, 0, 0], thread: [x, 0, 0] }) = fault.thread else {
        panic!("{context}: whose? {fault}")
    };
    assert!(by(x), "{context}: thread {x}? {fault}");
    assert!(is_at(fault, lines), "{context}: not one of lines {lines:?}: {fault}");
    assert!(!fault.why.is_empty() && fault.place.ptx > 0 && !fault.place.text.is_empty());
}

/// Launches every kernel correct and broken, for both architectures and several orders of warps. All that is wrong is said
/// at once.
fn check(all: &[Planted]) {
    let source = source("faults.cu");
    let mut wrong = Vec::new();
    for (device, arch) in TARGETS {
        for seed in 0..3 {
            let bench = Bench::seeded(device.clone(), arch, &ptx("faults", arch), seed);
            for planted in all {
                let context = format!("{} for {arch}, seed {seed}", planted.name);
                let one = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let lines = marked(&source, planted.name);
                    assert!(!lines.is_empty(), "{context}: nothing is marked");
                    let fine = launch(&bench, planted.name, arrays(&bench, 64, 64), false);
                    fine.unwrap_or_else(|fault| panic!("{context}: the correct twin: {fault}"));
                    let (allocated, written) = match planted.name {
                        "half_outside" => (63, 63),
                        "unwritten_global" => (64, 40),
                        _ => (64, 64),
                    };
                    let fault = launch(&bench, planted.name, arrays(&bench, allocated, written), true);
                    expect(&fault.expect_err(&context), planted, &lines, &context);
                }));
                wrong.extend(one.is_err().then_some(context));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn out_of_bounds() {
    check(&[
        planted("one_past", FaultKind::OutOfBounds, |t| t == 63),
        planted("one_byte_past", FaultKind::OutOfBounds, |t| t == 63),
        planted("before", FaultKind::OutOfBounds, |t| t == 0),
        planted("far", FaultKind::OutOfBounds, anyone),
        planted("half_outside", FaultKind::OutOfBounds, |t| t == 31),
        planted("null_pointer", FaultKind::OutOfBounds, |t| t == 40),
        planted("shared_outside", FaultKind::OutOfBounds, |t| t == 63),
        planted("shared_before", FaultKind::OutOfBounds, |t| t < 2),
        planted("copy_outside", FaultKind::OutOfBounds, |t| t == 63),
        planted("atomic_outside", FaultKind::OutOfBounds, |t| t == 63),
        planted("local_outside", FaultKind::OutOfBounds, anyone),
    ]);
}

#[test]
fn misaligned() {
    check(&[
        planted("odd_word", FaultKind::Misaligned, |t| t < 63),
        planted("odd_vector", FaultKind::Misaligned, |t| t < 15),
        planted("odd_shared", FaultKind::Misaligned, anyone),
        planted("odd_copy", FaultKind::Misaligned, |t| t < 15),
        planted("odd_atomic", FaultKind::Misaligned, |t| t == 33),
        planted("odd_rows", FaultKind::Misaligned, |t| t == 34),
    ]);
}

#[test]
fn use_after_free() {
    each("faults", |bench| {
        let lines = marked(&source("faults.cu"), "copy");
        for freed in [0, 1] {
            launch(bench, "copy", arrays(bench, 64, 64), false)
                .unwrap_or_else(|fault| panic!("the correct twin: {fault}"));
            let both = arrays(bench, 64, 64);
            let Arg::U64(at) = both[freed] else { panic!("an address") };
            bench.gpu.memory.free(at).expect("allocated");
            let fault = launch(bench, "copy", both, false).expect_err("it is freed");
            expect(&fault, &planted("copy", FaultKind::UseAfterFree, anyone), &lines, "copy");
        }
    });
}

#[test]
fn uninitialised() {
    check(&[
        planted("unwritten_shared", FaultKind::UninitialisedShared, |t| t == 56),
        planted("unwritten_sum", FaultKind::UninitialisedShared, anyone),
        planted("unwritten_global", FaultKind::UninitialisedGlobal, |t| t >= 40),
        planted("unwritten_output", FaultKind::UninitialisedGlobal, |t| t % 2 == 1),
    ]);
}

#[test]
fn races() {
    check(&[
        planted("two_writers", FaultKind::SharedRace, |t| t == 0 || t == 32),
        planted("too_early", FaultKind::SharedRace, anyone),
        planted("copy_without_wait", FaultKind::SharedRace, anyone),
        planted("own_copy_without_wait", FaultKind::SharedRace, anyone),
        planted("flag_without_fence", FaultKind::SharedRace, |t| t == 32),
    ]);
}

/// What the other warp has not written yet when this one reads is unwritten: both names are right for it.
#[test]
fn races_with_the_first_write() {
    each("faults", |bench| {
        for name in ["no_barrier", "copy_without_barrier", "atomic_and_plain"] {
            let lines = marked(&source("faults.cu"), name);
            launch(bench, name, arrays(bench, 64, 64), false)
                .unwrap_or_else(|fault| panic!("the correct twin: {fault}"));
            let fault = launch(bench, name, arrays(bench, 64, 64), true).expect_err(name);
            let unwritten = fault.kind == FaultKind::UninitialisedShared;
            let kind = if unwritten { fault.kind } else { FaultKind::SharedRace };
            expect(&fault, &planted(name, kind, anyone), &lines, name);
        }
    });
}

#[test]
fn read_only_memory() {
    check(&[
        planted("written_while_cached", FaultKind::ReadOnlyWritten, anyone),
        planted("restrict_alias", FaultKind::ReadOnlyWritten, anyone),
    ]);
}

#[test]
fn divergent_barriers() {
    check(&[
        planted("half_a_warp", FaultKind::DivergentBarrier, |t| t % 32 < 16),
        planted("two_barriers", FaultKind::DivergentBarrier, anyone),
        planted("uneven_rounds", FaultKind::DivergentBarrier, |t| t < 32),
    ]);
}

#[test]
fn impossible_barriers() {
    check(&[
        planted("crooked_count", FaultKind::ImpossibleBarrier, anyone),
        planted("too_many_threads", FaultKind::ImpossibleBarrier, anyone),
        planted("no_such_barrier", FaultKind::ImpossibleBarrier, anyone),
    ]);
}

#[test]
fn deadlocks() {
    check(&[
        planted("crossed", FaultKind::Deadlock, anyone),
        planted("nobody_produces", FaultKind::Deadlock, |t| t >= 32),
    ]);
}

/// Nothing waits at a barrier here, so only patience ends it.
#[test]
fn endless_loops() {
    check(&[
        planted("nobody_raises_the_flag", FaultKind::Deadlock, anyone),
        planted("one_thread_spins", FaultKind::Deadlock, |t| t == 37),
        planted("nobody_frees_the_lock", FaultKind::Deadlock, |t| t % 32 == 0),
    ]);
}

#[test]
fn missing_lanes() {
    check(&[
        planted("absent_lanes", FaultKind::MissingLanes, |t| t % 32 < 16),
        planted("absent_source", FaultKind::MissingLanes, |t| t % 32 < 8),
        planted("absent_voters", FaultKind::MissingLanes, |t| t % 32 != 9),
        planted("absent_from_itself", FaultKind::MissingLanes, |t| t < 32),
        planted("half_a_product", FaultKind::MissingLanes, |t| t % 32 > 3),
    ]);
}

#[test]
fn ends() {
    check(&[
        planted("trapped", FaultKind::Trap, |t| t == 21),
        planted("trapped_block", FaultKind::Trap, anyone),
        planted("wrong_claim", FaultKind::Assert, |t| t == 50),
        planted("wrong_claims", FaultKind::Assert, |t| t >= 6),
    ]);
}

#[test]
fn illegal_instructions() {
    check(&[
        planted("shared_as_global", FaultKind::IllegalInstruction, anyone),
        planted("no_object", FaultKind::IllegalInstruction, anyone),
        planted("crooked_object", FaultKind::IllegalInstruction, |t| t == 0),
    ]);
}
