//! The sixteen barriers of a block, between their first arrival and their completion.

use crate::machine::clock::Clock;
use crate::registers::{Mask, WARP};

pub const BARRIERS: usize = 16;

/// One barrier between its first arrival and its completion.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Arrivals, and how many complete it; None is every warp that has not exited. In warps.
    pub arrivals: u32,
    pub expected: Option<u32>,
    /// Warps that have arrived, and those that wait.
    pub arrived: Mask,
    pub waiting: Mask,
    pub clock: Clock,
    pub result: Verdict,
}

/// What `bar.red` computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    pub count: u32,
    pub refused: bool,
}

/// A completed barrier, for the warps that wait there.
#[derive(Clone, Debug)]
pub struct Completed {
    pub id: u32,
    pub waiting: Mask,
    pub clock: Clock,
    pub result: Verdict,
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
