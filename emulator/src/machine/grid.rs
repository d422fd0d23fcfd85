//! A launch while it runs: what all blocks share, and the host threads that take blocks in order of their number. Blocks
//! of a cooperative grid are all there from the start and the threads go round among them.

use super::cta::Block;
use super::global::{Global, Rules};
use super::report::{Broken, Run, coordinates};
use super::shared::Bytes;
use super::tally::Tally;
use super::warp::Work;
use super::wgmma::{Touch, touches};
use super::{Launch, Operand};
use crate::config::{Check, Config};
use crate::counters::Counters;
use crate::fault::{Fault, FaultKind};
use crate::memory::{Memory, Table};
use crate::program::{Program, Special, Tracked};
use crate::registers::{Lanes, Mask, Registers, WARP};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// See the module.
pub(super) struct Grid<'a> {
    launch: &'a Launch<'a>,
    pub program: &'a Program,
    pub rules: Rules,
    pub global: Global<'a>,
    pub params: Bytes,
    /// Bytes of shared memory of a block, and of local memory of a thread.
    pub shared: u32,
    pub local: u64,
    /// Threads of a block.
    pub threads: u32,
    pub seed: u64,
    pub patience: u64,
    /// Instructions that read or write registers which are watched.
    pub has_tracked: bool,
    pub tracked: Vec<bool>,
    /// By instruction: the rows that it may not touch while a product uses them.
    pub touches: Vec<Box<[Touch]>>,
    blocks: u64,
    next: AtomicU64,
    idle: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<Box<Broken>>>,
}

impl<'a> Grid<'a> {
    pub fn new(launch: &'a Launch<'a>, memory: &'a Memory, table: &'a Table, config: &Config) -> Grid<'a> {
        let program = launch.program;
        let has = |check| config.checks.has(check);
        let rules = Rules {
            memory: has(Check::Memory),
            unwritten: has(Check::Uninitialised),
            races: has(Check::Races),
            barriers: has(Check::Barriers),
            operands: has(Check::Operands),
        };
        let mut tracked = vec![false; program.code.len()];
        let Tracked { guards, reads, writes, .. } = &program.tracked;
        let watched = guards.iter().chain(reads).map(|r| r.0).chain(writes.iter().map(|w| w.0));
        watched.for_each(|pc| tracked[pc as usize] = true);
        let operands: Option<&[Operand]> = launch.operands;
        Grid {
            launch,
            program,
            rules,
            global: Global::new(memory, table, operands, rules),
            params: Bytes::of(launch.params),
            shared: shared_bytes(launch),
            local: u64::from(program.needs.local).next_multiple_of(16),
            threads: launch.block.iter().product(),
            seed: config.seed,
            patience: config.patience,
            has_tracked: program.tracked.count > 0,
            tracked,
            touches: touches(program),
            blocks: launch.grid.iter().map(|&n| u64::from(n)).product(),
            next: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            fault: Mutex::new(None),
        }
    }

    /// Warps of a block.
    pub fn warps(&self) -> u32 {
        self.threads.div_ceil(WARP as u32)
    }

    /// The lanes that a warp starts with.
    pub fn lanes_of(&self, warp: u32) -> Mask {
        let threads = self.threads - warp * WARP as u32;
        if threads >= WARP as u32 { Mask::MAX } else { (1 << threads) - 1 }
    }

    pub fn block_at(&self, index: u64) -> [u32; 3] {
        coordinates(index, self.launch.grid)
    }

    pub fn thread_at(&self, index: u32) -> [u32; 3] {
        coordinates(index.into(), self.launch.block)
    }

    pub fn progressed(&self) {
        // Nearly always it is 0, and a store would take its line from the other threads.
        if self.idle.load(Ordering::Relaxed) != 0 {
            self.idle.store(0, Ordering::Relaxed);
        }
    }

    /// Notes instructions that changed nothing; whether that is too long now.
    pub fn idled(&self, instructions: u64) -> bool {
        self.idle.fetch_add(instructions, Ordering::Relaxed) + instructions > self.patience
    }

    /// The rows of the special registers for a warp of a block.
    pub fn fill_specials(&self, regs: &mut Registers, warp: u32, block: u64) {
        for &(special, reg) in &self.program.specials {
            let values = self.special(special, warp, block);
            match special {
                Special::GridId => regs.set_b64(reg, Mask::MAX, &values.map(u64::from)),
                _ => regs.set_b32(reg, Mask::MAX, &values),
            }
        }
    }

    fn special(&self, special: Special, warp: u32, block: u64) -> Lanes<u32> {
        let Launch { grid, block: shape, device, dynamic_shared, .. } = self.launch;
        let place = self.block_at(block);
        let value = match special {
            Special::Tid(d) => {
                return std::array::from_fn(|lane| self.thread_at(warp * WARP as u32 + lane as u32)[d as usize]);
            }
            Special::NTid(d) => shape[d as usize],
            Special::CtaId(d) | Special::ClusterId(d) => place[d as usize],
            Special::NCtaId(d) | Special::NClusterId(d) => grid[d as usize],
            Special::WarpId => warp,
            Special::NWarpId => self.warps(),
            Special::SmId => (block % u64::from(device.multiprocessors)) as u32,
            Special::NSmId => device.multiprocessors,
            Special::DynamicSharedSize => *dynamic_shared,
            Special::TotalSharedSize => self.shared,
            Special::ClusterNCtaId(_) | Special::ClusterNCtaRank => 1,
            Special::GridId | Special::ClusterCtaId(_) | Special::ClusterCtaRank => 0,
        };
        [value; WARP]
    }

    /// Runs all blocks.
    pub fn run(&'a self, threads: usize) -> Result<Counters, Box<Fault>> {
        let workers = (threads as u64).clamp(1, self.blocks.max(1));
        let resident = self.launch.cooperative.then(|| (0..self.blocks).map(|b| Block::new(self, b)).collect());
        let resident = resident.map(Mutex::new);
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let spawned: Vec<_> = (1..workers).map(|_| scope.spawn(|| self.work(resident.as_ref()))).collect();
            let own = self.work(resident.as_ref());
            let others = spawned.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            std::iter::once(own).chain(others).collect()
        });
        if let Some(broken) = lock(&self.fault).take() {
            return Err(Box::new(broken.into_fault(self.program)));
        }
        if let Some(why) = self.global.missing_output() {
            let broken = Broken { kind: FaultKind::Operand, lane: None, thread: None, pc: None, why };
            return Err(Box::new(broken.into_fault(self.program)));
        }
        Ok(self.count(tallies))
    }

    fn count(&self, tallies: Vec<Tally>) -> Counters {
        let mut sum = Counters { threads_per_block: self.threads, shared_bytes: self.shared, ..Counters::default() };
        tallies.into_iter().for_each(|t| t.merge_into(&mut sum, self.program));
        (sum.global_bytes_read, sum.global_bytes_written) = self.global.distinct_bytes();
        sum
    }

    /// One worker, until nothing is left or something broke.
    fn work(&'a self, resident: Option<&Mutex<VecDeque<Block<'a>>>>) -> Tally {
        let recent = vec![u32::MAX; self.program.code.len()];
        let mut work = Work { tally: Tally::new(self.program), recent, progress: false, looks: 0 };
        let done = match resident {
            Some(blocks) => self.rotate(blocks, &mut work),
            None => self.in_order(&mut work),
        };
        if let Err(broken) = done {
            self.stop.store(true, Ordering::Relaxed);
            lock(&self.fault).get_or_insert(broken);
        }
        work.tally
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn in_order(&'a self, work: &mut Work) -> Run {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.blocks {
                return Ok(());
            }
            let mut block = Block::new(self, index);
            while !self.stopped() && !block.round(self, work)? {}
            if self.stopped() {
                return Ok(());
            }
            work.tally.total.blocks += 1;
        }
    }

    /// Runs resident blocks in turns. A worker that finds none leaves: the others have what is left.
    fn rotate(&'a self, blocks: &Mutex<VecDeque<Block<'a>>>, work: &mut Work) -> Run {
        while !self.stopped() {
            let Some(mut block) = lock(blocks).pop_front() else { return Ok(()) };
            if block.round(self, work)? {
                work.tally.total.blocks += 1;
            } else {
                lock(blocks).push_back(block);
            }
        }
        Ok(())
    }
}

/// A poisoned lock belongs to a worker that panicked; its data is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Static shared memory and, aligned behind it, the dynamic part.
fn shared_bytes(launch: &Launch) -> u32 {
    let needs = &launch.program.needs;
    match launch.dynamic_shared {
        0 => needs.static_shared,
        dynamic => needs.static_shared.next_multiple_of(needs.dynamic_align.max(1)) + dynamic,
    }
}
