//! Contexts: a device's memory, what went wrong on it, and who is current in which thread.
//!
//! Every context has its own memory: an address says to which one it belongs, and destroying one frees it whole.
//! The current context is kept as its handle, so that a thread notices that another destroyed it.

use super::abi::{offer, put};
use super::capture;
use super::error::{Error, R};
use super::event::EVENTS;
use super::function::FUNCTIONS;
use super::handles::{Handle, Handles, fresh};
use super::module::{LIBRARIES, MODULES};
use super::platform::{Platform, platform, say};
use super::stream::STREAMS;
use crate::counters::Counters;
use crate::fault::Fault;
use crate::gpu::{Gpu, Shape};
use crate::machine::Operand;
use crate::memory::Allocation;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub static CONTEXTS: Handles<Context> = Handles::new();

thread_local! {
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static OPERANDS: RefCell<Option<Vec<Operand>>> = const { RefCell::new(None) };
}

/// What a program may free with which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    Device,
    Managed,
    /// Pinned host memory with its `CU_MEMHOSTALLOC` flags. It is the context's memory too, so kernels may use it.
    Host(u32),
    /// Made by a captured `cuMemAllocAsync`; lives and ends with the graphs that have the node.
    Graph,
}

/// See the module.
pub struct Context {
    pub handle: Handle,
    pub ordinal: i32,
    pub gpu: Gpu,
    pub flags: AtomicU32,
    primary: bool,
    limits: Mutex<BTreeMap<u32, usize>>,
    owned: Mutex<BTreeMap<u64, Owned>>,
    outcome: Mutex<Outcome>,
}

/// What came out of launches.
#[derive(Default)]
struct Outcome {
    /// The first fault's error, which every later call returns.
    broken: Option<Error>,
    fault: Option<String>,
    /// The counters of the last launch, as JSON.
    counters: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Context {
    fn new(handle: Handle, ordinal: i32, flags: u32, primary: bool) -> R<Arc<Context>> {
        let platform = platform()?;
        let device = platform.config.devices[platform.device(ordinal)?].clone();
        let gpu = Gpu::new(device, platform.config.clone()).map_err(|_| Error::OUT_OF_MEMORY)?;
        Ok(Arc::new(Context {
            handle,
            ordinal,
            gpu,
            flags: flags.into(),
            primary,
            limits: Mutex::default(),
            owned: Mutex::default(),
            outcome: Mutex::default(),
        }))
    }

    /// The error of an earlier launch, if there was one.
    pub fn check(&self) -> R {
        lock(&self.outcome).broken.map_or(Ok(()), Err)
    }

    /// Allocates memory for the program; what the host writes without being seen counts as written.
    pub fn alloc(&self, bytes: usize, kind: Owned, call: &str) -> R<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        let base = self.gpu.memory.alloc(bytes as u64, call).map_err(|_| Error::OUT_OF_MEMORY)?;
        if matches!(kind, Owned::Managed | Owned::Host(_))
            && let Some(allocation) = self.gpu.memory.table().find(base)
        {
            allocation.written().set(0, bytes as u64);
        }
        lock(&self.owned).insert(base, kind);
        Ok(base)
    }

    /// Frees what `alloc` gave, if it is of the right kind.
    pub fn free(&self, base: u64, right: impl Fn(Owned) -> bool) -> R {
        let mut owned = lock(&self.owned);
        if !owned.get(&base).is_some_and(|&kind| right(kind)) {
            return Err(Error::INVALID_VALUE);
        }
        owned.remove(&base);
        self.gpu.memory.free(base).map_err(|_| Error::INVALID_VALUE)
    }

    /// Frees device memory; what belongs to a graph stays.
    pub fn free_ordered(&self, base: u64) -> R {
        if lock(&self.owned).get(&base) == Some(&Owned::Graph) {
            return Ok(());
        }
        self.free(base, |kind| kind == Owned::Device)
    }

    /// The allocation that holds an address, and its kind: device memory for a module's variable.
    pub fn holding(&self, address: u64) -> Option<(Arc<Allocation>, Owned)> {
        let found = self.gpu.memory.table().find(address).filter(|a| a.contains(address, 1)).cloned()?;
        let kind = lock(&self.owned).get(&found.base).copied().unwrap_or(Owned::Device);
        Some((found, kind))
    }

    /// Keeps what a launch came to; a fault breaks the context.
    pub fn finish(&self, kernel: &str, shape: &Shape, outcome: Result<Counters, Box<Fault>>) -> R {
        let platform = platform()?;
        let mut line = json!({
            "device": self.ordinal,
            "kernel": kernel,
            "grid": shape.grid,
            "block": shape.block,
            "dynamic_shared": shape.shared,
        });
        match outcome {
            Ok(counters) => {
                line["counters"] = json!(counters);
                lock(&self.outcome).counters = Some(line["counters"].to_string());
            }
            Err(fault) => {
                say(&fault.to_string());
                line["fault"] = fault_json(&fault);
                let mut outcome = lock(&self.outcome);
                outcome.broken.get_or_insert(fault.kind.into());
                outcome.fault = Some(fault.to_string());
            }
        }
        platform.report(&line);
        Ok(())
    }

    /// The last launch's counters, as JSON.
    pub fn counters(&self) -> Option<String> {
        lock(&self.outcome).counters.clone()
    }

    /// The report of the fault that broke the context.
    pub fn fault(&self) -> Option<String> {
        lock(&self.outcome).fault.clone()
    }
}

fn fault_json(fault: &Fault) -> serde_json::Value {
    json!({
        "kind": format!("{:?}", fault.kind),
        "block": fault.thread.map(|t| t.block),
        "thread": fault.thread.map(|t| t.thread),
        "ptx_line": fault.place.ptx,
        "instruction": fault.place.text,
        "source": fault.place.source,
        "callers": fault.place.callers,
        "why": fault.why,
    })
}

/// The context in whose memory an address lies.
pub fn owner(address: u64) -> Option<Arc<Context>> {
    CONTEXTS.find(|context| context.gpu.memory.covers(address))
}

/// The current context, in whatever state.
pub fn bound() -> R<Arc<Context>> {
    let platform = platform();
    let top = STACK.with_borrow(|stack| stack.last().copied());
    platform?;
    CONTEXTS.get(top.ok_or(Error::INVALID_CONTEXT)?).ok_or(Error::CONTEXT_IS_DESTROYED)
}

/// The current context, if no launch has broken it.
pub fn current() -> R<Arc<Context>> {
    let context = bound()?;
    context.check()?;
    Ok(context)
}

fn context(handle: Handle) -> R<Arc<Context>> {
    if handle == 0 { bound() } else { CONTEXTS.get(handle).ok_or(Error::INVALID_CONTEXT) }
}

/// Declares the operands of this thread's next launch.
pub fn declare(operands: Vec<Operand>) {
    OPERANDS.set(Some(operands));
}

/// What was declared since the last launch.
pub fn declared() -> Option<Vec<Operand>> {
    OPERANDS.take()
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

fn primary(platform: &'static Platform, ordinal: i32) -> R<&'static super::platform::Primary> {
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
        capture::forbid_any(&context)
    }
    fn cuCtxSynchronize_v2 [] (handle: Handle) {
        let context = context(handle)?;
        context.check()?;
        capture::forbid_any(&context)
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
