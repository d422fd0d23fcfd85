//! Threads that work on one job at a time, together with the thread that gives it.
//!
//! Owns waiting: a decode step is some two hundred jobs of a fraction of a millisecond, so a thread looks out for the next one for a while before it
//! sleeps. Refuses to know how a job is cut into tasks. The surprise: nobody waits for a thread to begin. A job is open while its giver works on it;
//! who comes later has missed it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks out for the next job: longer than what lies between two products of a step, shorter than anybody would notice.
const LOOK_OUT: Duration = Duration::from_micros(200);
/// Looks between two looks at the clock.
const LOOKS: usize = 64;

/// A job: every thread calls it once, at most.
type Job<'a> = &'a (dyn Fn() + Sync);

/// In [`Shared::state`]: the job is open.
const OPEN: u64 = 1;
/// One thread inside the job.
const INSIDE: u64 = 2;
/// Threads inside, at most; above are the number of jobs so far.
const JOB: u64 = 1 << 20;

/// A number of threads.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Whether someone's job is under way.
    taken: AtomicBool,
    state: AtomicU64,
    /// Written while the state is closed and nobody is inside, read from inside.
    job: UnsafeCell<Option<Job<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
    end: AtomicBool,
}

// SAFETY: `job` is the only field that is not `Sync` by itself; `state` orders its writes and reads.
unsafe impl Sync for Shared {}

impl Team {
    /// `threads` threads beside the one that gives a job.
    pub fn new(threads: usize) -> Team {
        let shared = Arc::new(Shared {
            taken: AtomicBool::new(false),
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::default(),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::default(),
            alarm: Condvar::new(),
            end: AtomicBool::new(false),
        });
        let start = |i| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("cpu{i}"));
            thread.spawn(move || shared.work()).expect("the operating system starts threads")
        };
        let threads = (1..=threads).map(start).collect();
        Team { shared, threads }
    }

    /// Calls `job` on this thread, and at the same time on those of the team that are there. It must be one that any of them can do alone. A job
    /// given while another is under way, from inside it or by another thread, is its giver's alone.
    ///
    /// # Panics
    /// If `job` does, on whatever thread.
    pub fn run(&self, job: Job) {
        let shared = &*self.shared;
        if self.threads.is_empty() || shared.taken.swap(true, Ordering::Acquire) {
            return job();
        }
        shared.open(job);
        let mine = catch_unwind(AssertUnwindSafe(job));
        shared.close();
        let theirs = lock(&shared.panic).take();
        shared.taken.store(false, Ordering::Release);
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // It catches panics, and has none of its own.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn open(&self, job: Job) {
        // SAFETY: only the lifetime changes. `close` returns when nobody is inside, and before `job` ends.
        let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        // SAFETY: this thread has `taken`, the state is closed and nobody is inside: nobody else looks.
        unsafe { *self.job.get() = Some(job) };
        let jobs = self.state.load(Ordering::Relaxed) / JOB;
        // In one order with the sleepers' count: either they see the job or they are seen.
        self.state.store(((jobs + 1) * JOB) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Relaxed) & !OPEN;
        let mut looks = 0;
        while !state.is_multiple_of(JOB) {
            looks += 1;
            // One of them may have lost its core.
            if looks > LOOKS {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.state.load(Ordering::Acquire);
        }
        std::sync::atomic::fence(Ordering::Acquire);
    }

    fn wake(&self) {
        let _bed = lock(&self.bed);
        self.alarm.notify_all();
    }

    /// What a thread of the team does.
    fn work(&self) {
        let mut done = 0;
        while !self.end.load(Ordering::Relaxed) {
            match self.enter(done) {
                Some(jobs) => {
                    // SAFETY: this thread is inside.
                    let job = unsafe { *self.job.get() };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job.iter().for_each(|job| job()))) {
                        *lock(&self.panic) = Some(panic);
                    }
                    self.state.fetch_sub(INSIDE, Ordering::Release);
                    done = jobs;
                }
                None => self.look_out(done),
            }
        }
    }

    /// Enters the open job if it is not the one that this thread has done; gives its number.
    fn enter(&self, done: u64) -> Option<u64> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 && state / JOB != done {
            match self.state.compare_exchange_weak(state, state + INSIDE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(state / JOB),
                Err(now) => state = now,
            }
        }
        None
    }

    /// True if there is something to do for a thread that has done job `done`.
    fn is_called(&self, done: u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & OPEN != 0 && state / JOB != done || self.end.load(Ordering::SeqCst)
    }

    /// Waits for a job: awake for some time, then asleep.
    fn look_out(&self, done: u64) {
        let start = Instant::now();
        while start.elapsed() < LOOK_OUT {
            for _ in 0..LOOKS {
                if self.is_called(done) {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.is_called(done) {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drains a counter, and counts how often each number came.
    fn drained(team: &Team, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let next = AtomicUsize::new(0);
        team.run(&|| {
            while let Some(count) = counts.get(next.fetch_add(1, Ordering::Relaxed)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn a_job_is_done_when_its_giver_goes_on() {
        let team = Team::new(3);
        for i in 0..20_000 {
            assert_eq!(drained(&team, i % 7), vec![1; i % 7]);
            if i % 5_000 == 0 {
                // They sleep by now.
                std::thread::sleep(3 * LOOK_OUT);
            }
        }
    }

    #[test]
    fn threads_of_the_team_take_part() {
        let team = Team::new(2);
        let all = std::sync::Barrier::new(3);
        // Only if three threads come does it end.
        team.run(&|| {
            all.wait();
        });
    }

    #[test]
    fn jobs_inside_a_job_and_beside_it_are_done_too() {
        let team = Team::new(2);
        let outer = || (0..200).for_each(|_| team.run(&|| assert_eq!(drained(&team, 3), [1; 3])));
        std::thread::scope(|s| (0..3).for_each(|_| drop(s.spawn(outer))));
    }

    #[test]
    fn a_panic_reaches_the_giver_from_any_thread_and_ends_nothing_else() {
        let team = Team::new(1);
        let giver = std::thread::current().id();
        for on_giver in [true, false] {
            let both = std::sync::Barrier::new(2);
            let job = || {
                both.wait();
                assert_ne!(std::thread::current().id() == giver, on_giver, "as told");
            };
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(&job))).is_err());
        }
        assert_eq!(drained(&team, 9), [1; 9]);
    }
}
