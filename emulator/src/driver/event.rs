//! Events: recorded, waited for, and the time between them.

use super::abi::put;
use super::error::{Error, R};
use super::handles::Handle;
use super::state::context::current;
use super::state::stream::{Queue, queue};
use super::state::work::{EVENTS, Event, Mark, NO_TIMING, Work, event};
use std::sync::Mutex;

/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`: in a capture, a node rather than an edge.
const EXTERNAL: u32 = 1;

fn record(handle: Handle, stream: Handle, flags: u32) -> R {
    let (event, queue) = (event(handle)?, queue(stream)?);
    if flags != EXTERNAL
        && let Some(stream) = &queue.stream
        && let Some((capture, tail)) = stream.part.place()?
    {
        *event.mark() = Mark::Captured(capture, tail);
        return Ok(());
    }
    queue.submit(Work::Record(event))
}

/// Makes a stream wait: everything before is done already, so only a capture has something to note.
fn wait(queue: &Queue, handle: Handle) -> R {
    let mark = event(handle)?.mark().clone();
    match (mark, &queue.stream) {
        (Mark::Captured(capture, tail), Some(stream)) => stream.part.join(capture, &tail),
        (Mark::Captured(..), None) => Err(Error::STREAM_CAPTURE_IMPLICIT),
        (Mark::At(_), Some(stream)) if stream.part.place()?.is_some() => Err(Error::STREAM_CAPTURE_ISOLATION),
        _ => Ok(()),
    }
}

/// Whether it is reached, which it always is unless a capture has it.
fn reached(handle: Handle) -> R {
    match *event(handle)?.mark() {
        Mark::Captured(..) => Err(Error::CAPTURED_EVENT),
        _ => Ok(()),
    }
}

api! {
    fn cuEventCreate [] (to: *mut Handle, flags: u32) {
        const KNOWN: u32 = 7; // blocking sync, no timing, interprocess
        const INTERPROCESS: u32 = 4;
        if flags & !KNOWN != 0 || flags & INTERPROCESS != 0 && flags & NO_TIMING == 0 {
            return Err(Error::INVALID_VALUE);
        }
        put(to, EVENTS.insert(Event { context: current()?, flags, mark: Mutex::default() }))
    }
    fn cuEventDestroy_v2 [cuEventDestroy] (handle: Handle) {
        EVENTS.remove(handle).map(|_| ()).ok_or(Error::INVALID_HANDLE)
    }
    fn cuEventRecord [cuEventRecord_ptsz] (handle: Handle, stream: Handle) { record(handle, stream, 0) }
    fn cuEventRecordWithFlags [cuEventRecordWithFlags_ptsz] (handle: Handle, stream: Handle, flags: u32) {
        if flags > EXTERNAL {
            return Err(Error::INVALID_VALUE);
        }
        record(handle, stream, flags)
    }
    fn cuStreamWaitEvent [cuStreamWaitEvent_ptsz] (handle: Handle, event: Handle, _flags: u32) {
        wait(&queue(handle)?, event)
    }
    fn cuEventQuery [] (handle: Handle) { reached(handle) }
    fn cuEventSynchronize [] (handle: Handle) { reached(handle) }
    /// Of the host's clock: how long the emulator took, not a GPU.
    fn cuEventElapsedTime [cuEventElapsedTime_v2] (milliseconds: *mut f32, start: Handle, end: Handle) {
        let (start, end) = (event(start)?.time()?, event(end)?.time()?);
        let seconds = if end >= start { (end - start).as_secs_f64() } else { -(start - end).as_secs_f64() };
        put(milliseconds, (seconds * 1e3) as f32)
    }
}
