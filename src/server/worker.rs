//! The thread that owns the engine: jobs in, what becomes of them out.
//!
//! Whatever has arrived runs together. Before each step the thread ends the jobs whose readers are gone and takes new ones; after it, it hands out what was
//! drawn. A job's channel has room for all of its events, so a slow reader neither blocks the engine nor loses anything. The surprise: a panic or a
//! failed step ends every job under way, by closing its channel, since nothing that the engine holds can be trusted then. A new engine is made at once;
//! while that fails the worker is unhealthy, and says so.

use super::metrics::Metrics;
use super::pool::Turn;
use crate::engine::{Cancel, Engine, Event, Holding, Request, RequestId, Timing, What};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A request on its way to the engine.
pub struct Job {
    pub request: Request,
    /// Told once the engine has the request, or why it does not take it. Closed where there is no engine.
    pub taken: oneshot::Sender<Result<()>>,
    /// One for each of the request's answers, with room for all that may become of it. Closed without an end where the engine broke; whoever closes
    /// the other side cancels the answer.
    pub events: Vec<mpsc::Sender<What>>,
    /// When the request came in.
    pub arrived: Instant,
    /// Kept until the engine lets go of the prompt and its pixels.
    pub turn: Turn,
}

/// What a worker runs: the engine, or in tests something that fails on purpose.
pub trait Core {
    /// As [`Engine::submit`].
    fn submit(&mut self, request: Request) -> Result<RequestId>;
    /// As [`Engine::cancel`].
    fn cancel(&mut self, request: RequestId, choice: usize) -> Option<Timing>;
    /// As [`Engine::turn`].
    fn step(&mut self, cancel: &Cancel) -> Result<Vec<Event>>;
    /// As [`Engine::is_idle`].
    fn is_idle(&self) -> bool;
    /// As [`Engine::holding`].
    fn holding(&self) -> Holding;
}

impl Core for Engine {
    fn submit(&mut self, request: Request) -> Result<RequestId> {
        Engine::submit(self, request)
    }

    fn cancel(&mut self, request: RequestId, choice: usize) -> Option<Timing> {
        Engine::cancel(self, request, choice)
    }

    fn step(&mut self, cancel: &Cancel) -> Result<Vec<Event>> {
        self.turn(cancel)
    }

    fn is_idle(&self) -> bool {
        Engine::is_idle(self)
    }

    fn holding(&self) -> Holding {
        Engine::holding(self)
    }
}

/// A handle to the thread.
pub struct Worker {
    /// None once it was told to end.
    thread: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
    healthy: Arc<AtomicBool>,
    ending: Cancel,
}

impl Worker {
    /// Starts the thread and makes its engine there.
    ///
    /// # Errors
    /// What `make` reports the first time.
    pub fn start<C: Core>(
        mut make: impl FnMut() -> Result<C> + Send + 'static,
        metrics: Arc<Metrics>,
    ) -> Result<Worker> {
        let (jobs, arriving) = channel();
        let (made, first) = sync_channel(1);
        let (healthy, ending) = (Arc::new(AtomicBool::new(true)), Cancel::default());
        let (health, end) = (healthy.clone(), ending.clone());
        let work = move || match make() {
            Ok(core) if made.send(Ok(())).is_ok() => {
                Thread { make, arriving, health, end, metrics }.run(core);
                tracing::info!("the engine has ended");
            }
            Ok(_) => {}
            Err(e) => drop(made.send(Err(e))),
        };
        let thread = Builder::new().name("engine".into()).spawn(work);
        let thread = thread.map_err(|e| Error::io("the engine's thread", e))?;
        first.recv().unwrap_or_else(|_| Err(Error::request("engine", "panicked while it was made")))?;
        Ok(Worker { thread: Mutex::new(Some((jobs, thread))), healthy, ending })
    }

    /// Hands over a job; one that comes too late is broken.
    pub fn submit(&self, job: Job) {
        if let Some((jobs, _)) = &*self.thread() {
            // Without a receiver the job is dropped, which its reader sees.
            let _ = jobs.send(job);
        }
    }

    /// False while there is no engine that works.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Cancels every job, gives up the step under way, and waits for the thread to end.
    pub fn end(&self) {
        self.ending.cancel();
        let thread = self.thread().take();
        if let Some((jobs, thread)) = thread {
            drop(jobs);
            // It catches what panics.
            let _ = thread.join();
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<(Sender<Job>, JoinHandle<()>)>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has beside its engine.
struct Thread<M> {
    make: M,
    arriving: Receiver<Job>,
    health: Arc<AtomicBool>,
    end: Cancel,
    metrics: Arc<Metrics>,
}

impl<M> Thread<M> {
    /// Works until all senders of jobs are gone.
    fn run<C: Core>(mut self, core: C)
    where
        M: FnMut() -> Result<C>,
    {
        let mut core = Some(core);
        while let Ok(first) = self.arriving.recv() {
            if core.is_none() {
                core = self.remake(None);
            }
            let Some(working) = &mut core else { continue };
            let mut batch = Batch { jobs: BTreeMap::new(), metrics: &self.metrics };
            let worked = catch_unwind(AssertUnwindSafe(|| batch.run(working, first, &self.arriving, &self.end)));
            let why = match worked {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked".into(),
            };
            tracing::error!(why, requests = batch.jobs.len(), "the engine failed");
            self.health.store(false, Ordering::Relaxed);
            drop(batch);
            core = self.remake(core);
        }
    }

    /// Another engine in place of a broken one.
    fn remake<C>(&mut self, broken: Option<C>) -> Option<C>
    where
        M: FnMut() -> Result<C>,
    {
        self.metrics.hold(Holding::default());
        let made = catch_unwind(AssertUnwindSafe(|| {
            // There may not be room for both.
            drop(broken);
            (self.make)()
        }));
        let core = match made {
            Ok(Ok(core)) => Some(core),
            Ok(Err(error)) => {
                tracing::error!(%error, "the engine cannot be made anew");
                None
            }
            Err(_) => None,
        };
        self.health.store(core.is_some(), Ordering::Relaxed);
        core
    }
}

/// The answers that an engine works on, until it is idle.
struct Batch<'m> {
    jobs: BTreeMap<(RequestId, usize), UnderWay>,
    metrics: &'m Metrics,
}

/// An answer without its request, which the engine has.
struct UnderWay {
    events: mpsc::Sender<What>,
    arrived: Instant,
    /// Until the engine had it.
    waited: Duration,
    last_token: Option<Instant>,
    _turn: Arc<Turn>,
}

impl Batch<'_> {
    /// Works on `first` and what arrives meanwhile.
    fn run(&mut self, core: &mut impl Core, first: Job, arriving: &Receiver<Job>, end: &Cancel) -> Result<()> {
        self.submit(core, first);
        loop {
            self.cancel_deserted(core, end);
            arriving.try_iter().for_each(|job| self.submit(core, job));
            self.metrics.hold(core.holding());
            if core.is_idle() {
                return Ok(());
            }
            core.step(end)?.into_iter().for_each(|event| self.deliver(event));
        }
    }

    fn submit(&mut self, core: &mut impl Core, job: Job) {
        let Job { request, taken, events, arrived, turn } = job;
        let told = match core.submit(request) {
            Ok(id) => {
                let (waited, turn) = (arrived.elapsed(), Arc::new(turn));
                for (choice, events) in events.into_iter().enumerate() {
                    let job = UnderWay { events, arrived, waited, last_token: None, _turn: turn.clone() };
                    self.jobs.insert((id, choice), job);
                }
                taken.send(Ok(()))
            }
            Err(e) => taken.send(Err(e)),
        };
        // A client that is gone is seen before the next step.
        drop(told);
    }

    /// Ends the jobs that nobody reads any more, and all of them at the end.
    fn cancel_deserted(&mut self, core: &mut impl Core, end: &Cancel) {
        self.jobs.retain(|(id, choice), job| {
            let keep = !job.events.is_closed() && !end.is_cancelled();
            if !keep && let Some(timing) = core.cancel(*id, *choice) {
                self.metrics.computed(job.waited, &timing);
            }
            keep
        });
    }

    fn deliver(&mut self, Event { request, choice, what }: Event) {
        let Some(job) = self.jobs.get_mut(&(request, choice)) else { return };
        let ends = !matches!(what, What::Token { .. });
        match &what {
            What::Token { .. } => job.note_token(self.metrics),
            What::Done(_, timing) => self.metrics.computed(job.waited, timing),
            What::Failed(_) => {}
        }
        // A reader that is gone is seen before the next step.
        let _ = job.events.try_send(what);
        if ends {
            self.jobs.remove(&(request, choice));
        }
    }
}

impl UnderWay {
    fn note_token(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => metrics.first_token(now - self.arrived),
            Some(before) => metrics.next_token(now - before),
        }
    }
}

#[cfg(test)]
pub mod tests;
