//! Asynchronous copies that a warp has issued and not waited for.

use crate::registers::{Lanes, Mask, lanes};

/// One instruction's copies that have not landed in the lanes of `mask`.
pub struct InFlight {
    pub mask: Mask,
    pub bytes: u32,
    pub to: Lanes<u32>,
    /// The lane's group that it belongs to.
    pub group: Lanes<u32>,
    pub data: Lanes<u128>,
}

/// A warp's copies under way.
#[derive(Default)]
pub struct Copies {
    /// By lane: how many groups it has committed.
    pub committed: Lanes<u32>,
    pub pending: Vec<InFlight>,
}

impl Copies {
    pub fn commit(&mut self, mask: Mask) {
        lanes(mask).for_each(|i| self.committed[i] += 1);
    }
}

/// A copy to global memory that was not waited for.
pub struct Outgoing {
    pub lane: usize,
    /// The lane's group that it belongs to.
    pub group: u32,
    /// Its number among the block's copies.
    pub number: u32,
    /// Addresses and bytes.
    pub data: Vec<(u64, Vec<u8>)>,
}

/// A warp's bulk groups.
#[derive(Default)]
pub struct BulkGroups {
    /// By lane: how many it has committed.
    pub committed: Lanes<u32>,
    pub outgoing: Vec<Outgoing>,
}
