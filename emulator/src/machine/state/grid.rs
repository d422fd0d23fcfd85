//! What all blocks of a launch share: the program, its rules, global memory, and whether anything still changes.

use super::products::{Touch, touches};
use crate::config::{Check, Config};
use crate::machine::global::{Global, Rules};
use crate::machine::launch::{Launch, Operand};
use crate::machine::report::coordinates;
use crate::machine::shared::Bytes;
use crate::memory::{Memory, Table};
use crate::program::{Program, Special, Tracked};
use crate::registers::{Lanes, Mask, Registers, WARP};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub struct Grid<'a> {
    pub launch: &'a Launch<'a>,
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
    pub blocks: u64,
    /// Instructions since anything changed.
    idle: AtomicU64,
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
            idle: AtomicU64::new(0),
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
}

/// Static shared memory and, aligned behind it, the dynamic part.
fn shared_bytes(launch: &Launch) -> u32 {
    let needs = &launch.program.needs;
    match launch.dynamic_shared {
        0 => needs.static_shared,
        dynamic => needs.static_shared.next_multiple_of(needs.dynamic_align.max(1)) + dynamic,
    }
}
