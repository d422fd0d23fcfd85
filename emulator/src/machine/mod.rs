//! Runs a program: grids of blocks of warps, with the checks and the counters.
//!
//! `grid` hands blocks to host threads, `cta` gives the warps of a block their turns, `warp` runs one instruction after
//! the other; `access`, `atomic`, `async_copy`, `bulk`, `tensor`, `beside` and `mbarrier` are memory, `global`, `races`
//! and `clock` its rules, `collective`, `barrier`, `cluster` and `wgmma` what threads do together. Which instructions
//! exist, and limits of a device, are not its business.
//!
//! Nothing depends on time: a launch with the same seed and one thread runs the same way each time.

mod access;
pub mod alu;
mod async_copy;
mod atomic;
mod barrier;
mod beside;
mod bulk;
mod clock;
mod cluster;
mod collective;
mod control;
mod cta;
mod global;
mod grid;
pub mod matrix;
mod mbarrier;
mod print;
mod races;
mod report;
mod shared;
mod simd;
mod tally;
mod tensor;
mod warp;
mod wgmma;

use crate::config::Config;
use crate::counters::Counters;
use crate::device::{Device, GRID_DIM, THREADS_PER_BLOCK};
use crate::fault::{Fault, FaultKind, Place};
use crate::memory::{Memory, WINDOW};
use crate::program::Program;

/// What a declared operand may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Starts as if it were uninitialised and must be written everywhere.
    Write,
    /// As `Write`, but places may stay unwritten (they keep what they had).
    WritePartial,
    ReadWrite,
}

/// Memory that a launch declares it will use: `rows` runs of `bytes`, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub address: u64,
    pub bytes: u64,
    pub rows: u64,
    pub stride: u64,
    pub access: Access,
}

impl Operand {
    /// Bytes from its first to behind its last; None if its rows overlap or it reaches beyond all addresses.
    pub fn span(&self) -> Option<u64> {
        let Operand { address, bytes, rows, stride, .. } = *self;
        if rows == 0 || bytes == 0 {
            return Some(0);
        }
        let span = (rows - 1).checked_mul(stride)?.checked_add(bytes)?;
        (rows == 1 || stride >= bytes).then_some(span).filter(|&span| address.checked_add(span).is_some())
    }
}

/// One launch.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub device: &'a Device,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// The parameter bytes, laid out as `program.params` says.
    pub params: &'a [u8],
    /// All blocks are resident at once and may wait for each other.
    pub cooperative: bool,
    /// If declared, accesses to global memory must fall into them. One without a [`Operand::span`] holds nothing.
    pub operands: Option<&'a [Operand]>,
}

/// Runs the launch to its end. Text that the kernel prints goes to stdout.
///
/// # Errors
/// The first fault that a check found; memory then holds what was written until there.
pub fn launch(launch: &Launch, memory: &Memory, config: &Config) -> Result<Counters, Box<Fault>> {
    if let Some(why) = impossible(launch) {
        let (kind, kernel, place) = (FaultKind::ImpossibleLaunch, launch.program.name.clone(), Place::default());
        return Err(Box::new(Fault { kind, kernel, thread: None, place, why }));
    }
    let table = memory.table();
    grid::Grid::new(launch, memory, &table, config).run(config.threads)
}

/// Why no device could run a launch; what its own device allows is for the caller to check.
fn impossible(launch: &Launch) -> Option<String> {
    let Launch { grid, block, dynamic_shared, program, .. } = launch;
    let threads = block.iter().fold(1u32, |threads, &n| threads.saturating_mul(n));
    if threads == 0 || threads > THREADS_PER_BLOCK {
        return Some(format!("a block of {block:?} threads; there must be 1 to {THREADS_PER_BLOCK} in all"));
    }
    if (0..3).any(|i| grid[i] == 0 || grid[i] > GRID_DIM[i]) {
        return Some(format!("a grid of {grid:?} blocks; each must be from 1 to {GRID_DIM:?}"));
    }
    let room = WINDOW - u64::from(program.needs.static_shared) - u64::from(program.needs.dynamic_align);
    let fits = u64::from(*dynamic_shared) <= room;
    (!fits).then(|| format!("{dynamic_shared} bytes of dynamic shared memory; the emulator has room for {room}"))
}
