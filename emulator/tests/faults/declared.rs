//! Declared operands: accesses outside them, against their permission, and outputs that nobody wrote.

use crate::common::*;
use crate::{arrays, marked};
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::{Arg, Shape};
use cuda_emulator::machine::{Access, Operand};

/// `bytes` at an array with what they are for.
fn operand(array: &Arg, bytes: u64, access: Access) -> Operand {
    let Arg::U64(address) = *array else { panic!("an address") };
    Operand { address, bytes, rows: 1, stride: bytes, access }
}

/// Launches with operands of so many bytes.
fn run(bench: &Bench, name: &str, broken: bool, from: (u64, Access), to: (u64, Access)) -> Result<(), Box<Fault>> {
    let both = arrays(bench, 64, 64);
    let operands = vec![operand(&both[0], from.0, from.1), operand(&both[1], to.0, to.1)];
    let [a, b] = both;
    let shape = Shape { operands: Some(operands), ..shape(1, 64) };
    bench.try_run(name, &shape, &[a, b, Arg::S32(broken.into())]).map(|_| ())
}

#[test]
fn operands() {
    use Access::*;
    // Of the correct twins every operand is declared as it is used.
    let fine = [
        ("copy", false, (256, Read), (256, Write)),
        ("copy", false, (256, ReadWrite), (256, WritePartial)),
        ("copy_back", true, (256, ReadWrite), (256, Write)),
        ("copy_most", true, (256, Read), (256, WritePartial)),
    ];
    let broken: [(_, _, _, _, fn(u32) -> bool); 5] = [
        // Declared shorter than it is: the allocation would allow the access.
        ("copy", false, (252, Read), (256, Write), |t| t == 63),
        ("copy", false, (256, Read), (128, Write), |t| t >= 32),
        // Against the permission.
        ("copy_back", true, (256, Read), (256, Write), |_| true),
        ("copy", false, (256, Read), (256, Read), |_| true),
        // What an output had before does not count.
        ("accumulate", true, (256, Read), (256, Write), |_| true),
    ];
    each("faults", |bench| {
        for (name, broken, from, to) in fine {
            run(bench, name, broken, from, to).unwrap_or_else(|fault| panic!("{fault}"));
        }
        for (name, broken, from, to, by) in broken {
            let fault = run(bench, name, broken, from, to).expect_err(name);
            let kinds: &[FaultKind] = if name == "accumulate" {
                &[FaultKind::Operand, FaultKind::UninitialisedGlobal]
            } else {
                &[FaultKind::Operand]
            };
            assert!(kinds.contains(&fault.kind), "{fault}");
            assert!(by(fault.thread.expect("somebody").thread[0]), "{fault}");
            let (file, line) = fault.place.source.clone().expect("somewhere");
            assert!(file.ends_with("faults.cu") && marked(&source("faults.cu"), name).contains(&line), "{fault}");
        }
        for (name, broken, to) in [("copy_most", true, 256), ("copy", false, 256 + 4)] {
            let to = if to > 256 { continue } else { (to, Write) };
            let fault = run(bench, name, broken, (256, Read), to).expect_err("an element is not written");
            assert_eq!((fault.kind, fault.thread), (FaultKind::Operand, None), "{fault}");
        }
    });
}
