//! Allocations: device, managed and pinned host memory, and what can be asked about an address.
//!
//! Addresses of the device are addresses of the host, so pinned and managed memory are allocations of the context that
//! both may use. Memory of the host that is only registered is not: kernels cannot reach it.

use super::abi::{list, offer, put};
use super::error::{Error, R};
use super::handles::Handle;
use super::state::context::{Context, Owned, current, owner};
use super::state::stream::queue;
use super::state::work::{GraphMemory, Work};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Rows of `cuMemAllocPitch` begin at multiples of this.
const PITCH: usize = 512;

/// Registered ranges of host memory.
static REGISTERED: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

fn registered() -> std::sync::MutexGuard<'static, Vec<(u64, usize)>> {
    REGISTERED.lock().unwrap_or_else(|e| e.into_inner())
}

fn alloc(to: *mut u64, bytes: usize, kind: Owned, call: &str) -> R {
    let context = current()?;
    let address = context.alloc(bytes, kind, call)?;
    // SAFETY: the caller's pointer.
    unsafe { put(to, address) }
}

/// Memory in a stream's order; in a capture it belongs to the graph.
pub fn alloc_ordered(to: *mut u64, bytes: usize, stream: Handle) -> R {
    let queue = queue(stream)?;
    let captures = queue.stream.as_ref().map_or(Ok(None), |stream| stream.part.place())?.is_some();
    let kind = if captures { Owned::Graph } else { Owned::Device };
    let address = queue.context.alloc(bytes, kind, "cuMemAllocAsync")?;
    if captures {
        queue.submit(Work::Alloc(Arc::new(GraphMemory { context: queue.context.clone(), address })))?;
    }
    // SAFETY: the caller's pointer.
    unsafe { put(to, address) }
}

/// The context whose allocation holds an address.
fn known(address: u64) -> R<(Arc<Context>, Arc<crate::memory::Allocation>, Owned)> {
    let context = owner(address).ok_or(Error::INVALID_VALUE)?;
    let (allocation, kind) = context.holding(address).ok_or(Error::INVALID_VALUE)?;
    Ok((context, allocation, kind))
}

fn flags_of(address: u64) -> R<u32> {
    match known(address)? {
        (_, _, Owned::Host(flags)) => Ok(flags),
        _ => Err(Error::INVALID_VALUE),
    }
}

/// `CUpointer_attribute` of an address, written in the attribute's own width.
unsafe fn attribute(to: *mut c_void, number: i32, address: u64) -> R {
    let (context, allocation, kind) = known(address)?;
    let host = matches!(kind, Owned::Host(_));
    let reachable = host || kind == Owned::Managed;
    // SAFETY: the caller's pointer, to what the attribute is.
    unsafe {
        match number {
            1 => put(to.cast(), context.handle),
            2 => put(to.cast(), if host { 1u32 } else { 2 }), // MEMORY_TYPE
            3 => put(to.cast(), address),
            4 if reachable => put(to.cast(), address), // HOST_POINTER
            6 => put(to.cast(), 0u32),                 // SYNC_MEMOPS
            7 => put(to.cast(), allocation.id),        // BUFFER_ID
            8 => put(to.cast(), (kind == Owned::Managed) as u8),
            9 => put(to.cast(), context.ordinal),
            10 => put(to.cast(), 0u8), // IS_LEGACY_CUDA_IPC_CAPABLE
            11 => put(to.cast(), allocation.base),
            12 => put(to.cast(), allocation.bytes as usize),
            13 => put(to.cast(), 1u8),  // MAPPED
            14 => put(to.cast(), 0u64), // ALLOWED_HANDLE_TYPES
            15 => put(to.cast(), 0u8),  // IS_GPU_DIRECT_RDMA_CAPABLE
            16 => put(to.cast(), 3u32), // ACCESS_FLAGS: reads and writes
            _ => Err(Error::INVALID_VALUE),
        }
    }
}

api! {
    fn cuMemGetInfo_v2 [cuMemGetInfo] (free: *mut usize, total: *mut usize) {
        let (used, limit) = current()?.gpu.memory.usage();
        offer(free, (limit - used) as usize);
        offer(total, limit as usize);
        Ok(())
    }
    fn cuMemAlloc_v2 [cuMemAlloc] (to: *mut u64, bytes: usize) { alloc(to, bytes, Owned::Device, "cuMemAlloc") }
    fn cuMemAllocPitch_v2 [cuMemAllocPitch]
        (to: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32)
    {
        if ![4, 8, 16].contains(&element) {
            return Err(Error::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Error::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Error::INVALID_VALUE)?;
        put(pitch, row)?;
        alloc(to, bytes, Owned::Device, "cuMemAllocPitch")
    }
    fn cuMemAllocManaged [] (to: *mut u64, bytes: usize, _flags: u32) {
        alloc(to, bytes, Owned::Managed, "cuMemAllocManaged")
    }
    fn cuMemFree_v2 [cuMemFree] (address: u64) {
        let context = current()?;
        if address == 0 {
            return Ok(());
        }
        let owner = owner(address).unwrap_or(context);
        owner.free(address, |kind| matches!(kind, Owned::Device | Owned::Managed))
    }
    fn cuMemGetAddressRange_v2 [cuMemGetAddressRange] (base: *mut u64, bytes: *mut usize, address: u64) {
        current()?;
        let (_, allocation, _) = known(address).map_err(|_| Error::NOT_FOUND)?;
        offer(base, allocation.base);
        offer(bytes, allocation.bytes as usize);
        Ok(())
    }
    fn cuMemAllocHost_v2 [cuMemAllocHost] (to: *mut u64, bytes: usize) {
        alloc(to, bytes, Owned::Host(0), "cuMemAllocHost")
    }
    fn cuMemHostAlloc [] (to: *mut u64, bytes: usize, flags: u32) {
        alloc(to, bytes, Owned::Host(flags), "cuMemHostAlloc")
    }
    fn cuMemFreeHost [] (address: u64) {
        let context = current()?;
        owner(address).unwrap_or(context).free(address, |kind| matches!(kind, Owned::Host(_)))
    }
    fn cuMemHostGetDevicePointer_v2 [cuMemHostGetDevicePointer] (to: *mut u64, address: u64, _flags: u32) {
        current()?;
        let only_registered = |&(base, bytes): &(u64, usize)| address >= base && address - base < bytes as u64;
        if registered().iter().any(only_registered) {
            return Err(Error::NOT_SUPPORTED);
        }
        flags_of(address)?;
        put(to, address)
    }
    fn cuMemHostGetFlags [] (to: *mut u32, address: u64) {
        current()?;
        put(to, flags_of(address)?)
    }
    fn cuMemHostRegister_v2 [cuMemHostRegister] (address: u64, bytes: usize, _flags: u32) {
        current()?;
        if address == 0 || bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        let mut registered = registered();
        if registered.iter().any(|&(base, _)| base == address) {
            return Err(Error::HOST_MEMORY_ALREADY_REGISTERED);
        }
        registered.push((address, bytes));
        Ok(())
    }
    fn cuMemHostUnregister [] (address: u64) {
        current()?;
        let mut registered = registered();
        let at = registered.iter().position(|&(base, _)| base == address);
        registered.swap_remove(at.ok_or(Error::HOST_MEMORY_NOT_REGISTERED)?);
        Ok(())
    }
    fn cuMemAllocAsync [cuMemAllocAsync_ptsz] (to: *mut u64, bytes: usize, stream: Handle) {
        alloc_ordered(to, bytes, stream)
    }
    fn cuMemFreeAsync [cuMemFreeAsync_ptsz] (address: u64, stream: Handle) {
        if address == 0 {
            return queue(stream).map(|_| ());
        }
        queue(stream)?.submit(Work::Free(address))
    }
    /// Memory is where it is.
    fn cuMemPrefetchAsync_v2 [cuMemPrefetchAsync_v2_ptsz]
        (address: u64, _bytes: usize, _location: u64, _flags: u32, stream: Handle)
    {
        known(address)?;
        queue(stream).map(|_| ())
    }
    fn cuMemPrefetchAsync [cuMemPrefetchAsync_ptsz] (address: u64, _bytes: usize, _ordinal: i32, stream: Handle) {
        known(address)?;
        queue(stream).map(|_| ())
    }
    fn cuMemAdvise_v2 [cuMemAdvise] (address: u64, _bytes: usize, _advice: i32, _location: u64) {
        current()?;
        known(address).map(|_| ())
    }
    fn cuPointerGetAttribute [] (to: *mut c_void, number: i32, address: u64) { attribute(to, number, address) }
    /// What an attribute is not known for stays null.
    fn cuPointerGetAttributes [] (count: u32, numbers: *const i32, to: *const *mut c_void, address: u64) {
        let (numbers, to) = (list(numbers, count as usize)?, list(to, count as usize)?);
        for (&number, &to) in numbers.iter().zip(to) {
            if attribute(to, number, address).is_err() {
                match number {
                    1 | 3 | 4 | 7 | 11 | 12 => put(to.cast(), 0u64)?,
                    9 => put(to.cast(), -2i32)?, // no device
                    8 | 10 | 13 | 15 => put(to.cast(), 0u8)?,
                    _ => put(to.cast(), 0u32)?,
                }
            }
        }
        Ok(())
    }
    /// SYNC_MEMOPS is accepted: everything is synchronous.
    fn cuPointerSetAttribute [] (_value: *const c_void, number: i32, address: u64) {
        const SYNC_MEMOPS: i32 = 6;
        known(address)?;
        if number == SYNC_MEMOPS { Ok(()) } else { Err(Error::INVALID_VALUE) }
    }
}
