//! The thread that owns the engine: jobs in, events out.
//!
//! A job's channel has room for every token it may draw, so a slow reader neither blocks the engine nor loses anything; a reader that drops
//! its end cancels the job. The surprise: a panic is an event like any other. The engine that had it is thrown away, and a new one is made
//! before the next job; while that fails the worker is unhealthy, and says so.

use super::metrics::Metrics;
use crate::engine::{Cancel, Engine, Finish, Request, Timing};
use crate::error::{Error, Result};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A request on its way to the engine.
pub struct Job {
    pub request: Request,
    pub cancel: Cancel,
    pub events: mpsc::Sender<Event>,
    /// When the request came in.
    pub arrived: Instant,
    /// Its place among those that are let in, until it is done.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What becomes of a job: tokens, then how it ended.
#[derive(Debug)]
pub enum Event {
    Token(u32),
    Done(Finish),
    Failed(Error),
    /// The engine panicked, or there is none.
    Broken,
}

/// What a worker runs: the engine, or in tests something that fails on purpose.
pub trait Core {
    /// Continues a prompt; `on_token` sees every token and may end the answer.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn generate(
        &mut self,
        request: &Request,
        cancel: &Cancel,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(Finish, Timing)>;
}

impl Core for Engine {
    fn generate(
        &mut self,
        request: &Request,
        cancel: &Cancel,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(Finish, Timing)> {
        Engine::generate(self, request, cancel, on_token).map(|out| (out.finish, out.timing))
    }
}

/// A handle to the thread. It ends when all senders of jobs are gone.
#[derive(Clone)]
pub struct Worker {
    pub jobs: mpsc::Sender<Job>,
    healthy: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread and makes its engine there; `queue` jobs may wait.
    ///
    /// # Errors
    /// What `make` reports the first time.
    pub fn start<C: Core>(
        mut make: impl FnMut() -> Result<C> + Send + 'static,
        queue: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Worker> {
        let (jobs, waiting) = mpsc::channel(queue);
        let (made, first) = std::sync::mpsc::sync_channel(1);
        let healthy = Arc::new(AtomicBool::new(true));
        let flag = healthy.clone();
        let work = move || match make() {
            Ok(core) => {
                let told = made.send(Ok(()));
                if told.is_ok() {
                    run(core, make, waiting, &flag, &metrics);
                }
            }
            Err(e) => drop(made.send(Err(e))),
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(work);
        thread.map_err(|e| Error::io("the engine's thread", e))?;
        first.recv().unwrap_or_else(|_| Err(Error::request("engine", "panicked while it was made")))?;
        Ok(Worker { jobs, healthy })
    }

    /// False while there is no engine that works.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && !self.jobs.is_closed()
    }
}

fn run<C: Core>(
    core: C,
    mut make: impl FnMut() -> Result<C>,
    mut waiting: mpsc::Receiver<Job>,
    healthy: &AtomicBool,
    metrics: &Metrics,
) {
    let mut core = Some(core);
    while let Some(mut job) = waiting.blocking_recv() {
        if job.cancel.is_cancelled() {
            continue;
        }
        let end = match &mut core {
            Some(core) => catch_unwind(AssertUnwindSafe(|| serve(core, &job, metrics))).unwrap_or(Event::Broken),
            None => Event::Broken,
        };
        // After a panic, or a device's error, which lasts, nothing that the engine holds can be trusted.
        if matches!(end, Event::Broken | Event::Failed(Error::Device { .. })) {
            healthy.store(false, Ordering::Relaxed);
            core = None;
        }
        // Whoever reads the end finds the place free. Nobody may be left to tell.
        drop(job.place.take());
        let _ = job.events.try_send(end);
        if core.is_none() {
            core = remade(&mut make);
            healthy.store(core.is_some(), Ordering::Relaxed);
        }
    }
}

fn remade<C>(make: &mut impl FnMut() -> Result<C>) -> Option<C> {
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(Ok(core)) => {
            tracing::warn!("the engine was made anew after a failure");
            Some(core)
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the engine cannot be made anew");
            None
        }
        Err(_) => None,
    }
}

/// Runs one job; its last event is left to be sent.
fn serve(core: &mut impl Core, job: &Job, metrics: &Metrics) -> Event {
    let running = metrics.running(job.arrived);
    let mut last: Option<Instant> = None;
    let done = core.generate(&job.request, &job.cancel, &mut |id| {
        let now = Instant::now();
        match last.replace(now) {
            None => metrics.first_token(now - job.arrived),
            Some(before) => metrics.next_token(now - before),
        }
        match job.events.try_send(Event::Token(id)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    drop(running);
    match done {
        Ok((finish, timing)) => {
            metrics.computed(&timing);
            Event::Done(finish)
        }
        Err(e) => Event::Failed(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Controls, Sampling};
    use crate::text::positions::Positions;
    use crate::text::prompt::Prompt;

    /// Answers with the prompt's ids, each once it is told; 13 panics, 14 breaks the device.
    struct Parrot;

    impl Core for Parrot {
        fn generate(
            &mut self,
            request: &Request,
            cancel: &Cancel,
            on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
        ) -> Result<(Finish, Timing)> {
            for &id in &request.prompt.ids {
                assert_ne!(id, 13, "unlucky");
                if id == 14 {
                    return Err(Error::Device { at: "launch".into(), why: "gone".into() });
                }
                if on_token(id).is_break() || cancel.is_cancelled() {
                    return Ok((Finish::Cancelled, Timing::default()));
                }
            }
            Ok((Finish::Length, Timing::default()))
        }
    }

    fn job(ids: &[u32]) -> (Job, mpsc::Receiver<Event>) {
        let (events, out) = mpsc::channel(ids.len() + 1);
        let request = Request {
            prompt: Prompt { ids: ids.to_vec(), spans: Vec::new() },
            positions: Positions { thw: Default::default(), next: 0 },
            media: Vec::new(),
            sampling: Sampling::GREEDY,
            controls: Controls::default(),
            max_new_tokens: ids.len(),
            stop: Vec::new(),
        };
        (Job { request, cancel: Cancel::default(), events, arrived: Instant::now(), place: None }, out)
    }

    /// Everything that becomes of a job, in short.
    fn outcome(worker: &Worker, ids: &[u32]) -> Vec<String> {
        let (job, mut out) = job(ids);
        worker.jobs.blocking_send(job).ok().unwrap();
        let mut seen = Vec::new();
        while let Some(event) = out.blocking_recv() {
            seen.push(match event {
                Event::Token(id) => id.to_string(),
                Event::Done(finish) => finish.name().into(),
                Event::Failed(e) => e.to_string(),
                Event::Broken => "broken".into(),
            });
        }
        seen
    }

    /// A worker whose engine can be made as often as `makes` says.
    fn worker(makes: usize) -> Worker {
        let mut left = makes;
        let make = move || {
            left = left.checked_sub(1).ok_or_else(|| Error::request("engine", "is no more"))?;
            Ok(Parrot)
        };
        Worker::start(make, 4, Arc::new(Metrics::new("m"))).unwrap()
    }

    #[test]
    fn a_panic_ends_its_request_and_no_other() {
        let worker = worker(2);
        assert_eq!(outcome(&worker, &[1, 2]), ["1", "2", "length"]);
        assert_eq!(outcome(&worker, &[1, 13, 2]), ["1", "broken"]);
        assert_eq!(outcome(&worker, &[3]), ["3", "length"]);
        assert!(worker.is_healthy());
    }

    #[test]
    fn an_engine_that_cannot_be_made_anew_is_unhealthy() {
        let worker = worker(1);
        assert_eq!(outcome(&worker, &[14]), ["launch: gone"]);
        assert_eq!(outcome(&worker, &[1]), ["broken"]);
        assert!(!worker.is_healthy());
    }

    #[test]
    fn an_engine_that_cannot_be_made_at_all_is_an_error_at_the_start() {
        let make = || -> Result<Parrot> { Err(Error::request("--model", "is bad")) };
        let error = Worker::start(make, 4, Arc::new(Metrics::new("m"))).err().unwrap();
        assert_eq!(error.to_string(), "--model: is bad");
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_work() {
        let worker = worker(1);
        let (first, out) = job(&vec![1; 1000]);
        drop(out);
        worker.jobs.blocking_send(first).ok().unwrap();
        assert_eq!(outcome(&worker, &[2]), ["2", "length"]);
    }
}
