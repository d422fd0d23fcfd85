//! Which accesses of a block's shared memory are ordered: vector clocks of the warps, and who touched every granule.
//!
//! A granule remembers two sets of accesses: who wrote it last (with the strong writes since) and who has read it since
//! then. Sets are interned, because the granules of a tile go through the same few sets: moving a granule from one set
//! to the next is a comparison and a store. Set 0 is empty, so a granule whose writers are set 0 was never written.
//! Which instructions they were is kept by granule, for the last write and the last read only.
//!
//! Clocks count synchronisations and a warp's clock moves whenever it learns something, so (warp, clock) determines
//! what the access is ordered after. Strong accesses (atomic, volatile, relaxed and stronger) do not race with each
//! other; an address that they use hands on what its writers released.
//!
//! What tensor cores and bulk copies access is theirs, at a progress that a warp learns when it waits for them. They
//! read what warps wrote only behind a proxy fence.
//!
//! Lanes of one warp are not told apart, and what is handed on through another block is not seen.

use super::clock::{Clock, Party, asynchronous};
use crate::isa::Order;
use std::collections::HashMap;
use std::ops::Range;

/// A copy under way is ordered before nothing, its own warp's accesses included.
const IN_FLIGHT: u32 = u32::MAX;
/// Sets kept before the ones that no granule uses are dropped.
const MANY_SETS: usize = 1 << 18;
const MEMO: usize = 1024;

/// One access, as a granule remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub party: Party,
    strong: bool,
    clock: u32,
}

impl Access {
    /// By a unit beside the warps, at this progress of it.
    pub fn beside(party: Party, progress: u32) -> Access {
        Access { party, strong: false, clock: progress }
    }

    pub fn in_flight(self) -> bool {
        self.clock == IN_FLIGHT || asynchronous(self.party)
    }
}

/// Why an access may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing orders it after an earlier read or write; `pc` is the last of those.
    Race {
        other: Access,
        wrote: bool,
        pc: u32,
    },
    /// The asynchronous proxy reads what a warp wrote, and no proxy fence came between.
    Unfenced {
        other: Access,
        pc: u32,
    },
    Unwritten,
}

/// What an access does to a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    /// Writes what is there already: it may meet other writes, not reads.
    Rewrite,
    /// Reads and writes (atomics).
    Update,
    /// The start of an asynchronous write.
    Issue,
}

struct Sets {
    all: Vec<Box<[Access]>>,
    ids: HashMap<Box<[Access]>, u32>,
    /// (set, access) -> set, direct-mapped.
    memo: Vec<(u32, Access, u32)>,
}

impl Sets {
    fn new() -> Sets {
        let nobody = Access { party: Party::MAX, strong: false, clock: 0 };
        let mut sets = Sets { all: Vec::new(), ids: HashMap::new(), memo: vec![(0, nobody, 0); MEMO] };
        sets.intern(Vec::new());
        sets
    }

    fn intern(&mut self, set: Vec<Access>) -> u32 {
        let set = set.into_boxed_slice();
        if let Some(&id) = self.ids.get(&set) {
            return id;
        }
        self.all.push(set.clone());
        let id = self.all.len() as u32 - 1;
        self.ids.insert(set, id);
        id
    }

    /// The set with `me` added and without what `me` makes superfluous: accesses ordered before it that are not
    /// stricter than it.
    fn with(&mut self, id: u32, me: Access, known: &Clock) -> u32 {
        let mixed = id.wrapping_mul(0x9e37_79b1) ^ me.clock.wrapping_mul(0x85eb_ca6b) ^ u32::from(me.party) << 3;
        let slot = (mixed >> 7 ^ mixed) as usize % MEMO;
        let (from, access, to) = self.memo[slot];
        if from == id && access == me {
            return to;
        }
        let set = &self.all[id as usize];
        let same = |e: &&Access| e.party == me.party && e.clock == me.clock && e.strong == me.strong;
        let to = if set.iter().any(|e| same(&e)) {
            id
        } else {
            let kept = |e: &&Access| e.clock > known.of(e.party) || me.strong && !e.strong;
            let mut set: Vec<Access> = set.iter().filter(kept).copied().collect();
            set.push(me);
            self.intern(set)
        };
        self.memo[slot] = (id, me, to);
        to
    }

    /// A member that nothing orders before `me`.
    fn conflict(&self, id: u32, me: Access, known: &Clock) -> Option<Access> {
        self.all[id as usize].iter().find(|e| e.clock > known.of(e.party) && !(e.strong && me.strong)).copied()
    }

    /// A member that is under way, and nothing waited for it.
    fn in_flight(&self, id: u32, known: &Clock) -> Option<Access> {
        self.all[id as usize].iter().find(|e| e.in_flight() && e.clock > known.of(e.party)).copied()
    }
}

/// See the module.
pub(super) struct Races {
    clocks: Vec<Clock>,
    /// By warp: what its next relaxed strong write hands on, and what its strong reads found since its last fence.
    fenced: Vec<Clock>,
    found: Vec<Clock>,
    places: HashMap<u64, Clock>,
    sets: Sets,
    shift: u32,
    /// By granule: sets, and the last instructions.
    writers: Vec<u32>,
    readers: Vec<u32>,
    write_pcs: Vec<u32>,
    read_pcs: Vec<u32>,
    races: bool,
    unwritten: bool,
}

impl Races {
    /// Watches `bytes` of shared memory, `granule` (a power of two) bytes at a time.
    pub fn new(warps: usize, bytes: u32, granule: u32, races: bool, unwritten: bool) -> Races {
        let shift = granule.max(1).trailing_zeros();
        let granules = if races || unwritten { bytes.div_ceil(1 << shift) as usize } else { 0 };
        let mut clocks = vec![Clock::default(); warps];
        clocks.iter_mut().enumerate().for_each(|(warp, clock)| clock.learn(warp as Party, 1));
        Races {
            clocks,
            fenced: vec![Clock::default(); warps],
            found: vec![Clock::default(); warps],
            places: HashMap::new(),
            sets: Sets::new(),
            shift,
            writers: vec![0; granules],
            readers: vec![0; granules],
            write_pcs: vec![0; granules],
            read_pcs: vec![0; granules],
            races,
            unwritten,
        }
    }

    /// Notes an access to `bytes` from `offset` (checked to lie inside); the offset of a granule that it may not touch.
    #[inline]
    pub fn access(
        &mut self,
        warp: usize,
        strong: bool,
        pc: u32,
        how: Use,
        at: (u32, u32),
    ) -> Result<(), (u32, Trouble)> {
        let me = self.now(warp, strong);
        let mark = Access { clock: if how == Use::Issue { IN_FLIGHT } else { me.clock }, ..me };
        self.note(me, mark, pc, how, at)
    }

    /// As `access`, for what the warp makes a unit beside it do; `mark` is that.
    pub fn access_beside(
        &mut self,
        warp: usize,
        mark: Access,
        pc: u32,
        how: Use,
        at: (u32, u32),
    ) -> Result<(), (u32, Trouble)> {
        self.note(self.now(warp, false), mark, pc, how, at)
    }

    fn now(&self, warp: usize, strong: bool) -> Access {
        Access { party: warp as Party, strong, clock: self.clocks[warp].of(warp as Party) }
    }

    #[inline]
    fn note(&mut self, me: Access, mark: Access, pc: u32, how: Use, at: (u32, u32)) -> Result<(), (u32, Trouble)> {
        if self.writers.is_empty() {
            return Ok(());
        }
        let range = (at.0 >> self.shift) as usize..((at.0 + at.1 - 1) >> self.shift) as usize + 1;
        let done = match how {
            Use::Read => self.read(me, mark, range.clone()),
            Use::Write | Use::Rewrite | Use::Update | Use::Issue => self.write(me, mark, how, range.clone()),
        };
        done.map_err(|(granule, trouble)| ((granule as u32) << self.shift, self.with_pc(granule, trouble)))?;
        let pcs = if how == Use::Read { &mut self.read_pcs } else { &mut self.write_pcs };
        pcs[range].fill(pc);
        Ok(())
    }

    fn with_pc(&self, granule: usize, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Race { other, wrote, .. } => {
                let pc = if wrote { self.write_pcs[granule] } else { self.read_pcs[granule] };
                Trouble::Race { other, wrote, pc }
            }
            Trouble::Unfenced { other, .. } => Trouble::Unfenced { other, pc: self.write_pcs[granule] },
            Trouble::Unwritten => trouble,
        }
    }

    fn read(&mut self, me: Access, mark: Access, range: Range<usize>) -> Result<(), (usize, Trouble)> {
        let Races { sets, writers, readers, clocks, races, unwritten, .. } = self;
        let known = &clocks[me.party as usize];
        let (mut fine, mut from, mut to) = (u32::MAX, u32::MAX, 0);
        let first = range.start;
        for (i, (w, r)) in writers[range.clone()].iter().zip(&mut readers[range]).enumerate() {
            if *w != fine {
                check_written(*w, *unwritten).map_err(|t| (first + i, t))?;
                check(*races, sets.conflict(*w, me, known), true).map_err(|t| (first + i, t))?;
                if *races && asynchronous(mark.party) {
                    check_shown(sets, *w, known).map_err(|t| (first + i, t))?;
                }
                fine = *w;
            }
            if *r != from {
                from = *r;
                to = sets.with(*r, mark, known);
            }
            *r = to;
        }
        Ok(())
    }

    fn write(&mut self, me: Access, mark: Access, how: Use, range: Range<usize>) -> Result<(), (usize, Trouble)> {
        let Races { sets, writers, readers, clocks, races, unwritten, .. } = self;
        let known = &clocks[me.party as usize];
        let only = sets.with(0, mark, known);
        let (mut fine, mut unread, mut to) = (u32::MAX, 0, only);
        let first = range.start;
        for (i, (w, r)) in writers[range.clone()].iter_mut().zip(&mut readers[range]).enumerate() {
            if *w != fine {
                if how == Use::Update {
                    check_written(*w, *unwritten).map_err(|t| (first + i, t))?;
                }
                let other = if how == Use::Rewrite { sets.in_flight(*w, known) } else { sets.conflict(*w, me, known) };
                check(*races, other, true).map_err(|t| (first + i, t))?;
                fine = *w;
                to = if me.strong || how == Use::Rewrite { sets.with(*w, mark, known) } else { only };
            }
            if *r != unread {
                check(*races, sets.conflict(*r, me, known), false).map_err(|t| (first + i, t))?;
                unread = *r;
            }
            *w = to;
            if !me.strong {
                *r = 0;
            }
        }
        Ok(())
    }

    /// Asynchronous writes (offset, bytes) have landed: from now on they are writes of their warp at this moment.
    pub fn land(&mut self, warp: usize, writes: impl Iterator<Item = (u32, u32)>) {
        if self.writers.is_empty() {
            return;
        }
        let me = self.now(warp, false);
        let only = self.sets.with(0, me, &self.clocks[warp]);
        for (offset, bytes) in writes {
            self.writers[(offset >> self.shift) as usize..=((offset + bytes - 1) >> self.shift) as usize].fill(only);
        }
    }

    fn tick(&mut self, warp: usize) {
        let next = self.clocks[warp].of(warp as Party) + 1;
        self.clocks[warp].learn(warp as Party, next);
        if self.sets.all.len() > MANY_SETS {
            self.collect();
        }
    }

    /// Drops the sets that no granule is in.
    fn collect(&mut self) {
        let mut fresh = Sets::new();
        let mut renamed = vec![0; self.sets.all.len()];
        for id in self.writers.iter_mut().chain(&mut self.readers).filter(|id| **id != 0) {
            if renamed[*id as usize] == 0 {
                renamed[*id as usize] = fresh.intern(self.sets.all[*id as usize].to_vec());
            }
            *id = renamed[*id as usize];
        }
        self.sets = fresh;
    }

    /// `membar`, `fence`: later strong writes hand on what came before, and what strong reads found becomes known.
    pub fn fence(&mut self, warp: usize) {
        let found = self.found[warp];
        self.clocks[warp].join(&found);
        self.fenced[warp] = self.clocks[warp];
        self.tick(warp);
    }

    /// A strong access at a generic address (shared ones in their window).
    pub fn strong(&mut self, warp: usize, address: u64, order: Order, reads: bool, writes: bool) {
        if self.writers.is_empty() {
            return;
        }
        if reads && let Some(place) = self.places.get(&address) {
            self.found[warp].join(place);
            if matches!(order, Order::Acquire | Order::AcqRel | Order::SeqCst) {
                self.clocks[warp].join(place);
                self.tick(warp);
            }
        }
        if writes {
            let released = matches!(order, Order::Release | Order::AcqRel | Order::SeqCst);
            let handed = if released { self.clocks[warp] } else { self.fenced[warp] };
            self.places.entry(address).or_default().join(&handed);
            if released {
                self.tick(warp);
            }
        }
    }

    /// Hands what `warp` knows to a barrier.
    pub fn arrive(&mut self, warp: usize, at: &mut Clock) {
        self.fence(warp);
        self.arrive_relaxed(warp, at);
    }

    /// Hands what came before the last fence of `warp` to a barrier.
    pub fn arrive_relaxed(&self, warp: usize, at: &mut Clock) {
        at.join(&self.fenced[warp]);
    }

    /// Takes what a barrier was handed.
    pub fn receive(&mut self, warp: usize, from: &Clock) {
        self.clocks[warp].join(from);
        self.fenced[warp] = self.clocks[warp];
        self.tick(warp);
    }

    /// `fence.proxy.async`: what the warp knows may be read by the units beside it.
    pub fn show(&mut self, warp: usize) {
        self.clocks[warp].show();
        self.tick(warp);
    }

    /// The warp has waited for a unit beside it.
    pub fn waited(&mut self, warp: usize, party: Party, progress: u32) {
        self.clocks[warp].learn(party, progress);
        self.tick(warp);
    }
}

#[inline]
fn check_written(writers: u32, on: bool) -> Result<(), Trouble> {
    if on && writers == 0 { Err(Trouble::Unwritten) } else { Ok(()) }
}

#[inline]
fn check(on: bool, other: Option<Access>, wrote: bool) -> Result<(), Trouble> {
    match other {
        Some(other) if on => Err(Trouble::Race { other, wrote, pc: 0 }),
        _ => Ok(()),
    }
}

#[inline]
fn check_shown(sets: &Sets, id: u32, known: &Clock) -> Result<(), Trouble> {
    let hidden = |e: &&Access| !asynchronous(e.party) && e.clock > known.shown(e.party);
    match sets.all[id as usize].iter().find(hidden) {
        Some(&other) => Err(Trouble::Unfenced { other, pc: 0 }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clock::{loader, tensor_core};

    const ALL: (u32, u32) = (0, 64);

    fn races() -> Races {
        Races::new(3, 64, 4, true, true)
    }

    fn barrier(races: &mut Races, warps: &[usize]) {
        let mut clock = Clock::default();
        warps.iter().for_each(|w| races.arrive(*w, &mut clock));
        warps.iter().for_each(|w| races.receive(*w, &clock));
    }

    #[test]
    fn a_barrier_orders_its_own_warps_only() {
        let mut r = races();
        assert_eq!(r.access(0, false, 1, Use::Read, ALL), Err((0, Trouble::Unwritten)));
        r.access(0, false, 1, Use::Write, ALL).expect("the first");
        barrier(&mut r, &[0, 1]);
        r.access(1, false, 2, Use::Read, ALL).expect("behind the barrier");
        r.access(0, false, 3, Use::Read, ALL).expect("its own");
        let Err((0, Trouble::Race { other, wrote: true, pc: 1 })) = r.access(2, false, 4, Use::Read, ALL) else {
            panic!("warp 2 was not there");
        };
        assert_eq!(other.party, 0);
        barrier(&mut r, &[0, 2]);
        // Warp 1 read as well, and warp 2 knows nothing of that.
        let done = r.access(2, false, 5, Use::Write, (8, 4));
        assert!(matches!(done, Err((8, Trouble::Race { wrote: false, .. }))), "{done:?}");
        barrier(&mut r, &[0, 1, 2]);
        r.access(2, false, 5, Use::Write, ALL).expect("everyone met");
    }

    #[test]
    fn writes_of_one_value_may_meet_but_readers_wait_for_all() {
        let mut r = races();
        r.access(0, false, 1, Use::Write, ALL).expect("the first");
        r.access(1, false, 1, Use::Rewrite, ALL).expect("the same again");
        barrier(&mut r, &[1, 2]);
        let Err((0, Trouble::Race { other, wrote: true, .. })) = r.access(2, false, 2, Use::Read, ALL) else {
            panic!("warp 0 was not there");
        };
        assert_eq!(other.party, 0);
        barrier(&mut r, &[0, 1, 2]);
        r.access(2, false, 2, Use::Read, ALL).expect("everyone met");
        assert!(r.access(1, false, 3, Use::Rewrite, ALL).is_err(), "warp 2 reads");
        barrier(&mut r, &[0, 1, 2]);
        r.access(0, false, 4, Use::Issue, ALL).expect("ordered");
        assert!(r.access(1, false, 5, Use::Rewrite, ALL).is_err(), "the copy is under way");
    }

    #[test]
    fn what_is_handed_on_is_handed_on_further() {
        let mut r = races();
        r.access(0, false, 1, Use::Write, ALL).expect("the first");
        r.strong(0, 1000, Order::Release, false, true);
        r.strong(1, 1000, Order::Acquire, true, false);
        r.strong(1, 2000, Order::Release, false, true);
        assert!(r.access(2, false, 2, Use::Read, ALL).is_err());
        r.strong(2, 2000, Order::Acquire, true, false);
        r.access(2, false, 2, Use::Read, ALL).expect("through warp 1");
    }

    #[test]
    fn sets_that_no_granule_is_in_are_dropped() {
        let mut r = races();
        for round in 0..MANY_SETS as u32 / 2 {
            r.access(0, false, round, Use::Write, ALL).expect("ordered");
            barrier(&mut r, &[0, 1]);
            r.access(1, false, round, Use::Read, ALL).expect("ordered");
            barrier(&mut r, &[0, 1]);
        }
        assert!(r.sets.all.len() < MANY_SETS);
        assert!(r.access(2, false, 0, Use::Read, ALL).is_err());
    }

    #[test]
    fn units_beside_the_warps_read_behind_a_proxy_fence_until_they_are_waited_for() {
        let mut r = races();
        let product = Access::beside(tensor_core(0), 1);
        r.access(0, false, 1, Use::Write, ALL).expect("the first");
        barrier(&mut r, &[0, 1]);
        let done = r.access_beside(1, product, 2, Use::Read, ALL);
        assert!(matches!(done, Err((0, Trouble::Unfenced { pc: 1, .. }))), "{done:?}");
        r.show(0);
        barrier(&mut r, &[0, 1]);
        r.access_beside(1, product, 3, Use::Read, ALL).expect("shown by the writer, handed on by the barrier");
        r.access(1, false, 4, Use::Read, ALL).expect("reads do not meet");
        let done = r.access(1, false, 5, Use::Write, ALL);
        assert!(matches!(done, Err((0, Trouble::Race { wrote: false, .. }))), "{done:?}");
        r.waited(1, tensor_core(0), 1);
        r.access(1, false, 6, Use::Write, ALL).expect("it has waited");
    }

    #[test]
    fn bulk_writes_are_known_to_those_who_waited() {
        let mut r = races();
        r.access_beside(0, Access::beside(loader(3), 7), 1, Use::Write, ALL).expect("the first");
        assert!(r.access(0, false, 2, Use::Read, ALL).is_err());
        r.waited(1, loader(3), 7);
        r.access(1, false, 3, Use::Read, ALL).expect("it has waited");
        r.access_beside(1, Access::beside(tensor_core(0), 1), 4, Use::Read, ALL).expect("needs no proxy fence");
    }
}
