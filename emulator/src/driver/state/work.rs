//! What a stream does: operations, run now or kept as the nodes of a graph.
//!
//! One file, because they hold each other: an operation may record an event, an event may be a place in a capture, a
//! capture writes a graph, and a graph holds operations.

use super::context::{Context, Owned};
use super::kernel::Kernel;
use super::transfer::{Copy, Fill};
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles, fresh};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::ThreadId;
use std::time::Instant;

pub static EVENTS: Handles<Event> = Handles::new();
/// The graph of every node.
pub static NODES: Handles<Weak<Graph>> = Handles::new();

/// One operation.
#[derive(Clone)]
pub enum Work {
    Empty,
    Kernel(Arc<Kernel>),
    Copy(Copy),
    Fill(Fill),
    Host(HostCall),
    Record(Arc<Event>),
    /// For an event: what came before it is done.
    Wait,
    /// A graph within a graph.
    Child(Arc<Vec<Work>>),
    /// Memory that belongs to the graph: it exists as long as the node, and holds nothing when the node has run.
    Alloc(Arc<GraphMemory>),
    Free(u64),
}

/// A function of the host and its argument.
#[derive(Clone, Copy)]
pub struct HostCall {
    pub function: unsafe extern "C" fn(*mut c_void),
    pub data: usize,
}

/// See [`Work::Alloc`].
pub struct GraphMemory {
    pub context: Arc<Context>,
    pub address: u64,
}

impl GraphMemory {
    /// What it held counts as never written.
    fn begin(&self) {
        if let Some((allocation, _)) = self.context.holding(self.address) {
            allocation.written().clear(0, allocation.bytes);
        }
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        // Only the context's end can have freed it before, and then it is gone with the context.
        let _ = self.context.free(self.address, |kind| kind == Owned::Graph);
    }
}

impl Work {
    /// Does it. A kernel's fault is no error here: it breaks the context.
    pub fn run(&self, context: &Context) -> R {
        match self {
            Work::Empty | Work::Wait => Ok(()),
            Work::Alloc(memory) => {
                memory.begin();
                Ok(())
            }
            Work::Kernel(kernel) => kernel.run(),
            Work::Copy(copy) => copy.run(),
            Work::Fill(fill) => fill.run(),
            Work::Host(HostCall { function, data }) => {
                // SAFETY: the program gave the function and what it takes for this call.
                unsafe { function(*data as *mut c_void) };
                Ok(())
            }
            Work::Record(event) => {
                event.happen();
                Ok(())
            }
            Work::Child(works) => run_all(works, context),
            Work::Free(address) => context.free_ordered(*address),
        }
    }

    /// `CUgraphNodeType`.
    pub fn kind(&self) -> i32 {
        match self {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Child(_) => 4,
            Work::Empty => 5,
            Work::Wait => 6,
            Work::Record(_) => 7,
            Work::Alloc(_) => 10,
            Work::Free(_) => 11,
        }
    }
}

/// Runs one after the other, until one fails or breaks the context.
pub fn run_all(works: &[Work], context: &Context) -> R {
    for work in works {
        work.run(context)?;
        if context.check().is_err() {
            return Ok(()); // the next call says so
        }
    }
    Ok(())
}

/// `CU_EVENT_DISABLE_TIMING`.
pub const NO_TIMING: u32 = 2;

/// A moment of the host's clock, or a place in a capture.
pub struct Event {
    pub context: Arc<Context>,
    pub flags: u32,
    pub mark: Mutex<Mark>,
}

/// What the event was last recorded for.
#[derive(Clone, Default)]
pub enum Mark {
    #[default]
    Never,
    At(Instant),
    /// The end of a stream in a capture.
    Captured(Arc<Capture>, Vec<Handle>),
}

impl Event {
    pub fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// It is reached now.
    pub fn happen(&self) {
        *self.mark() = Mark::At(Instant::now());
    }

    /// When it was reached, if it keeps time.
    pub fn time(&self) -> R<Instant> {
        match *self.mark() {
            Mark::At(at) if self.flags & NO_TIMING == 0 => Ok(at),
            _ => Err(Error::INVALID_HANDLE),
        }
    }
}

/// The event of a handle, in a context that works.
pub fn event(handle: Handle) -> R<Arc<Event>> {
    let event = EVENTS.get(handle).ok_or(Error::INVALID_HANDLE)?;
    event.context.check()?;
    Ok(event)
}

/// Operations with an order among them.
pub struct Graph {
    pub handle: Handle,
    nodes: Mutex<BTreeMap<Handle, Node>>,
}

/// An operation and the nodes that come before it.
#[derive(Clone)]
pub struct Node {
    pub work: Work,
    pub after: Vec<Handle>,
}

impl Graph {
    /// An empty graph, not yet among `GRAPHS`.
    pub fn new() -> Arc<Graph> {
        Arc::new(Graph { handle: fresh(), nodes: Mutex::default() })
    }

    pub fn nodes(&self) -> MutexGuard<'_, BTreeMap<Handle, Node>> {
        self.nodes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Appends a node; INVALID_VALUE if it shall come after one of another graph.
    pub fn add(self: &Arc<Self>, work: Work, after: &[Handle]) -> R<Handle> {
        let mut nodes = self.nodes();
        if after.iter().any(|node| !nodes.contains_key(node)) {
            return Err(Error::INVALID_VALUE);
        }
        let handle = NODES.insert(Arc::downgrade(self));
        nodes.insert(handle, Node { work, after: after.to_vec() });
        Ok(handle)
    }

    /// The nodes that no other comes after.
    pub fn leaves(&self) -> Vec<Handle> {
        let nodes = self.nodes();
        let before: BTreeSet<Handle> = nodes.values().flat_map(|node| node.after.iter().copied()).collect();
        nodes.keys().copied().filter(|node| !before.contains(node)).collect()
    }

    /// The nodes in an order that the edges allow; INVALID_VALUE if they go round in circles.
    pub fn ordered(&self) -> R<Vec<(Handle, Node)>> {
        let mut waiting = self.nodes().clone();
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let ready = waiting.iter().find(|(_, node)| node.after.iter().all(|before| done.contains(before)));
            let handle = *ready.ok_or(Error::INVALID_VALUE)?.0;
            done.insert(handle);
            order.extend(waiting.remove_entry(&handle));
        }
        Ok(order)
    }

    /// The operations in order.
    pub fn works(&self) -> R<Vec<Work>> {
        Ok(self.ordered()?.into_iter().map(|(_, node)| node.work).collect())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        for handle in self.nodes().keys() {
            NODES.remove(*handle);
        }
    }
}

/// `CUstreamCaptureStatus`.
pub const NONE: u32 = 0;
pub const ACTIVE: u32 = 1;
pub const INVALIDATED: u32 = 2;

/// One capture, shared by its streams.
pub struct Capture {
    pub id: u64,
    pub graph: Arc<Graph>,
    pub origin: Handle,
    /// The thread that must end it.
    pub thread: Option<ThreadId>,
    pub status: AtomicU32,
}

impl Capture {
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// Ends it without a graph.
    pub fn invalidate(&self) {
        self.status.store(INVALIDATED, Ordering::Release);
    }
}
