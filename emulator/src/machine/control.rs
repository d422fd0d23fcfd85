//! Indexed branches, returns, and the small instructions that ask what an address is.

use super::access::space_of;
use super::report::{Run, broken};
use super::state::warp::{Cx, Flow, Group, Warp};
use crate::fault::FaultKind;
use crate::isa::{Reg, Space};
use crate::registers::{Mask, lanes};

impl<'g> Warp<'g> {
    pub(super) fn branch_indexed(&mut self, group: Group, mask: Mask, index: Reg, targets: &[u32]) -> Run<Flow> {
        let index = *self.regs.b32(index);
        if let Some(lane) = lanes(mask).find(|&i| index[i] as usize >= targets.len()) {
            let why = format!("branch index {} of {} targets", index[lane], targets.len());
            return broken(FaultKind::IllegalInstruction, lane as u32, why);
        }
        Ok(self.scatter(group, mask, |lane| targets[index[lane] as usize]))
    }

    /// Every lane goes back to where it was called from.
    pub(super) fn back(&mut self, group: Group, mask: Mask, link: Reg) -> Flow {
        let link = *self.regs.b32(link);
        let first = link[mask.trailing_zeros() as usize];
        if lanes(mask).all(|i| link[i] == first) {
            return Flow::Jump(first, mask);
        }
        self.scatter(group, mask, |lane| link[lane])
    }

    /// `isspacep`. Constant variables lie among global memory here, but are none.
    pub(super) fn is_space(&mut self, cx: &Cx, space: Space, p: u16, a: Reg, mask: Mask) {
        let a = self.regs.b64(a);
        let space_of = |address| match space_of(address).0 {
            Space::Global if cx.grid.global.constant(address) => Space::Const,
            space => space,
        };
        let holds = lanes(mask).filter(|&i| space_of(a[i]) == space).fold(0, |m, i| m | 1 << i);
        self.regs.set_pred(p, mask, holds);
    }
}
