//! Global memory during a launch: the allocations, what the launch has done to their bytes, and the rules for accesses.

use super::launch::{Access, Operand};
use super::report::{Run, broken};
use crate::fault::FaultKind;
use crate::memory::{Allocation, Bits, LOCAL_WINDOW, Memory, PARAM_WINDOW, SHARED_WINDOW, Table, WINDOW};
use crate::registers::{Lanes, Mask, WARP};
use std::sync::OnceLock;

/// What an access does to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Read,
    /// Through the read-only path.
    ReadOnly,
    Write,
    /// Reads and writes.
    Update,
}

impl How {
    pub fn reads(self) -> bool {
        self != How::Write
    }

    pub fn writes(self) -> bool {
        matches!(self, How::Write | How::Update)
    }
}

/// Which rules are on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub memory: bool,
    pub unwritten: bool,
    pub races: bool,
    pub barriers: bool,
    pub operands: bool,
}

/// A bitmap of an allocation's bytes that exists once it is needed. Without memory for it the launch goes on unwatched.
#[derive(Default)]
struct Marks(OnceLock<Option<Bits>>);

impl Marks {
    fn set(&self, bytes: u64, from: u64, count: u64) {
        if let Some(bits) = self.0.get_or_init(|| Bits::new(bytes)) {
            bits.set(from, count);
        }
    }

    fn get(&self) -> Option<&Bits> {
        self.0.get()?.as_ref()
    }

    fn count(&self) -> u64 {
        self.get().map_or(0, Bits::count)
    }
}

/// A declared operand and, if it only is written, which of its bytes have been.
struct Declared {
    operand: Operand,
    span: u64,
    written: Marks,
}

impl Declared {
    fn holds(&self, address: u64, bytes: u64) -> bool {
        let o = &self.operand;
        let Some(from) = address.checked_sub(o.address) else { return false };
        if from.checked_add(bytes).is_none_or(|end| end > self.span) {
            return false;
        }
        o.rows == 1 || o.stride == o.bytes || from % o.stride + bytes <= o.bytes
    }

    fn only_written(&self) -> bool {
        matches!(self.operand.access, Access::Write | Access::WritePartial)
    }
}

/// One allocation during a launch.
pub(super) struct Area<'a> {
    pub memory: &'a Allocation,
    read: Marks,
    wrote: Marks,
    read_only: Marks,
}

/// How the addresses of a request lie: the common cases are one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All 32 lanes, one after the other without holes.
    Dense,
    /// All at one place.
    Same,
    Scattered,
}

impl Shape {
    /// Of accesses to `bytes` by the lanes of `mask`; lanes outside repeat a lane inside.
    #[inline]
    pub fn of(at: &Lanes<u64>, mask: Mask, bytes: u64) -> Shape {
        let (mut rising, mut alike, mut next) = (0, 0, at[0]);
        for a in at {
            rising |= a ^ next;
            alike |= a ^ at[0];
            next = next.wrapping_add(bytes);
        }
        match (rising, alike) {
            (0, _) if mask == Mask::MAX => Shape::Dense,
            (_, 0) => Shape::Same,
            _ => Shape::Scattered,
        }
    }

    /// Lowest and highest address.
    #[inline]
    pub fn bounds(self, at: &Lanes<u64>) -> (u64, u64) {
        match self {
            Shape::Scattered => at.iter().fold((u64::MAX, 0), |(low, high), &a| (low.min(a), high.max(a))),
            _ => (at[0], at[WARP - 1]),
        }
    }
}

/// A warp's request: `bytes` at an address per lane. Lanes outside `mask` repeat a lane inside it.
pub(super) struct Request<'r> {
    pub mask: Mask,
    pub at: &'r Lanes<u64>,
    pub bytes: u64,
    pub how: How,
    pub shape: Shape,
}

/// See the module.
pub(super) struct Global<'a> {
    device: &'a Memory,
    areas: Vec<Area<'a>>,
    operands: Option<Vec<Declared>>,
    rules: Rules,
}

impl<'a> Global<'a> {
    pub fn new(device: &'a Memory, table: &'a Table, operands: Option<&[Operand]>, rules: Rules) -> Global<'a> {
        let area =
            |memory| Area { memory, read: Marks::default(), wrote: Marks::default(), read_only: Marks::default() };
        let areas = table.iter().map(|a| area(&**a)).collect();
        let declared = |o: &Operand| Declared { operand: *o, span: o.span().unwrap_or(0), written: Marks::default() };
        let operands = operands.filter(|_| rules.operands).map(|all| all.iter().map(declared).collect());
        Global { device, areas, operands, rules }
    }

    fn find(&self, address: u64) -> Option<usize> {
        let next = self.areas.partition_point(|a| a.memory.base <= address);
        let index = next.checked_sub(1)?;
        (address - self.areas[index].memory.base < self.areas[index].memory.bytes).then_some(index)
    }

    /// Whether the byte exists.
    pub fn holds(&self, address: u64) -> bool {
        self.find(address).is_some()
    }

    /// Whether the byte is of a `.const` variable.
    pub fn constant(&self, address: u64) -> bool {
        self.find(address).is_some_and(|index| self.areas[index].memory.constant)
    }

    /// Checks and notes a request; `recent` is an allocation to try first. Returns the lanes that may go ahead.
    #[inline]
    pub fn access(&self, request: &Request, recent: &mut u32) -> Run<Mask> {
        let (low, high) = request.shape.bounds(request.at);
        if let Some(area) = self.areas.get(*recent as usize)
            && area.memory.contains(low, high - low + request.bytes)
        {
            self.within(area, request, low, high)?;
            return Ok(request.mask);
        }
        self.scattered(request, recent)
    }

    /// The lanes by allocation.
    #[cold]
    fn scattered(&self, request: &Request, recent: &mut u32) -> Run<Mask> {
        let (mut left, mut allowed) = (request.mask, 0);
        while left != 0 {
            let lane = left.trailing_zeros();
            let address = request.at[lane as usize];
            let found = self.find(address).filter(|&i| self.areas[i].memory.contains(address, request.bytes));
            let Some(index) = found else {
                if self.rules.memory {
                    return self.outside(lane, address, request);
                }
                left &= !(1 << lane);
                continue;
            };
            let area = &self.areas[index];
            let inside = |i: usize| left >> i & 1 == 1 && area.memory.contains(request.at[i], request.bytes);
            let mask = (0..WARP).fold(0, |m, i| m | Mask::from(inside(i)) << i);
            let at = repeat_inactive(*request.at, mask);
            let shape = Shape::of(&at, mask, request.bytes);
            let (low, high) = shape.bounds(&at);
            self.within(area, &Request { mask, at: &at, shape, ..*request }, low, high)?;
            *recent = index as u32;
            left &= !mask;
            allowed |= mask;
        }
        Ok(allowed)
    }

    fn outside<T>(&self, lane: u32, address: u64, request: &Request) -> Run<T> {
        let Request { bytes, how, .. } = request;
        let verb = if how.reads() { "read" } else { "write" };
        if let Some(f) = self.device.freed(address) {
            let (base, size, offset) = (f.base, f.bytes, address - f.base);
            let why = format!(
                "{verb} of {bytes} bytes at {address:#x}, byte {offset} of allocation {} ({}, {size} bytes at {base:#x}), which was freed",
                f.id, f.what
            );
            return broken(FaultKind::UseAfterFree, lane, why);
        }
        // Generic accesses to these have gone elsewhere.
        let mut windows =
            [(SHARED_WINDOW, "shared memory"), (LOCAL_WINDOW, "local memory"), (PARAM_WINDOW, "a parameter")]
                .into_iter();
        if let Some((_, space)) = windows.find(|(window, _)| address.wrapping_sub(*window) < WINDOW) {
            let why = format!(
                "{verb} of {bytes} bytes at {address:#x}: the address of {space} in an instruction for global memory"
            );
            return broken(FaultKind::IllegalInstruction, lane, why);
        }
        let distance = |a: &Allocation| match address.checked_sub(a.base) {
            None => a.base - address,
            Some(offset) => (offset + bytes).saturating_sub(a.bytes),
        };
        let near = self.areas.iter().map(|a| a.memory).min_by_key(|a| distance(a));
        let near = near.map_or("no memory is allocated".to_owned(), |a| {
            let side = if address < a.base { "before" } else { "past the end of" };
            format!("{} bytes {side} allocation {} ({}, {} bytes at {:#x})", distance(a), a.id, a.what, a.bytes, a.base)
        });
        broken(FaultKind::OutOfBounds, lane, format!("{verb} of {bytes} bytes at {address:#x}: {near}"))
    }

    /// A request that lies in one allocation, from `low` to the access at `high`.
    #[inline]
    fn within(&self, area: &Area, request: &Request, low: u64, high: u64) -> Run {
        let size = area.memory.bytes;
        if self.operands.is_some() {
            self.check_operands(request, low, high)?;
        }
        let mut n = 0;
        let mut lanes = [(0, 0); WARP];
        match request.shape {
            Shape::Dense => (n, lanes[0]) = (1, (low, WARP as u64 * request.bytes)),
            Shape::Same => (n, lanes[0]) = (1, (low, request.bytes)),
            Shape::Scattered => {
                for i in (0..WARP).filter(|i| request.mask >> i & 1 == 1) {
                    lanes[n] = (request.at[i], request.bytes);
                    n += 1;
                }
            }
        }
        for &(address, bytes) in &lanes[..n] {
            let from = address - area.memory.base;
            if request.how.reads() {
                if self.rules.unwritten && !area.memory.written().all(from, bytes) {
                    return self.unwritten(area, request, address, bytes);
                }
                // A cache without end still holds what this launch has written.
                if !area.wrote.get().is_some_and(|w| w.all(from, bytes)) {
                    area.read.set(size, from, bytes);
                }
            }
            if request.how == How::ReadOnly {
                area.read_only.set(size, from, bytes);
                if self.rules.races && area.wrote.get().is_some_and(|w| w.any(from, bytes)) {
                    return self.not_read_only(request, address, bytes, "was written by this kernel before");
                }
            }
            if request.how.writes() {
                area.memory.written().set(from, bytes);
                area.wrote.set(size, from, bytes);
                if self.rules.races && area.read_only.get().is_some_and(|r| r.any(from, bytes)) {
                    return self.not_read_only(
                        request,
                        address,
                        bytes,
                        "was read through ld.global.nc by this kernel before",
                    );
                }
            }
        }
        Ok(())
    }

    /// The first lane whose access meets `bytes` from `address`, for reports about a range.
    fn lane_of(request: &Request, address: u64, bytes: u64) -> u32 {
        let meets = |i: &u32| {
            let at = request.at[*i as usize];
            request.mask >> i & 1 == 1 && at < address + bytes && address < at + request.bytes
        };
        (0..WARP as u32).find(meets).unwrap_or(0)
    }

    #[cold]
    fn unwritten(&self, area: &Area, request: &Request, address: u64, bytes: u64) -> Run {
        let a = area.memory;
        let first = a.written().first_clear(address - a.base, bytes).unwrap_or(address - a.base);
        let lane = Self::lane_of(request, a.base + first, 1);
        let why = format!(
            "read of {} bytes at {:#x}: byte {first} of allocation {} ({}, {} bytes) was never written",
            request.bytes, request.at[lane as usize], a.id, a.what, a.bytes
        );
        broken(FaultKind::UninitialisedGlobal, lane, why)
    }

    #[cold]
    fn not_read_only(&self, request: &Request, address: u64, bytes: u64, what: &str) -> Run {
        let lane = Self::lane_of(request, address, bytes);
        let why = match request.how {
            How::ReadOnly => {
                format!("ld.global.nc of {} bytes at {:#x}: it {what}", request.bytes, request.at[lane as usize])
            }
            _ => format!("write of {} bytes at {:#x}: it {what}", request.bytes, request.at[lane as usize]),
        };
        broken(FaultKind::ReadOnlyWritten, lane, why)
    }

    /// One operand that permits it must hold all of the request, or one each of its lanes.
    fn check_operands(&self, request: &Request, low: u64, high: u64) -> Run {
        let operands = self.operands.as_deref().unwrap_or(&[]);
        let bytes = high - low + request.bytes;
        if let Some(d) = operands.iter().find(|d| d.holds(low, bytes)) {
            let permits = match d.operand.access {
                Access::ReadWrite => true,
                Access::Read => !request.how.writes(),
                Access::Write | Access::WritePartial => request.how == How::Write && request.shape != Shape::Scattered,
            };
            if permits && d.only_written() {
                d.written.set(d.span, low - d.operand.address, bytes);
            }
            if permits {
                return Ok(());
            }
        }
        for lane in (0..WARP as u32).filter(|i| request.mask >> i & 1 == 1) {
            self.check_operand(operands, request, lane)?;
        }
        Ok(())
    }

    fn check_operand(&self, operands: &[Declared], request: &Request, lane: u32) -> Run {
        let (address, bytes) = (request.at[lane as usize], request.bytes);
        let verb = if request.how.writes() { "write" } else { "read" };
        let mut refusal = (FaultKind::Operand, "it lies outside every declared operand".to_owned());
        for (i, d) in operands.iter().enumerate().filter(|(_, d)| d.holds(address, bytes)) {
            let from = address - d.operand.address;
            let known = || d.written.get().is_some_and(|w| w.all(from, bytes));
            match d.operand.access {
                Access::Read if request.how.writes() => {
                    refusal = (FaultKind::Operand, format!("operand {i} is declared as read only"))
                }
                Access::Write | Access::WritePartial if request.how.reads() && !known() => {
                    let why = format!(
                        "operand {i} is declared as output only and this place has not been written by the launch"
                    );
                    refusal = (FaultKind::UninitialisedGlobal, why);
                }
                Access::Write | Access::WritePartial => {
                    if request.how.writes() {
                        d.written.set(d.span, from, bytes);
                    }
                    return Ok(());
                }
                Access::Read | Access::ReadWrite => return Ok(()),
            }
        }
        broken(refusal.0, lane, format!("{verb} of {bytes} bytes at {address:#x}: {}", refusal.1))
    }

    /// The first output operand that was not written everywhere, and its first missing byte.
    pub fn missing_output(&self) -> Option<String> {
        for (i, d) in self.operands.as_deref()?.iter().enumerate().filter(|(_, d)| d.operand.access == Access::Write) {
            let rows = if d.span == 0 { 0 } else { d.operand.rows };
            for row in 0..rows {
                let from = row * d.operand.stride;
                let missing = match d.written.get() {
                    Some(bits) => bits.first_clear(from, d.operand.bytes),
                    None => (d.operand.bytes > 0).then_some(from),
                };
                if let Some(byte) = missing {
                    return Some(format!(
                        "operand {i} is an output, but byte {} of row {row} was never written",
                        byte - from
                    ));
                }
            }
        }
        None
    }

    /// Distinct bytes read by the launch, but for those that it had written before, and distinct bytes written.
    pub fn distinct_bytes(&self) -> (u64, u64) {
        let sum = |marks: fn(&'_ Area) -> u64| self.areas.iter().map(marks).sum();
        (sum(|a| a.read.count()), sum(|a| a.wrote.count()))
    }
}

/// The addresses with those outside `mask` (which is not empty) replaced by its first.
#[inline]
pub(super) fn repeat_inactive(at: Lanes<u64>, mask: Mask) -> Lanes<u64> {
    if mask == Mask::MAX {
        return at;
    }
    let first = at[mask.trailing_zeros() as usize];
    std::array::from_fn(|i| if mask >> i & 1 == 1 { at[i] } else { first })
}

/// Distinct 32-byte sectors of a request.
pub(super) fn sectors(request: &Request) -> u64 {
    let (at, bytes) = (request.at, request.bytes);
    match request.shape {
        Shape::Dense => (at[WARP - 1] + bytes - 1) / 32 - at[0] / 32 + 1,
        Shape::Same => (at[0] + bytes - 1) / 32 - at[0] / 32 + 1,
        Shape::Scattered => {
            let mut order = at.map(|a| a / 32);
            if !order.is_sorted() {
                order.sort_unstable();
            }
            let distinct = 1 + (1..WARP).filter(|&i| order[i] != order[i - 1]).count() as u64;
            // Accesses are aligned to their size: one of more than 32 bytes is whole sectors.
            distinct * bytes.div_ceil(32)
        }
    }
}
