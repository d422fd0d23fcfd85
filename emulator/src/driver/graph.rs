//! Graphs: operations with an order among them, made node by node, and launched.

use super::abi::{get, list, offer, put, put_list};
use super::copy::Copy3d;
use super::error::{Error, R};
use super::handles::Handle;
use super::state::context::{current, declared};
use super::state::graph::{EXECS, Exec, GRAPHS, exec, graph, work_of};
use super::state::kernel::{Arguments, Kernel};
use super::state::stream::queue;
use super::state::transfer::Fill;
use super::state::work::{Graph, HostCall, Work, event};
use crate::gpu::Shape;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// Appends a node to the graph of a handle and gives the node's.
pub unsafe fn add(to: *mut Handle, handle: Handle, after: &[Handle], work: Work) -> R {
    // SAFETY: the caller's pointer.
    unsafe { put(to, graph(handle)?.add(work, after)?) }
}

unsafe fn instantiate(to: *mut Handle, handle: Handle) -> R {
    let exec = Exec::new(&*graph(handle)?)?;
    // SAFETY: the caller's pointer.
    unsafe { put(to, EXECS.insert(exec)) }
}

/// `CUDA_KERNEL_NODE_PARAMS` up to what all its versions have.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub pointers: *const *const u8,
    pub extra: *const usize,
}

/// As of CUDA 12: `kernel` is used where `function` is null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams2 {
    pub first: KernelParams,
    pub kernel: Handle,
    pub context: Handle,
}

impl KernelParams {
    pub unsafe fn work(&self) -> R<Work> {
        let KernelParams { function, grid, block, shared, pointers, extra } = *self;
        let operands = declared();
        let shape = Shape { grid, block, shared, cooperative: false, operands };
        // SAFETY: passed on.
        let kernel = unsafe { Kernel::new(function, shape, Arguments { pointers, extra })? };
        Ok(Work::Kernel(Arc::new(kernel)))
    }
}

impl KernelParams2 {
    pub unsafe fn work(&self) -> R<Work> {
        let function = if self.first.function == 0 { self.kernel } else { self.first.function };
        // SAFETY: passed on.
        unsafe { KernelParams { function, ..self.first }.work() }
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillParams {
    at: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl FillParams {
    pub fn work(&self) -> R<Work> {
        let FillParams { at, pitch, value, element, width, height } = *self;
        if ![1, 2, 4].contains(&element) {
            return Err(Error::INVALID_VALUE);
        }
        Ok(Work::Fill(Fill { at, pitch, value, element: element as usize, width, height }))
    }
}

impl From<&Fill> for FillParams {
    fn from(fill: &Fill) -> FillParams {
        let Fill { at, pitch, value, element, width, height } = *fill;
        FillParams { at, pitch, value, element: element as u32, width, height }
    }
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParams {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: usize,
}

impl HostParams {
    pub fn work(&self) -> R<Work> {
        let function = self.function.ok_or(Error::INVALID_VALUE)?;
        Ok(Work::Host(HostCall { function, data: self.data }))
    }
}

impl From<HostCall> for HostParams {
    fn from(HostCall { function, data }: HostCall) -> HostParams {
        HostParams { function: Some(function), data }
    }
}

api! {
    fn cuGraphCreate [] (to: *mut Handle, flags: u32) {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let graph = Graph::new();
        put(to, graph.handle)?;
        GRAPHS.insert_at(graph.handle, graph);
        Ok(())
    }
    fn cuGraphDestroy [] (handle: Handle) { GRAPHS.remove(handle).map(|_| ()).ok_or(Error::INVALID_VALUE) }
    fn cuGraphAddEmptyNode [] (to: *mut Handle, graph: Handle, after: *const Handle, count: usize) {
        add(to, graph, list(after, count)?, Work::Empty)
    }
    fn cuGraphAddKernelNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const KernelParams)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    fn cuGraphAddKernelNode_v2 []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const KernelParams2)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    fn cuGraphAddMemcpyNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const Copy3d, _context: Handle)
    {
        add(to, graph, list(after, count)?, Work::Copy(get(params)?.copy()?))
    }
    fn cuGraphAddMemsetNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const FillParams,
         _context: Handle)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    fn cuGraphAddHostNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const HostParams)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    fn cuGraphAddEventRecordNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, of: Handle)
    {
        add(to, graph, list(after, count)?, Work::Record(event(of)?))
    }
    fn cuGraphAddEventWaitNode [] (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, of: Handle) {
        event(of)?;
        add(to, graph, list(after, count)?, Work::Wait)
    }
    /// The child is copied as it is now.
    fn cuGraphAddChildGraphNode []
        (to: *mut Handle, handle: Handle, after: *const Handle, count: usize, child: Handle)
    {
        add(to, handle, list(after, count)?, Work::Child(Arc::new(graph(child)?.works()?)))
    }
    fn cuGraphGetNodes [] (handle: Handle, to: *mut Handle, count: *mut usize) {
        let nodes: Vec<Handle> = graph(handle)?.nodes().keys().copied().collect();
        put_list(to, count, &nodes)
    }
    fn cuGraphGetRootNodes [] (handle: Handle, to: *mut Handle, count: *mut usize) {
        let graph = graph(handle)?;
        let roots: Vec<Handle> = graph.nodes().iter().filter(|(_, n)| n.after.is_empty()).map(|(&h, _)| h).collect();
        put_list(to, count, &roots)
    }
    fn cuGraphNodeGetType [] (node: Handle, to: *mut i32) { put(to, work_of(node)?.kind()) }
    fn cuGraphInstantiateWithFlags [] (to: *mut Handle, graph: Handle, _flags: u64) { instantiate(to, graph) }
    fn cuGraphInstantiate_v2 [cuGraphInstantiate]
        (to: *mut Handle, graph: Handle, failed: *mut Handle, _log: *mut c_char, _room: usize)
    {
        offer(failed, 0);
        instantiate(to, graph)
    }
    fn cuGraphExecDestroy [] (handle: Handle) { EXECS.remove(handle).map(|_| ()).ok_or(Error::INVALID_VALUE) }
    fn cuGraphUpload [cuGraphUpload_ptsz] (handle: Handle, stream: Handle) {
        exec(handle)?;
        queue(stream).map(|_| ())
    }
    fn cuGraphLaunch [cuGraphLaunch_ptsz] (handle: Handle, stream: Handle) {
        current()?;
        let exec = exec(handle)?;
        let enabled = exec.steps().iter().filter(|step| step.enabled).map(|step| step.work.clone()).collect();
        queue(stream)?.submit(Work::Child(Arc::new(enabled)))
    }
    fn cuGraphExecGetFlags [] (handle: Handle, to: *mut u64) {
        exec(handle)?;
        put(to, 0)
    }
}
