//! A block: what its warps share, and who of them runs. Warps go in an order that the seed shuffles, anew after every
//! barrier; each runs until it waits or has used up its turn.

use super::barrier::{BARRIERS, Completed, Named};
use super::cluster::ClusterBarrier;
use super::grid::Grid;
use super::mbarrier::Phases;
use super::races::Races;
use super::report::{Broken, Run};
use super::shared::Bytes;
use super::warp::{Cx, Ended, State, Warp, Work};
use super::wgmma::Warpgroup;
use crate::fault::{FaultKind, Thread};
use crate::registers::{Mask, WARP};
use std::collections::HashMap;
use std::io::Write;

/// Instructions that a warp runs in one turn: short, because neighbouring warps use neighbouring memory.
const TURN: u32 = 400;
/// Text that is kept before whole lines of it are printed.
const TEXT: usize = 1 << 14;

/// What the warps of a block share.
pub(super) struct Cta {
    pub place: [u32; 3],
    pub shared: Bytes,
    pub races: Races,
    pub barriers: [Named; BARRIERS],
    /// Barriers that completed, for the warps that wait there.
    completed: Vec<Completed>,
    pub mbarriers: HashMap<u32, Phases>,
    pub cluster: ClusterBarrier,
    pub warpgroups: Vec<Warpgroup>,
    /// Bulk copies so far.
    copies: u32,
    /// Warps that have not exited.
    live: Mask,
    pub text: Vec<u8>,
    /// Warp instructions that the block has begun: what `%clock` shows.
    pub clock: u64,
}

impl Cta {
    /// A warp has now these lanes left; without any it holds up no barrier.
    pub fn exited(&mut self, warp: usize, lanes: Mask) {
        self.cluster.exited(warp, lanes);
        if lanes == 0 {
            self.live &= !(1 << warp);
            (0..BARRIERS as u32).for_each(|id| self.settle(id));
        }
    }

    /// The number of a new bulk copy, from 1.
    pub fn next_copy(&mut self) -> u32 {
        self.copies += 1;
        self.copies
    }

    /// Whether a warp has not exited.
    pub fn alive(&self, warp: usize) -> bool {
        self.live >> warp & 1 == 1
    }

    /// Completes a barrier if nothing is missing.
    pub fn settle(&mut self, id: u32) {
        self.completed.extend(self.barriers[id as usize].complete(id, self.live));
    }

    /// Prints what is there up to the last end of a line, once it is much.
    pub fn print_lines(&mut self) {
        if self.text.len() >= TEXT
            && let Some(end) = self.text.iter().rposition(|b| *b == b'\n')
        {
            let rest = self.text.split_off(end + 1);
            self.print_all();
            self.text = rest;
        }
    }

    /// A closed stdout is no fault of the kernel's.
    fn print_all(&mut self) {
        if !self.text.is_empty() {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&self.text).and_then(|()| out.flush());
            self.text.clear();
        }
    }
}

impl Drop for Cta {
    fn drop(&mut self) {
        self.print_all();
    }
}

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
        let granule = grid.program.needs.shared_granule;
        let cta = Cta {
            place: grid.block_at(index),
            shared: Bytes::new(grid.shared.into()),
            races: Races::new(warps as usize, grid.shared, granule, grid.rules.races, grid.rules.unwritten),
            barriers: Default::default(),
            completed: Vec::new(),
            mbarriers: HashMap::new(),
            cluster: ClusterBarrier::new((0..warps).map(|w| grid.lanes_of(w)).collect()),
            copies: 0,
            warpgroups: (0..warps.div_ceil(4)).map(|_| Warpgroup::default()).collect(),
            live: Mask::MAX >> (WARP as u32 - warps),
            text: Vec::new(),
            clock: 0,
        };
        let mut block = Block {
            cta,
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
