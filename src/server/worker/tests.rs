use super::*;
use crate::engine::{Controls, Finish, Sampling};
use crate::server::pool::Pool;
use crate::text::positions::Positions;
use crate::text::prompt::Prompt;
use futures_util::FutureExt;

/// Answers with a prompt's ids, one a step. Some are special, and seen before anything of their step is told.
pub struct Parrot {
    born: Instant,
    submitted: u64,
    under_way: Vec<(RequestId, Vec<u32>)>,
    cancelled: Arc<Mutex<Vec<u64>>>,
}

/// Waits until another request is there, for ten seconds.
pub const MEET: u32 = 12;
pub const PANIC: u32 = 13;
/// The device is gone.
const GONE: u32 = 14;
/// The request fails.
const POISON: u32 = 15;
/// The step lasts until it is given up, or ten seconds.
const LONG: u32 = 16;

impl Core for Parrot {
    fn submit(&mut self, request: Request) -> Result<RequestId> {
        if request.prompt.ids.is_empty() {
            return Err(Error::request("prompt", "is empty"));
        }
        let id = RequestId(self.submitted);
        self.submitted += 1;
        self.under_way.push((id, request.prompt.ids.into_iter().rev().collect()));
        Ok(id)
    }

    fn cancel(&mut self, request: RequestId, _: usize) -> Option<Timing> {
        self.cancelled.lock().unwrap().push(request.0);
        self.under_way.retain(|(id, _)| *id != request);
        Some(Timing::default())
    }

    fn step(&mut self, cancel: &Cancel) -> Result<Vec<Event>> {
        let next: Vec<u32> = self.under_way.iter().filter_map(|(_, ids)| ids.last().copied()).collect();
        assert!(!next.contains(&PANIC), "unlucky");
        if next.contains(&GONE) {
            return Err(Error::Device { at: "launch".into(), why: "gone".into() });
        }
        while next.contains(&LONG) && !cancel.is_cancelled() && self.born.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let alone = self.under_way.len() < 2;
        assert!(!alone || self.born.elapsed() < Duration::from_secs(10), "nobody came");
        let mut events = Vec::new();
        self.under_way.retain_mut(|(request, ids)| {
            let mut tell = |what| events.push(Event { request: *request, choice: 0, what });
            match ids.pop() {
                Some(MEET) if alone => ids.push(MEET),
                Some(POISON) => tell(What::Failed(Error::Numerics("NaN".into()))),
                Some(id) => tell(What::Token { id, logprobs: None }),
                None => tell(What::Done(Finish::Length, Timing::default())),
            }
            !matches!(events.last(), Some(Event { request: r, what: What::Done(..) | What::Failed(_), .. }) if r == request)
        });
        Ok(events)
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    fn holding(&self) -> Holding {
        Holding { running: self.under_way.len(), ..Holding::default() }
    }
}

/// Hands a job over and gives what becomes of it.
fn submit(worker: &Worker, ids: &[u32]) -> mpsc::Receiver<What> {
    submit_told(worker, ids).1
}

/// Hands a job over and gives whether the engine takes it, and what becomes of it.
fn submit_told(worker: &Worker, ids: &[u32]) -> (oneshot::Receiver<Result<()>>, mpsc::Receiver<What>) {
    let (events, out) = mpsc::channel(ids.len() + 1);
    let (taken, told) = oneshot::channel();
    let request = Request {
        prompt: Prompt { ids: ids.to_vec(), spans: Vec::new() },
        positions: Positions { thw: Default::default(), next: 0 },
        media: Vec::new(),
        sampling: Sampling::GREEDY,
        controls: Controls::default(),
        choices: 1,
        priority: 0,
        max_new_tokens: ids.len(),
        stop: Vec::new(),
    };
    let turn = Pool::new(1).turn().now_or_never().unwrap().unwrap();
    worker.submit(Job { request, taken, events: vec![events], arrived: Instant::now(), turn });
    (told, out)
}

/// All of it, in short.
fn read(mut out: mpsc::Receiver<What>) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(what) = out.blocking_recv() {
        seen.push(match what {
            What::Token { id, .. } => id.to_string(),
            What::Done(finish, _) => finish.name().into(),
            What::Failed(e) => e.to_string(),
        });
    }
    seen
}

/// What becomes of jobs that are under way together.
fn outcomes<const N: usize>(worker: &Worker, jobs: [&[u32]; N]) -> [Vec<String>; N] {
    jobs.map(|ids| submit(worker, ids)).map(read)
}

/// A worker whose engine can be made as often as `makes` says, and which of its requests were cancelled.
pub fn worker(makes: usize) -> (Worker, Arc<Mutex<Vec<u64>>>) {
    let mut left = makes;
    let cancelled = Arc::new(Mutex::new(Vec::new()));
    let seen = cancelled.clone();
    let make = move || {
        left = left.checked_sub(1).ok_or_else(|| Error::request("engine", "is no more"))?;
        Ok(Parrot { born: Instant::now(), submitted: 0, under_way: Vec::new(), cancelled: seen.clone() })
    };
    (Worker::start(make, metrics()).unwrap(), cancelled)
}

pub fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("m", 1, 1))
}

#[test]
fn jobs_run_together() {
    let (worker, _) = worker(1);
    let [a, b] = outcomes(&worker, [&[1, MEET, 2], &[MEET, 4]]);
    assert_eq!((a.join(" "), b.join(" ")), ("1 12 2 length".into(), "12 4 length".into()));
}

#[test]
fn what_fails_alone_ends_alone() {
    let (worker, _) = worker(1);
    let [a, b] = outcomes(&worker, [&[1, MEET, POISON, 2], &[MEET, 3, 4]]);
    assert_eq!(a, ["1", "12", "NaN"]);
    assert_eq!(b, ["12", "3", "4", "length"]);
    assert!(worker.is_healthy());
}

#[test]
fn what_is_taken_and_what_is_refused_is_told_at_once() {
    let (worker, _) = worker(1);
    let (told, out) = submit_told(&worker, &[MEET]);
    assert!(told.blocking_recv().unwrap().is_ok());
    // The one under way waits for company that a refused one is not.
    let (told, refused) = submit_told(&worker, &[]);
    assert_eq!(told.blocking_recv().unwrap().unwrap_err().to_string(), "prompt: is empty");
    assert_eq!(read(refused), [""; 0]);
    assert_eq!(outcomes(&worker, [&[MEET]]), [["12", "length"]]);
    assert_eq!(read(out), ["12", "length"]);
}

#[test]
fn where_there_is_no_engine_nothing_is_told() {
    let (worker, _) = worker(1);
    worker.end();
    assert!(submit_told(&worker, &[1]).0.blocking_recv().is_err());
}

#[test]
fn a_job_that_ended_is_let_go_while_others_go_on() {
    let (worker, cancelled) = worker(1);
    // The short one ends at the second step it is in, so that the long one meets nobody yet.
    let [short, mut long] = [&[1][..], &[5, 6, MEET]].map(|ids| submit(&worker, ids));
    assert_eq!(read(short), ["1", "length"]);
    assert!(matches!(long.blocking_recv(), Some(What::Token { id: 5, .. })));
    assert!(matches!(long.blocking_recv(), Some(What::Token { id: 6, .. })));
    // From now on it waits.
    assert_eq!(outcomes(&worker, [&[MEET]]), [["12", "length"]]);
    assert_eq!(read(long), ["12", "length"]);
    assert_eq!(*cancelled.lock().unwrap(), [0; 0]);
}

#[test]
fn what_breaks_the_engine_ends_all_and_the_next_one_works() {
    let (worker, _) = worker(3);
    for bad in [PANIC, GONE] {
        let [a, b] = outcomes(&worker, [&[1, MEET, bad], &[MEET, 3, 4, 5, 6]]);
        assert_eq!(a, ["1", "12"]);
        assert!(b.len() < 5 && b[0] == "12" && !b.contains(&"length".into()), "{b:?}");
        assert_eq!(outcomes(&worker, [&[7]]), [["7", "length"]]);
        assert!(worker.is_healthy());
    }
}

#[test]
fn an_engine_that_cannot_be_made_anew_is_unhealthy() {
    let (worker, _) = worker(1);
    assert!(worker.is_healthy());
    assert_eq!(outcomes(&worker, [&[GONE]]), [[""; 0]]);
    assert_eq!(outcomes(&worker, [&[1]]), [[""; 0]]);
    assert!(!worker.is_healthy());
}

#[test]
fn an_engine_that_cannot_be_made_at_all_is_an_error_at_the_start() {
    let make = || -> Result<Parrot> { Err(Error::request("--model", "is bad")) };
    let error = Worker::start(make, metrics()).err().unwrap();
    assert_eq!(error.to_string(), "--model: is bad");
}

#[test]
fn a_reader_that_is_gone_ends_its_job_before_the_next_step() {
    let (worker, cancelled) = worker(1);
    let mut first = submit(&worker, &[1, MEET]);
    assert!(matches!(first.blocking_recv(), Some(What::Token { id: 1, .. })));
    // Closed is as good as dropped.
    first.close();
    assert_eq!(outcomes(&worker, [&[2]]), [["2", "length"]]);
    assert_eq!(*cancelled.lock().unwrap(), [0]);
    drop(first);
}

#[test]
fn the_end_cancels_what_is_under_way_and_waits_for_the_thread() {
    let (worker, cancelled) = worker(1);
    let mut first = submit(&worker, &[1, MEET]);
    assert!(matches!(first.blocking_recv(), Some(What::Token { id: 1, .. })));
    worker.end();
    assert_eq!(read(first), [""; 0]);
    assert_eq!(*cancelled.lock().unwrap(), [0]);
    assert_eq!(outcomes(&worker, [&[1]]), [[""; 0]]);
}

#[test]
fn the_end_does_not_wait_for_a_step() {
    let (worker, _) = worker(1);
    let mut first = submit(&worker, &[1, LONG]);
    assert!(matches!(first.blocking_recv(), Some(What::Token { id: 1, .. })));
    let start = Instant::now();
    worker.end();
    assert!(start.elapsed() < Duration::from_secs(5));
}
