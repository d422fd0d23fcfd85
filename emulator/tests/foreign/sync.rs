//! Barriers, grids that wait for each other, prints and asserts: `cu/sync.cu`.

use crate::common::*;
use cuda_emulator::fault::{FaultKind, Thread};
use cuda_emulator::gpu::{Arg, Shape};
use std::process::Command;

fn numbers(seed: u64, below: u64, count: usize) -> Vec<i32> {
    random(seed).take(count).map(|r| (r % below) as i32).collect()
}

#[test]
fn barriers_that_count() {
    let input = numbers(1, 100, 4 * 96);
    let mut expected = Vec::new();
    for block in input.chunks(96) {
        let count = block.iter().filter(|v| **v > 50).count() as i32;
        let (all, any) = (block.iter().all(|v| *v > 2), block.iter().any(|v| *v > 97));
        expected.extend([count, all.into(), any.into()].repeat(96));
    }
    each("sync", |bench| {
        assert_eq!(bench.output::<i32>("agree", &shape(4, 96), &[bench.upload(&input)], 4 * 96 * 3), expected);
    });
}

#[test]
fn producers_and_consumers() {
    let input = numbers(2, 1000, 9 * 64);
    let expected: Vec<i32> = (0..9 * 64).map(|i| input[i / 64 * 64 + 63 - i % 64] * 2 + 1).collect();
    for (device, arch) in TARGETS {
        for seed in 0..8 {
            let bench = Bench::seeded(device.clone(), arch, &ptx("sync", arch), seed);
            let out = bench.upload(&vec![0i32; 9 * 64]);
            bench.run("pipeline", 1, 128, &[bench.upload(&input), out.clone(), Arg::S32(9)]);
            assert_eq!(bench.download::<i32>(&out, 9 * 64), expected, "seed {seed}");
        }
    }
}

#[test]
fn halves_with_barriers_of_their_own() {
    let input = numbers(3, 1000, 128);
    // After exchanges over 1, 2, .., d every element is the sum of its aligned group of 2d.
    let expected: Vec<i32> = (0..128)
        .map(|i| if i < 64 { input[i / 8 * 8..][..8].iter().sum() } else { input[64..].iter().sum() })
        .collect();
    each("sync", |bench| {
        assert_eq!(bench.output::<i32>("halves", &shape(1, 128), &[bench.upload(&input)], 128), expected);
    });
}

#[test]
fn a_grid_that_meets() {
    let (blocks, threads, rounds) = (6, 64, 5);
    let n = blocks * threads;
    let input = numbers(4, 100, n);
    let mut expected = input.clone();
    for _ in 0..rounds {
        expected = (0..n).map(|i| expected[(i + 1) % n] + expected[(i + n - 1) % n]).collect();
    }
    each("sync", |bench| {
        let values = bench.upload(&[input.clone(), vec![0; n]].concat());
        let args = [values, bench.upload(&[0u32]), Arg::S32(rounds)];
        let shape = Shape { cooperative: true, ..shape(blocks as u32, threads as u32) };
        assert_eq!(bench.output::<i32>("grid_rounds", &shape, &args, n), expected);
    });
}

#[test]
fn the_last_block_sums_up() {
    let input = numbers(5, 1000, 40 * 128);
    each("sync", |bench| {
        let args = [bench.upload(&input), bench.space::<i32>(40), bench.upload(&[0u32])];
        for _ in 0..2 {
            assert_eq!(bench.output::<i32>("last_block", &shape(40, 128), &args, 1), [input.iter().sum::<i32>()]);
        }
    });
}

/// What kernels print goes to the process's stdout, so another process runs them.
#[test]
fn printf() {
    const CHILD: &str = "OSPREY_TEST_PRINTS";
    if std::env::var_os(CHILD).is_some() {
        each("sync", |bench| {
            bench.run("print", 1, 64, &[]);
        });
        return;
    }
    let me = std::env::current_exe().expect("a test binary");
    let child =
        Command::new(me).args(["--exact", "sync::printf", "--nocapture"]).env(CHILD, "1").output().expect("starts");
    let text = String::from_utf8_lossy(&child.stdout);
    let line = |t: i32| format!("thread {t} of 64: text c {:5.2}|-42   |00beef|1234567890123|%", 1.5 * f64::from(t));
    for expected in [line(3), line(35), "no arguments".into()] {
        let count = text.lines().filter(|l| *l == expected).count();
        assert_eq!(count, TARGETS.len(), "{expected} in\n{text}");
    }
}

#[test]
fn assert_names_the_claim() {
    let mut input = numbers(6, 100, 64);
    each("sync", |bench| {
        let good = bench.output::<i32>("claims", &shape(1, 64), &[bench.upload(&input)], 64);
        assert_eq!(good, input);
    });
    input[37] = -1;
    each("sync", |bench| {
        let args = [bench.upload(&input), bench.space::<i32>(64)];
        let fault = bench.try_run("claims", &shape(1, 64), &args).expect_err("the claim is false");
        assert_eq!(fault.kind, FaultKind::Assert);
        assert_eq!(fault.thread, Some(Thread { block: [0; 3], thread: [37, 0, 0] }));
        for part in ["in[threadIdx.x] >= 0 && \"in range\"", "sync.cu", "claims"] {
            assert!(fault.why.contains(part), "{part} is not in: {fault}");
        }
    });
}
