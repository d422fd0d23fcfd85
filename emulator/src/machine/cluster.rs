//! The barrier of a cluster, which is one block here: every thread arrives, and later waits for all others.

use super::clock::Clock;
use super::report::{Run, broken};
use super::warp::{Cx, Flow, Warp};
use crate::fault::FaultKind;
use crate::registers::{Lanes, Mask, lanes};

/// The barrier between two completions.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    /// Completions so far.
    phase: u32,
    /// By warp: threads that have not exited, and those that arrived.
    live: Vec<Mask>,
    arrived: Vec<Mask>,
    handed: Clock,
    done: Clock,
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

    fn settle(&mut self) {
        let missing = self.live.iter().zip(&self.arrived).any(|(live, arrived)| live & !arrived != 0);
        if !missing && self.arrived.iter().any(|arrived| *arrived != 0) {
            self.phase += 1;
            self.arrived.fill(0);
            self.done = std::mem::take(&mut self.handed);
        }
    }
}

/// By lane: completions that its last arrival asks for.
pub(super) type Awaited = Lanes<u32>;

impl<'g> Warp<'g> {
    pub(super) fn cluster_arrive(&mut self, cx: &mut Cx, relaxed: bool, mask: Mask) -> Run {
        let (warp, barrier) = (self.index as usize, &mut cx.cta.cluster);
        let twice = barrier.arrived[warp] & mask;
        if twice != 0 {
            let why = "barrier.cluster.arrive again without a barrier.cluster.wait between".to_owned();
            return broken(FaultKind::ImpossibleBarrier, twice.trailing_zeros(), why);
        }
        lanes(mask).for_each(|i| self.awaited[i] = barrier.phase + 1);
        barrier.arrived[warp] |= mask;
        if relaxed {
            cx.cta.races.arrive_relaxed(warp, &mut barrier.handed);
        } else {
            cx.cta.races.arrive(warp, &mut barrier.handed);
        }
        barrier.settle();
        cx.work.tally.total.barriers += 1;
        cx.work.progress = true;
        Ok(())
    }

    pub(super) fn cluster_wait(&mut self, cx: &mut Cx, mask: Mask) -> Flow {
        if lanes(mask).any(|i| self.awaited[i] > cx.cta.cluster.phase) {
            return Flow::Stay;
        }
        cx.cta.races.receive(self.index as usize, &cx.cta.cluster.done);
        Flow::Next
    }
}
