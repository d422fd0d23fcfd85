//! What this machine can do at most: read bandwidth and f32 multiply-add rate, on all threads.
//!
//! Owns two measurements and nothing else. The surprise: a rate is the best of some short runs, since on a shared machine everything else only subtracts.

use super::Cpu;
use super::simd::{Kernel, LANES, Lane16, Simd, prefetch};
use std::hint::black_box;
use std::time::Instant;

/// Bytes per second of reading `bytes` of memory (rounded up to whole MiB for each thread) with all threads.
pub fn read_bandwidth(cpu: &Cpu, bytes: usize, runs: usize) -> f64 {
    const PIECE: usize = (1 << 20) / size_of::<Lane16>();
    let pieces = bytes.div_ceil(1 << 20).next_multiple_of(cpu.threads());
    // Written, so that it is not one page of zeros many times.
    let memory: Vec<Lane16> = (0..pieces * PIECE).map(|i| Lane16([i as f32; LANES])).collect();
    let read = || {
        cpu.for_each(pieces, |i| {
            black_box(cpu.isa().run(Sum(&memory[i * PIECE..][..PIECE])));
        })
    };
    (pieces << 20) as f64 / best(runs, read)
}

/// f32 operations per second (a fused multiply-add is two) with all threads, operands in registers.
pub fn fma_rate(cpu: &Cpu, runs: usize) -> f64 {
    const STEPS: usize = 1 << 21;
    let seconds = best(runs, || {
        cpu.for_each(cpu.threads(), |_| {
            black_box(cpu.isa().run(Chains(STEPS)));
        })
    });
    (cpu.threads() * STEPS * CHAINS * LANES * 2) as f64 / seconds
}

fn best(runs: usize, f: impl Fn()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Lines asked for ahead of their use.
const AHEAD: usize = 64;

struct Sum<'a>(&'a [Lane16]);

impl Kernel for Sum<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 8];
        for lines in self.0.as_chunks::<8>().0 {
            for (sum, line) in sums.iter_mut().zip(lines) {
                prefetch(std::ptr::from_ref(line).wrapping_add(AHEAD).cast());
                *sum = s.add(*sum, s.load(&line.0));
            }
        }
        sums.map(|v| s.sum(v)).iter().sum()
    }
}

/// Independent chains: enough to hide a latency of 4 cycles at 2 registers a cycle.
const CHAINS: usize = 12;

struct Chains(usize);

impl Kernel for Chains {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut chains: [S::V; CHAINS] = std::array::from_fn(|i| s.splat(black_box(i as f32)));
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        for _ in 0..self.0 {
            for chain in &mut chains {
                *chain = s.fma(*chain, a, b);
            }
        }
        chains.map(|v| s.sum(v)).iter().sum()
    }
}
