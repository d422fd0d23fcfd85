//! `barrier.cluster`: every thread arrives, and later waits for all others.

use super::report::{Run, broken};
use super::state::warp::{Cx, Flow, Warp};
use crate::fault::FaultKind;
use crate::registers::{Mask, lanes};

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
