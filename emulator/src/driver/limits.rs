//! What a device can take: whether a launch fits, and how many of its blocks a multiprocessor holds.
//!
//! Residency is an approximation: threads, blocks and shared memory count as the programming guide says (1 KiB of
//! shared memory of every block is the system's); registers are the front end's estimate in units of 256 per warp,
//! and never the reason why not one block fits.

use super::error::Error;
use crate::device::{BLOCK_DIM, Device, GRID_DIM, REGISTERS_PER_BLOCK, REGISTERS_PER_THREAD, THREADS_PER_BLOCK};
use crate::gpu::Shape;
use crate::program::{Needs, Program};
use crate::registers::WARP;

/// Bytes of shared memory that the system takes of every block, since compute capability 8.
const SYSTEM_SHARED: u32 = 1024;
/// Registers are given to a warp in units of this many.
const REGISTER_UNIT: u32 = 256;

/// Threads that a block of the kernel may have.
pub fn most_threads(needs: &Needs) -> u32 {
    let threads = |shape: [u32; 3]| shape.iter().fold(1u32, |threads, &n| threads.saturating_mul(n.max(1)));
    needs.required_threads.or(needs.max_threads).map_or(THREADS_PER_BLOCK, threads).min(THREADS_PER_BLOCK)
}

/// Dynamic shared memory that a block may have beside its static one.
pub fn most_dynamic(needs: &Needs, device: &Device, opted: Option<u32>) -> u32 {
    opted.unwrap_or(device.shared_per_block.saturating_sub(needs.static_shared))
}

/// Registers of a thread: a compiler that is told the block's size keeps to what lets one block run.
pub fn registers(needs: &Needs) -> u32 {
    let stated = needs.required_threads.is_some() || needs.max_threads.is_some();
    let share = if stated { REGISTERS_PER_BLOCK / most_threads(needs) } else { REGISTERS_PER_THREAD };
    needs.registers.min(REGISTERS_PER_THREAD).min(share)
}

/// Blocks of `threads` threads that a multiprocessor holds at once.
pub fn resident(needs: &Needs, device: &Device, threads: u32, dynamic: u32) -> u32 {
    if threads == 0 || threads > most_threads(needs) {
        return 0;
    }
    let warps = threads.div_ceil(WARP as u32);
    let by_threads = device.threads_per_multiprocessor / (warps * WARP as u32);
    let shared = needs.static_shared.saturating_add(dynamic).saturating_add(SYSTEM_SHARED);
    let by_shared = device.shared_per_multiprocessor / shared;
    let warp_registers = (registers(needs).max(1) * WARP as u32).next_multiple_of(REGISTER_UNIT);
    let by_registers = (REGISTERS_PER_BLOCK / (warp_registers * warps)).max(1);
    by_threads.min(device.blocks_per_multiprocessor).min(by_shared).min(by_registers)
}

/// Whether a launch may run; `opted` is the kernel's MAX_DYNAMIC_SHARED_SIZE_BYTES, if it was set.
///
/// # Errors
/// The error that `cuLaunchKernel` returns, and why.
pub fn check(program: &Program, device: &Device, shape: &Shape, opted: Option<u32>) -> Result<(), (Error, String)> {
    let invalid = |why: String| Err((Error::INVALID_VALUE, why));
    let Shape { grid, block, shared, .. } = *shape;
    if (0..3).any(|i| grid[i] == 0 || grid[i] > GRID_DIM[i]) {
        return invalid(format!("the grid is {grid:?}, each from 1 and at most {GRID_DIM:?}"));
    }
    if (0..3).any(|i| block[i] == 0 || block[i] > BLOCK_DIM[i]) {
        return invalid(format!("the block is {block:?}, each from 1 and at most {BLOCK_DIM:?}"));
    }
    let threads: u32 = block.iter().product();
    if threads > THREADS_PER_BLOCK {
        return invalid(format!("{threads} threads, a block has at most {THREADS_PER_BLOCK}"));
    }
    if let Some(required) = program.needs.required_threads.filter(|required| required.map(|n| n.max(1)) != block) {
        return invalid(format!("the block is {block:?}, .reqntid asks for {required:?}"));
    }
    if threads > most_threads(&program.needs) {
        return invalid(format!("{threads} threads, .maxntid allows {}", most_threads(&program.needs)));
    }
    let most = most_dynamic(&program.needs, device, opted);
    if shared > most {
        let hint = "raised by the attribute MAX_DYNAMIC_SHARED_SIZE_BYTES";
        return invalid(format!("{shared} bytes of dynamic shared memory, at most {most}; {hint}"));
    }
    if shape.cooperative {
        co_resident(program, device, grid, threads, shared)?;
    }
    Ok(())
}

fn co_resident(
    program: &Program,
    device: &Device,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
) -> Result<(), (Error, String)> {
    let room = u64::from(resident(&program.needs, device, threads, shared)) * u64::from(device.multiprocessors);
    let blocks = grid.iter().fold(1u64, |blocks, &n| blocks.saturating_mul(n.into()));
    if blocks > room {
        let why = format!("{blocks} cooperative blocks, {room} of this shape are resident at once");
        return Err((Error::COOPERATIVE_LAUNCH_TOO_LARGE, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{A100, RTX_4090};

    fn needs(static_shared: u32, registers: u32) -> Needs {
        Needs { static_shared, registers, ..Needs::default() }
    }

    /// By hand, from the programming guide's table: 2048 threads, 32 blocks and 164 KiB on 8.0; 1536 and 24 on 8.9.
    #[test]
    fn residency_is_what_the_scarcest_resource_allows() {
        assert_eq!(resident(&needs(0, 32), &A100, 256, 0), 8, "threads");
        assert_eq!(resident(&needs(0, 32), &A100, 32, 0), 32, "blocks");
        assert_eq!(resident(&needs(0, 32), &RTX_4090, 32, 0), 24, "blocks");
        assert_eq!(resident(&needs(0, 32), &RTX_4090, 1024, 0), 1, "threads, 1.5 blocks");
        assert_eq!(resident(&needs(40 << 10, 32), &A100, 128, 0), 4, "164 / (40 + 1)");
        assert_eq!(resident(&needs(0, 32), &A100, 128, 163 << 10), 1, "shared memory, all of it");
        assert_eq!(resident(&needs(0, 128), &A100, 128, 0), 4, "65536 / (128 * 128)");
        assert_eq!(resident(&needs(0, 255), &A100, 256, 0), 1, "256 * 256 registers");
        assert_eq!(resident(&needs(0, 32), &A100, 1025, 0), 0);
    }

    #[test]
    fn stated_sizes_beyond_all_numbers_are_the_device_s() {
        let stated = Needs { max_threads: Some([1 << 16, 1 << 16, 1]), ..needs(0, 32) };
        assert_eq!((most_threads(&stated), registers(&stated)), (1024, 32));
    }
}
