//! The fast CPU bodies that ops call: matrix products, attention, activations and norms over plain slices.
//!
//! Owns the instruction set, the threads and the order in which floats are added. Refuses to know ops, plans, models and storage places.
//! The surprise: results have the same bits on every instruction set, for any number of threads and any number of rows in the call.
//! An output of a product is one chain of fused multiply-adds over ascending k inside each block of [`BLOCK`] k, and the sums of the blocks are
//! added in order. So lanes always hold different outputs, never different k. Quantized weights are multiplied in integers, which are exact, block by
//! block; only the chain over the blocks is f32.

mod attention;
mod codes;
mod gemm;
mod gemv;
pub mod math;
mod matmul;
pub mod norm;
mod panel;
pub mod probe;
pub mod rows;
mod simd;
mod team;

pub use attention::{Heads, Kv, Mask, Place, Sequence, attention};
pub use codes::Codes;
pub use codes::integers::{Operand, int8_row};
pub use matmul::{Epilogue, Rows, Tile, Unit, matmul, matmul_codes};
pub use simd::Isa;

use simd::Lane16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use team::Team;

/// Length of one chain of fused multiply-adds. 256 f32 of 12 rows and of 32 columns fill the L1 cache.
pub const BLOCK: usize = 256;

/// An instruction set and a team of threads.
pub struct Cpu {
    isa: Isa,
    threads: usize,
    team: Team,
    scratch: Mutex<Vec<Vec<Lane16>>>,
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Cpu {
    /// `threads` threads that use `isa`.
    pub fn new(isa: Isa, threads: usize) -> Cpu {
        let threads = threads.max(1);
        Cpu { isa, threads, team: Team::new(threads - 1), scratch: Mutex::default(), buffers: Mutex::default() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// `len` floats of whatever was there before, kept for the next caller when dropped: fresh pages cost as much as a small product.
    pub fn buffer(&self, len: usize) -> Buffer<'_> {
        let mut kept = self.buffers();
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= len).min_by_key(|&i| kept[i].len());
        let floats = match fits.or(kept.len().checked_sub(1)) {
            Some(i) => kept.swap_remove(i),
            None => Vec::new(),
        };
        let floats = if floats.len() < len { vec![0.0; len] } else { floats };
        Buffer { cpu: self, floats, len }
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work(task)` once for each task below `tasks`, on all threads. Tasks are handed out in ascending order as threads become free.
    pub fn for_each(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        self.for_each_with(tasks, |_, task, _| work(task));
    }

    /// Calls `work(i, piece)` for each of some pieces of the caller's data, on all threads.
    pub fn for_each_of<P: Send>(&self, pieces: impl Iterator<Item = P>, work: impl Fn(usize, P) + Sync) {
        let pieces: Vec<_> = pieces.map(|piece| Mutex::new(Some(piece))).collect();
        self.for_each(pieces.len(), |i| {
            let piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            work(i, piece.expect("only this task takes it"));
        });
    }

    /// As [`for_each`](Cpu::for_each), `work(scratch, task, the task that the thread does next, if that is known)`. Scratch is kept from task to task,
    /// and from call to call: fresh pages cost more than small products.
    fn for_each_with(&self, tasks: usize, work: impl Fn(&mut Vec<Lane16>, usize, Option<usize>) + Sync) {
        let counter = AtomicUsize::new(0);
        let claim = || counter.fetch_add(1, Ordering::Relaxed);
        // Near the end nobody claims ahead: the last tasks are for whoever is free.
        let claim_ahead = |task: usize| (task + 3 * self.threads < tasks).then(claim);
        let drain = || {
            let mut task = claim();
            if task < tasks {
                let mut scratch = self.scratch().pop().unwrap_or_default();
                while task < tasks {
                    let next = claim_ahead(task);
                    work(&mut scratch, task, next);
                    task = next.unwrap_or_else(claim);
                }
                self.scratch().push(scratch);
            }
        };
        match tasks {
            0 | 1 => drain(),
            _ => self.team.run(&drain),
        }
    }

    fn scratch(&self) -> MutexGuard<'_, Vec<Vec<Lane16>>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Floats that go back to their [`Cpu`] when dropped.
pub struct Buffer<'a> {
    cpu: &'a Cpu,
    floats: Vec<f32>,
    len: usize,
}

impl std::ops::Deref for Buffer<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.floats[..self.len]
    }
}

impl std::ops::DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[..self.len]
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.cpu.buffers().push(std::mem::take(&mut self.floats));
    }
}

/// Disjoint pieces of `scratch` of the given lengths, which it grows to hold. Their contents are whatever was there.
fn carve<const N: usize>(scratch: &mut Vec<Lane16>, lengths: [usize; N]) -> [&mut [Lane16]; N] {
    let total = lengths.iter().sum();
    if scratch.len() < total {
        scratch.resize(total, Lane16::ZERO);
    }
    let mut rest = &mut scratch[..];
    lengths.map(|length| rest.split_off_mut(..length).expect("the sum fits"))
}
