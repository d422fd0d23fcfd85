//! Registers that nobody wrote: nvcc makes none, so the PTX is written by hand.

use crate::common::*;
use cuda_emulator::fault::{FaultKind, Thread};

/// A kernel that stores `%r9` after `body`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p<10>;\n.reg .b32 %r<10>;\n\
         .reg .b64 %rd<10>;\nld.param.u64 %rd1, [out];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd1, %rd1, %rd2;\n\
         {body}\nst.global.u32 [%rd1], %r9;\nret;\n}}\n"
    )
}

#[test]
fn uninitialised_registers() {
    // Broken body, its correct twin, the line of the use, and the thread.
    let cases = [
        // Never written.
        ("add.u32 %r9, %r1, %r2;", "mov.u32 %r2, 1; add.u32 %r9, %r1, %r2;", "st.global.u32", 0),
        // Written by the lower half only.
        (
            "setp.lt.u32 %p1, %r1, 16; @!%p1 bra over; mov.u32 %r9, 5; over:",
            "setp.lt.u32 %p1, %r1, 16; mov.u32 %r9, 6; @!%p1 bra over; mov.u32 %r9, 5; over:",
            "st.global.u32",
            16,
        ),
        // Written under a guard, read without.
        (
            "setp.ne.u32 %p1, %r1, 40; @%p1 mov.u32 %r9, 5;",
            "setp.ne.u32 %p1, %r1, 40; @%p1 mov.u32 %r9, 5; @!%p1 mov.u32 %r9, 6;",
            "st.global.u32",
            40,
        ),
        // A loop that may run zero times.
        (
            "mov.u32 %r3, %r1; again: setp.eq.u32 %p1, %r3, 0; @%p1 bra done; mov.u32 %r9, %r3; sub.u32 %r3, %r3, 1; bra again; done:",
            "mov.u32 %r3, %r1; again: mov.u32 %r9, %r3; setp.eq.u32 %p1, %r3, 0; @%p1 bra done; sub.u32 %r3, %r3, 1; bra again; done:",
            "st.global.u32",
            0,
        ),
        // A predicate.
        (
            "mov.u32 %r9, 1; @%p2 add.u32 %r9, %r9, 1;",
            "setp.eq.u32 %p2, %r1, 3; mov.u32 %r9, 1; @%p2 add.u32 %r9, %r9, 1;",
            "@%p2",
            0,
        ),
        // A wide one.
        (
            "add.s64 %rd3, %rd3, 1; cvt.u32.u64 %r9, %rd3;",
            "mov.u64 %rd3, 1; cvt.u32.u64 %r9, %rd3;",
            "st.global.u32",
            0,
        ),
    ];
    for (broken, fine, read, thread) in cases {
        let run = |body: &str| {
            let text = kernel(&body.replace("; ", ";\n").replace(": ", ":\n"));
            let (device, arch) = TARGETS[0].clone();
            let bench = Bench::new(device, arch, &text);
            let out = bench.space::<u32>(64);
            (bench.try_run("k", &shape(1, 64), &[out]), text)
        };
        let (done, _) = run(fine);
        done.unwrap_or_else(|fault| panic!("{fine}: {fault}"));
        let (done, text) = run(broken);
        let fault = done.expect_err(broken);
        assert_eq!(fault.kind, FaultKind::UninitialisedRegister, "{fault}");
        let line = text.lines().position(|line| line.starts_with(read)).expect("there") as u32 + 1;
        assert_eq!(fault.place.ptx, line, "{fault}");
        let Some(Thread { block: [0, 0, 0], thread: [x, 0, 0] }) = fault.thread else { panic!("whose? {fault}") };
        // Warps run in any order.
        assert_eq!(x % 32, thread % 32, "{fault}");
    }
}
