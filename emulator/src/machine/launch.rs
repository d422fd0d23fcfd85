//! What is asked for: a launch, and the memory that it declares.

use crate::device::{Device, GRID_DIM, THREADS_PER_BLOCK};
use crate::memory::WINDOW;
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

/// Why no device could run a launch; what its own device allows is for the caller to check.
pub(super) fn impossible(launch: &Launch) -> Option<String> {
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
