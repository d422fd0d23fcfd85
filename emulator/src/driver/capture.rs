//! Stream capture: streams that write their work into a graph instead of doing it.
//!
//! A capture begins in one stream; others join by waiting for an event recorded in it, and must have been joined back
//! by the same means when it ends. A call that would need the outcome of captured work ends it as invalid.

use super::abi::{get, offer, put};
use super::error::{Error, R};
use super::handles::{Handle, fresh};
use super::state::capture::Branch;
use super::state::graph::GRAPHS;
use super::state::stream::{Stream, capturing, queue};
use super::state::work::{ACTIVE, Capture, Graph, INVALIDATED, NONE};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: any thread may end it.
const RELAXED: u32 = 2;

fn begin(handle: Handle, mode: u32) -> R {
    let stream = queue(handle)?.stream.ok_or(Error::STREAM_CAPTURE_UNSUPPORTED)?;
    let mut guard = stream.part.branch();
    if guard.is_some() || mode > RELAXED {
        return Err(if mode > RELAXED { Error::INVALID_VALUE } else { Error::ILLEGAL_STATE });
    }
    let capture = Arc::new(Capture {
        id: fresh() as u64,
        graph: Graph::new(),
        origin: stream.handle,
        thread: (mode != RELAXED).then(|| std::thread::current().id()),
        status: ACTIVE.into(),
    });
    *guard = Some(Branch { capture, tail: Vec::new(), shown: Vec::new(), edges: Vec::new() });
    Ok(())
}

/// Ends the capture that began in a stream; its graph.
fn end(handle: Handle) -> R<Arc<Graph>> {
    let stream = queue(handle)?.stream.ok_or(Error::ILLEGAL_STATE)?;
    let mut guard = stream.part.branch();
    let capture = guard.as_ref().ok_or(Error::ILLEGAL_STATE)?.capture.clone();
    if capture.origin != stream.handle {
        capture.invalidate();
        return Err(Error::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.thread.is_some_and(|thread| thread != std::thread::current().id()) {
        return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
    }
    let Some(branch) = guard.take() else { return Err(Error::ILLEGAL_STATE) };
    if capture.status.swap(NONE, Ordering::AcqRel) == INVALIDATED {
        return Err(Error::STREAM_CAPTURE_INVALIDATED);
    }
    if capture.graph.leaves().iter().any(|leaf| !branch.tail.contains(leaf)) {
        return Err(Error::STREAM_CAPTURE_UNJOINED);
    }
    Ok(capture.graph.clone())
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set; every mode allows the same here.
    static MODE: Cell<u32> = const { Cell::new(0) };
}

/// What `cuStreamGetCaptureInfo` asks; the pointer to the tail is good until the stream captures on. Of the legacy stream
/// it cannot be said while a stream captures that it would wait for; that capture stays valid.
unsafe fn info(
    handle: Handle,
    status: *mut u32,
    id: *mut u64,
    graph: *mut Handle,
    after: *mut *const Handle,
    edges: *mut *const u64,
    count: *mut usize,
) -> R {
    let queue = queue(handle)?;
    if queue.stream.is_none() && capturing(&queue.context, Stream::blocking).is_some() {
        return Err(Error::STREAM_CAPTURE_IMPLICIT);
    }
    let mut guard = queue.stream.as_ref().map(|stream| stream.part.branch());
    let branch = guard.as_mut().and_then(|branch| branch.as_mut());
    // SAFETY: the caller's pointers.
    unsafe {
        let Some(branch) = branch else { return put(status, NONE) };
        branch.shown.clone_from(&branch.tail);
        branch.edges = vec![0; branch.tail.len()];
        put(status, branch.capture.status())?;
        offer(id, branch.capture.id);
        offer(graph, branch.capture.graph.handle);
        offer(after, branch.shown.as_ptr());
        offer(edges, branch.edges.as_ptr());
        offer(count, branch.shown.len());
    }
    Ok(())
}

api! {
    fn cuStreamBeginCapture_v2 [cuStreamBeginCapture_v2_ptsz] (stream: Handle, mode: u32) { begin(stream, mode) }
    fn cuStreamBeginCapture [cuStreamBeginCapture_ptsz] (stream: Handle) { begin(stream, 0) }
    fn cuStreamEndCapture [cuStreamEndCapture_ptsz] (stream: Handle, to: *mut Handle) {
        offer(to, 0);
        let graph = end(stream)?;
        put(to, graph.handle)?;
        GRAPHS.insert_at(graph.handle, graph);
        Ok(())
    }
    fn cuStreamIsCapturing [cuStreamIsCapturing_ptsz] (stream: Handle, to: *mut u32) {
        info(stream, to, null_mut(), null_mut(), null_mut(), null_mut(), null_mut())
    }
    fn cuStreamGetCaptureInfo [cuStreamGetCaptureInfo_ptsz] (stream: Handle, status: *mut u32, id: *mut u64) {
        info(stream, status, id, null_mut(), null_mut(), null_mut(), null_mut())
    }
    fn cuStreamGetCaptureInfo_v2 [cuStreamGetCaptureInfo_v2_ptsz]
        (stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle, after: *mut *const Handle, count: *mut usize)
    {
        info(stream, status, id, graph, after, null_mut(), count)
    }
    fn cuStreamGetCaptureInfo_v3 [cuStreamGetCaptureInfo_v3_ptsz]
        (stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle, after: *mut *const Handle,
         edges: *mut *const u64, count: *mut usize)
    {
        info(stream, status, id, graph, after, edges, count)
    }
    fn cuThreadExchangeStreamCaptureMode [] (mode: *mut u32) {
        let asked = get(mode)?;
        if asked > RELAXED { Err(Error::INVALID_VALUE) } else { put(mode, MODE.replace(asked)) }
    }
}
