//! Nodes of any kind from one structure (`CUgraphNodeParams`), and what the nodes of a graph have.

use super::abi::{get, list, put};
use super::copy::Copy3d;
use super::error::{Error, R};
use super::graph::{FillParams, HostParams, KernelParams2, add};
use super::handles::Handle;
use super::state::graph::{exec, graph, set, work_of};
use super::state::work::{Work, event};
use std::sync::Arc;

/// `CUgraphNodeParams`: a `CUgraphNodeType`, and what it gives a meaning.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct NodeParams {
    kind: i32,
    reserved: [i32; 3],
    value: [u64; 30],
}

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CopyParams {
    flags: i32,
    reserved: i32,
    context: Handle,
    copy: Copy3d,
}

impl NodeParams {
    /// The operation. NOT_SUPPORTED: allocations, semaphores, conditions, which are for captures or not here.
    unsafe fn work(&self) -> R<Work> {
        let value = self.value.as_ptr();
        // SAFETY: every structure is smaller than the union's 240 bytes, and numbers and pointers of any value are valid.
        unsafe {
            match self.kind {
                0 => get(value.cast::<KernelParams2>())?.work(),
                1 => Ok(Work::Copy(get(value.cast::<CopyParams>())?.copy.copy()?)),
                2 => get(value.cast::<FillParams>())?.work(),
                3 => get(value.cast::<HostParams>())?.work(),
                4 => Ok(Work::Child(Arc::new(graph(self.value[0] as Handle)?.works()?))),
                5 => Ok(Work::Empty),
                6 => event(self.value[0] as Handle).map(|_| Work::Wait),
                7 => Ok(Work::Record(event(self.value[0] as Handle)?)),
                11 => Ok(Work::Free(self.value[0])),
                8..=14 => Err(Error::NOT_SUPPORTED),
                _ => Err(Error::INVALID_VALUE),
            }
        }
    }
}

api! {
    fn cuGraphAddNode []
        (to: *mut Handle, graph: Handle, after: *const Handle, count: usize, params: *const NodeParams)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    /// Edges carry no data.
    fn cuGraphAddNode_v2 []
        (to: *mut Handle, graph: Handle, after: *const Handle, _data: *const u8, count: usize,
         params: *const NodeParams)
    {
        add(to, graph, list(after, count)?, get(params)?.work()?)
    }
    fn cuGraphNodeSetParams [] (node: Handle, params: *const NodeParams) { set(node, get(params)?.work()?) }
    fn cuGraphExecNodeSetParams [] (handle: Handle, node: Handle, params: *const NodeParams) {
        exec(handle)?.replace(node, get(params)?.work()?)
    }
    fn cuGraphMemcpyNodeGetParams [] (node: Handle, to: *mut Copy3d) {
        match work_of(node)? {
            Work::Copy(copy) => put(to, (&copy).into()),
            _ => Err(Error::INVALID_VALUE),
        }
    }
    fn cuGraphMemsetNodeGetParams [] (node: Handle, to: *mut FillParams) {
        match work_of(node)? {
            Work::Fill(fill) => put(to, (&fill).into()),
            _ => Err(Error::INVALID_VALUE),
        }
    }
    fn cuGraphHostNodeGetParams [] (node: Handle, to: *mut HostParams) {
        match work_of(node)? {
            Work::Host(call) => put(to, call.into()),
            _ => Err(Error::INVALID_VALUE),
        }
    }
}
