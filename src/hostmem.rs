//! Host memory of an executor: one allocation per region, and the view that one op gets of it.
//!
//! An op sees only the operands it declared, each with the access it declared, and a written operand once; the plan has checked that a written
//! operand overlaps no other one. That is why safe code may hold several slices of one allocation.

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::launch::{Access, Launch};
use crate::tensor::{Place, Region, Tensor, WeightId};
use crate::weights::{Weight, WeightSet};
use memmap2::MmapMut;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Larger allocations ask for pages of this size: activations are touched anew every step, and small pages cost a fault for 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed pages that take no memory until they are used.
#[derive(Debug)]
struct Allocation {
    base: NonNull<u8>,
    len: usize,
    _pages: Option<MmapMut>,
}

// SAFETY: an allocation is plain bytes owned by `HostRegions`; shared access goes through `OpMem`, whose rules exclude aliased writes.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(region: Region, len: usize) -> Result<Self> {
        if len == 0 {
            return Ok(Allocation { base: NonNull::<u64>::dangling().cast(), len, _pages: None });
        }
        let refused = |e: std::io::Error| Error::Memory {
            what: format!("region {}", region.name()),
            need: len as u64,
            have: 0,
            hint: format!("the system refused it ({e}); lower --context, --max-new-tokens or --max-pixels"),
        };
        let mut pages = MmapMut::map_anon(len).map_err(refused)?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE {
            // A kernel without huge pages says so, and small ones serve as well.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        let base = NonNull::new(pages.as_mut_ptr()).expect("a mapping has an address");
        Ok(Allocation { base, len, _pages: Some(pages) })
    }
}

/// The host memory behind all regions.
#[derive(Debug)]
pub struct HostRegions {
    regions: [Allocation; Region::ALL.len()],
}

impl HostRegions {
    /// Allocates every region with its size in bytes, zeroed.
    ///
    /// # Errors
    /// [`Error::Memory`] if the system refuses.
    pub fn new(bytes: &RegionBytes) -> Result<Self> {
        let regions: Vec<Allocation> =
            Region::ALL.into_iter().map(|r| Allocation::new(r, bytes.get(r))).collect::<Result<_>>()?;
        Ok(HostRegions { regions: regions.try_into().expect("one allocation for each region") })
    }

    /// The bytes of a region.
    pub fn bytes(&self, region: Region) -> &[u8] {
        let a = &self.regions[region as usize];
        // SAFETY: the allocation has `len` initialised bytes, and nothing writes while `self` is borrowed: writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(a.base.as_ptr(), a.len) }
    }

    /// The bytes of a region, to write.
    pub fn bytes_mut(&mut self, region: Region) -> &mut [u8] {
        let a = &mut self.regions[region as usize];
        // SAFETY: as in `bytes`, with exclusive access.
        unsafe { std::slice::from_raw_parts_mut(a.base.as_ptr(), a.len) }
    }

    /// What one op sees while it runs. `temps` says where the plan put its temporaries.
    ///
    /// # Errors
    /// [`Error::Contract`] if an operand lies outside its region or a written operand overlaps another operand.
    pub fn view<'a>(
        &'a mut self,
        launch: &'a Launch,
        temps: &'a [TempPlace],
        weights: &'a WeightSet,
    ) -> Result<OpMem<'a>> {
        check_operands(launch, temps, |region| self.regions[region as usize].len)?;
        let bases = self.regions.each_ref().map(|a| a.base);
        Ok(OpMem { bases, launch, temps, weights, taken: Cell::new(0), _memory: PhantomData })
    }
}

/// Sizes of all regions in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionBytes([usize; Region::ALL.len()]);

impl RegionBytes {
    /// Bytes of one region.
    pub fn get(&self, region: Region) -> usize {
        self.0[region as usize]
    }

    /// Sets the bytes of one region.
    pub fn set(&mut self, region: Region, bytes: usize) {
        self.0[region as usize] = bytes;
    }

    /// Grows a region to at least `bytes`.
    pub fn at_least(&mut self, region: Region, bytes: usize) {
        self.set(region, bytes.max(self.get(region)));
    }

    /// Bytes of all regions.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

/// Where a plan put a temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TempPlace {
    pub region: Region,
    pub offset: usize,
}

/// The region and byte offset of a place.
pub fn resolve(place: Place, temps: &[TempPlace]) -> (Region, usize) {
    match place {
        Place::At { region, offset } => (region, offset),
        Place::Temp { id, offset } => {
            let temp = temps[id.0 as usize];
            (temp.region, temp.offset.saturating_add(offset))
        }
    }
}

/// The contract that makes [`OpMem`] safe: operands inside their regions, written ones apart from all others.
///
/// # Errors
/// [`Error::Contract`] naming the operands.
pub fn check_operands(launch: &Launch, temps: &[TempPlace], region_len: impl Fn(Region) -> usize) -> Result<()> {
    let mut seen: Vec<(Region, usize, usize, Access, &Tensor)> = Vec::new();
    for (t, access) in launch.operands() {
        let (region, start) = resolve(t.place, temps);
        let end = t.checked_bytes().and_then(|bytes| start.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= region_len(region)) else {
            let why = format!("{}: {t} ends beyond the {} bytes of its region", launch.entry, region_len(region));
            return Err(Error::contract("operand", why));
        };
        for &(other_region, a, b, other_access, other) in &seen {
            let both_read = access == Access::Read && other_access == Access::Read;
            if region == other_region && start < b && a < end && !both_read {
                return Err(Error::contract("operand", format!("{}: {t} overlaps {other}", launch.entry)));
            }
        }
        seen.push((region, start, end, access, t));
    }
    Ok(())
}

/// One op's view of host memory.
pub struct OpMem<'a> {
    bases: [NonNull<u8>; Region::ALL.len()],
    launch: &'a Launch,
    temps: &'a [TempPlace],
    weights: &'a WeightSet,
    /// Written operands already handed out, one bit each.
    taken: Cell<u64>,
    _memory: PhantomData<&'a mut HostRegions>,
}

impl<'a> OpMem<'a> {
    /// The weight behind an identity.
    pub fn weight(&self, id: WeightId) -> &'a Weight {
        self.weights.get(id)
    }

    /// The elements that a read operand spans, padding between rows included.
    ///
    /// # Panics
    /// If the op did not declare this operand as read, or with another element type.
    pub fn read<T: Element>(&self, t: &Tensor) -> &'a [T] {
        self.declared(t, |access| access == Access::Read);
        let (ptr, len) = self.locate::<T>(t);
        // SAFETY: in bounds and aligned (`locate`), and no other operand of this launch writes it (`check_operands`).
        unsafe { std::slice::from_raw_parts(ptr, len) }
    }

    /// The elements that a written or updated operand spans; once per op.
    ///
    /// # Panics
    /// If the op did not declare this operand as written, took it before, or with another element type.
    #[allow(clippy::mut_from_ref)]
    pub fn write<T: Element>(&self, t: &Tensor) -> &'a mut [T] {
        let index = self.declared(t, |access| access != Access::Read);
        assert!(self.taken.get() & (1 << index) == 0, "{}: operand {t} taken twice", self.launch.entry);
        self.taken.set(self.taken.get() | (1 << index));
        let (ptr, len) = self.locate::<T>(t);
        // SAFETY: in bounds and aligned (`locate`), apart from every other operand (`check_operands`), and handed out once.
        unsafe { std::slice::from_raw_parts_mut(ptr, len) }
    }

    fn declared(&self, t: &Tensor, allowed: impl Fn(Access) -> bool) -> usize {
        self.launch
            .operands()
            .position(|(operand, access)| operand == t && allowed(access))
            .unwrap_or_else(|| panic!("{}: {t} is not declared with this access", self.launch.entry))
    }

    fn locate<T: Element>(&self, t: &Tensor) -> (*mut T, usize) {
        assert_eq!(T::DTYPE, t.dtype, "{}: {t} taken as another type", self.launch.entry);
        let (region, offset) = resolve(t.place, self.temps);
        assert!(offset % align_of::<T>() == 0, "{}: {t} is misaligned", self.launch.entry);
        // SAFETY: `check_operands` placed offset and span inside the region's allocation.
        let ptr = unsafe { self.bases[region as usize].as_ptr().add(offset) };
        (ptr.cast(), t.span())
    }
}

/// A slice that several threads write at disjoint indices.
pub struct SharedMut<'a, T> {
    base: *mut T,
    len: usize,
    _memory: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose caller promises disjointness.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares a slice among threads.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { base: slice.as_mut_ptr(), len: slice.len(), _memory: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No two live slices may overlap: a parallel body gives every index to one task.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "{start}+{len} of {}", self.len);
        // SAFETY: in bounds, and disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }
}
