//! Streams: made, asked, and given functions of the host.

use super::abi::{offer, put};
use super::error::{Error, R};
use super::handles::{Handle, fresh};
use super::state::capture::Part;
use super::state::context::current;
use super::state::stream::{NON_BLOCKING, STREAMS, Stream, queue};
use super::state::work::{HostCall, Work};
use std::ffi::c_void;
use std::sync::Arc;

fn create(to: *mut Handle, flags: u32, priority: i32) -> R {
    if flags & !NON_BLOCKING != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let (handle, context) = (fresh(), current()?);
    // SAFETY: the caller's pointer.
    unsafe { put(to, handle)? };
    STREAMS.insert_at(handle, Arc::new(Stream { handle, context, flags, priority, part: Part::default() }));
    Ok(())
}

type Callback = Option<unsafe extern "C" fn(Handle, u32, *mut c_void)>;

api! {
    fn cuStreamCreate [] (to: *mut Handle, flags: u32) { create(to, flags, 0) }
    /// A priority beyond the range is clamped, as documented.
    fn cuStreamCreateWithPriority [] (to: *mut Handle, flags: u32, priority: i32) {
        create(to, flags, priority.clamp(-5, 0))
    }
    fn cuStreamDestroy_v2 [cuStreamDestroy] (handle: Handle) {
        STREAMS.remove(handle).map(|_| ()).ok_or(Error::INVALID_HANDLE)
    }
    fn cuStreamSynchronize [cuStreamSynchronize_ptsz] (handle: Handle) { queue(handle)?.idle() }
    fn cuStreamQuery [cuStreamQuery_ptsz] (handle: Handle) { queue(handle)?.idle() }
    fn cuStreamAddCallback [cuStreamAddCallback_ptsz]
        (handle: Handle, callback: Callback, data: *mut c_void, _flags: u32)
    {
        let queue = queue(handle)?;
        queue.idle()?;
        callback.ok_or(Error::INVALID_VALUE)?(handle, 0, data);
        Ok(())
    }
    fn cuLaunchHostFunc [cuLaunchHostFunc_ptsz]
        (handle: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void)
    {
        let function = function.ok_or(Error::INVALID_VALUE)?;
        queue(handle)?.submit(Work::Host(HostCall { function, data: data as usize }))
    }
    fn cuStreamGetCtx [cuStreamGetCtx_ptsz] (handle: Handle, to: *mut Handle) {
        put(to, queue(handle)?.context.handle)
    }
    fn cuStreamGetCtx_v2 [cuStreamGetCtx_v2_ptsz] (handle: Handle, to: *mut Handle, green: *mut Handle) {
        offer(green, 0);
        put(to, queue(handle)?.context.handle)
    }
    fn cuStreamGetDevice [cuStreamGetDevice_ptsz] (handle: Handle, to: *mut i32) {
        put(to, queue(handle)?.context.ordinal)
    }
    fn cuStreamGetFlags [cuStreamGetFlags_ptsz] (handle: Handle, to: *mut u32) {
        put(to, queue(handle)?.stream.map_or(0, |stream| stream.flags))
    }
    fn cuStreamGetPriority [cuStreamGetPriority_ptsz] (handle: Handle, to: *mut i32) {
        put(to, queue(handle)?.stream.map_or(0, |stream| stream.priority))
    }
    fn cuStreamGetId [cuStreamGetId_ptsz] (handle: Handle, to: *mut u64) {
        let queue = queue(handle)?;
        put(to, queue.stream.map_or(queue.context.handle + handle, |stream| stream.handle) as u64)
    }
    /// Memory is the same for all streams.
    fn cuStreamAttachMemAsync [cuStreamAttachMemAsync_ptsz] (handle: Handle, _at: u64, _bytes: usize, _flags: u32) {
        queue(handle).map(|_| ())
    }
}
