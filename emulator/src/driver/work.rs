//! What a stream does: the operations, run now or kept as the nodes of a graph.

use super::context::{Context, Owned};
use super::copy::{Copy, Fill};
use super::error::R;
use super::event::Event;
use super::launch::Kernel;
use std::ffi::c_void;
use std::sync::Arc;

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
