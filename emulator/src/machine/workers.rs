//! The host threads that run a launch: they take blocks in order of their number. Blocks of a cooperative grid are all
//! there from the start and the threads go round among them.

use super::block::Block;
use super::report::{Broken, Run};
use super::state::grid::Grid;
use super::state::warp::Work;
use super::tally::Tally;
use crate::counters::Counters;
use crate::fault::{Fault, FaultKind};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What the threads of a launch share.
struct Workers<'g> {
    grid: &'g Grid<'g>,
    /// The number of the next block.
    next: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<Box<Broken>>>,
}

/// Runs all blocks on so many threads, or as many as there are blocks.
pub(super) fn run<'g>(grid: &'g Grid<'g>, threads: usize) -> Result<Counters, Box<Fault>> {
    Workers { grid, next: AtomicU64::new(0), stop: AtomicBool::new(false), fault: Mutex::new(None) }.run(threads)
}

impl<'g> Workers<'g> {
    fn run(&self, threads: usize) -> Result<Counters, Box<Fault>> {
        let grid = self.grid;
        let workers = (threads as u64).clamp(1, grid.blocks.max(1));
        let resident = grid.launch.cooperative.then(|| (0..grid.blocks).map(|b| Block::new(grid, b)).collect());
        let resident = resident.map(Mutex::new);
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let spawned: Vec<_> = (1..workers).map(|_| scope.spawn(|| self.work(resident.as_ref()))).collect();
            let own = self.work(resident.as_ref());
            let others = spawned.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            std::iter::once(own).chain(others).collect()
        });
        if let Some(broken) = lock(&self.fault).take() {
            return Err(Box::new(broken.into_fault(grid.program)));
        }
        if let Some(why) = grid.global.missing_output() {
            let broken = Broken { kind: FaultKind::Operand, lane: None, thread: None, pc: None, why };
            return Err(Box::new(broken.into_fault(grid.program)));
        }
        Ok(self.count(tallies))
    }

    fn count(&self, tallies: Vec<Tally>) -> Counters {
        let grid = self.grid;
        let mut sum = Counters { threads_per_block: grid.threads, shared_bytes: grid.shared, ..Counters::default() };
        tallies.into_iter().for_each(|t| t.merge_into(&mut sum, grid.program));
        (sum.global_bytes_read, sum.global_bytes_written) = grid.global.distinct_bytes();
        sum
    }

    /// One worker, until nothing is left or something broke.
    fn work(&self, resident: Option<&Mutex<VecDeque<Block<'g>>>>) -> Tally {
        let recent = vec![u32::MAX; self.grid.program.code.len()];
        let mut work = Work { tally: Tally::new(self.grid.program), recent, progress: false, looks: 0 };
        let done = match resident {
            Some(blocks) => self.rotate(blocks, &mut work),
            None => self.in_order(&mut work),
        };
        if let Err(broken) = done {
            self.stop.store(true, Ordering::Relaxed);
            lock(&self.fault).get_or_insert(broken);
        }
        work.tally
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn in_order(&self, work: &mut Work) -> Run {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.grid.blocks {
                return Ok(());
            }
            let mut block = Block::new(self.grid, index);
            while !self.stopped() && !block.round(self.grid, work)? {}
            if self.stopped() {
                return Ok(());
            }
            work.tally.total.blocks += 1;
        }
    }

    /// Runs resident blocks in turns. A worker that finds none leaves: the others have what is left.
    fn rotate(&self, blocks: &Mutex<VecDeque<Block<'g>>>, work: &mut Work) -> Run {
        while !self.stopped() {
            let Some(mut block) = lock(blocks).pop_front() else { return Ok(()) };
            if block.round(self.grid, work)? {
                work.tally.total.blocks += 1;
            } else {
                lock(blocks).push_back(block);
            }
        }
        Ok(())
    }
}

/// A poisoned lock belongs to a worker that panicked; its data is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
