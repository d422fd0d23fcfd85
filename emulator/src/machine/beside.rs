//! Accesses to shared memory by the units beside the warps, tensor cores and copiers, in chunks of 16 bytes.

use super::matrix::CHUNK;
use super::races::{Access, Use};
use super::report::{Run, broken};
use super::state::warp::{Cx, Warp};
use crate::fault::FaultKind;

impl<'g> Warp<'g> {
    /// Whether the chunk at a shared offset exists; without the check, those that do not are left out.
    pub(super) fn chunk_exists(&self, cx: &Cx, at: u64, lane: usize, what: &str) -> Run<bool> {
        let size = cx.cta.shared.len();
        let exists = at.checked_add(CHUNK as u64).is_some_and(|end| end <= size);
        if exists || !cx.grid.rules.memory {
            return Ok(exists);
        }
        let why = format!("{what} at shared offset {at:#x}: the block has {size} bytes of shared memory");
        broken(FaultKind::OutOfBounds, lane as u32, why)
    }

    /// Tells the race detector what `mark` does to chunks, which come back in order.
    pub(super) fn access_chunks(
        &self,
        cx: &mut Cx,
        (pc, lane): (u32, usize),
        mark: Access,
        (how, verb): (Use, &str),
        chunks: &mut [u32],
    ) -> Run {
        chunks.sort_unstable();
        for run in chunks.chunk_by(|a, b| a + CHUNK as u32 == *b) {
            let at = (run[0], (CHUNK * run.len()) as u32);
            if let Err((offset, trouble)) = cx.cta.races.access_beside(self.index as usize, mark, pc, how, at) {
                let at = (u64::from(at.0), u64::from(at.1));
                let (kind, why) = self.shared_rule(cx, verb, at, (offset.into(), trouble));
                return broken(kind, lane as u32, why);
            }
        }
        Ok(())
    }
}
