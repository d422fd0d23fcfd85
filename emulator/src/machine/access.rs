//! Loads and stores: from a register's address to checked host addresses, and the bytes there.
//!
//! Every space ends as host addresses, so data moves in one way; what differs are the checks before.

use super::clock::asynchronous;
use super::global::{How, Request, Shape, repeat_inactive, sectors};
use super::races::{Trouble, Use};
use super::raw::{load_narrow, store_narrow};
use super::report::{Broken, Run, broken, instruction};
use super::shared::wavefronts;
use super::state::warp::{Cx, Warp};
use crate::fault::FaultKind;
use crate::isa::{Address, Load, Order, Reg, Space, Store, Ty};
use crate::memory::{self, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::registers::{Lanes, Mask, WARP, lanes};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// An access to resolve.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub pc: u32,
    pub space: Space,
    pub bytes: u64,
    pub how: How,
    pub order: Order,
}

/// Host addresses of the lanes of `mask`; `shared` are those in shared memory, `apart` those of them that could meet.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub at: Lanes<u64>,
    pub mask: Mask,
    pub shared: Mask,
    pub apart: Mask,
}

/// The space that a generic address is in, and its address there.
#[inline]
pub(super) fn space_of(address: u64) -> (Space, u64) {
    match address {
        SHARED_WINDOW..LOCAL_WINDOW if address - SHARED_WINDOW < WINDOW => (Space::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW..PARAM_WINDOW if address - LOCAL_WINDOW < WINDOW => (Space::Local, address - LOCAL_WINDOW),
        PARAM_WINDOW.. if address - PARAM_WINDOW < WINDOW => (Space::Param, address - PARAM_WINDOW),
        _ => (Space::Global, address),
    }
}

fn strong(order: Order) -> bool {
    order != Order::Weak
}

impl<'g> Warp<'g> {
    /// What an address operand says in every lane.
    #[inline]
    pub(super) fn addresses(&self, at: &Address) -> Lanes<u64> {
        let offset = at.offset as u64;
        if at.wide {
            let base = self.regs.b64(at.base);
            std::array::from_fn(|i| base[i].wrapping_add(offset))
        } else {
            let base = self.regs.b32(at.base);
            std::array::from_fn(|i| u64::from(base[i].wrapping_add(offset as u32)))
        }
    }

    /// Checks an access by the lanes of `mask` (not empty) and finds where its bytes are.
    pub(super) fn resolve(&mut self, cx: &mut Cx, want: Want, at: Lanes<u64>, mask: Mask) -> Run<Target> {
        let mut at = repeat_inactive(at, mask);
        let mut mask = mask;
        let align = want.bytes & want.bytes.wrapping_neg();
        if at.iter().fold(0, |all, a| all | a) & (align - 1) != 0 {
            if cx.grid.rules.memory {
                return misaligned(&at, mask, want.bytes, align);
            }
            mask = lanes(mask).filter(|&i| at[i].is_multiple_of(align)).fold(0, |m, i| m | 1 << i);
            if mask == 0 {
                return Ok(Target { at, mask: 0, shared: 0, apart: 0 });
            }
            at = repeat_inactive(at, mask);
        }
        if want.space != Space::Generic || at.iter().all(|a| *a >= PARAM_WINDOW + WINDOW) {
            return self.resolve_in(cx, want, at, mask);
        }
        let mut target = Target { at, mask: 0, shared: 0, apart: 0 };
        let mut left = mask;
        while left != 0 {
            let (space, _) = space_of(at[left.trailing_zeros() as usize]);
            let alike = lanes(left).filter(|&i| space_of(at[i]).0 == space).fold(0, |m, i| m | 1 << i);
            let inside = repeat_inactive(std::array::from_fn(|i| space_of(at[i]).1), alike);
            let part = self.resolve_in(cx, Want { space, ..want }, inside, alike)?;
            lanes(part.mask).for_each(|i| target.at[i] = part.at[i]);
            target.mask |= part.mask;
            target.shared |= part.shared;
            target.apart |= part.apart;
            left &= !alike;
        }
        Ok(target)
    }

    fn resolve_in(&mut self, cx: &mut Cx, want: Want, at: Lanes<u64>, mask: Mask) -> Run<Target> {
        match want.space {
            Space::Global | Space::Const | Space::Generic => self.resolve_global(cx, want, at, mask),
            Space::Shared => {
                let how = match want.how {
                    How::Read | How::ReadOnly => Use::Read,
                    How::Write => Use::Write,
                    How::Update => Use::Update,
                };
                self.resolve_shared(cx, want, at, mask, how)
            }
            Space::Local => {
                let size = cx.grid.local;
                let mask = inside(cx, want, &at, mask, size, "local memory of the thread")?;
                cx.work.tally.total.local_bytes += u64::from(mask.count_ones()) * want.bytes;
                let base = self.local.base();
                Ok(Target { at: std::array::from_fn(|i| base + i as u64 * size + at[i]), mask, shared: 0, apart: 0 })
            }
            Space::Param => {
                if want.how.writes() {
                    return broken(
                        FaultKind::IllegalInstruction,
                        mask.trailing_zeros(),
                        "kernel parameters cannot be written".into(),
                    );
                }
                let params = &cx.grid.params;
                let mask = inside(cx, want, &at, mask, params.len(), "the kernel's parameters")?;
                Ok(Target { at: at.map(|a| params.base() + a), mask, shared: 0, apart: 0 })
            }
        }
    }

    fn resolve_global(&mut self, cx: &mut Cx, want: Want, at: Lanes<u64>, mask: Mask) -> Run<Target> {
        let shape = Shape::of(&at, mask, want.bytes);
        let request = Request { mask, at: &at, bytes: want.bytes, how: want.how, shape };
        let mask = cx.grid.global.access(&request, &mut cx.work.recent[want.pc as usize])?;
        let total = &mut cx.work.tally.total;
        match want.how {
            _ if want.space == Space::Const => {}
            How::Read | How::ReadOnly => {
                total.global_load_requests += 1;
                total.global_load_sectors += sectors(&request);
            }
            How::Write => {
                total.global_store_requests += 1;
                total.global_store_sectors += sectors(&request);
            }
            How::Update => total.global_atomics += 1,
        }
        if strong(want.order) {
            self.synchronise(cx, want, &at, mask);
        }
        Ok(Target { at, mask, shared: 0, apart: 0 })
    }

    pub(super) fn resolve_shared(
        &mut self,
        cx: &mut Cx,
        want: Want,
        at: Lanes<u64>,
        mask: Mask,
        how: Use,
    ) -> Run<Target> {
        let size = cx.cta.shared.len();
        let mask = inside(cx, want, &at, mask, size, "shared memory of the block")?;
        let base = cx.cta.shared.base();
        let host = Target { at: at.map(|a| base + a), mask, shared: mask, apart: mask };
        if mask == 0 {
            return Ok(host);
        }
        let shape = Shape::of(&at, mask, want.bytes);
        self.watch_shared(cx, want, how, &at, (mask, shape))?;
        let dense = shape == Shape::Dense;
        if how == Use::Update {
            cx.work.tally.total.shared_atomics += 1;
        } else {
            let ideal = (want.bytes / 4).max(1);
            let (taken, ideal) = if dense { (ideal, ideal) } else { wavefronts(&at, mask, want.bytes as u32) };
            let count = &mut cx.work.tally.by_instruction[want.pc as usize];
            count.wavefronts += taken;
            count.ideal += ideal;
        }
        if strong(want.order) {
            self.synchronise(cx, want, &at.map(|a| a + SHARED_WINDOW), mask);
        }
        Ok(Target { apart: if dense { 0 } else { mask }, ..host })
    }

    /// Tells the race detector.
    fn watch_shared(
        &mut self,
        cx: &mut Cx,
        want: Want,
        how: Use,
        at: &Lanes<u64>,
        (mask, shape): (Mask, Shape),
    ) -> Run {
        let (warp, strong, bytes) = (self.index as usize, strong(want.order), want.bytes as u32);
        let mut note =
            |offset: u64, bytes: u32| cx.cta.races.access(warp, strong, want.pc, how, (offset as u32, bytes));
        let done = match shape {
            Shape::Dense => note(at[0], bytes * WARP as u32),
            Shape::Same => note(at[0], bytes),
            Shape::Scattered => lanes(mask).try_for_each(|i| note(at[i], bytes)),
        };
        done.map_err(|(offset, trouble)| {
            self.shared_trouble(cx, how, at, mask, want.bytes, (u64::from(offset), trouble))
        })
    }

    #[cold]
    fn shared_trouble(
        &self,
        cx: &Cx,
        how: Use,
        at: &Lanes<u64>,
        mask: Mask,
        bytes: u64,
        (offset, trouble): (u64, Trouble),
    ) -> Box<Broken> {
        let lane = lanes(mask).find(|&i| at[i] + bytes > offset && at[i] <= offset + 3).unwrap_or(0);
        let verb = match how {
            Use::Read => "read",
            Use::Write | Use::Rewrite => "write",
            Use::Update => "atomic update",
            Use::Issue => "asynchronous copy",
        };
        let (kind, why) = self.shared_rule(cx, verb, (at[lane], bytes), (offset, trouble));
        let Err(broken) = broken::<()>(kind, lane as u32, why) else { unreachable!("always an error") };
        broken
    }

    /// Which rule an access to `bytes` from `at` breaks at `offset`, and how.
    #[cold]
    pub(super) fn shared_rule(
        &self,
        cx: &Cx,
        verb: &str,
        (at, bytes): (u64, u64),
        (offset, trouble): (u64, Trouble),
    ) -> (FaultKind, String) {
        let place = format!("{verb} of {bytes} bytes at shared offset {at:#x}");
        let program = cx.grid.program;
        let warp = self.index;
        match trouble {
            Trouble::Unwritten => {
                let why = format!("{place}: byte {offset:#x} was never written by this block");
                (FaultKind::UninitialisedShared, why)
            }
            Trouble::Unfenced { other, pc } => {
                let (writer, pc) = (other.party, instruction(program, pc));
                let why = format!(
                    "{place} by warp {warp}: warp {writer} wrote there at {pc}, and no fence.proxy.async came between"
                );
                (FaultKind::SharedRace, why)
            }
            Trouble::Race { other, wrote, pc } => {
                let party = match (wrote, other.in_flight(), asynchronous(other.party)) {
                    (true, true, _) => "an asynchronous copy that is still under way, issued".to_owned(),
                    (true, false, _) => format!("a write by warp {}", other.party),
                    (false, _, false) => format!("a read by warp {}", other.party),
                    (false, _, true) => "an asynchronous read that is still under way, issued".to_owned(),
                };
                let why = format!(
                    "{place} by warp {warp} conflicts with {party} at {}; nothing orders them",
                    instruction(program, pc)
                );
                (FaultKind::SharedRace, why)
            }
        }
    }

    /// Strong accesses hand on, and take, what is known.
    fn synchronise(&mut self, cx: &mut Cx, want: Want, at: &Lanes<u64>, mask: Mask) {
        let mut last = None;
        cx.work.looks = cx.work.looks.wrapping_add(1);
        for lane in lanes(mask) {
            if last != Some(at[lane]) {
                cx.cta.races.strong(self.index as usize, at[lane], want.order, want.how.reads(), want.how.writes());
                last = Some(at[lane]);
            }
        }
    }

    pub(super) fn load(&mut self, cx: &mut Cx, pc: u32, load: &Load, mask: Mask) -> Run {
        let element = u64::from(load.ty.bytes());
        let bytes = element * load.d.as_slice().len() as u64;
        let how = if load.nc { How::ReadOnly } else { How::Read };
        let want = Want { pc, space: load.space, bytes, how, order: load.order };
        let target = self.resolve(cx, want, self.addresses(&load.at), mask)?;
        for (i, d) in load.d.as_slice().iter().enumerate() {
            if let Some(d) = d {
                self.fetch(*d, (load.ty, load.reg), &target, i as u64 * element, mask);
            }
        }
        Ok(())
    }

    /// One element per lane into a register; lanes without an address get 0.
    pub(super) fn fetch(&mut self, d: Reg, (ty, reg): (Ty, Ty), target: &Target, offset: u64, mask: Mask) {
        match (reg.rows(), ty.bytes()) {
            (1, 4) => {
                let mut v = [0; WARP];
                if target.mask == Mask::MAX {
                    v = target.at.map(|at| memory::load::<AtomicU32>(at + offset));
                } else {
                    lanes(target.mask).for_each(|i| v[i] = memory::load::<AtomicU32>(target.at[i] + offset));
                }
                self.regs.set_b32(d, mask, &v);
            }
            (4, 16) => {
                let mut v = [0; WARP];
                for i in lanes(target.mask) {
                    let half = |o| u128::from(memory::load::<AtomicU64>(target.at[i] + offset + o));
                    v[i] = half(0) | half(8) << 64;
                }
                self.regs.set_b128(d, mask, &v);
            }
            (rows, bytes) => {
                let mut v = [0; WARP];
                for i in lanes(target.mask) {
                    v[i] = extend(load_narrow(target.at[i] + offset, bytes), ty, reg);
                }
                match rows {
                    1 => self.regs.set_b32(d, mask, &v.map(|x| x as u32)),
                    _ => self.regs.set_b64(d, mask, &v),
                }
            }
        }
    }

    pub(super) fn store(&mut self, cx: &mut Cx, pc: u32, store: &Store, mask: Mask) -> Run {
        let element = u64::from(store.ty.bytes());
        let bytes = element * store.a.as_slice().len() as u64;
        let want = Want { pc, space: store.space, bytes, how: How::Write, order: store.order };
        let at = self.addresses(&store.at);
        let target = match self.resolve(cx, want, at, mask) {
            Err(race) if race.kind == FaultKind::SharedRace => self.rewrite(cx, want, store, at, mask, race)?,
            target => target?,
        };
        cx.work.progress = true;
        for (i, a) in store.a.as_slice().iter().enumerate() {
            self.put(*a, (store.ty, store.reg), &target, i as u64 * element);
            if target.apart != 0 && cx.grid.rules.races {
                self.same_values(*a, (store.ty, store.reg), &target, i as u64 * element, &at)?;
            }
        }
        Ok(())
    }

    /// One element per lane from a register.
    pub(super) fn put(&self, a: Reg, (ty, reg): (Ty, Ty), target: &Target, offset: u64) {
        match (ty.bytes(), reg.rows()) {
            (16, _) => {
                let v = self.regs.b128(a);
                for i in lanes(target.mask) {
                    memory::store::<AtomicU64>(target.at[i] + offset, v[i] as u64);
                    memory::store::<AtomicU64>(target.at[i] + offset + 8, (v[i] >> 64) as u64);
                }
            }
            (4, 1) => {
                let v = self.regs.b32(a);
                if target.mask == Mask::MAX {
                    (0..WARP).for_each(|i| memory::store::<AtomicU32>(target.at[i] + offset, v[i]));
                } else {
                    lanes(target.mask).for_each(|i| memory::store::<AtomicU32>(target.at[i] + offset, v[i]));
                }
            }
            (bytes, 1) => {
                let v = self.regs.b32(a);
                lanes(target.mask).for_each(|i| store_narrow(target.at[i] + offset, bytes, u64::from(v[i])));
            }
            (bytes, _) => {
                let v = self.regs.b64(a);
                lanes(target.mask).for_each(|i| store_narrow(target.at[i] + offset, bytes, v[i]));
            }
        }
    }

    /// A store that races: warps may store what is there already (each its copy of a result), and nothing else.
    #[cold]
    fn rewrite(
        &mut self,
        cx: &mut Cx,
        want: Want,
        store: &Store,
        at: Lanes<u64>,
        mask: Mask,
        race: Box<Broken>,
    ) -> Run<Target> {
        let generic = want.space == Space::Generic;
        let at = repeat_inactive(at, mask);
        let inside = if generic { at.map(|a| space_of(a).1) } else { at };
        let (base, size) = (cx.cta.shared.base(), cx.cta.shared.len());
        let kind = (store.ty, store.reg);
        let element = u64::from(store.ty.bytes());
        let same = |lane: usize| {
            let fits = inside[lane].checked_add(want.bytes).is_some_and(|end| end <= size);
            let elements = (0u64..).zip(store.a.as_slice());
            fits && (!generic || space_of(at[lane]).0 == Space::Shared)
                && elements
                    .map(|(i, a)| (base + inside[lane] + i * element, a))
                    .all(|(host, a)| element <= 8 && load_narrow(host, store.ty.bytes()) == self.stored(*a, kind, lane))
        };
        if !lanes(mask).all(same) {
            return Err(race);
        }
        self.resolve_shared(cx, want, inside, mask, Use::Rewrite)
    }

    /// What a store of at most 8 bytes keeps of a register.
    fn stored(&self, a: Reg, (ty, reg): (Ty, Ty), lane: usize) -> u64 {
        let value = if reg.rows() == 1 { u64::from(self.regs.b32(a)[lane]) } else { self.regs.b64(a)[lane] };
        value & (u64::MAX >> (64 - ty.bits()))
    }

    /// Lanes of one store to one place must agree on the value.
    fn same_values(&self, a: Reg, (ty, reg): (Ty, Ty), target: &Target, offset: u64, at: &Lanes<u64>) -> Run {
        if ty.bytes() > 8 {
            return Ok(());
        }
        for i in lanes(target.apart) {
            if load_narrow(target.at[i] + offset, ty.bytes()) != self.stored(a, (ty, reg), i) {
                let why = format!(
                    "lanes of warp {} store different values at shared offset {:#x} in one instruction",
                    self.index,
                    at[i] % WINDOW
                );
                return broken(FaultKind::SharedRace, i as u32, why);
            }
        }
        Ok(())
    }
}

#[cold]
fn misaligned<T>(at: &Lanes<u64>, mask: Mask, bytes: u64, align: u64) -> Run<T> {
    let lane = lanes(mask).find(|&i| !at[i].is_multiple_of(align)).unwrap_or(0);
    broken(
        FaultKind::Misaligned,
        lane as u32,
        format!("access of {bytes} bytes at {:#x}, which is not a multiple of {align}", at[lane]),
    )
}

/// The lanes whose access lies within `size` bytes; without the check others are dropped.
fn inside(cx: &Cx, want: Want, at: &Lanes<u64>, mask: Mask, size: u64, what: &str) -> Run<Mask> {
    let high = at.iter().fold(0, |high, a| high.max(*a));
    if high.checked_add(want.bytes).is_some_and(|end| end <= size) {
        return Ok(mask);
    }
    let fits = |i: &usize| at[*i].checked_add(want.bytes).is_some_and(|end| end <= size);
    match lanes(mask).find(|i| !fits(i)) {
        Some(lane) if cx.grid.rules.memory => {
            let past = at[lane].saturating_add(want.bytes) - size;
            let why = format!(
                "access of {} bytes at offset {:#x} of {what}, {past} bytes past its {size} bytes",
                want.bytes, at[lane]
            );
            broken(FaultKind::OutOfBounds, lane as u32, why)
        }
        _ => Ok(lanes(mask).filter(fits).fold(0, |m, i| m | 1 << i)),
    }
}

/// Widens by the sign of signed types, to the register's width.
#[inline]
fn extend(value: u64, ty: Ty, reg: Ty) -> u64 {
    if !ty.signed() || reg.bits() <= ty.bits() {
        return value;
    }
    let unused = 64 - ty.bits();
    let wide = ((value << unused) as i64 >> unused) as u64;
    wide & (u64::MAX >> (64 - reg.bits()))
}
