//! `mbarrier` objects: arrivals and bytes that a phase waits for, and what bulk copies bring when it completes. The counts
//! live beside shared memory, not in the object's eight bytes, which are opaque anyway.

use crate::machine::clock::{Clock, Party};
use crate::machine::matrix::CHUNK;
use crate::machine::raw::scatter;

/// The largest count that an object can be initialised with.
pub const MOST: u32 = (1 << 20) - 1;

/// Chunks that a copy brings: shared offset and 16 bytes each.
pub type Landing = Vec<(u32, u128)>;

/// One object.
#[derive(Clone, Debug)]
pub struct Phases {
    /// Counts the objects of the block.
    pub number: usize,
    pub expected: u32,
    pub pending: u32,
    /// Bytes announced and not yet complete.
    pub bytes: i64,
    /// Completed phases.
    pub phase: u64,
    /// What arrivals of this phase, and of the last, handed over.
    pub handed: Clock,
    pub done: Clock,
    /// What becomes visible when this phase completes.
    landing: Landing,
}

impl Phases {
    /// An object, the `number`th of its block, that waits for `count` arrivals.
    pub fn new(number: usize, count: u32) -> Phases {
        let clocks = Clock::default();
        Phases {
            number,
            expected: count,
            pending: count,
            bytes: 0,
            phase: 0,
            handed: clocks,
            done: clocks,
            landing: Landing::new(),
        }
    }

    /// A copy by `(party, number)` of this many bytes completes on the object; shared memory begins at `base`.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub fn load(
        &mut self,
        (party, number): (Party, u32),
        bytes: u64,
        landing: Landing,
        base: u64,
    ) -> Result<(), String> {
        self.handed.learn(party, number);
        self.landing.extend(landing);
        self.bytes -= bytes as i64;
        self.settle(base)
    }

    /// In words, what the phase under way waits for; nothing if none is.
    pub fn describe(&self, at: u32) -> Option<String> {
        let Phases { pending, expected, bytes, phase, .. } = self;
        (pending != expected || *bytes != 0).then(|| {
            format!(
                "phase {phase} of the mbarrier at shared offset {at:#x} waits for {pending} arrivals and {bytes} bytes"
            )
        })
    }

    /// Phase and pending count, as `mbarrier.arrive` returns them.
    pub fn state(&self) -> u64 {
        self.phase << 32 | u64::from(self.pending)
    }

    /// Completes the phase if nothing is missing: what was to land is visible then.
    ///
    /// # Errors
    /// As `load`.
    pub fn settle(&mut self, base: u64) -> Result<(), String> {
        if self.bytes.unsigned_abs() > MOST.into() {
            return Err(format!("a transaction count of {} is out of range", self.bytes));
        }
        if self.pending == 0 && self.bytes == 0 {
            land(base, &std::mem::take(&mut self.landing));
            self.phase += 1;
            self.pending = self.expected;
            self.done = std::mem::take(&mut self.handed);
        }
        Ok(())
    }
}

/// Puts what arrived into shared memory.
fn land(base: u64, landing: &Landing) {
    landing.iter().for_each(|&(at, chunk)| scatter(base + u64::from(at), CHUNK as u32, chunk));
}
