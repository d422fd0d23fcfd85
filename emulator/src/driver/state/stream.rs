//! Streams: where work is handed in. It runs at once, unless the stream captures.

use super::capture::Part;
use super::context::{Context, current};
use super::work::Work;
use crate::driver::error::{Error, R};
use crate::driver::handles::{Handle, Handles, fresh};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

pub static STREAMS: Handles<Stream> = Handles::new();

/// `CU_STREAM_NON_BLOCKING`: independent of the legacy stream.
pub const NON_BLOCKING: u32 = 1;
/// The handles of the legacy default stream and of the calling thread's; null is the legacy one.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

/// A stream that was created.
pub struct Stream {
    pub handle: Handle,
    pub context: Arc<Context>,
    pub flags: u32,
    pub priority: i32,
    /// Its part of a capture.
    pub part: Part,
}

impl Stream {
    /// Whether the legacy stream waits for it.
    pub fn blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }
}

/// What a stream handle stands for.
pub struct Queue {
    pub context: Arc<Context>,
    /// None: the legacy stream.
    pub stream: Option<Arc<Stream>>,
}

impl Queue {
    /// Does the work, or records it.
    pub fn submit(&self, work: Work) -> R {
        if let Some(stream) = &self.stream
            && let Some(recorded) = stream.part.record(&work)
        {
            return recorded;
        }
        self.implicit()?;
        work.run(&self.context)
    }

    /// The legacy stream would wait for a blocking stream that captures.
    fn implicit(&self) -> R {
        if self.stream.is_none() { forbid_blocking(&self.context) } else { Ok(()) }
    }

    /// All that was handed in is done; only a capturing stream cannot say so.
    pub fn idle(&self) -> R {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.part.forbid())?;
        self.implicit()
    }
}

/// The stream of a handle, in a context that works.
pub fn queue(handle: Handle) -> R<Queue> {
    let stream = match handle {
        0 | LEGACY => return Ok(Queue { context: current()?, stream: None }),
        PER_THREAD => of_thread(current()?),
        _ => STREAMS.get(handle).ok_or(Error::INVALID_HANDLE)?,
    };
    stream.context.check()?;
    Ok(Queue { context: stream.context.clone(), stream: Some(stream) })
}

/// A thread's default stream in each context, by the contexts' handles.
#[derive(Default)]
struct Own(RefCell<BTreeMap<Handle, Handle>>);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.get_mut().values().for_each(|stream| drop(STREAMS.remove(*stream)));
    }
}

thread_local! {
    static OWN: Own = Own::default();
}

/// The calling thread's default stream, made when it is first asked for.
fn of_thread(context: Arc<Context>) -> Arc<Stream> {
    let known = OWN.with(|own| own.0.borrow().get(&context.handle).copied());
    let known = known.and_then(|handle| STREAMS.get(handle)).filter(|s| Arc::ptr_eq(&s.context, &context));
    known.unwrap_or_else(|| {
        let (handle, place) = (fresh(), context.handle);
        let stream = Arc::new(Stream { handle, context, flags: 0, priority: 0, part: Part::default() });
        STREAMS.insert_at(handle, stream.clone());
        OWN.with(|own| own.0.borrow_mut().insert(place, handle));
        stream
    })
}

/// Where calls without a stream run.
pub fn synchronous() -> R<Queue> {
    queue(LEGACY)
}

/// A stream of a context that captures, among those wanted.
pub fn capturing(context: &Context, wanted: impl Fn(&Stream) -> bool) -> Option<Arc<Stream>> {
    let here = |stream: &Stream| std::ptr::eq(&*stream.context, context);
    STREAMS.find(|stream| here(stream) && wanted(stream) && stream.part.branch().is_some())
}

/// Refuses what waits for all streams of a context while one captures.
pub fn forbid_any(context: &Context) -> R {
    capturing(context, |_| true).map_or(Ok(()), |stream| stream.part.forbid())
}

/// Refuses what waits for the blocking streams of a context while one captures.
pub fn forbid_blocking(context: &Context) -> R {
    let Some(stream) = capturing(context, Stream::blocking) else { return Ok(()) };
    stream.part.forbid().map_err(|_| Error::STREAM_CAPTURE_IMPLICIT)
}
