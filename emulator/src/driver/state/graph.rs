//! Graphs by handle, and what was made of them to be launched.
//!
//! An executable graph is a list in an order that its edges allow, smallest node first: a graph from one stream's
//! capture runs in the order of its calls.

use super::work::{Graph, NODES, Node, Work};
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles};
use std::sync::{Arc, Mutex, MutexGuard};

pub static GRAPHS: Handles<Graph> = Handles::new();
pub static EXECS: Handles<Exec> = Handles::new();

/// A graph as it will run.
pub struct Exec {
    steps: Mutex<Vec<Step>>,
}

/// A node of it. `node` is the handle in the graph that it was made of.
pub struct Step {
    pub node: Handle,
    pub work: Work,
    pub after: Vec<Handle>,
    pub enabled: bool,
}

impl Exec {
    /// A graph as it is now.
    pub fn new(graph: &Graph) -> R<Exec> {
        let step = |(node, Node { work, after })| Step { node, work, after, enabled: true };
        Ok(Exec { steps: Mutex::new(graph.ordered()?.into_iter().map(step).collect()) })
    }

    pub fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Replaces a node's operation by one of its kind.
    pub fn replace(&self, node: Handle, work: Work) -> R {
        let mut steps = self.steps();
        let step = steps.iter_mut().find(|step| step.node == node).ok_or(Error::INVALID_VALUE)?;
        if step.work.kind() != work.kind() {
            return Err(Error::INVALID_VALUE);
        }
        step.work = work;
        Ok(())
    }
}

pub fn graph(handle: Handle) -> R<Arc<Graph>> {
    GRAPHS.get(handle).ok_or(Error::INVALID_VALUE)
}

pub fn exec(handle: Handle) -> R<Arc<Exec>> {
    EXECS.get(handle).ok_or(Error::INVALID_VALUE)
}

/// The graph that a node is in.
pub fn home(node: Handle) -> R<Arc<Graph>> {
    NODES.get(node).and_then(|graph| graph.upgrade()).ok_or(Error::INVALID_VALUE)
}

/// A node's operation.
pub fn work_of(node: Handle) -> R<Work> {
    home(node)?.nodes().get(&node).map(|node| node.work.clone()).ok_or(Error::INVALID_VALUE)
}

/// Replaces the operation of a node in its graph by one of its kind.
pub fn set(node: Handle, work: Work) -> R {
    let graph = home(node)?;
    let mut nodes = graph.nodes();
    let node = nodes.get_mut(&node).ok_or(Error::INVALID_VALUE)?;
    if node.work.kind() != work.kind() {
        return Err(Error::INVALID_VALUE);
    }
    node.work = work;
    Ok(())
}
