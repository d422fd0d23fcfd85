//! Contexts: made, made current, ended with all that belongs to them.

use super::abi::{offer, put};
use super::error::{Error, R};
use super::handles::{Handle, fresh};
use super::platform::{Platform, Primary, platform};
use super::state::context::{CONTEXTS, Context, STACK, bound, current, lock};
use super::state::function::FUNCTIONS;
use super::state::module::{LIBRARIES, MODULES};
use super::state::stream::{STREAMS, forbid_any};
use super::state::work::EVENTS;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn context(handle: Handle) -> R<Arc<Context>> {
    if handle == 0 { bound() } else { CONTEXTS.get(handle).ok_or(Error::INVALID_CONTEXT) }
}

/// Forgets everything that belongs to a context, and the context.
fn destroy(handle: Handle) -> Option<Arc<Context>> {
    let gone = CONTEXTS.remove(handle)?;
    LIBRARIES.all().iter().for_each(|library| library.forget(handle));
    MODULES.retain(|module| !Arc::ptr_eq(&module.context, &gone));
    FUNCTIONS.retain(|function| !function.belongs_to(&gone));
    STREAMS.retain(|stream| !Arc::ptr_eq(&stream.context, &gone));
    EVENTS.retain(|event| !Arc::ptr_eq(&event.context, &gone));
    Some(gone)
}

fn primary(platform: &'static Platform, ordinal: i32) -> R<&'static Primary> {
    Ok(&platform.primaries[platform.device(ordinal)?])
}

/// Makes the primary context of a device if there is none.
fn live(handle: Handle, ordinal: i32, flags: u32) -> R {
    if CONTEXTS.get(handle).is_none() {
        CONTEXTS.insert_at(handle, Context::new(handle, ordinal, flags, true)?);
    }
    Ok(())
}

fn create(to: *mut Handle, flags: u32, ordinal: i32) -> R {
    let handle = fresh();
    let context = Context::new(handle, ordinal, flags, false)?;
    // SAFETY: the caller's pointer, by the contract of `cuCtxCreate`.
    unsafe { put(to, handle)? };
    CONTEXTS.insert_at(handle, context);
    STACK.with_borrow_mut(|stack| stack.push(handle));
    Ok(())
}

/// `CUlimit`: what is reported where nothing was set. Nothing here obeys them.
fn limit(number: u32) -> Option<usize> {
    Some(match number {
        0 => 1024,    // STACK_SIZE
        1 => 1 << 20, // PRINTF_FIFO_SIZE
        2 => 8 << 20, // MALLOC_HEAP_SIZE
        3 => 2,       // DEV_RUNTIME_SYNC_DEPTH
        4 => 2048,    // DEV_RUNTIME_PENDING_LAUNCH_COUNT
        5 => 64,      // MAX_L2_FETCH_GRANULARITY
        6 => 0,       // PERSISTING_L2_CACHE_SIZE
        _ => return None,
    })
}

api! {
    fn cuDevicePrimaryCtxRetain [] (to: *mut Handle, ordinal: i32) {
        let primary = primary(platform()?, ordinal)?;
        let mut state = lock(&primary.state);
        live(primary.handle, ordinal, state.flags)?;
        put(to, primary.handle)?;
        state.users += 1;
        Ok(())
    }
    fn cuDevicePrimaryCtxRelease_v2 [cuDevicePrimaryCtxRelease] (ordinal: i32) {
        let primary = primary(platform()?, ordinal)?;
        let mut state = lock(&primary.state);
        state.users = state.users.checked_sub(1).ok_or(Error::INVALID_CONTEXT)?;
        if state.users == 0 {
            destroy(primary.handle);
        }
        Ok(())
    }
    /// Frees everything and heals the context; those who retained it keep it.
    fn cuDevicePrimaryCtxReset_v2 [cuDevicePrimaryCtxReset] (ordinal: i32) {
        let primary = primary(platform()?, ordinal)?;
        let state = lock(&primary.state);
        destroy(primary.handle);
        if state.users > 0 { live(primary.handle, ordinal, state.flags) } else { Ok(()) }
    }
    fn cuDevicePrimaryCtxSetFlags_v2 [cuDevicePrimaryCtxSetFlags] (ordinal: i32, flags: u32) {
        let primary = primary(platform()?, ordinal)?;
        lock(&primary.state).flags = flags;
        if let Some(context) = CONTEXTS.get(primary.handle) {
            context.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState [] (ordinal: i32, flags: *mut u32, active: *mut i32) {
        let primary = primary(platform()?, ordinal)?;
        offer(flags, lock(&primary.state).flags);
        offer(active, CONTEXTS.get(primary.handle).is_some() as i32);
        Ok(())
    }
    fn cuCtxCreate_v2 [cuCtxCreate] (to: *mut Handle, flags: u32, ordinal: i32) { create(to, flags, ordinal) }
    fn cuCtxCreate_v3 [] (to: *mut Handle, _affinity: *const u8, count: i32, flags: u32, ordinal: i32) {
        if count != 0 {
            return Err(Error::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(to, flags, ordinal)
    }
    fn cuCtxCreate_v4 [] (to: *mut Handle, params: *const u8, flags: u32, ordinal: i32) {
        if !params.is_null() {
            return Err(Error::NOT_SUPPORTED);
        }
        create(to, flags, ordinal)
    }
    fn cuCtxDestroy_v2 [cuCtxDestroy] (handle: Handle) {
        platform()?;
        let primary = CONTEXTS.get(handle).ok_or(Error::INVALID_CONTEXT)?.primary;
        if primary {
            return Err(Error::INVALID_CONTEXT);
        }
        destroy(handle);
        STACK.with_borrow_mut(|stack| stack.pop_if(|top| *top == handle));
        Ok(())
    }
    fn cuCtxPushCurrent_v2 [cuCtxPushCurrent] (handle: Handle) {
        platform()?;
        CONTEXTS.get(handle).ok_or(Error::INVALID_CONTEXT)?;
        STACK.with_borrow_mut(|stack| stack.push(handle));
        Ok(())
    }
    fn cuCtxPopCurrent_v2 [cuCtxPopCurrent] (to: *mut Handle) {
        platform()?;
        let top = STACK.with_borrow_mut(Vec::pop).ok_or(Error::INVALID_CONTEXT)?;
        offer(to, top);
        Ok(())
    }
    /// Replaces the top of the thread's stack; null pops it.
    fn cuCtxSetCurrent [] (handle: Handle) {
        platform()?;
        if handle != 0 {
            CONTEXTS.get(handle).ok_or(Error::INVALID_CONTEXT)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            stack.extend((handle != 0).then_some(handle));
        });
        Ok(())
    }
    fn cuCtxGetCurrent [] (to: *mut Handle) {
        platform()?;
        put(to, STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0)))
    }
    fn cuCtxGetDevice [] (to: *mut i32) { put(to, bound()?.ordinal) }
    fn cuCtxGetDevice_v2 [] (to: *mut i32, handle: Handle) { put(to, context(handle)?.ordinal) }
    fn cuCtxGetFlags [] (to: *mut u32) { put(to, bound()?.flags.load(Ordering::Relaxed)) }
    fn cuCtxSetFlags [] (flags: u32) {
        bound()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }
    fn cuCtxGetId [] (handle: Handle, to: *mut u64) { put(to, context(handle)?.handle as u64) }
    fn cuCtxSynchronize [] () {
        let context = current()?;
        forbid_any(&context)
    }
    fn cuCtxSynchronize_v2 [] (handle: Handle) {
        let context = context(handle)?;
        context.check()?;
        forbid_any(&context)
    }
    fn cuCtxGetApiVersion [] (handle: Handle, to: *mut u32) {
        context(handle)?;
        put(to, 3020)
    }
    fn cuCtxGetLimit [] (to: *mut usize, number: u32) {
        let usual = limit(number).ok_or(Error::UNSUPPORTED_LIMIT)?;
        put(to, lock(&current()?.limits).get(&number).copied().unwrap_or(usual))
    }
    fn cuCtxSetLimit [] (number: u32, value: usize) {
        limit(number).ok_or(Error::UNSUPPORTED_LIMIT)?;
        lock(&current()?.limits).insert(number, value);
        Ok(())
    }
    fn cuCtxGetCacheConfig [] (to: *mut u32) {
        current()?;
        put(to, 0)
    }
    fn cuCtxSetCacheConfig [] (_preference: u32) { current().map(|_| ()) }
    fn cuCtxGetSharedMemConfig [] (to: *mut u32) {
        current()?;
        put(to, 1) // banks of four bytes
    }
    fn cuCtxSetSharedMemConfig [] (_banks: u32) { current().map(|_| ()) }
    fn cuCtxResetPersistingL2Cache [] () { current().map(|_| ()) }
    /// Priorities are accepted and mean nothing.
    fn cuCtxGetStreamPriorityRange [] (least: *mut i32, greatest: *mut i32) {
        current()?;
        offer(least, 0);
        offer(greatest, -5);
        Ok(())
    }
    fn cuCtxEnablePeerAccess [] (peer: Handle, flags: u32) {
        current()?;
        CONTEXTS.get(peer).ok_or(Error::INVALID_CONTEXT)?;
        Err(if flags == 0 { Error::PEER_ACCESS_UNSUPPORTED } else { Error::INVALID_VALUE })
    }
    fn cuCtxDisablePeerAccess [] (peer: Handle) {
        current()?;
        CONTEXTS.get(peer).ok_or(Error::INVALID_CONTEXT)?;
        Err(Error::PEER_ACCESS_NOT_ENABLED)
    }
}
