//! Changing graphs: edges, copies, and new parameters for nodes that exist.

use super::abi::{get, list, offer, put, put_list};
use super::copy::Copy3d;
use super::error::{Error, R};
use super::graph::{FillParams, HostParams, KernelParams, KernelParams2};
use super::handles::Handle;
use super::state::graph::{Exec, GRAPHS, Step, exec, graph, home, set, work_of};
use super::state::kernel::Kernel;
use super::state::work::{Graph, NODES, Node, Work};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `CUgraphExecUpdateResult`.
const UPDATED: i32 = 0;
const TOPOLOGY_CHANGED: i32 = 2;
const TYPE_CHANGED: i32 = 3;

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub struct UpdateResult {
    result: i32,
    node: Handle,
    from: Handle,
}

fn kernel(node: Handle) -> R<Arc<Kernel>> {
    match work_of(node)? {
        Work::Kernel(kernel) => Ok(kernel),
        _ => Err(Error::INVALID_VALUE),
    }
}

/// What a kernel node has; the pointers are good until it gets other parameters.
fn params(kernel: &Kernel) -> KernelParams {
    KernelParams {
        function: kernel.handle,
        grid: kernel.shape.grid,
        block: kernel.shape.block,
        shared: kernel.shape.shared,
        pointers: kernel.pointers().cast(),
        extra: std::ptr::null(),
    }
}

/// A graph with the same nodes under new handles.
fn copy(original: &Graph) -> R<Arc<Graph>> {
    let clone = Graph::new();
    let mut new = BTreeMap::new();
    for (handle, Node { work, after }) in original.ordered()? {
        let after: Vec<Handle> = after.iter().map(|before| new[before]).collect();
        new.insert(handle, clone.add(work, &after)?);
    }
    Ok(clone)
}

/// Gives an executable graph the operations of a graph of the same shape, node for node in order.
fn update(exec: &Exec, graph: &Graph) -> R<UpdateResult> {
    let ordered = graph.ordered()?;
    let mut steps = exec.steps();
    let changed = |result, node, from| Ok(UpdateResult { result, node, from });
    if ordered.len() != steps.len() {
        return changed(TOPOLOGY_CHANGED, 0, 0);
    }
    let twin: BTreeMap<Handle, Handle> = ordered.iter().zip(&*steps).map(|((new, _), old)| (*new, old.node)).collect();
    for ((handle, node), Step { node: old, work, after, .. }) in ordered.iter().zip(&*steps) {
        let mut expected: Vec<Handle> = node.after.iter().map(|before| twin[before]).collect();
        let mut after = after.clone();
        expected.sort_unstable();
        after.sort_unstable();
        if after != expected {
            return changed(TOPOLOGY_CHANGED, *handle, *old);
        }
        if node.work.kind() != work.kind() {
            return changed(TYPE_CHANGED, *handle, *old);
        }
    }
    for ((_, node), step) in ordered.into_iter().zip(&mut *steps) {
        step.work = node.work;
    }
    changed(UPDATED, 0, 0)
}

fn updated(result: &UpdateResult) -> R {
    if result.result == UPDATED { Ok(()) } else { Err(Error::GRAPH_EXEC_UPDATE_FAILURE) }
}

unsafe fn connect(handle: Handle, from: *const Handle, to: *const Handle, count: usize, on: bool) -> R {
    let graph = graph(handle)?;
    let mut nodes = graph.nodes();
    // SAFETY: the caller's arrays.
    let (from, to) = unsafe { (list(from, count)?, list(to, count)?) };
    for (from, to) in from.iter().zip(to) {
        if !nodes.contains_key(from) {
            return Err(Error::INVALID_VALUE);
        }
        let after = &mut nodes.get_mut(to).ok_or(Error::INVALID_VALUE)?.after;
        match after.iter().position(|before| before == from) {
            Some(at) if !on => drop(after.remove(at)),
            None if on => after.push(*from),
            _ => return Err(Error::INVALID_VALUE),
        }
    }
    Ok(())
}

unsafe fn edges(handle: Handle, from: *mut Handle, to: *mut Handle, count: *mut usize) -> R {
    let graph = graph(handle)?;
    let (before, after): (Vec<Handle>, Vec<Handle>) =
        graph.nodes().iter().flat_map(|(&to, node)| node.after.iter().map(move |&from| (from, to))).unzip();
    // SAFETY: the caller's arrays, both of `count` places.
    unsafe {
        let mut room = if from.is_null() { 0 } else { get(count)? };
        put_list(from, &mut room, &before)?;
        put_list(to, count, &after)
    }
}

unsafe fn dependencies(node: Handle, to: *mut Handle, count: *mut usize) -> R {
    let after = home(node)?.nodes().get(&node).map(|node| node.after.clone()).ok_or(Error::INVALID_VALUE)?;
    // SAFETY: the caller's pointers.
    unsafe { put_list(to, count, &after) }
}

unsafe fn dependents(node: Handle, to: *mut Handle, count: *mut usize) -> R {
    let graph = home(node)?;
    let found: Vec<Handle> =
        graph.nodes().iter().filter(|(_, other)| other.after.contains(&node)).map(|(&handle, _)| handle).collect();
    // SAFETY: the caller's pointers.
    unsafe { put_list(to, count, &found) }
}

/// Edges carry no data: eight zero bytes for each that there is room for.
unsafe fn no_data(to: *mut u64, room: *const usize) -> R {
    if !to.is_null() {
        // SAFETY: the caller's array, of as many places as `room` says.
        unsafe { to.write_bytes(0, get(room)?) };
    }
    Ok(())
}

api! {
    fn cuGraphClone [] (to: *mut Handle, original: Handle) {
        let clone = copy(&*graph(original)?)?;
        put(to, clone.handle)?;
        GRAPHS.insert_at(clone.handle, clone);
        Ok(())
    }
    fn cuGraphAddDependencies [] (graph: Handle, from: *const Handle, to: *const Handle, count: usize) {
        connect(graph, from, to, count, true)
    }
    /// Edges carry no data.
    fn cuGraphAddDependencies_v2 []
        (graph: Handle, from: *const Handle, to: *const Handle, _data: *const u8, count: usize)
    {
        connect(graph, from, to, count, true)
    }
    fn cuGraphRemoveDependencies [] (graph: Handle, from: *const Handle, to: *const Handle, count: usize) {
        connect(graph, from, to, count, false)
    }
    fn cuGraphRemoveDependencies_v2 []
        (graph: Handle, from: *const Handle, to: *const Handle, _data: *const u8, count: usize)
    {
        connect(graph, from, to, count, false)
    }
    fn cuGraphGetEdges [] (graph: Handle, from: *mut Handle, to: *mut Handle, count: *mut usize) {
        edges(graph, from, to, count)
    }
    fn cuGraphGetEdges_v2 []
        (graph: Handle, from: *mut Handle, to: *mut Handle, data: *mut u64, count: *mut usize)
    {
        no_data(data, count)?;
        edges(graph, from, to, count)
    }
    fn cuGraphNodeGetDependencies [] (node: Handle, to: *mut Handle, count: *mut usize) {
        dependencies(node, to, count)
    }
    fn cuGraphNodeGetDependencies_v2 [] (node: Handle, to: *mut Handle, data: *mut u64, count: *mut usize) {
        no_data(data, count)?;
        dependencies(node, to, count)
    }
    fn cuGraphNodeGetDependentNodes [] (node: Handle, to: *mut Handle, count: *mut usize) {
        dependents(node, to, count)
    }
    fn cuGraphNodeGetDependentNodes_v2 [] (node: Handle, to: *mut Handle, data: *mut u64, count: *mut usize) {
        no_data(data, count)?;
        dependents(node, to, count)
    }
    /// Its edges go with it.
    fn cuGraphDestroyNode [] (node: Handle) {
        let graph = home(node)?;
        let mut nodes = graph.nodes();
        nodes.remove(&node).ok_or(Error::INVALID_VALUE)?;
        NODES.remove(node);
        for other in nodes.values_mut() {
            other.after.retain(|&before| before != node);
        }
        Ok(())
    }
    fn cuGraphKernelNodeGetParams [] (node: Handle, to: *mut KernelParams) { put(to, params(&*kernel(node)?)) }
    fn cuGraphKernelNodeGetParams_v2 [] (node: Handle, to: *mut KernelParams2) {
        put(to, KernelParams2 { first: params(&*kernel(node)?), kernel: 0, context: 0 })
    }
    fn cuGraphKernelNodeSetParams [] (node: Handle, params: *const KernelParams) { set(node, get(params)?.work()?) }
    fn cuGraphKernelNodeSetParams_v2 [] (node: Handle, params: *const KernelParams2) { set(node, get(params)?.work()?) }
    fn cuGraphMemcpyNodeSetParams [] (node: Handle, params: *const Copy3d) {
        set(node, Work::Copy(get(params)?.copy()?))
    }
    fn cuGraphMemsetNodeSetParams [] (node: Handle, params: *const FillParams) { set(node, get(params)?.work()?) }
    fn cuGraphHostNodeSetParams [] (node: Handle, params: *const HostParams) { set(node, get(params)?.work()?) }
    fn cuGraphExecKernelNodeSetParams [] (handle: Handle, node: Handle, params: *const KernelParams) {
        exec(handle)?.replace(node, get(params)?.work()?)
    }
    fn cuGraphExecKernelNodeSetParams_v2 [] (handle: Handle, node: Handle, params: *const KernelParams2) {
        exec(handle)?.replace(node, get(params)?.work()?)
    }
    fn cuGraphExecMemcpyNodeSetParams [] (handle: Handle, node: Handle, params: *const Copy3d, _context: Handle) {
        exec(handle)?.replace(node, Work::Copy(get(params)?.copy()?))
    }
    fn cuGraphExecMemsetNodeSetParams [] (handle: Handle, node: Handle, params: *const FillParams, _context: Handle) {
        exec(handle)?.replace(node, get(params)?.work()?)
    }
    fn cuGraphExecHostNodeSetParams [] (handle: Handle, node: Handle, params: *const HostParams) {
        exec(handle)?.replace(node, get(params)?.work()?)
    }
    fn cuGraphExecChildGraphNodeSetParams [] (handle: Handle, node: Handle, child: Handle) {
        exec(handle)?.replace(node, Work::Child(Arc::new(graph(child)?.works()?)))
    }
    fn cuGraphNodeSetEnabled [] (handle: Handle, node: Handle, enabled: u32) {
        let exec = exec(handle)?;
        let mut steps = exec.steps();
        steps.iter_mut().find(|step| step.node == node).ok_or(Error::INVALID_VALUE)?.enabled = enabled != 0;
        Ok(())
    }
    fn cuGraphNodeGetEnabled [] (handle: Handle, node: Handle, to: *mut u32) {
        let exec = exec(handle)?;
        let enabled = exec.steps().iter().find(|step| step.node == node).map(|step| step.enabled);
        put(to, enabled.ok_or(Error::INVALID_VALUE)?.into())
    }
    fn cuGraphExecUpdate_v2 [] (handle: Handle, from: Handle, to: *mut UpdateResult) {
        let result = update(&*exec(handle)?, &*graph(from)?)?;
        let status = updated(&result);
        offer(to, result);
        status
    }
    fn cuGraphExecUpdate [] (handle: Handle, from: Handle, node: *mut Handle, to: *mut i32) {
        let result = update(&*exec(handle)?, &*graph(from)?)?;
        offer(node, result.node);
        offer(to, result.result);
        updated(&result)
    }
}
