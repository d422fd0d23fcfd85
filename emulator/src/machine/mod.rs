//! Runs a program: grids of blocks of warps, with the checks and the counters.
//!
//! From below: `state` is what there is while a launch runs, `global`, `races` and `clock` are the rules of memory. Above
//! it what instructions do: `access`, `atomic`, `async_copy`, `bulk`, `tensor`, `beside` and `mbarrier` with memory,
//! `barrier`, `cluster`, `wgmma` and `collective` together. `step` alone knows them all, `block` gives the warps their
//! turns, `workers` are the host threads. Which instructions exist, and limits of a device, are not its business.
//!
//! Nothing depends on time: a launch with the same seed and one thread runs the same way each time.

mod access;
pub mod alu;
mod async_copy;
mod atomic;
mod barrier;
mod beside;
mod block;
mod bulk;
mod clock;
mod cluster;
mod collective;
mod control;
mod global;
mod launch;
pub mod matrix;
mod mbarrier;
mod print;
mod races;
mod raw;
mod report;
mod shared;
mod simd;
mod state;
mod step;
mod tally;
mod tensor;
mod unwritten;
mod wgmma;
mod workers;

use crate::config::Config;
use crate::counters::Counters;
use crate::fault::{Fault, FaultKind, Place};
use crate::memory::Memory;

pub use launch::{Access, Launch, Operand};

/// Runs the launch to its end. Text that the kernel prints goes to stdout.
///
/// # Errors
/// The first fault that a check found; memory then holds what was written until there.
pub fn launch(launch: &Launch, memory: &Memory, config: &Config) -> Result<Counters, Box<Fault>> {
    if let Some(why) = launch::impossible(launch) {
        let (kind, kernel, place) = (FaultKind::ImpossibleLaunch, launch.program.name.clone(), Place::default());
        return Err(Box::new(Fault { kind, kernel, thread: None, place, why }));
    }
    let table = memory.table();
    workers::run(&state::grid::Grid::new(launch, memory, &table, config), config.threads)
}
