//! Contexts: a device's memory, what went wrong on it, and who is current in which thread.
//!
//! Every context has its own memory: an address says to which one it belongs, and destroying one frees it whole.
//! The current context is kept as its handle, so that a thread notices that another destroyed it.

use crate::counters::Counters;
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles};
use crate::driver::platform::{platform, say};
use crate::fault::Fault;
use crate::gpu::{Gpu, Shape};
use crate::machine::Operand;
use crate::memory::Allocation;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard};

pub static CONTEXTS: Handles<Context> = Handles::new();

thread_local! {
    /// The contexts that were pushed in this thread, by handle: the last is current.
    pub static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
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
    pub primary: bool,
    pub limits: Mutex<BTreeMap<u32, usize>>,
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

/// A poisoned lock belongs to a call that panicked; its data is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Context {
    /// A context of a device; it is not yet among `CONTEXTS`.
    pub fn new(handle: Handle, ordinal: i32, flags: u32, primary: bool) -> R<Arc<Context>> {
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

/// Declares the operands of this thread's next launch.
pub fn declare(operands: Vec<Operand>) {
    OPERANDS.set(Some(operands));
}

/// What was declared since the last launch.
pub fn declared() -> Option<Vec<Operand>> {
    OPERANDS.take()
}
