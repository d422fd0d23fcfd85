//! The barrier of a cluster, which is one block here.

use crate::machine::clock::Clock;
use crate::registers::{Lanes, Mask};

/// The barrier between two completions.
#[derive(Default)]
pub struct ClusterBarrier {
    /// Completions so far.
    pub phase: u32,
    /// By warp: threads that have not exited, and those that arrived.
    live: Vec<Mask>,
    pub arrived: Vec<Mask>,
    pub handed: Clock,
    pub done: Clock,
}

impl ClusterBarrier {
    pub fn new(live: Vec<Mask>) -> ClusterBarrier {
        ClusterBarrier { arrived: vec![0; live.len()], live, ..ClusterBarrier::default() }
    }

    /// A warp has now these lanes left.
    pub fn exited(&mut self, warp: usize, lanes: Mask) {
        self.live[warp] = lanes;
        self.settle();
    }

    /// Completes it if nobody is missing.
    pub fn settle(&mut self) {
        let missing = self.live.iter().zip(&self.arrived).any(|(live, arrived)| live & !arrived != 0);
        if !missing && self.arrived.iter().any(|arrived| *arrived != 0) {
            self.phase += 1;
            self.arrived.fill(0);
            self.done = std::mem::take(&mut self.handed);
        }
    }
}

/// By lane: completions that its last arrival asks for.
pub type Awaited = Lanes<u32>;
