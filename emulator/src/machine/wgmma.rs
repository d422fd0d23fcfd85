//! `wgmma`: the products of a warpgroup, which are under way until their warps have waited for them.
//!
//! Every warp multiplies its own 16 rows when it issues the instruction; the result stays aside and reaches the
//! registers at the wait. So that a warp's wait stands for the whole warpgroup, as programs rely on, it lasts until
//! the other three have committed as many groups. The operands in shared memory are reads by the warpgroup's tensor core.
//!
//! A `wgmma.fence` is only missed before the first product. A plain move of a result that is under way moves what is to
//! come: compilers make such copies.

use super::clock::tensor_core;
use super::matrix::{self, CHUNK, Descriptor, Line};
use super::races::{Access, Use};
use super::raw::gather;
use super::report::{Broken, Run, broken, instruction};
use super::state::products::{InFlight, Issued, Touch, WARPS, plain_move};
use super::state::warp::{Cx, Warp};
use crate::fault::FaultKind;
use crate::isa::{Op, Reg, Wgmma, WgmmaA, WgmmaSync};
use crate::registers::{Lanes, Mask, WARP, lanes};

impl<'g> Warp<'g> {
    /// Checks an instruction against the registers under way (there are some).
    pub(super) fn touch(&mut self, cx: &Cx, pc: u32, op: &Op, mask: Mask) -> Run {
        if let Some((d, a)) = plain_move(op) {
            return self.move_in_flight(cx, d, a, mask);
        }
        for &Touch { row, write } in &cx.grid.touches[pc as usize] {
            let Some(held) = self.products.in_flight.get(&row) else { continue };
            if held.moved && write {
                self.products.in_flight.remove(&row);
            } else if (write || held.value.is_some()) && cx.grid.rules.races {
                return Err(used_early(cx, held, write, mask));
            }
        }
        Ok(())
    }

    fn move_in_flight(&mut self, cx: &Cx, d: Reg, a: Reg, mask: Mask) -> Run {
        let rows = &mut self.products.in_flight;
        if let Some(old) = rows.get(&d.0) {
            if !old.moved && cx.grid.rules.races && rows.get(&a.0).is_none_or(|new| new.value.is_none()) {
                return Err(used_early(cx, old, true, mask));
            }
            rows.remove(&d.0);
        }
        if let Some(held) = rows.get_mut(&a.0).filter(|held| held.value.is_some()) {
            if mask != Mask::MAX {
                return if cx.grid.rules.races { Err(used_early(cx, held, false, mask)) } else { Ok(()) };
            }
            held.moved = true;
            let copy = *held;
            rows.insert(d.0, copy);
        }
        Ok(())
    }

    /// Whether this warp is at a wait that the rest of its warpgroup has not reached.
    pub(super) fn ahead(&self, cx: &Cx, pending: u32) -> Run<bool> {
        let Some(warpgroup) = cx.cta.warpgroups.get(self.index as usize / WARPS) else { return Ok(false) };
        let own = self.index as usize % WARPS;
        let done = warpgroup.committed[own].saturating_sub(pending);
        let behind = (0..WARPS).find(|&w| warpgroup.committed[w] < done);
        let Some(behind) = behind else { return Ok(false) };
        let other = self.index - own as u32 + behind as u32;
        if !cx.cta.alive(other as usize) {
            let why = format!(
                "warp {} waits for {done} groups of wgmma, but warp {other} of its warpgroup committed {} and is gone",
                self.index, warpgroup.committed[behind]
            );
            return broken(FaultKind::MissingLanes, 0, why);
        }
        Ok(true)
    }

    pub(super) fn wgmma_sync(&mut self, cx: &mut Cx, op: &WgmmaSync) {
        let (index, own) = (self.index as usize / WARPS, self.index as usize % WARPS);
        let committed = &mut cx.cta.warpgroups[index].committed[own];
        match op {
            WgmmaSync::Fence => self.products.fenced = true,
            WgmmaSync::Commit => {
                *committed += 1;
                cx.work.progress = true;
            }
            WgmmaSync::Wait { pending, .. } => {
                let done = committed.saturating_sub(*pending);
                cx.cta.races.waited(self.index as usize, tensor_core(index), done);
                let regs = &mut self.regs;
                self.products.in_flight.retain(|row, held| {
                    if held.group < done
                        && let Some(value) = &held.value
                    {
                        regs.set_b32(Reg(*row), Mask::MAX, value);
                    }
                    held.group >= done
                });
            }
        }
    }

    /// Issues a product; all lanes are here.
    pub(super) fn wgmma(&mut self, cx: &mut Cx, pc: u32, op: &Wgmma) -> Run {
        let (index, own) = (self.index as usize / WARPS, self.index as usize % WARPS);
        if (index + 1) * WARPS > cx.grid.warps() as usize {
            let why = format!("warp {} is in no whole warpgroup: a block of {} threads", self.index, cx.grid.threads);
            return broken(FaultKind::MissingLanes, 0, why);
        }
        if !self.products.fenced && cx.grid.rules.races {
            return broken(FaultKind::RegisterRace, 0, "there is no wgmma.fence before the first wgmma".into());
        }
        let a = match &op.a {
            WgmmaA::Registers(_) => 0,
            WgmmaA::Shared { descriptor, .. } => self.uniform_wide(*descriptor, "descriptor of A")?,
        };
        let b = self.uniform_wide(op.b, "descriptor of B")?;
        let scale = self.regs.pred(op.scale_d);
        if scale != 0 && scale != Mask::MAX {
            return broken(FaultKind::IllegalInstruction, 0, "the lanes do not agree on scale-d".into());
        }
        if let Err(other) = cx.cta.warpgroups[index].issue(own, Issued { pc, operands: [a, b] })
            && cx.grid.rules.barriers
        {
            let (place, [other_a, other_b]) = (instruction(cx.grid.program, other.pc), other.operands);
            let why = format!(
                "warp {} issues this with descriptors {a:#x} and {b:#x}, another warp of its warpgroup {place} with \
                 {other_a:#x} and {other_b:#x}",
                self.index
            );
            return broken(FaultKind::MissingLanes, 0, why);
        }
        let group = cx.cta.warpgroups[index].committed[own];
        let rows = match &op.a {
            WgmmaA::Registers(a) => matrix::rows(a.each_ref().map(|a| self.regs.b32(*a))),
            WgmmaA::Shared { transposed, .. } => {
                let mut rows = [[0; 32]; 16];
                self.operand(cx, pc, group, (a, *transposed), (16 * own, &mut rows))?;
                rows
            }
        };
        let mut columns = vec![[0; 32]; op.n as usize];
        self.operand(cx, pc, group, (b, op.b_transposed), (0, &mut columns))?;
        let mut d: Vec<Lanes<u32>> = op.c.iter().map(|c| self.coming(*c, scale != 0)).collect();
        matrix::product(op, &rows, &columns, &mut d);
        for (reg, value) in op.d.iter().zip(d) {
            let held = InFlight { group, pc, value: Some(value), moved: false };
            self.products.in_flight.insert(reg.0, held);
        }
        if let WgmmaA::Registers(a) = &op.a {
            for reg in a.iter().filter(|reg| reg.constant().is_none()) {
                self.products.in_flight.insert(reg.0, InFlight { group, pc, value: None, moved: false });
            }
        }
        cx.work.progress = true;
        Ok(())
    }

    /// A register of D as the product finds it: the products of a chain follow one another without a wait.
    fn coming(&self, reg: Reg, used: bool) -> Lanes<u32> {
        if !used {
            return [0; WARP];
        }
        let held = self.products.in_flight.get(&reg.0).and_then(|held| held.value);
        held.unwrap_or(*self.regs.b32(reg))
    }

    /// Reads lines of an operand through its descriptor and tells the race detector.
    fn operand(
        &mut self,
        cx: &mut Cx,
        pc: u32,
        group: u32,
        (bits, transposed): (u64, bool),
        (first, lines): (usize, &mut [Line]),
    ) -> Run {
        let base = cx.cta.shared.base();
        let mut chunks = Vec::with_capacity(2 * lines.len());
        let read = |at: u32| -> Run<[u8; CHUNK]> {
            if !self.chunk_exists(cx, at.into(), 0, "read through a descriptor")? {
                return Ok([0; CHUNK]);
            }
            chunks.push(at);
            Ok(gather(base + u64::from(at), CHUNK as u32).to_le_bytes())
        };
        Descriptor::decode(bits).gather(transposed, first, lines, read)?;
        let mark = Access::beside(tensor_core(self.index as usize / WARPS), group + 1);
        self.access_chunks(cx, (pc, 0), mark, (Use::Read, "read through a descriptor"), &mut chunks)
    }

    /// A 64-bit value that all lanes have.
    fn uniform_wide(&self, reg: Reg, what: &str) -> Run<u64> {
        let values = self.regs.b64(reg);
        match lanes(Mask::MAX).find(|&i| values[i] != values[0]) {
            None => Ok(values[0]),
            Some(lane) => {
                let why = format!("{what} {:#x} where lane 0 has {:#x}", values[lane], values[0]);
                broken(FaultKind::IllegalInstruction, lane as u32, why)
            }
        }
    }
}

#[cold]
fn used_early(cx: &Cx, held: &InFlight, write: bool, mask: Mask) -> Box<Broken> {
    let verb = if write { "written" } else { "read" };
    let issued = instruction(cx.grid.program, held.pc);
    let why = format!("a register is {verb} while {issued} still uses it: wgmma.wait_group is missing before");
    let Err(b) = broken::<()>(FaultKind::RegisterRace, mask.trailing_zeros(), why) else { unreachable!() };
    b
}
