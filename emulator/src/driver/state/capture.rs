//! A stream's part of a capture: where it stands, and what it may not do meanwhile.

use super::work::{ACTIVE, Capture, INVALIDATED, NONE, Work};
use crate::driver::error::{Error, R};
use crate::driver::handles::Handle;
use std::sync::{Arc, Mutex, MutexGuard};

/// A place in a capture: what the stream's next node comes after.
pub struct Branch {
    pub capture: Arc<Capture>,
    pub tail: Vec<Handle>,
    /// The tail as it was shown to a caller that keeps a pointer to it, and its edges' data: none, eight zero bytes each.
    pub shown: Vec<Handle>,
    pub edges: Vec<u64>,
}

/// See the module. A stream that does not capture has none.
#[derive(Default)]
pub struct Part(Mutex<Option<Branch>>);

impl Part {
    /// The branch; one whose capture has ended is gone.
    pub fn branch(&self) -> MutexGuard<'_, Option<Branch>> {
        let mut branch = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if branch.as_ref().is_some_and(|branch| branch.capture.status() == NONE) {
            *branch = None;
        }
        branch
    }

    /// Appends work to the capture; None if it does not capture.
    pub fn record(&self, work: &Work) -> Option<R> {
        let mut guard = self.branch();
        let branch = guard.as_mut()?;
        Some(valid(branch).and_then(|()| {
            branch.tail = vec![branch.capture.graph.add(work.clone(), &branch.tail)?];
            Ok(())
        }))
    }

    /// The capture and where it stands.
    pub fn place(&self) -> R<Option<(Arc<Capture>, Vec<Handle>)>> {
        let guard = self.branch();
        let Some(branch) = guard.as_ref() else { return Ok(None) };
        valid(branch)?;
        Ok(Some((branch.capture.clone(), branch.tail.clone())))
    }

    /// Takes the stream into a capture, after the given nodes.
    pub fn join(&self, capture: Arc<Capture>, after: &[Handle]) -> R {
        if capture.status() != ACTIVE {
            return Err(Error::CAPTURED_EVENT);
        }
        let mut guard = self.branch();
        match guard.as_mut() {
            None => *guard = Some(Branch { capture, tail: after.to_vec(), shown: Vec::new(), edges: Vec::new() }),
            Some(branch) if Arc::ptr_eq(&branch.capture, &capture) => {
                valid(branch)?;
                for node in after {
                    if !branch.tail.contains(node) {
                        branch.tail.push(*node);
                    }
                }
            }
            Some(branch) => {
                branch.capture.invalidate();
                capture.invalidate();
                return Err(Error::STREAM_CAPTURE_MERGE);
            }
        }
        Ok(())
    }

    /// Refuses what a capturing stream cannot do, which ends its capture.
    pub fn forbid(&self) -> R {
        match self.branch().as_ref() {
            None => Ok(()),
            Some(branch) => {
                branch.capture.invalidate();
                Err(Error::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }
}

fn valid(branch: &Branch) -> R {
    if branch.capture.status() == INVALIDATED { Err(Error::STREAM_CAPTURE_INVALIDATED) } else { Ok(()) }
}
