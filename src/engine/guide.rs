//! Constraints at work: other threads find out what may come next while steps run, so that a form that is hard to follow holds up its own answer only.
//!
//! The surprise: a step may be over before that is known. Its logits are kept then, and the token is drawn between two later steps.

use super::draw::Constraint;
use crate::error::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// The threads. Executors and draws have others: nobody who waits for those may be given this work meanwhile.
#[derive(Debug, Default)]
pub(super) struct Guides(Option<Arc<ThreadPool>>);

/// A constraint behind the tokens drawn so far.
#[derive(Debug)]
pub(super) enum Guide {
    /// What may come next is known.
    Ready(Box<dyn Constraint>),
    Working(Receiver<Result<Box<dyn Constraint>>>),
}

impl Guides {
    /// A guide to the beginning.
    ///
    /// # Errors
    /// [`Error::Io`] if there can be no threads.
    pub fn begin(&mut self, constraint: Arc<dyn Constraint>) -> Result<Guide> {
        if self.0.is_none() {
            // The other half of the cores is for what the rest computes.
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).div_ceil(2);
            let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("guide{i}"));
            // Whoever waits for one that panics is told.
            let pool = pool.panic_handler(|_| ()).build();
            self.0 = Some(Arc::new(pool.map_err(|e| Error::io("threads", std::io::Error::other(e)))?));
        }
        Ok(self.work(move || Ok(constraint.fork())))
    }

    fn work(&self, next: impl FnOnce() -> Result<Box<dyn Constraint>> + Send + 'static) -> Guide {
        let (done, result) = channel();
        let work = move || {
            let known = next().and_then(|mut constraint| constraint.allowed().map(|_| ()).map(|()| constraint));
            // The answer may have ended.
            let _ = done.send(known);
        };
        if let Some(pool) = &self.0 {
            pool.spawn_fifo(work);
        }
        Guide::Working(result)
    }
}

impl Guide {
    /// The same behind one more token.
    pub fn behind(self, id: u32, guides: &Guides) -> Guide {
        match self {
            Guide::Ready(mut constraint) => guides.work(move || constraint.take(id).map(|()| constraint)),
            Guide::Working(_) => self,
        }
    }

    /// The tokens that may come next, once that is known.
    ///
    /// # Errors
    /// As [`Constraint::allowed`]; [`Error::Request`] if its thread panicked.
    pub fn allowed(&mut self) -> Option<Result<&[u32]>> {
        if let Guide::Working(result) = self {
            match result.try_recv() {
                Ok(Ok(constraint)) => *self = Guide::Ready(constraint),
                Ok(Err(error)) => return Some(Err(error)),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    return Some(Err(Error::request("constraint", "is more than its thread can follow")));
                }
            }
        }
        match self {
            Guide::Ready(constraint) => Some(constraint.allowed()),
            Guide::Working(_) => None,
        }
    }
}
