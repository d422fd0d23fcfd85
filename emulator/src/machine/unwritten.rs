//! Registers that the front end could not prove written: their uses are checked, and their writes noted.

use super::report::{Run, broken};
use super::state::warp::{Cx, Group, Warp};
use crate::fault::FaultKind;
use crate::isa::{Alu, Op};
use crate::registers::{Lanes, Mask, WARP};

impl<'g> Warp<'g> {
    /// Checks the uses of an instruction, and notes its writes (those of a shuffle are noted when it has its partners).
    #[cold]
    pub(super) fn track(&mut self, cx: &Cx, Group { pc, mask: all, .. }: Group, mask: Mask, op: &Op) -> Run {
        let tracked = &cx.grid.program.tracked;
        if cx.grid.rules.unwritten && !self.replaces(op) {
            let guards = at(&tracked.guards, pc).iter().map(|guard| (guard, all));
            for ((register, name), mask) in guards.chain(at(&tracked.reads, pc).iter().map(|read| (read, mask))) {
                let missing = mask & !self.written[*register as usize];
                if missing != 0 {
                    let why = format!("{name} is used, but nothing was written there on this path");
                    return broken(FaultKind::UninitialisedRegister, missing.trailing_zeros(), why);
                }
            }
        }
        if !matches!(op, Op::Shfl(_)) {
            let good = self.good(op, at(&tracked.sources, pc));
            self.note(cx, pc, mask, good);
        }
        Ok(())
    }

    /// Lanes in which the tracked sources of an instruction are written.
    fn good(&self, op: &Op, sources: &[Option<u32>]) -> Mask {
        let of = |source: &Option<u32>| source.map_or(Mask::MAX, |id| self.written[id as usize]);
        match (op, sources) {
            (Op::Alu(Alu::SelP { p, .. }), [a, b, by]) => {
                let first = self.regs.pred(*p);
                of(by) & (first & of(a) | !first & of(b))
            }
            _ => sources.iter().fold(Mask::MAX, |all, source| all & of(source)),
        }
    }

    /// The tracked registers that an instruction writes are written now where its sources are `good`.
    fn note(&mut self, cx: &Cx, pc: u32, mask: Mask, good: Mask) {
        for register in at(&cx.grid.program.tracked.writes, pc) {
            let written = &mut self.written[*register as usize];
            *written = *written & !mask | good & mask;
        }
    }

    /// As `note`, for a shuffle whose lanes take values from the lanes `from`.
    #[cold]
    pub(super) fn note_shuffle(&mut self, cx: &Cx, pc: u32, mask: Mask, from: &Lanes<u32>) {
        let Some((first, rest)) = at(&cx.grid.program.tracked.sources, pc).split_first() else {
            return self.note(cx, pc, mask, Mask::MAX);
        };
        let value = first.map_or(Mask::MAX, |id| self.written[id as usize]);
        let moved = (0..WARP).fold(0, |all, lane| all | (value >> from[lane] & 1) << lane);
        let how = rest.iter().flatten().fold(Mask::MAX, |all, id| all & self.written[*id as usize]);
        self.note(cx, pc, mask, moved & how);
    }

    /// A product that does not add to D reads nothing of it; of its other sources nothing is said then either.
    fn replaces(&self, op: &Op) -> bool {
        matches!(op, Op::Wgmma(wgmma) if self.regs.pred(wgmma.scale_d) == 0)
    }
}

/// What a list by instruction says of one.
fn at<T>(list: &[(u32, Vec<T>)], pc: u32) -> &[T] {
    list.binary_search_by_key(&pc, |(at, _)| *at).map_or(&[], |i| &list[i].1)
}
