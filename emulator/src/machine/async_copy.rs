//! `cp.async`: the source is read when the copy is issued, the destination changes when the issuing lane has waited for
//! it. In between the destination belongs to nobody: whoever touches it races with the copy.

use super::access::Want;
use super::global::{How, repeat_inactive};
use super::races::Use;
use super::raw::{gather, scatter};
use super::report::{Run, broken};
use super::state::copies::InFlight;
use super::state::warp::{Cx, Warp};
use crate::fault::FaultKind;
use crate::isa::{CpAsync, Order, Space};
use crate::registers::{Lanes, Mask, WARP, lanes};

impl<'g> Warp<'g> {
    pub(super) fn copy_async(&mut self, cx: &mut Cx, pc: u32, copy: &CpAsync, mask: Mask) -> Run {
        let (to, from) = (self.addresses(&copy.to), self.addresses(&copy.from));
        let sizes = self.source_sizes(copy, mask)?;
        for (what, at) in [("destination", &to), ("source", &from)] {
            let crooked = |&i: &usize| at[i] % u64::from(copy.bytes) != 0 && (what == "destination" || sizes[i] > 0);
            if let Some(lane) = lanes(mask).find(crooked) {
                let why =
                    format!("cp.async of {} bytes: its {what} {:#x} is not a multiple of that", copy.bytes, at[lane]);
                return broken(FaultKind::Misaligned, lane as u32, why);
            }
        }
        let mut data = [0; WARP];
        let mut left = mask;
        while left != 0 {
            let size = sizes[left.trailing_zeros() as usize];
            let alike = lanes(left).filter(|&i| sizes[i] == size).fold(0, |m, i| m | 1 << i);
            left &= !alike;
            if size > 0 {
                let want = Want { pc, space: Space::Global, bytes: size.into(), how: How::Read, order: Order::Weak };
                let source = self.resolve(cx, want, from, alike)?;
                lanes(source.mask).for_each(|i| data[i] = gather(source.at[i], size));
            }
        }
        let want = Want { pc, space: Space::Shared, bytes: copy.bytes.into(), how: How::Write, order: Order::Weak };
        let target = self.resolve_shared(cx, want, repeat_inactive(to, mask), mask, Use::Issue)?;
        let to = to.map(|a| a as u32);
        let group = self.copies.committed;
        self.copies.pending.push(InFlight { mask: target.mask, bytes: copy.bytes, to, group, data });
        Ok(())
    }

    /// Bytes that every lane reads.
    fn source_sizes(&self, copy: &CpAsync, mask: Mask) -> Run<Lanes<u32>> {
        let mut sizes = copy.src_size.map_or([copy.bytes; WARP], |reg| *self.regs.b32(reg));
        if let Some(lane) = lanes(mask).find(|&i| sizes[i] > copy.bytes) {
            let why = format!("cp.async reads {} bytes of a copy of {}", sizes[lane], copy.bytes);
            return broken(FaultKind::IllegalInstruction, lane as u32, why);
        }
        let ignored = copy.ignore.map_or(0, |p| self.regs.pred(p));
        lanes(ignored).for_each(|i| sizes[i] = 0);
        Ok(sizes)
    }

    /// Lands the groups of each lane but the `pending` newest; with None everything, committed or not.
    pub(super) fn wait_copies(&mut self, cx: &mut Cx, pending: Option<u32>, mask: Mask) {
        let committed = self.copies.committed;
        self.land(cx, mask, |lane, group| pending.is_none_or(|n| group.saturating_add(n) < committed[lane]));
    }

    /// Everything that the lanes have under way.
    pub(super) fn land_all(&mut self, cx: &mut Cx, mask: Mask) {
        self.land(cx, mask, |_, _| true);
    }

    fn land(&mut self, cx: &mut Cx, mask: Mask, due: impl Fn(usize, u32) -> bool) {
        let index = self.index as usize;
        let base = cx.cta.shared.base();
        self.copies.pending.retain_mut(|copy| {
            let now = lanes(copy.mask & mask).filter(|&i| due(i, copy.group[i])).fold(0, |m, i| m | 1 << i);
            if now != 0 {
                lanes(now).for_each(|i| scatter(base + u64::from(copy.to[i]), copy.bytes, copy.data[i]));
                cx.cta.races.land(index, lanes(now).map(|i| (copy.to[i], copy.bytes)));
                cx.work.progress = true;
                copy.mask &= !now;
            }
            copy.mask != 0
        });
    }
}
