//! What functions have, and how many of their blocks a device holds.

use super::abi::{offer, put};
use super::error::{Error, R};
use super::handles::Handle;
use super::limits;
use super::state::context::current;
use super::state::function::{FUNCTIONS, Function, function, in_context};
use std::ffi::c_char;
use std::sync::Arc;

fn usable(handle: Handle) -> R<Arc<Function>> {
    current()?;
    function(handle)
}

/// A number that the caller gives as a signed one.
fn positive(value: i32) -> R<u32> {
    u32::try_from(value).ok().filter(|&v| v > 0).ok_or(Error::INVALID_VALUE)
}

fn active_blocks(to: *mut i32, handle: Handle, threads: i32, dynamic: usize) -> R {
    let function = usable(handle)?;
    let dynamic = u32::try_from(dynamic).map_err(|_| Error::INVALID_VALUE)?;
    let device = &function.context()?.gpu.device;
    let blocks = limits::resident(&function.program()?.needs, device, positive(threads)?, dynamic);
    // SAFETY: the caller's pointer.
    unsafe { put(to, blocks as i32) }
}

type SharedOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// The block of whole warps that fills a multiprocessor best, the largest of those.
fn best_block(handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32) -> R<(i32, i32)> {
    let function = usable(handle)?;
    let (program, device) = (function.program()?, &function.context()?.gpu.device);
    let most = limits::most_threads(&program.needs);
    let most = if limit > 0 { most.min(limit as u32) } else { most };
    let mut best = (0, 0, 0);
    for threads in (1..=most).rev().filter(|&n| n % 32 == 0 || n == most) {
        // SAFETY: the caller's function.
        let dynamic = of_block.map_or(dynamic, |of| unsafe { of(threads as i32) });
        let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
        let blocks = limits::resident(&program.needs, device, threads, dynamic);
        if blocks * threads > best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    Ok(((best.1 * device.multiprocessors) as i32, best.2 as i32))
}

fn potential(grid: *mut i32, block: *mut i32, best: R<(i32, i32)>) -> R {
    let (blocks, threads) = best?;
    // SAFETY: the caller's pointers.
    unsafe {
        put(grid, blocks)?;
        put(block, threads)
    }
}

api! {
    fn cuFuncGetAttribute [] (to: *mut i32, number: i32, handle: Handle) {
        put(to, usable(handle)?.attribute(number)?)
    }
    fn cuFuncSetAttribute [] (handle: Handle, number: i32, value: i32) { usable(handle)?.set_attribute(number, value) }
    fn cuFuncSetCacheConfig [] (handle: Handle, _preference: u32) { usable(handle).map(|_| ()) }
    fn cuFuncSetSharedMemConfig [] (handle: Handle, _banks: u32) { usable(handle).map(|_| ()) }
    fn cuFuncGetModule [] (to: *mut Handle, handle: Handle) { put(to, usable(handle)?.place()?.0.handle) }
    fn cuFuncGetName [cuKernelGetName] (to: *mut *const c_char, handle: Handle) {
        put(to, FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?.name.as_ptr())
    }
    fn cuFuncGetParamInfo [cuKernelGetParamInfo] (handle: Handle, index: usize, offset: *mut usize, bytes: *mut usize) {
        let function = usable(handle)?;
        let param = function.program()?.params.get(index).ok_or(Error::INVALID_VALUE)?;
        put(offset, param.offset as usize)?;
        offer(bytes, param.bytes as usize);
        Ok(())
    }
    fn cuFuncIsLoaded [] (to: *mut i32, handle: Handle) {
        usable(handle)?;
        put(to, 1)
    }
    fn cuFuncLoad [] (handle: Handle) { usable(handle).map(|_| ()) }
    fn cuKernelGetFunction [] (to: *mut Handle, handle: Handle) { put(to, in_context(handle)?) }
    fn cuKernelGetLibrary [] (to: *mut Handle, handle: Handle) {
        let kernel = FUNCTIONS.get(handle).ok_or(Error::INVALID_HANDLE)?;
        put(to, kernel.library().ok_or(Error::INVALID_HANDLE)?)
    }
    /// The kernel in the current context, whatever the device.
    fn cuKernelGetAttribute [] (to: *mut i32, number: i32, handle: Handle, _ordinal: i32) {
        put(to, usable(handle)?.attribute(number)?)
    }
    fn cuKernelSetAttribute [] (number: i32, value: i32, handle: Handle, _ordinal: i32) {
        usable(handle)?.set_attribute(number, value)
    }
    fn cuKernelSetCacheConfig [] (handle: Handle, _preference: u32, _ordinal: i32) { usable(handle).map(|_| ()) }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor [] (to: *mut i32, handle: Handle, threads: i32, dynamic: usize) {
        active_blocks(to, handle, threads, dynamic)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags []
        (to: *mut i32, handle: Handle, threads: i32, dynamic: usize, _flags: u32)
    {
        active_blocks(to, handle, threads, dynamic)
    }
    fn cuOccupancyMaxPotentialBlockSize []
        (grid: *mut i32, block: *mut i32, handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32)
    {
        potential(grid, block, best_block(handle, of_block, dynamic, limit))
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags []
        (grid: *mut i32, block: *mut i32, handle: Handle, of_block: SharedOfBlock, dynamic: usize, limit: i32,
         _flags: u32)
    {
        potential(grid, block, best_block(handle, of_block, dynamic, limit))
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock [] (to: *mut usize, handle: Handle, blocks: i32, threads: i32) {
        let function = usable(handle)?;
        let (needs, device) = (&function.program()?.needs, &function.context()?.gpu.device);
        let (blocks, threads) = (positive(blocks)?, positive(threads)?);
        let most = limits::most_dynamic(needs, device, function.opted());
        let fits = |bytes: &u32| limits::resident(needs, device, threads, *bytes) >= blocks;
        let found = (0..=most).step_by(256).chain([most]).filter(fits).max();
        put(to, found.ok_or(Error::INVALID_VALUE)? as usize)
    }
    /// Clusters are of one block.
    fn cuOccupancyMaxPotentialClusterSize [] (to: *mut i32, handle: Handle, _config: *const u8) {
        usable(handle)?;
        put(to, 1)
    }
}
