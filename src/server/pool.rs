//! Work that blocks, off the threads that serve sockets, and only so much of it at a time.

use super::error::ApiError;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of turns.
pub struct Pool(Arc<Semaphore>);

/// The right to run something; others wait while it lives.
pub struct Turn {
    permit: Arc<OwnedSemaphorePermit>,
}

impl Pool {
    /// So many at a time.
    pub fn new(turns: usize) -> Pool {
        Pool(Arc::new(Semaphore::new(turns)))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// 503, if the pool were closed, which it never is.
    pub async fn turn(&self) -> Result<Turn, ApiError> {
        match self.0.clone().acquire_owned().await {
            Ok(permit) => Ok(Turn { permit: Arc::new(permit) }),
            Err(_) => Err(ApiError::unavailable("the server is shutting down")),
        }
    }

    /// Waits for a turn and runs `work` in it.
    ///
    /// # Errors
    /// Those of `work`; 500 if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.turn().await?.run(work).await
    }
}

impl Turn {
    /// Runs `work`. The turn lasts as long as it, even if nobody waits for it any more: a thread cannot be stopped.
    ///
    /// # Errors
    /// Those of `work`; 500 if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.permit.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.unwrap_or_else(|_| Err(ApiError::internal()))
    }
}
