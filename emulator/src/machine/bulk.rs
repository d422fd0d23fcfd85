//! Bulk copies: `cp.async.bulk` of bytes in a row and of boxes of tensors.
//!
//! The source is read when the copy is issued. Shared memory changes when the mbarrier's phase completes, global memory
//! when the issuing lane has waited for the bulk group (or ends): as late as may be. Until then the shared side belongs
//! to the copier.

use super::clock::{Party, loader, storer};
use super::global::{How, Request, Shape};
use super::matrix::CHUNK;
use super::races::{Access, Use};
use super::raw::{gather, read_run, write_run};
use super::report::{Run, broken};
use super::state::copies::{BulkGroups, Outgoing};
use super::state::mbarrier::Landing;
use super::state::warp::{Cx, Warp};
use super::tensor::{Boxed, Part};
use crate::fault::FaultKind;
use crate::isa::{Address, Bulk, BulkPlace};
use crate::memory::SHARED_WINDOW;
use crate::registers::{Mask, WARP, lanes};

impl<'g> Warp<'g> {
    pub(super) fn bulk(&mut self, cx: &mut Cx, pc: u32, op: &Bulk, mask: Mask) -> Run {
        match op {
            Bulk::Load { to, from, mbarrier } => {
                for lane in lanes(mask) {
                    self.bulk_load(cx, (pc, lane), to, from, mbarrier)?;
                }
            }
            Bulk::Store { to, from } => {
                for lane in lanes(mask) {
                    self.bulk_store(cx, (pc, lane), to, from)?;
                }
            }
            Bulk::Commit => lanes(mask).for_each(|i| self.bulks.committed[i] += 1),
            Bulk::Wait { pending, read } => self.bulk_wait(cx, *pending, *read, mask),
        }
        cx.work.progress = true;
        Ok(())
    }

    fn bulk_load(
        &mut self,
        cx: &mut Cx,
        (pc, lane): (u32, usize),
        to: &Address,
        from: &BulkPlace,
        mbarrier: &Address,
    ) -> Run {
        let mbarrier = self.shared_at(mbarrier, lane);
        let Some(queue) = cx.cta.mbarriers.get(&(mbarrier as u32)).map(|object| object.number) else {
            let why = format!("mbarrier at shared offset {mbarrier:#x}: it is not initialised");
            return broken(FaultKind::IllegalInstruction, lane as u32, why);
        };
        let (party, number) = (loader(queue), cx.cta.next_copy());
        let to = self.shared_at(to, lane);
        let (parts, bytes) = self.parts(cx, (pc, lane), from, to)?;
        let mut landing = Landing::default();
        for part in &parts {
            let mut line = vec![0; part.chunks.len() * CHUNK];
            match from {
                BulkPlace::Run { at, shared: true, .. } => {
                    let from = self.shared_at(at, lane);
                    let chunks: Vec<u64> = part.chunks.iter().map(|chunk| chunk - to + from).collect();
                    self.read_chunks(cx, (pc, lane), (party, number), &chunks, &mut line)?;
                }
                _ => {
                    if let Some((at, range)) = &part.global
                        && self.global_run(cx, (pc, lane), *at, range.len(), How::Read)?
                    {
                        read_run(*at, &mut line[range.clone()]);
                    }
                }
            }
            for (&at, chunk) in part.chunks.iter().zip(line.chunks_exact(CHUNK)) {
                if self.chunk_exists(cx, at, lane, "bulk copy")? {
                    landing.push((at as u32, u128::from_le_bytes(chunk.try_into().unwrap_or_default())));
                }
            }
        }
        let mut chunks: Vec<u32> = landing.iter().map(|(at, _)| *at).collect();
        let mark = Access::beside(party, number);
        self.access_chunks(cx, (pc, lane), mark, (Use::Write, "bulk copy"), &mut chunks)?;
        let base = cx.cta.shared.base();
        let Some(object) = cx.cta.mbarriers.get_mut(&(mbarrier as u32)) else { return Ok(()) };
        object.load((party, number), bytes, landing, base).or_else(|why| {
            broken(FaultKind::IllegalInstruction, lane as u32, format!("mbarrier at {mbarrier:#x}: {why}"))
        })
    }

    fn bulk_store(&mut self, cx: &mut Cx, (pc, lane): (u32, usize), to: &BulkPlace, from: &Address) -> Run {
        let from = self.shared_at(from, lane);
        let number = cx.cta.next_copy();
        let (parts, _) = self.parts(cx, (pc, lane), to, from)?;
        let mut data = Vec::new();
        for part in parts {
            let mut line = vec![0; part.chunks.len() * CHUNK];
            self.read_chunks(cx, (pc, lane), (storer(self.index as usize), number), &part.chunks, &mut line)?;
            if let Some((at, range)) = part.global
                && self.global_run(cx, (pc, lane), at, range.len(), How::Write)?
            {
                data.push((at, line[range].to_vec()));
            }
        }
        let group = self.bulks.committed[lane];
        self.bulks.outgoing.push(Outgoing { lane, group, number, data });
        Ok(())
    }

    /// The lines of a copy whose shared side begins at `at`, and its bytes.
    fn parts(&mut self, cx: &mut Cx, (pc, lane): (u32, usize), place: &BulkPlace, at: u64) -> Run<(Vec<Part>, u64)> {
        match place {
            BulkPlace::Run { at: other, bytes, .. } => {
                let (other, bytes) = (self.addresses(other)[lane], self.regs.b32(*bytes)[lane]);
                for (what, value) in [("shared offset", at), ("other address", other), ("size", bytes.into())] {
                    if !value.is_multiple_of(CHUNK as u64) {
                        let why = format!("cp.async.bulk: its {what} {value:#x} is not a multiple of 16");
                        return broken(FaultKind::Misaligned, lane as u32, why);
                    }
                }
                let bytes = u64::from(bytes);
                let chunks = (at..at + bytes).step_by(CHUNK).collect();
                Ok((vec![Part { chunks, global: Some((other, 0..bytes as usize)) }], bytes))
            }
            BulkPlace::Tensor { map, at: place } => {
                let map = self.tensor_map(cx, (pc, lane), map)?;
                let coordinates = place.iter().map(|c| i64::from(self.regs.b32(*c)[lane] as i32)).collect();
                let boxed = Boxed { map: &map, coordinates, at };
                match boxed.parts() {
                    Ok(parts) => Ok((parts, map.box_bytes())),
                    Err((kind, why)) => broken(kind, lane as u32, why),
                }
            }
        }
    }

    /// A shared address, given in its space or generic.
    fn shared_at(&self, at: &Address, lane: usize) -> u64 {
        let at = self.addresses(at)[lane];
        if at >= SHARED_WINDOW { at - SHARED_WINDOW } else { at }
    }

    /// Reads chunks of shared memory for a copier.
    fn read_chunks(
        &self,
        cx: &mut Cx,
        (pc, lane): (u32, usize),
        (party, number): (Party, u32),
        chunks: &[u64],
        line: &mut [u8],
    ) -> Run {
        let mut read = Vec::with_capacity(chunks.len());
        for (&at, to) in chunks.iter().zip(line.chunks_exact_mut(CHUNK)) {
            if self.chunk_exists(cx, at, lane, "bulk copy")? {
                to.copy_from_slice(&gather(cx.cta.shared.base() + at, CHUNK as u32).to_le_bytes());
                read.push(at as u32);
            }
        }
        self.access_chunks(cx, (pc, lane), Access::beside(party, number), (Use::Read, "bulk copy"), &mut read)
    }

    /// Checks and notes an access to a run of global memory; whether it may be.
    fn global_run(&self, cx: &mut Cx, (pc, lane): (u32, usize), at: u64, bytes: usize, how: How) -> Run<bool> {
        let (mask, bytes) = (1 << lane, bytes as u64);
        let request = Request { mask, at: &[at; WARP], bytes, how, shape: Shape::Same };
        Ok(cx.grid.global.access(&request, &mut cx.work.recent[pc as usize])? != 0)
    }

    fn bulk_wait(&mut self, cx: &mut Cx, pending: u32, read: bool, mask: Mask) {
        let BulkGroups { committed, outgoing } = &mut self.bulks;
        let (races, warp) = (&mut cx.cta.races, self.index as usize);
        outgoing.retain(|copy| {
            let due = mask >> copy.lane & 1 == 1 && copy.group.saturating_add(pending) < committed[copy.lane];
            if due {
                races.waited(warp, storer(warp), copy.number);
            }
            if due && !read {
                copy.data.iter().for_each(|(at, bytes)| write_run(*at, bytes));
            }
            !due || read
        });
    }

    /// The lanes end: what they sent arrives.
    pub(super) fn land_bulk(&mut self, gone: Mask) {
        self.bulks.outgoing.retain(|copy| {
            let ends = gone >> copy.lane & 1 == 1;
            if ends {
                copy.data.iter().for_each(|(at, bytes)| write_run(*at, bytes));
            }
            !ends
        });
    }
}
