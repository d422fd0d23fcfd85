//! The plan: a flat list of ops over pre-assigned buffers, recorded once and replayed.
//!
//! Nothing that changes between steps is in a plan. Temporaries have identities while a model records; when the plan is finished they are packed
//! into their arena by liveness, so that peak bytes are known before anything is allocated.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::hostmem::{RegionBytes, TempPlace, check_operands, resolve};
use crate::launch::{Access, Launch};
pub use crate::ops::Cost;
use crate::ops::Op;
use crate::step::HostStep;
use crate::tensor::{Place, Region, TempId, Tensor};
use crate::weights::WeightSet;
use std::fmt;

/// Temporaries start at multiples of this: a DRAM burst on every device, and wide vector loads.
const TEMP_ALIGN: usize = 256;

/// Why one op must wait for an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HazardKind {
    ReadAfterWrite,
    WriteAfterRead,
    WriteAfterWrite,
}

/// Op `later` must not start before op `earlier` is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hazard {
    pub later: usize,
    pub earlier: usize,
    pub kind: HazardKind,
}

#[derive(Debug, Clone)]
struct Temp {
    region: Region,
    bytes: usize,
    /// First op that uses it; inputs are alive before op 0.
    first: usize,
    last: usize,
    written: bool,
}

/// Collects the ops of a plan in order.
pub struct Recorder<'w> {
    name: String,
    weights: &'w WeightSet,
    arena: Region,
    ops: Vec<Box<dyn Op>>,
    launches: Vec<Launch>,
    temps: Vec<Temp>,
}

impl<'w> Recorder<'w> {
    /// Starts a plan whose temporaries live in `arena`.
    pub fn new(name: impl Into<String>, arena: Region, weights: &'w WeightSet) -> Self {
        Recorder { name: name.into(), weights, arena, ops: Vec::new(), launches: Vec::new(), temps: Vec::new() }
    }

    /// A temporary; it lives from the first op that writes it to the last that uses it.
    pub fn temp(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        self.add(dtype, shape, false)
    }

    /// A temporary that the host fills before the plan runs.
    pub fn input(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        self.add(dtype, shape, true)
    }

    fn add(&mut self, dtype: DType, shape: &[usize], written: bool) -> Tensor {
        let id = TempId(self.temps.len() as u32);
        let t = Tensor::new(Place::Temp { id, offset: 0 }, dtype, shape);
        let first = if written { 0 } else { usize::MAX };
        self.temps.push(Temp { region: self.arena, bytes: t.bytes(), first, last: 0, written });
        t
    }

    /// Appends an op.
    ///
    /// # Errors
    /// [`Error::Contract`] if its operands break its contract, or it reads a temporary that nothing has written.
    pub fn push(&mut self, op: impl Op + 'static) -> Result<()> {
        self.push_boxed(Box::new(op))
    }

    /// Appends an op of any type.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_boxed(&mut self, op: Box<dyn Op>) -> Result<()> {
        op.check(self.weights)?;
        let (launch, index) = (op.launch(), self.ops.len());
        for (t, access) in launch.operands() {
            let Place::Temp { id, .. } = t.place else { continue };
            let temp = &mut self.temps[id.0 as usize];
            if matches!(access, Access::Write | Access::Scratch) {
                temp.written = true;
            } else if !temp.written {
                return Err(Error::contract(op.name(), format!("{t} is read before it is written")));
            }
            temp.first = temp.first.min(index);
            temp.last = index;
        }
        self.ops.push(op);
        self.launches.push(launch);
        Ok(())
    }

    /// Ops so far.
    pub fn ops(&self) -> usize {
        self.ops.len()
    }

    /// Packs the temporaries and gives the finished plan.
    ///
    /// # Errors
    /// [`Error::Contract`] if operands of one op overlap.
    pub fn finish(self) -> Result<Plan> {
        let (temps, peak) = pack(&self.temps);
        for launch in &self.launches {
            check_operands(launch, &temps, |_| usize::MAX)?;
        }
        let mut regions = RegionBytes::default();
        regions.set(self.arena, peak);
        Ok(Plan { name: self.name, ops: self.ops, launches: self.launches, temps, regions })
    }
}

/// First fit by decreasing size: a temporary goes to the lowest offset where nothing alive at the same time lies.
fn pack(temps: &[Temp]) -> (Vec<TempPlace>, usize) {
    let mut order: Vec<usize> = (0..temps.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(temps[i].bytes), i));
    let mut placed: Vec<usize> = Vec::new();
    let mut places: Vec<TempPlace> = temps.iter().map(|t| TempPlace { region: t.region, offset: 0 }).collect();
    let mut peak = 0;
    for i in order {
        let t = &temps[i];
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| temps[j].first <= t.last && t.first <= temps[j].last)
            .map(|&j| (places[j].offset, places[j].offset + temps[j].bytes))
            .collect();
        busy.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in busy {
            if start >= offset + t.bytes {
                break;
            }
            offset = offset.max(end.next_multiple_of(TEMP_ALIGN));
        }
        places[i].offset = offset;
        peak = peak.max(offset + t.bytes);
        placed.push(i);
    }
    (places, peak)
}

/// A finished list of ops. Its [`Display`](fmt::Display) is stable: one line per op.
#[derive(Debug)]
pub struct Plan {
    name: String,
    ops: Vec<Box<dyn Op>>,
    launches: Vec<Launch>,
    temps: Vec<TempPlace>,
    regions: RegionBytes,
}

impl Plan {
    /// What it was called when recorded.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ops in order.
    pub fn ops(&self) -> &[Box<dyn Op>] {
        &self.ops
    }

    /// The launch of every op.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// Where the temporaries lie.
    pub fn temps(&self) -> &[TempPlace] {
        &self.temps
    }

    /// Bytes that the temporaries need in their arena.
    pub fn regions(&self) -> &RegionBytes {
        &self.regions
    }

    /// Region and byte offset of a tensor, to write an input or read a result.
    pub fn locate(&self, t: &Tensor) -> (Region, usize) {
        resolve(t.place, &self.temps)
    }

    /// The least work for the lengths of a step.
    pub fn cost(&self, step: &HostStep, weights: &WeightSet) -> Cost {
        self.ops.iter().map(|op| op.cost(step, weights)).fold(Cost::default(), |a, b| a + b)
    }

    /// For every op the nearest earlier op it must wait for, by kind; bytes decide, so packing is covered too.
    pub fn hazards(&self) -> Vec<Hazard> {
        let mut found = Vec::new();
        for later in 0..self.launches.len() {
            let mut nearest = [None; 3];
            for earlier in 0..later {
                for kind in self.conflicts(earlier, later) {
                    nearest[kind as usize] = Some(Hazard { later, earlier, kind });
                }
            }
            found.extend(nearest.into_iter().flatten());
        }
        found
    }

    fn conflicts(&self, earlier: usize, later: usize) -> impl Iterator<Item = HazardKind> {
        let ranges = |i: usize| {
            self.launches[i].operands().map(|(t, access)| {
                let (region, start) = self.locate(t);
                (region, start, start + t.bytes(), access)
            })
        };
        ranges(earlier).flat_map(move |(r0, a0, b0, x)| {
            let overlaps = move |r1: Region, a1: usize, b1: usize| r0 == r1 && a0 < b1 && a1 < b0;
            ranges(later).filter(move |&(r, a, b, _)| overlaps(r, a, b)).filter_map(move |(.., y)| match (x, y) {
                (Access::Read, Access::Read) => None,
                (Access::Read, _) => Some(HazardKind::WriteAfterRead),
                (_, Access::Write | Access::Scratch) => Some(HazardKind::WriteAfterWrite),
                _ => Some(HazardKind::ReadAfterWrite),
            })
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}: {} ops", self.name, self.ops.len())?;
        for region in Region::ALL.into_iter().filter(|&r| self.regions.get(r) > 0) {
            writeln!(f, "{}: {} bytes", region.name(), self.regions.get(region))?;
        }
        for (i, t) in self.temps.iter().enumerate() {
            writeln!(f, "%{i} = {}+{}", t.region.name(), t.offset)?;
        }
        for (i, launch) in self.launches.iter().enumerate() {
            writeln!(f, "{i:3} {launch}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(bytes: usize, first: usize, last: usize) -> Temp {
        Temp { region: Region::Arena, bytes, first, last, written: true }
    }

    #[test]
    fn temporaries_share_bytes_only_when_they_never_live_together() {
        let temps = [temp(1000, 0, 2), temp(600, 1, 3), temp(900, 3, 4), temp(100, 2, 2), temp(256, 0, 4)];
        let (places, peak) = pack(&temps);
        for i in 0..temps.len() {
            for j in 0..i {
                let alive = temps[i].first <= temps[j].last && temps[j].first <= temps[i].last;
                let (a, b) = (places[i].offset, places[j].offset);
                let apart = a + temps[i].bytes <= b || b + temps[j].bytes <= a;
                assert!(apart || !alive, "{i} and {j} share bytes while both live");
            }
        }
        let total: usize = temps.iter().map(|t| t.bytes.next_multiple_of(TEMP_ALIGN)).sum();
        assert!(peak < total, "nothing was shared");
    }
}
