//! Events: moments of the host's clock, or places in a capture.

use super::abi::put;
use super::capture::{self, Capture};
use super::context::{Context, current};
use super::error::{Error, R};
use super::handles::{Handle, Handles};
use super::stream::{Queue, queue};
use super::work::Work;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

pub static EVENTS: Handles<Event> = Handles::new();

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;
/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`: in a capture, a node rather than an edge.
const EXTERNAL: u32 = 1;

/// See the module.
pub struct Event {
    pub context: Arc<Context>,
    flags: u32,
    mark: Mutex<Mark>,
}

/// What the event was last recorded for.
#[derive(Clone, Default)]
enum Mark {
    #[default]
    Never,
    At(Instant),
    /// The end of a stream in a capture.
    Captured(Arc<Capture>, Vec<Handle>),
}

impl Event {
    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// It is reached now.
    pub fn happen(&self) {
        *self.mark() = Mark::At(Instant::now());
    }

    fn time(&self) -> R<Instant> {
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

fn record(handle: Handle, stream: Handle, flags: u32) -> R {
    let (event, queue) = (event(handle)?, queue(stream)?);
    if flags != EXTERNAL
        && let Some(stream) = &queue.stream
        && let Some((capture, tail)) = capture::place(stream)?
    {
        *event.mark() = Mark::Captured(capture, tail);
        return Ok(());
    }
    queue.submit(Work::Record(event))
}

/// Makes a stream wait: everything before is done already, so only a capture has something to note.
pub fn wait(queue: &Queue, handle: Handle) -> R {
    let mark = event(handle)?.mark().clone();
    match (mark, &queue.stream) {
        (Mark::Captured(capture, tail), Some(stream)) => capture::join(stream, capture, &tail),
        (Mark::Captured(..), None) => Err(Error::STREAM_CAPTURE_IMPLICIT),
        (Mark::At(_), Some(stream)) if capture::place(stream)?.is_some() => Err(Error::STREAM_CAPTURE_ISOLATION),
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
    fn cuEventQuery [] (handle: Handle) { reached(handle) }
    fn cuEventSynchronize [] (handle: Handle) { reached(handle) }
    /// Of the host's clock: how long the emulator took, not a GPU.
    fn cuEventElapsedTime [cuEventElapsedTime_v2] (milliseconds: *mut f32, start: Handle, end: Handle) {
        let (start, end) = (event(start)?.time()?, event(end)?.time()?);
        let seconds = if end >= start { (end - start).as_secs_f64() } else { -(start - end).as_secs_f64() };
        put(milliseconds, (seconds * 1e3) as f32)
    }
}
