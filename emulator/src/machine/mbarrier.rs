//! Operations on `mbarrier` objects, lane by lane.

use super::report::{Run, broken};
use super::state::mbarrier::{MOST, Phases};
use super::state::warp::{Cx, Flow, Warp};
use crate::fault::FaultKind;
use crate::isa::{MBarrier, MBarrierOp, Space};
use crate::memory::SHARED_WINDOW;
use crate::registers::{Mask, WARP, lanes};

impl<'g> Warp<'g> {
    pub(super) fn mbarrier(&mut self, cx: &mut Cx, op: &MBarrier, mask: Mask) -> Run<Flow> {
        if let MBarrierOp::PendingCount { d, state } = op.op {
            let pending = self.regs.b64(state).map(|s| s as u32);
            self.regs.set_b32(d, mask, &pending);
            return Ok(Flow::Next);
        }
        let at = self.addresses(&op.at);
        let mut complete = 0;
        for lane in lanes(mask) {
            let at = if op.space == Space::Generic { at[lane].wrapping_sub(SHARED_WINDOW) } else { at[lane] };
            if at % 8 != 0 || at.checked_add(8).is_none_or(|end| end > cx.cta.shared.len()) {
                let why = format!("mbarrier at {at:#x}: not eight aligned bytes of the block's shared memory");
                return broken(FaultKind::IllegalInstruction, lane as u32, why);
            }
            complete |= Mask::from(self.one_mbarrier(cx, op.op, at as u32, lane)?) << lane;
        }
        match op.op {
            MBarrierOp::TestWait { p, .. } | MBarrierOp::TestWaitParity { p, .. } => {
                self.regs.set_pred(p, mask, complete);
                if complete & mask == mask {
                    return Ok(Flow::Next);
                }
                cx.cta.look();
                Ok(Flow::Yield)
            }
            _ => {
                cx.work.progress = true;
                Ok(Flow::Next)
            }
        }
    }

    /// One lane's operation; of a test, whether the phase is complete.
    fn one_mbarrier(&mut self, cx: &mut Cx, op: MBarrierOp, at: u32, lane: usize) -> Run<bool> {
        let warp = self.index as usize;
        let value = |reg| self.regs.b32(reg)[lane];
        let fail = |why: &str| {
            broken(FaultKind::IllegalInstruction, lane as u32, format!("mbarrier at shared offset {at:#x}: {why}"))
        };
        if let MBarrierOp::Init { count } = op {
            if value(count) == 0 || value(count) > MOST {
                return fail(&format!("a count of {} is not between 1 and {MOST}", value(count)));
            }
            let number = cx.cta.mbarriers.len();
            cx.cta.mbarriers.insert(at, Phases::new(number, value(count)));
            return Ok(false);
        }
        if let MBarrierOp::CpAsyncArrive { .. } = op {
            self.land_all(cx, 1 << lane);
        }
        let value = |reg| self.regs.b32(reg)[lane];
        let base = cx.cta.shared.base();
        let (object, races) = (&mut cx.cta.mbarriers, &mut cx.cta.races);
        if let MBarrierOp::Inval = op {
            return if object.remove(&at).is_some() { Ok(false) } else { fail("it is not initialised") };
        }
        let Some(object) = object.get_mut(&at) else { return fail("it is not initialised") };
        match op {
            MBarrierOp::TestWait { state, .. } => {
                let complete = self.regs.b64(state)[lane] >> 32 < object.phase;
                if complete {
                    races.receive(warp, &object.done);
                }
                return Ok(complete);
            }
            MBarrierOp::TestWaitParity { parity, .. } => {
                let complete = u64::from(value(parity)) & 1 != object.phase & 1;
                if complete {
                    races.receive(warp, &object.done);
                }
                return Ok(complete);
            }
            MBarrierOp::ExpectTx { bytes } => object.bytes += i64::from(value(bytes)),
            MBarrierOp::CompleteTx { bytes } => object.bytes -= i64::from(value(bytes)),
            MBarrierOp::Arrive { state, count, expect_tx, drop } => {
                let count = count.map_or(1, value);
                if count == 0 || count > object.pending {
                    return fail(&format!("{count} arrivals, but the phase waits for {}", object.pending));
                }
                object.bytes += expect_tx.map_or(0, |bytes| i64::from(value(bytes)));
                let before = object.state();
                object.pending -= count;
                object.expected -= if drop { count } else { 0 };
                races.arrive(warp, &mut object.handed);
                if let Some(state) = state {
                    self.regs.set_b64(state, 1 << lane, &[before; WARP]);
                }
            }
            // Without `.noinc` the copy first adds the arrival that it then makes.
            MBarrierOp::CpAsyncArrive { noinc } => {
                if noinc && object.pending == 0 {
                    return fail("an arrival that the phase does not wait for");
                }
                object.pending -= u32::from(noinc);
                races.arrive(warp, &mut object.handed);
            }
            MBarrierOp::Init { .. } | MBarrierOp::Inval | MBarrierOp::PendingCount { .. } => {}
        }
        object.settle(base).or_else(|why| fail(&why).map(|_: bool| ()))?;
        Ok(false)
    }
}
