//! The device's memory: allocations with exact sizes in one reserved range of addresses, and what is known of each byte.
//!
//! Addresses are host addresses inside one lazily committed mapping, so reading an element costs a load and no
//! translation. Every allocation begins on a page, is followed by a gap, and its addresses are not given out again
//! until the range is used up, so that a use after free is told from an access out of bounds.
//!
//! Accesses are relaxed atomics of at most 8 bytes: kernels may race, the emulator must not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Generic addresses from here are shared memory, local memory, kernel parameters; a window is 16 MiB. They lie below any
/// address that the host maps.
pub const SHARED_WINDOW: u64 = 0x1_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x2_0000_0000;
pub const PARAM_WINDOW: u64 = 0x3_0000_0000;
/// Bytes of a window.
pub const WINDOW: u64 = 1 << 24;

const PAGE: u64 = 4096;
/// Bytes after an allocation that belong to nobody.
const GAP: u64 = PAGE;
/// Address space to ask for, and what to be content with.
const RESERVE: [u64; 4] = [1 << 40, 1 << 38, 1 << 36, 1 << 34];

/// A run of device memory, as `cuMemAlloc` gives it.
pub struct Allocation {
    pub base: u64,
    pub bytes: u64,
    /// Counts up; reports name it.
    pub id: u64,
    /// What it is for, for reports: `cuMemAlloc`, or the variable's name.
    pub what: String,
    /// It holds a `.const` variable.
    pub constant: bool,
    /// One bit per byte: written since it was allocated.
    written: Bits,
}

impl Allocation {
    /// Whether `bytes` from `address` lie inside.
    #[inline]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.base && address - self.base <= self.bytes && bytes <= self.bytes - (address - self.base)
    }

    /// One bit per byte: written since it was allocated.
    #[inline]
    pub fn written(&self) -> &Bits {
        &self.written
    }
}

/// A zeroed, lazily committed bitmap that several threads set.
///
/// Pages that nobody has set a bit in are never read: a first read would map the shared page of zeros, and the write after it
/// would stop all threads to replace it.
pub struct Bits {
    map: Mapping,
    /// One per page of the map: it may hold a set bit.
    touched: Vec<AtomicBool>,
}

/// 64-bit words of a page.
const PAGE_WORDS: u64 = PAGE / 8;

impl Bits {
    /// `bits` zeros.
    pub fn new(bits: u64) -> Option<Bits> {
        let map = Mapping::new((bits.div_ceil(64) * 8).max(8))?;
        let touched = (0..map.bytes.div_ceil(PAGE)).map(|_| AtomicBool::new(false)).collect();
        Some(Bits { map, touched })
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        debug_assert!(index * 8 < self.map.bytes);
        // SAFETY: inside the mapping, aligned, never handed out as anything but atomics.
        unsafe { &*((self.map.base + index * 8) as *const AtomicU64) }
    }

    fn touched(&self, word: u64) -> &AtomicBool {
        &self.touched[(word / PAGE_WORDS) as usize]
    }

    fn get(&self, word: u64) -> u64 {
        if self.touched(word).load(Ordering::Relaxed) { self.word(word).load(Ordering::Relaxed) } else { 0 }
    }

    /// Sets bits `from..from + count`; says whether all were set before.
    #[inline]
    pub fn set(&self, from: u64, count: u64) -> bool {
        let mut all = true;
        for (word, mask) in words(from, count) {
            if self.get(word) & mask != mask {
                // A store would take the line, which has the flags of 8 MiB, from the other threads each time.
                if !self.touched(word).load(Ordering::Relaxed) {
                    self.touched(word).store(true, Ordering::Relaxed);
                }
                all &= self.word(word).fetch_or(mask, Ordering::Relaxed) & mask == mask;
            }
        }
        all
    }

    /// Clears bits `from..from + count`.
    pub fn clear(&self, from: u64, count: u64) {
        for (word, mask) in words(from, count).filter(|(word, mask)| self.get(*word) & mask != 0) {
            self.word(word).fetch_and(!mask, Ordering::Relaxed);
        }
    }

    /// Whether all of `from..from + count` are set.
    #[inline]
    pub fn all(&self, from: u64, count: u64) -> bool {
        words(from, count).all(|(word, mask)| self.get(word) & mask == mask)
    }

    /// Whether any of `from..from + count` is set.
    #[inline]
    pub fn any(&self, from: u64, count: u64) -> bool {
        words(from, count).any(|(word, mask)| self.get(word) & mask != 0)
    }

    /// The first clear bit of `from..from + count`.
    pub fn first_clear(&self, from: u64, count: u64) -> Option<u64> {
        words(from, count).find_map(|(word, mask)| {
            let clear = !self.get(word) & mask;
            (clear != 0).then(|| word * 64 + u64::from(clear.trailing_zeros()))
        })
    }

    /// How many are set.
    pub fn count(&self) -> u64 {
        let pages =
            self.touched.iter().enumerate().filter(|(_, t)| t.load(Ordering::Relaxed)).map(|(page, _)| page as u64);
        let words = pages.flat_map(|p| p * PAGE_WORDS..((p + 1) * PAGE_WORDS).min(self.map.bytes / 8));
        words.map(|w| u64::from(self.word(w).load(Ordering::Relaxed).count_ones())).sum()
    }

    /// The runs of clear bits in `from..from + count`: first bit and length, a run per 64 bits at most.
    fn clear_runs(&self, from: u64, count: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        for (word, mask) in words(from, count) {
            let mut clear = !self.get(word) & mask;
            while clear != 0 {
                let first = clear.trailing_zeros();
                let length = (clear >> first).trailing_ones();
                runs.push((word * 64 + u64::from(first), u64::from(length)));
                clear &= !((u64::MAX >> (64 - length)) << first);
            }
        }
        runs
    }
}

/// The 64-bit words of a bit range, with the bits of each.
#[inline]
fn words(from: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = from + count;
    (from / 64..end.div_ceil(64)).map(move |word| {
        let low = from.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        let ones = if high - low == 64 { u64::MAX } else { ((1 << (high - low)) - 1) << low };
        (word, ones)
    })
}

/// An anonymous private mapping, all zero, that takes memory where it is touched.
struct Mapping {
    base: u64,
    bytes: u64,
}

impl Mapping {
    fn new(bytes: u64) -> Option<Mapping> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), usize::try_from(bytes).ok()?, prot, flags, -1, 0) };
        (at != libc::MAP_FAILED).then_some(Mapping { base: at as u64, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody holds a reference into it.
        unsafe { libc::munmap(self.base as *mut libc::c_void, self.bytes as usize) };
    }
}

/// Why memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A host access to device memory that no allocation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllocated {
    pub address: u64,
    pub bytes: u64,
}

/// An allocation that was freed: its addresses are still known.
#[derive(Clone, Debug)]
pub struct Freed {
    pub base: u64,
    pub bytes: u64,
    pub id: u64,
    pub what: String,
}

/// The allocations at one moment, by address. A launch works on one such table: what it holds stays mapped until it ends.
#[derive(Clone, Default)]
pub struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
}

impl Table {
    /// The allocation that holds `address`, which may also be one past its end.
    pub fn find(&self, address: u64) -> Option<&Arc<Allocation>> {
        let (_, a) = self.live.range(..=address).next_back()?;
        (address - a.base <= a.bytes).then_some(a)
    }

    /// All of them, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.live.values()
    }
}

struct State {
    table: Arc<Table>,
    freed: VecDeque<Freed>,
    next: u64,
    used: u64,
    ids: u64,
}

/// One device's memory.
pub struct Memory {
    map: Mapping,
    limit: u64,
    state: Mutex<State>,
}

impl Memory {
    /// Memory of `limit` bytes.
    pub fn new(limit: u64) -> Result<Memory, OutOfMemory> {
        let map = RESERVE.iter().find_map(|&bytes| Mapping::new(bytes)).ok_or(OutOfMemory)?;
        let state = State { table: Arc::default(), freed: VecDeque::new(), next: map.base, used: 0, ids: 0 };
        Ok(Memory { map, limit, state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether an address is one of this memory's, allocated or not.
    pub fn covers(&self, address: u64) -> bool {
        (self.map.base..self.map.base + self.map.bytes).contains(&address)
    }

    /// Bytes in use and bytes there are.
    pub fn usage(&self) -> (u64, u64) {
        (self.state().used, self.limit)
    }

    /// Fresh memory, nowhere written; `bytes` may be 0.
    pub fn alloc(&self, bytes: u64, what: &str) -> Result<u64, OutOfMemory> {
        self.alloc_as(false, bytes, what)
    }

    /// As `alloc`, for a `.const` variable if `constant`.
    pub fn alloc_as(&self, constant: bool, bytes: u64, what: &str) -> Result<u64, OutOfMemory> {
        let mut state = self.state();
        if bytes > self.limit - state.used {
            return Err(OutOfMemory);
        }
        let span = bytes.div_ceil(PAGE).max(1) * PAGE + GAP;
        let base = place(&mut state, &self.map, span).ok_or(OutOfMemory)?;
        let written = Bits::new(bytes).ok_or(OutOfMemory)?;
        state.ids += 1;
        let allocation = Arc::new(Allocation { base, bytes, id: state.ids, what: what.to_owned(), constant, written });
        Arc::make_mut(&mut state.table).live.insert(base, allocation);
        state.used += bytes;
        Ok(base)
    }

    /// Frees what `alloc` returned; a running launch keeps what it works on.
    pub fn free(&self, base: u64) -> Result<(), NotAllocated> {
        let mut state = self.state();
        if !state.table.live.contains_key(&base) {
            return Err(NotAllocated { address: base, bytes: 0 });
        }
        let Some(a) = Arc::make_mut(&mut state.table).live.remove(&base) else { unreachable!("looked up above") };
        state.used -= a.bytes;
        let span = a.bytes.div_ceil(PAGE).max(1) * PAGE;
        // SAFETY: the range is inside our mapping and page-aligned; its bytes become zero.
        unsafe { libc::madvise(base as *mut libc::c_void, span as usize, libc::MADV_DONTNEED) };
        state.freed.push_back(Freed { base, bytes: a.bytes, id: a.id, what: a.what.clone() });
        Ok(())
    }

    /// The allocations as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.state().table.clone()
    }

    /// The freed allocation that held `address` last.
    pub fn freed(&self, address: u64) -> Option<Freed> {
        let state = self.state();
        state.freed.iter().rev().find(|f| address >= f.base && address - f.base < f.bytes.max(1)).cloned()
    }

    fn holding(&self, address: u64, bytes: u64) -> Result<Arc<Allocation>, NotAllocated> {
        let found = self.table().find(address).cloned();
        found.filter(|a| a.contains(address, bytes)).ok_or(NotAllocated { address, bytes })
    }

    /// Copies from the host.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), NotAllocated> {
        let a = self.holding(address, from.len() as u64)?;
        let head = head(address, from.len());
        let (words, tail) = from[head..].as_chunks();
        store_each::<AtomicU8>(address, from[..head].iter().copied());
        let at = store_each::<AtomicU64>(address + head as u64, words.iter().map(|w| u64::from_ne_bytes(*w)));
        store_each::<AtomicU8>(at, tail.iter().copied());
        a.written.set(address - a.base, from.len() as u64);
        Ok(())
    }

    /// Copies to the host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), NotAllocated> {
        let _held = self.holding(address, to.len() as u64)?;
        let (head, rest) = to.split_at_mut(head(address, to.len()));
        let (words, tail) = rest.as_chunks_mut();
        let middle = address + head.len() as u64;
        let end = middle + 8 * words.len() as u64;
        (address..).zip(head).for_each(|(at, byte)| *byte = load::<AtomicU8>(at));
        (middle..).step_by(8).zip(words).for_each(|(at, word)| *word = load::<AtomicU64>(at).to_ne_bytes());
        (end..).zip(tail).for_each(|(at, byte)| *byte = load::<AtomicU8>(at));
        Ok(())
    }

    /// Copies within the device, with what is known of the bytes; the ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), NotAllocated> {
        let (source, target) = (self.holding(from, bytes)?, self.holding(to, bytes)?);
        let mut data = vec![0; bytes as usize];
        self.read(from, &mut data)?;
        // Before the write, which may set bits of an overlapping source.
        let (first, unknown) = (from - source.base, source.written.clear_runs(from - source.base, bytes));
        self.write(to, &data)?;
        for (start, count) in unknown {
            target.written.clear(to - target.base + (start - first), count);
        }
        Ok(())
    }
}

/// Bytes of a run before its first aligned word.
fn head(address: u64, bytes: usize) -> usize {
    ((address.next_multiple_of(8) - address) as usize).min(bytes)
}

/// Stores elements one after the other at a checked address; the address behind them.
fn store_each<C: Cell>(address: u64, values: impl Iterator<Item = C::Value>) -> u64 {
    let size = size_of::<C>() as u64;
    values.fold(address, |at, value| {
        store::<C>(at, value);
        at + size
    })
}

/// A place for `span` bytes: fresh addresses, or those that have been free the longest.
fn place(state: &mut State, map: &Mapping, span: u64) -> Option<u64> {
    if map.base + map.bytes - state.next >= span {
        state.next += span;
        return Some(state.next - span);
    }
    let reusable = |f: &Freed| f.bytes.div_ceil(PAGE).max(1) * PAGE + GAP >= span;
    let at = state.freed.iter().position(reusable)?;
    state.freed.remove(at).map(|f| f.base)
}

/// An atomic integer of 1 to 8 bytes.
pub(crate) trait Cell {
    type Value: Copy;
    fn get(&self) -> Self::Value;
    fn put(&self, value: Self::Value);
}

macro_rules! cell {
    ($($atomic:ident $value:ty),*) => {$(
        impl Cell for std::sync::atomic::$atomic {
            type Value = $value;
            #[inline]
            fn get(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
            #[inline]
            fn put(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }
        }
    )*};
}
cell!(AtomicU8 u8, AtomicU16 u16, AtomicU32 u32, AtomicU64 u64);

/// The element at a checked address: inside an allocation that the caller holds, aligned to its size.
#[inline]
pub(crate) fn load<C: Cell>(address: u64) -> C::Value {
    // SAFETY: the caller's check; the memory is shared as atomics only.
    unsafe { &*(address as *const C) }.get()
}

/// See [`load`].
#[inline]
pub(crate) fn store<C: Cell>(address: u64, value: C::Value) {
    // SAFETY: as in `load`.
    unsafe { &*(address as *const C) }.put(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_any_offset_and_length() {
        let memory = Memory::new(1 << 20).expect("address space");
        let at = memory.alloc(256, "bytes").expect("memory");
        let data: Vec<u8> = (0..64).map(|i| i * 3 + 1).collect();
        for offset in 0..16u64 {
            for len in 0..40 {
                memory.write(at, &[0; 256]).expect("allocated");
                memory.write(at + offset, &data[..len]).expect("allocated");
                let mut all = [9; 80];
                memory.read(at, &mut all).expect("allocated");
                let expected = |i: usize| i.checked_sub(offset as usize).filter(|i| *i < len).map_or(0, |i| data[i]);
                assert!(all.iter().enumerate().all(|(i, b)| *b == expected(i)), "{offset} {len}");
                let mut part = vec![9; len];
                memory.read(at + offset, &mut part).expect("allocated");
                assert_eq!(part, data[..len]);
            }
        }
    }

    #[test]
    fn a_copy_carries_what_is_known_of_the_bytes() {
        let memory = Memory::new(1 << 20).expect("address space");
        let (from, to) = (memory.alloc(300, "from").expect("memory"), memory.alloc(300, "to").expect("memory"));
        memory.write(from + 10, &[1, 2].repeat(60)).expect("allocated");
        memory.write(to, &[7; 300]).expect("allocated");
        memory.copy(to + 3, from, 200).expect("allocated");
        let table = memory.table();
        let written = table.find(to).expect("allocated").written();
        let known = |i: u64| !(3..203).contains(&i) || (13..133).contains(&i);
        assert!((0..300).all(|i| written.all(i, 1) == known(i)));
        let mut got = [0; 4];
        memory.read(to + 13, &mut got).expect("allocated");
        assert_eq!(got, [1, 2, 1, 2]);
    }
}
