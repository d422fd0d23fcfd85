//! Arrivals at the barriers of a block. A warp arrives as a whole: 32 threads, however many of it are left.

use super::report::{Run, broken};
use super::state::barrier::{BARRIERS, Completed};
use super::state::warp::{Cx, State, Warp};
use crate::fault::FaultKind;
use crate::isa::{Barrier, BarrierKind, Op};
use crate::registers::{Mask, WARP, lanes};

impl<'g> Warp<'g> {
    /// The warp arrives. The number of the barrier if it has to wait there.
    pub(super) fn arrive(&mut self, cx: &mut Cx, barrier: &Barrier, who: Mask) -> Run<Option<u32>> {
        let lane = who.trailing_zeros();
        let id = self.uniform(barrier.id, who, "barrier number")?;
        if id as usize >= BARRIERS {
            return broken(FaultKind::ImpossibleBarrier, lane, format!("barrier {id}: there are barriers 0 to 15"));
        }
        let expected = match barrier.threads {
            Some(threads) => Some(self.expected(cx, self.uniform(threads, who, "thread count")?, lane)?),
            None => None,
        };
        cx.work.tally.total.barriers += 1;
        let index = self.index as usize;
        let holds = match barrier.kind {
            BarrierKind::RedPopc { a, .. } | BarrierKind::RedAnd { a, .. } | BarrierKind::RedOr { a, .. } => {
                self.regs.pred(a) & who
            }
            _ => 0,
        };
        let named = &mut cx.cta.barriers[id as usize];
        if named.arrivals > 0 && named.expected != expected && cx.grid.rules.barriers {
            let threads = |e: Option<u32>| e.map_or("all".to_owned(), |e| (e * WARP as u32).to_string());
            let why = format!(
                "barrier {id} is used with {} threads while others wait there for {}",
                threads(expected),
                threads(named.expected)
            );
            return broken(FaultKind::ImpossibleBarrier, lane, why);
        }
        named.expected = expected;
        named.arrivals += 1;
        named.arrived |= 1 << index;
        named.result.count += holds.count_ones();
        named.result.refused |= holds != who;
        cx.cta.races.arrive(index, &mut named.clock);
        let waits = barrier.kind != BarrierKind::Arrive;
        named.waiting |= Mask::from(waits) << index;
        cx.cta.settle(id);
        Ok(waits.then_some(id))
    }

    /// A thread count in warps.
    fn expected(&self, cx: &Cx, threads: u32, lane: u32) -> Run<u32> {
        let warps = cx.grid.warps();
        if threads == 0 || !threads.is_multiple_of(WARP as u32) {
            let why = format!("a barrier of {threads} threads: the count must be a positive multiple of 32");
            return broken(FaultKind::ImpossibleBarrier, lane, why);
        }
        if threads / WARP as u32 > warps {
            let why = format!("a barrier of {threads} threads in a block of {}", cx.grid.threads);
            return broken(FaultKind::ImpossibleBarrier, lane, why);
        }
        Ok(threads / WARP as u32)
    }

    fn uniform(&self, reg: crate::isa::Reg, who: Mask, what: &str) -> Run<u32> {
        let values = self.regs.b32(reg);
        let first = values[who.trailing_zeros() as usize];
        match lanes(who).find(|&i| values[i] != first) {
            None => Ok(first),
            Some(lane) => {
                let why = format!("{what} {} where other lanes of the warp have {first}", values[lane]);
                broken(FaultKind::ImpossibleBarrier, lane as u32, why)
            }
        }
    }

    /// Goes on after a barrier.
    pub(super) fn pass(&mut self, program: &crate::program::Program, done: &Completed) {
        let Completed { id, result, .. } = done;
        for g in 0..self.groups.len() {
            let group = self.groups[g];
            if group.state != State::Barrier(*id) {
                continue;
            }
            if let Op::Barrier(barrier) = &program.code[group.pc as usize].op {
                match barrier.kind {
                    BarrierKind::RedPopc { d, .. } => self.regs.set_b32(d, group.mask, &[result.count; WARP]),
                    BarrierKind::RedAnd { d, .. } => {
                        self.regs.set_pred(d, group.mask, if result.refused { 0 } else { Mask::MAX })
                    }
                    BarrierKind::RedOr { d, .. } => {
                        self.regs.set_pred(d, group.mask, if result.count > 0 { Mask::MAX } else { 0 })
                    }
                    BarrierKind::Sync | BarrierKind::Arrive => {}
                }
            }
            self.groups[g].pc += 1;
            self.groups[g].state = State::Ready;
        }
    }
}
