//! Bulk copies: `cp.async.bulk` of bytes in a row and of boxes of tensors.
//!
//! The source is read when the copy is issued. Shared memory changes when the mbarrier's phase completes, global memory
//! when the issuing lane has waited for the bulk group (or ends): as late as may be. Until then the shared side belongs
//! to the copier.

use super::access::Want;
use super::async_copy::{gather, scatter};
use super::clock::{Party, loader, storer};
use super::global::{How, Request, Shape};
use super::matrix::CHUNK;
use super::mbarrier::Landing;
use super::races::{Access, Use};
use super::report::{Run, broken};
use super::tensor::Boxed;
use super::warp::{Cx, Warp};
use crate::fault::FaultKind;
use crate::isa::{Address, Bulk, BulkPlace, Order, Space};
use crate::memory::{SHARED_WINDOW, store};
use crate::registers::{Lanes, Mask, WARP, lanes};
use std::sync::atomic::{AtomicU8, AtomicU64};

/// A copy to global memory that was not waited for.
struct Outgoing {
    lane: usize,
    /// The lane's group that it belongs to.
    group: u32,
    /// Its number among the block's copies.
    number: u32,
    /// Addresses and bytes.
    data: Vec<(u64, Vec<u8>)>,
}

/// A warp's bulk groups.
#[derive(Default)]
pub(super) struct BulkGroups {
    /// By lane: how many it has committed.
    committed: Lanes<u32>,
    outgoing: Vec<Outgoing>,
}

/// A run of bytes of a copy: the chunks of shared memory that hold it, and its part in global memory.
pub(super) struct Part {
    pub chunks: Vec<u64>,
    /// Address and the bytes of the part that exist.
    pub global: Option<(u64, std::ops::Range<usize>)>,
}

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

    /// The bytes at a generic address of any space but shared memory.
    pub(super) fn generic_bytes<const N: usize>(
        &mut self,
        cx: &mut Cx,
        (pc, lane): (u32, usize),
        at: u64,
    ) -> Run<[u8; N]> {
        let mut bytes = [0; N];
        for (i, part) in bytes.chunks_exact_mut(8).enumerate() {
            let want = Want { pc, space: Space::Generic, bytes: 8, how: How::Read, order: Order::Weak };
            let target = self.resolve(cx, want, [at + 8 * i as u64; WARP], 1 << lane)?;
            if target.mask != 0 {
                read_run(target.at[lane], part);
            }
        }
        Ok(bytes)
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

/// Puts what arrived into shared memory.
pub(super) fn land(base: u64, landing: &Landing) {
    landing.iter().for_each(|&(at, chunk)| scatter(base + u64::from(at), CHUNK as u32, chunk));
}

fn read_run(at: u64, to: &mut [u8]) {
    if at.is_multiple_of(8) && to.len().is_multiple_of(8) {
        for (i, word) in to.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&crate::memory::load::<AtomicU64>(at + 8 * i as u64).to_le_bytes());
        }
    } else {
        to.iter_mut().enumerate().for_each(|(i, b)| *b = crate::memory::load::<AtomicU8>(at + i as u64));
    }
}

fn write_run(at: u64, from: &[u8]) {
    from.iter().enumerate().for_each(|(i, &b)| store::<AtomicU8>(at + i as u64, b));
}
