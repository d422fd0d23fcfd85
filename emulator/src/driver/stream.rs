//! Streams: where work is handed in. It runs at once, unless the stream captures.

use super::abi::{offer, put};
use super::capture::{self, Branch};
use super::context::{Context, current};
use super::error::{Error, R};
use super::event;
use super::handles::{Handle, Handles, fresh};
use super::work::{HostCall, Work};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

pub static STREAMS: Handles<Stream> = Handles::new();

/// `CU_STREAM_NON_BLOCKING`: independent of the legacy stream.
const NON_BLOCKING: u32 = 1;
/// The handles of the legacy default stream and of the calling thread's; null is the legacy one.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

/// A stream that was created.
pub struct Stream {
    pub handle: Handle,
    pub context: Arc<Context>,
    flags: u32,
    priority: i32,
    /// Its part of a capture.
    pub branch: Mutex<Option<Branch>>,
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
            && let Some(recorded) = capture::record(stream, &work)
        {
            return recorded;
        }
        self.implicit()?;
        work.run(&self.context)
    }

    /// The legacy stream would wait for a blocking stream that captures.
    fn implicit(&self) -> R {
        if self.stream.is_none() { capture::forbid_blocking(&self.context) } else { Ok(()) }
    }

    /// All that was handed in is done; only a capturing stream cannot say so.
    fn idle(&self) -> R {
        self.stream.as_ref().map_or(Ok(()), capture::forbid)?;
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
        let stream = Arc::new(Stream { handle, context, flags: 0, priority: 0, branch: Mutex::default() });
        STREAMS.insert_at(handle, stream.clone());
        OWN.with(|own| own.0.borrow_mut().insert(place, handle));
        stream
    })
}

/// Where calls without a stream run.
pub fn synchronous() -> R<Queue> {
    queue(LEGACY)
}

fn create(to: *mut Handle, flags: u32, priority: i32) -> R {
    if flags & !NON_BLOCKING != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let (handle, context) = (fresh(), current()?);
    // SAFETY: the caller's pointer.
    unsafe { put(to, handle)? };
    STREAMS.insert_at(handle, Arc::new(Stream { handle, context, flags, priority, branch: Mutex::default() }));
    Ok(())
}

type Callback = Option<unsafe extern "C" fn(Handle, u32, *mut c_void)>;

api! {
    fn cuStreamCreate [] (to: *mut Handle, flags: u32) { create(to, flags, 0) }
    /// A priority beyond the range is clamped, as documented.
    fn cuStreamCreateWithPriority [] (to: *mut Handle, flags: u32, priority: i32) {
        create(to, flags, priority.clamp(-5, 0))
    }
    fn cuStreamDestroy_v2 [cuStreamDestroy] (handle: Handle) {
        STREAMS.remove(handle).map(|_| ()).ok_or(Error::INVALID_HANDLE)
    }
    fn cuStreamSynchronize [cuStreamSynchronize_ptsz] (handle: Handle) { queue(handle)?.idle() }
    fn cuStreamQuery [cuStreamQuery_ptsz] (handle: Handle) { queue(handle)?.idle() }
    fn cuStreamWaitEvent [cuStreamWaitEvent_ptsz] (handle: Handle, event: Handle, _flags: u32) {
        event::wait(&queue(handle)?, event)
    }
    fn cuStreamAddCallback [cuStreamAddCallback_ptsz]
        (handle: Handle, callback: Callback, data: *mut c_void, _flags: u32)
    {
        let queue = queue(handle)?;
        queue.idle()?;
        callback.ok_or(Error::INVALID_VALUE)?(handle, 0, data);
        Ok(())
    }
    fn cuLaunchHostFunc [cuLaunchHostFunc_ptsz]
        (handle: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void)
    {
        let function = function.ok_or(Error::INVALID_VALUE)?;
        queue(handle)?.submit(Work::Host(HostCall { function, data: data as usize }))
    }
    fn cuStreamGetCtx [cuStreamGetCtx_ptsz] (handle: Handle, to: *mut Handle) {
        put(to, queue(handle)?.context.handle)
    }
    fn cuStreamGetCtx_v2 [cuStreamGetCtx_v2_ptsz] (handle: Handle, to: *mut Handle, green: *mut Handle) {
        offer(green, 0);
        put(to, queue(handle)?.context.handle)
    }
    fn cuStreamGetDevice [cuStreamGetDevice_ptsz] (handle: Handle, to: *mut i32) {
        put(to, queue(handle)?.context.ordinal)
    }
    fn cuStreamGetFlags [cuStreamGetFlags_ptsz] (handle: Handle, to: *mut u32) {
        put(to, queue(handle)?.stream.map_or(0, |stream| stream.flags))
    }
    fn cuStreamGetPriority [cuStreamGetPriority_ptsz] (handle: Handle, to: *mut i32) {
        put(to, queue(handle)?.stream.map_or(0, |stream| stream.priority))
    }
    fn cuStreamGetId [cuStreamGetId_ptsz] (handle: Handle, to: *mut u64) {
        let queue = queue(handle)?;
        put(to, queue.stream.map_or(queue.context.handle + handle, |stream| stream.handle) as u64)
    }
    /// Memory is the same for all streams.
    fn cuStreamAttachMemAsync [cuStreamAttachMemAsync_ptsz] (handle: Handle, _at: u64, _bytes: usize, _flags: u32) {
        queue(handle).map(|_| ())
    }
}
