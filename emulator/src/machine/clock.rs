//! What a warp knows of the progress of others: a vector clock over the warps of a block and the units beside them,
//! which are the tensor core of each warpgroup and the engines that copy in bulk.

use crate::registers::{Lanes, WARP};

/// Warps, tensor cores and copiers of a block.
const PARTIES: usize = WARP + TENSOR_CORES + STORERS + LOADERS;
const TENSOR_CORES: usize = WARP / 4;
const STORERS: usize = 8;
const LOADERS: usize = 16;

/// Someone who accesses shared memory, by number.
pub(super) type Party = u8;

/// The tensor core of a warpgroup; its clock counts the groups of products.
pub(super) fn tensor_core(warpgroup: usize) -> Party {
    (WARP + warpgroup) as Party
}

/// The engine of a warp's bulk groups; its clock, as that of the next, counts the copies of the block. Several warps
/// share one, which can only hide a missing wait.
pub(super) fn storer(warp: usize) -> Party {
    (WARP + TENSOR_CORES + warp % STORERS) as Party
}

/// The engine of the copies that complete on an mbarrier.
pub(super) fn loader(mbarrier: usize) -> Party {
    (WARP + TENSOR_CORES + STORERS + mbarrier % LOADERS) as Party
}

/// Whether a party goes through the asynchronous proxy.
pub(super) fn asynchronous(party: Party) -> bool {
    usize::from(party) >= WARP
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    known: [u32; PARTIES],
    /// By warp: the part of its progress that a proxy fence has shown to the asynchronous proxy.
    shown: Lanes<u32>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { known: [0; PARTIES], shown: [0; WARP] }
    }
}

impl Clock {
    /// Everything that either knows.
    pub fn join(&mut self, from: &Clock) {
        for (to, from) in self.known.iter_mut().zip(&from.known) {
            *to = (*to).max(*from);
        }
        for (to, from) in self.shown.iter_mut().zip(&from.shown) {
            *to = (*to).max(*from);
        }
    }

    pub fn of(&self, party: Party) -> u32 {
        self.known[party as usize]
    }

    pub fn learn(&mut self, party: Party, progress: u32) {
        let known = &mut self.known[party as usize];
        *known = (*known).max(progress);
    }

    /// What a warp's progress is for the asynchronous proxy.
    pub fn shown(&self, warp: Party) -> u32 {
        self.shown[warp as usize]
    }

    /// A proxy fence: all that is known is shown.
    pub fn show(&mut self) {
        self.shown.copy_from_slice(&self.known[..WARP]);
    }
}
