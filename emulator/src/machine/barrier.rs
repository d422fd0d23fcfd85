//! The sixteen barriers of a block. A warp arrives as a whole: 32 threads, however many of it are left.

use super::clock::Clock;
use super::report::{Run, broken};
use super::warp::{Cx, State, Warp};
use crate::fault::FaultKind;
use crate::isa::{Barrier, BarrierKind, Op};
use crate::registers::{Mask, WARP, lanes};

pub(super) const BARRIERS: usize = 16;

/// One barrier between its first arrival and its completion.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    /// Arrivals, and how many complete it; None is every warp that has not exited. In warps.
    arrivals: u32,
    expected: Option<u32>,
    /// Warps that have arrived, and those that wait.
    arrived: Mask,
    pub waiting: Mask,
    clock: Clock,
    result: Verdict,
}

/// What `bar.red` computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    count: u32,
    refused: bool,
}

/// A completed barrier, for the warps that wait there.
#[derive(Clone, Debug)]
pub(super) struct Completed {
    pub id: u32,
    pub waiting: Mask,
    pub clock: Clock,
    result: Verdict,
}

impl Named {
    /// Takes the barrier's completion if nothing is missing. `live` are the warps that have not exited.
    pub fn complete(&mut self, id: u32, live: Mask) -> Option<Completed> {
        let done = match self.expected {
            Some(expected) => self.arrivals >= expected,
            None => live & !self.arrived == 0,
        };
        if self.arrivals == 0 || !done {
            return None;
        }
        let Named { waiting, clock, result, .. } = std::mem::take(self);
        Some(Completed { id, waiting, clock, result })
    }

    /// In words, who waits and what for.
    pub fn describe(&self, id: u32, live: Mask) -> Option<String> {
        let Named { arrivals, waiting, arrived, .. } = self;
        (*waiting != 0).then(|| match self.expected {
            Some(expected) => format!(
                "barrier {id} has {} of {} threads (warps {waiting:#x} wait)",
                arrivals * WARP as u32,
                expected * WARP as u32
            ),
            None => format!("barrier {id} lacks warps {:#x} (warps {waiting:#x} wait)", live & !arrived),
        })
    }
}

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
