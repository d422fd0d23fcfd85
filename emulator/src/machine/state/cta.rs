//! What the warps of a block share.

use super::barrier::{BARRIERS, Completed, Named};
use super::cluster::ClusterBarrier;
use super::grid::Grid;
use super::mbarrier::Phases;
use super::products::Warpgroup;
use crate::machine::races::Races;
use crate::machine::shared::Bytes;
use crate::registers::{Mask, WARP};
use std::collections::HashMap;
use std::io::Write;

/// Text that is kept before whole lines of it are printed.
const TEXT: usize = 1 << 14;
/// Instructions that a look at what others have yet to do counts as: a kernel in which everyone only looks is soon
/// known to spin for ever.
const LOOK: u64 = 1 << 10;

/// See the module.
pub struct Cta {
    pub place: [u32; 3],
    pub shared: Bytes,
    pub races: Races,
    pub barriers: [Named; BARRIERS],
    /// Barriers that completed, for the warps that wait there.
    pub completed: Vec<Completed>,
    pub mbarriers: HashMap<u32, Phases>,
    pub cluster: ClusterBarrier,
    pub warpgroups: Vec<Warpgroup>,
    /// Bulk copies so far.
    copies: u32,
    /// Warps that have not exited.
    pub live: Mask,
    pub text: Vec<u8>,
    /// Warp instructions that the block has begun: what `%clock` shows.
    pub clock: u64,
}

impl Cta {
    /// Of block number `index`, at the program's start.
    pub fn new(grid: &Grid, index: u64) -> Cta {
        let warps = grid.warps();
        let granule = grid.program.needs.shared_granule;
        Cta {
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
        }
    }

    /// Counts a look at what others have yet to do.
    pub fn look(&mut self) {
        self.clock += LOOK;
    }

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
