//! Declared operands: accesses outside them, against their permission, and outputs that nobody wrote.

use crate::common::*;
use crate::{arrays, is_at, marked};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::{Arg, Shape};
use cuda_emulator::machine::Access::{self, *};
use cuda_emulator::machine::Operand;

/// `bytes` at an array with what they are for.
fn operand(array: &Arg, bytes: u64, access: Access) -> Operand {
    let Arg::U64(address) = *array else { panic!("an address") };
    Operand { address, bytes, rows: 1, stride: bytes, access }
}

/// A launch with operands of so many bytes.
struct Case {
    kernel: &'static str,
    broken: bool,
    from: (u64, Access),
    to: (u64, Access),
}

const fn case(kernel: &'static str, broken: bool, from: (u64, Access), to: (u64, Access)) -> Case {
    Case { kernel, broken, from, to }
}

fn run(bench: &Bench, case: &Case) -> Result<(), Box<Fault>> {
    let [a, b] = arrays(bench, 64, 64);
    let operands = vec![operand(&a, case.from.0, case.from.1), operand(&b, case.to.0, case.to.1)];
    let shape = Shape { operands: Some(operands), ..shape(1, 64) };
    bench.try_run(case.kernel, &shape, &[a, b, Arg::S32(case.broken.into())]).map(|_| ())
}

#[test]
fn used_as_declared() {
    let cases = [
        case("copy", false, (256, Read), (256, Write)),
        case("copy", false, (256, ReadWrite), (256, WritePartial)),
        case("copy_back", true, (256, ReadWrite), (256, Write)),
        case("copy_most", true, (256, Read), (256, WritePartial)),
    ];
    each("faults", |bench| {
        cases.iter().for_each(|case| run(bench, case).unwrap_or_else(|fault| panic!("{fault}")));
    });
}

#[test]
fn outside_or_against_the_permission() {
    let last = |t: u32| t == 63;
    let second_half = |t: u32| t >= 32;
    let anyone = |_| true;
    let cases: [(Case, &dyn Fn(u32) -> bool); 5] = [
        // Declared shorter than they are: the allocation would allow the access.
        (case("copy", false, (252, Read), (256, Write)), &last),
        (case("copy", false, (256, Read), (128, Write)), &second_half),
        (case("copy_back", true, (256, Read), (256, Write)), &anyone),
        (case("copy", false, (256, Read), (256, Read)), &anyone),
        // What an output had before does not count.
        (case("accumulate", true, (256, Read), (256, Write)), &anyone),
    ];
    each("faults", |bench| {
        for (case, by) in &cases {
            let fault = run(bench, case).expect_err(case.kernel);
            let unwritten = case.kernel == "accumulate" && fault.kind == FaultKind::UninitialisedGlobal;
            assert!(fault.kind == FaultKind::Operand || unwritten, "{fault}");
            assert!(by(fault.thread.expect("somebody").thread[0]), "{fault}");
            assert!(is_at(&fault, &marked(&source("faults.cu"), case.kernel)), "{fault}");
        }
    });
}

#[test]
fn an_output_that_stays_unwritten() {
    each("faults", |bench| {
        let fault =
            run(bench, &case("copy_most", true, (256, Read), (256, Write))).expect_err("the last is not written");
        assert_eq!((fault.kind, fault.thread), (FaultKind::Operand, None), "{fault}");
    });
}
