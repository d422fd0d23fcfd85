//! A block: who of its warps runs. Warps go in an order that the seed shuffles, anew after every barrier; each runs until
//! it waits or has used up its turn.

use super::report::{Broken, Run};
use super::state::cta::Cta;
use super::state::grid::Grid;
use super::state::warp::{Cx, State, Warp, Work};
use super::step::Ended;
use crate::fault::{FaultKind, Thread};
use crate::registers::WARP;

/// Instructions that a warp runs in one turn: short, because neighbouring warps use neighbouring memory.
const TURN: u32 = 400;

/// See the module.
pub(super) struct Block<'g> {
    cta: Cta,
    warps: Vec<Warp<'g>>,
    ended: Vec<Ended>,
    order: Vec<usize>,
    random: u64,
}

impl<'g> Block<'g> {
    /// Block number `index` of the grid, at the program's start.
    pub fn new(grid: &'g Grid<'g>, index: u64) -> Block<'g> {
        let warps = grid.warps();
        let mut block = Block {
            cta: Cta::new(grid, index),
            warps: (0..warps).map(|w| Warp::new(grid, w, index)).collect(),
            ended: vec![Ended::Ready; warps as usize],
            order: (0..warps as usize).collect(),
            random: grid.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        block.shuffle();
        block
    }

    /// Fisher and Yates, with numbers by SplitMix64.
    fn shuffle(&mut self) {
        for i in (1..self.order.len()).rev() {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.random;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.order.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
        }
    }

    /// A turn for every warp that can run; whether all have exited.
    pub fn round(&mut self, grid: &'g Grid<'g>, work: &mut Work) -> Run<bool> {
        let mut ran = false;
        for turn in 0..self.order.len() {
            let w = self.order[turn];
            if self.ended[w] != Ended::Ready {
                continue;
            }
            ran = true;
            let before = self.cta.clock;
            let mut cx = Cx { grid, cta: &mut self.cta, work };
            self.ended[w] = self.warps[w].run(&mut cx, TURN)?;
            self.release(grid);
            self.idle(grid, work, self.cta.clock - before, w)?;
        }
        if self.ended.iter().all(|e| *e == Ended::Exited) {
            return Ok(true);
        }
        if ran { Ok(false) } else { Err(self.deadlock(grid)) }
    }

    /// Warps at completed barriers go on.
    fn release(&mut self, grid: &Grid) {
        let completed = std::mem::take(&mut self.cta.completed);
        for done in &completed {
            for w in (0..self.warps.len()).filter(|w| done.waiting >> w & 1 == 1) {
                self.cta.races.receive(w, &done.clock);
                self.warps[w].pass(grid.program, done);
                self.ended[w] = Ended::Ready;
            }
        }
        if !completed.is_empty() {
            self.shuffle();
        }
    }

    /// Stops a launch in which everyone spins: much has run and nothing was stored.
    fn idle(&self, grid: &Grid, work: &mut Work, instructions: u64, w: usize) -> Run {
        if std::mem::take(&mut work.progress) {
            grid.progressed();
            return Ok(());
        }
        if grid.idled(instructions) {
            let mut why =
                format!("{} warp instructions ran and no memory changed: the kernel spins for ever", grid.patience);
            let mut open: Vec<_> = self.cta.mbarriers.iter().filter_map(|(at, object)| object.describe(*at)).collect();
            open.sort_unstable();
            open.into_iter().for_each(|mbarrier| why = format!("{why}; {mbarrier}"));
            return Err(self.stuck(grid, w, why));
        }
        Ok(())
    }

    fn deadlock(&self, grid: &Grid) -> Box<Broken> {
        let barriers = self.cta.barriers.iter().enumerate();
        let waits: Vec<String> = barriers.filter_map(|(id, b)| b.describe(id as u32, self.cta.live)).collect();
        let w = self.ended.iter().position(|e| *e == Ended::Waiting).unwrap_or(0);
        self.stuck(grid, w, format!("no warp of the block can go on: {}", waits.join("; ")))
    }

    fn stuck(&self, grid: &Grid, w: usize, why: String) -> Box<Broken> {
        let group = self.warps[w].groups.iter().find(|g| matches!(g.state, State::Barrier(_)));
        let group = group.or(self.warps[w].groups.first());
        let lane = group.map_or(0, |g| g.mask.trailing_zeros());
        let thread = Thread { block: self.cta.place, thread: grid.thread_at(w as u32 * WARP as u32 + lane) };
        let kind = FaultKind::Deadlock;
        Box::new(Broken { kind, lane: Some(lane), thread: Some(thread), pc: group.map(|g| g.pc), why })
    }
}
