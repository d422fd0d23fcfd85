//! The CUDA executor: regions and packed weights in device memory, a plan resolved to launches once, and replayed as a graph.
//!
//! It owns memory and launches; `driver` owns every call. It never sees a model. The surprise: a plan that is run whole a second time is
//! captured then, because a prefill or a picture is mostly run once, and in slices.

pub mod driver;
pub mod probe;

use super::{Executor, Needs, PlanId};
use crate::error::{Error, Result};
use crate::hostmem::check_operands;
use crate::launch::{Access, Arg, Kernel, Launch, Layout};
use crate::pack::Packing;
use crate::plan::Plan;
use crate::ptx;
use crate::tensor::{Region, WeightId};
use crate::weights::WeightSet;
use driver::{Buffer, Device, Function, Graph, Loaded, Operand, OperandAccess, Pinned};
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a staging buffer for weights: long copies, and small beside what the weights take.
const STAGING: usize = 32 << 20;

/// What a driver may round an allocation up to, and what it takes for code, graphs and its own work (measured on nothing yet: an allowance).
const GRAIN: u64 = 512;
const RESERVE: u64 = 256 << 20;

/// One launch with everything resolved.
struct Step {
    function: Function,
    kernel: Kernel,
    params: Vec<u64>,
    operands: Vec<Operand>,
}

/// A plan on the device.
struct Resident {
    plan: Arc<Plan>,
    steps: Vec<Step>,
    /// Times that it was run whole.
    whole: usize,
    graph: Option<Graph>,
}

impl Resident {
    fn run(&mut self, device: &Device, ops: Range<usize>) -> Result<()> {
        let Resident { plan, steps, whole, graph } = self;
        let mut launch = |ops: Range<usize>| {
            let named = |i: usize, e: Error| match e {
                Error::Device { at, why } => Error::Device { at: format!("{at}, op {i}: {}", plan.launches()[i]), why },
                other => other,
            };
            ops.into_iter().try_for_each(|i| {
                let Step { function, kernel, params, operands } = &mut steps[i];
                device.launch(function, kernel, params, operands).map_err(|e| named(i, e))
            })
        };
        if ops != (0..plan.ops().len()) {
            return launch(ops);
        }
        *whole += 1;
        if *whole == 1 {
            return launch(ops);
        }
        if graph.is_none() {
            *graph = Some(device.capture(|| launch(ops))?);
        }
        device.replay(graph.as_ref().expect("captured above"))
    }
}

/// A device with regions, weights and plans.
pub struct CudaExecutor {
    // Dropped in this order: graphs and functions before their modules, everything before the device.
    plans: HashMap<usize, Resident>,
    modules: HashMap<&'static str, Loaded>,
    weights: HashMap<(WeightId, Layout), Buffer>,
    regions: Vec<Buffer>,
    staging: Pinned,
    /// True while a copy from `staging` may be under way.
    copying: bool,
    next: usize,
    /// The plan that was run last: what the device may still be at.
    running: Option<PlanId>,
    name: &'static str,
    device: Device,
}

impl CudaExecutor {
    /// Takes memory for everything that `needs` names and uploads the weights. `progress` is told the bytes that are done, and all.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a shape that no kernel takes, or what the device lacks; [`Error::Memory`] with the numbers, before anything is
    /// allocated, if it does not fit; [`Error::Device`] if the driver fails.
    pub fn new(device: Device, needs: &Needs, weights: &WeightSet, progress: &mut dyn FnMut(u64, u64)) -> Result<Self> {
        device.bind()?;
        if ptx::MODULES.is_empty() {
            return Err(Error::Device { at: device.name.clone(), why: ptx::MISSING.into() });
        }
        let mut modules = HashMap::new();
        for op in needs.plans.iter().flat_map(|plan| plan.ops()) {
            let kernel = op.kernel()?;
            kernel.check(&device.target)?;
            find_module(&device, &mut modules, &kernel)?;
        }
        check_memory(&device, needs, weights)?;
        let regions: Vec<Buffer> =
            Region::ALL.into_iter().map(|r| device.alloc(r.name(), needs.regions.get(r))).collect::<Result<_>>()?;
        device.zero(&regions[Region::State as usize])?;
        let staging = device.pinned(STAGING)?;
        let mut executor = CudaExecutor {
            plans: HashMap::new(),
            modules,
            weights: HashMap::new(),
            regions,
            staging,
            copying: false,
            next: 0,
            running: None,
            name: if device.is_emulated() { "emulator" } else { "cuda" },
            device,
        };
        executor.upload(needs, weights, progress)?;
        Ok(executor)
    }

    /// Packs into one staging buffer while the other is copied.
    fn upload(&mut self, needs: &Needs, weights: &WeightSet, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let (mut done, total) = (0, packed_bytes(needs, weights));
        let mut spare = self.device.pinned(STAGING)?;
        for &(id, layout) in &needs.weights {
            let weight = weights.get(id);
            let packing = Packing::new(weight, layout);
            let buffer = self.device.alloc(&weight.name, packing.total())?;
            for (pieces, offset) in slices(&packing) {
                let bytes = pack(&packing, pieces, spare.bytes_mut());
                self.device.synchronize()?;
                self.device.copy_in(&buffer, offset, &spare, bytes)?;
                std::mem::swap(&mut spare, &mut self.staging);
                done += bytes as u64;
                progress(done, total);
            }
            self.weights.insert((id, layout), buffer);
        }
        self.device.synchronize()
    }

    /// What the device counted in the last launch, as JSON; only the emulator counts.
    pub fn counters(&self) -> Option<String> {
        self.device.counters()
    }

    /// Runs a whole plan and gives the time that the device took for it.
    ///
    /// # Errors
    /// As [`run`](Executor::run).
    pub fn time(&mut self, id: PlanId) -> Result<Duration> {
        self.device.bind()?;
        let resident = self.plans.get_mut(&id.0).expect("a loaded plan");
        let all = 0..resident.plan.ops().len();
        self.device.time(|| resident.run(&self.device, all))
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A launch fails when the device is at it, which the host learns at a later call.
    fn while_running(&self, e: Error) -> Error {
        match (e, self.running.and_then(|id| self.plans.get(&id.0))) {
            (Error::Device { at, why }, Some(resident)) => {
                let hint = "--lockstep cpu finds the op";
                Error::Device {
                    at: format!("{at}, after plan {}", resident.plan.name()),
                    why: format!("{why}; {hint}"),
                }
            }
            (e, _) => e,
        }
    }

    fn range(&self, region: Region, offset: usize, len: usize) -> Result<()> {
        let size = self.regions[region as usize].size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::contract("copy", format!("{offset}+{len} bytes in {} of {size}", region.name()))),
        }
    }

    fn resolve(&mut self, plan: &Plan, index: usize) -> Result<Step> {
        let (op, launch) = (&plan.ops()[index], &plan.launches()[index]);
        check_operands(launch, plan.temps(), |r| self.regions[r as usize].size())?;
        let kernel = op.kernel()?;
        kernel.check(&self.device.target)?;
        let function = self.function(&kernel)?;
        let (params, operands) = self.arguments(plan, launch)?;
        Ok(Step { function, kernel, params, operands })
    }

    fn function(&mut self, kernel: &Kernel) -> Result<Function> {
        let module = find_module(&self.device, &mut self.modules, kernel)?;
        self.device.function(module, kernel)
    }

    /// The parameters of a launch, and what they let it touch.
    fn arguments(&self, plan: &Plan, launch: &Launch) -> Result<(Vec<u64>, Vec<Operand>)> {
        let mut operands = Vec::new();
        let mut params = Vec::new();
        for arg in &launch.args {
            params.push(match arg {
                Arg::Tensor(t, access) => {
                    let (region, offset) = plan.locate(t);
                    let address = self.regions[region as usize].address() + offset as u64;
                    let (size, contiguous) = (t.dtype.size(), t.is_contiguous());
                    let rows = if contiguous { 1 } else { t.rows() as u64 };
                    let bytes = (if contiguous { t.elements() } else { t.cols() } * size) as u64;
                    let access = match access {
                        Access::Read => OperandAccess::Read,
                        Access::Write => OperandAccess::Write,
                        Access::Update | Access::Scratch => OperandAccess::ReadWrite,
                    };
                    operands.push(Operand { address, bytes, rows, stride: (t.row_stride * size) as u64, access });
                    address
                }
                Arg::Weight(id, layout) => {
                    let buffer = self.weights.get(&(*id, *layout)).ok_or_else(|| {
                        Error::contract("load", format!("{}: weight {} was not uploaded so", launch.entry, id.0))
                    })?;
                    let (address, bytes) = (buffer.address(), buffer.size() as u64);
                    operands.push(Operand { address, bytes, rows: 1, stride: bytes, access: OperandAccess::Read });
                    address
                }
                Arg::Absent => 0,
                Arg::I32(x) => *x as u32 as u64,
                Arg::F32(x) => x.to_bits() as u64,
            });
        }
        Ok((params, operands))
    }
}

/// The module that holds a kernel, loaded if it is not yet: the driver compiles it then, or says that it is too old for its PTX.
fn find_module<'m>(
    device: &Device,
    modules: &'m mut HashMap<&'static str, Loaded>,
    kernel: &Kernel,
) -> Result<&'m Loaded> {
    let module = ptx::module_of(&kernel.entry)
        .ok_or_else(|| Error::unsupported(format!("the kernel {}", kernel.entry), "run it with --device cpu"))?;
    Ok(match modules.entry(module.name) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(device.load(module)?),
    })
}

/// Runs of pieces that fit the staging buffer, with their offsets in the weight.
fn slices<'p>(packing: &'p Packing) -> impl Iterator<Item = (Range<usize>, usize)> + 'p {
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut end = start;
        while end < packing.pieces() && packing.bytes(start..end + 1) <= STAGING {
            end += 1;
        }
        let run = start..end;
        start = end;
        (!run.is_empty()).then(|| (run.clone(), packing.bytes(0..run.start)))
    })
}

/// Packs pieces on all threads; their bytes.
fn pack(packing: &Packing, pieces: Range<usize>, to: &mut [u8]) -> usize {
    let mut rest = to;
    let mut outs = Vec::with_capacity(pieces.len());
    let total = packing.bytes(pieces.clone());
    for piece in pieces {
        let (out, after) = rest.split_at_mut(packing.bytes(piece..piece + 1));
        outs.push((piece, out));
        rest = after;
    }
    outs.into_par_iter().for_each(|(piece, out)| packing.write(piece, out));
    total
}

/// Bytes of all weights on a device.
fn packed_bytes(needs: &Needs, weights: &WeightSet) -> u64 {
    needs.weights.iter().map(|&(id, layout)| Packing::new(weights.get(id), layout).total() as u64).sum()
}

/// Bytes of everything on a device but the regions.
fn beside_regions(needs: &Needs, weights: &WeightSet) -> u64 {
    let rounding = (needs.weights.len() + Region::ALL.len()) as u64 * GRAIN;
    packed_bytes(needs, weights) + rounding + RESERVE
}

/// Bytes that a device has for regions.
///
/// # Errors
/// [`Error::Unsupported`] as [`CudaExecutor::new`]; [`Error::Device`] if the driver fails.
pub fn room(device: &Device, needs: &Needs, weights: &WeightSet) -> Result<u64> {
    device.bind()?;
    for op in needs.plans.iter().flat_map(|plan| plan.ops()) {
        op.kernel()?.check(&device.target)?;
    }
    Ok(device.free_memory()?.saturating_sub(beside_regions(needs, weights)))
}

/// Refuses what the device has no room for.
fn check_memory(device: &Device, needs: &Needs, weights: &WeightSet) -> Result<()> {
    let need = needs.regions.total() as u64 + beside_regions(needs, weights);
    let have = device.free_memory()?;
    if need <= have {
        return Ok(());
    }
    let packed = packed_bytes(needs, weights);
    let what = format!("{}: {packed} bytes of weights, the KV cache and the buffers", device.name);
    Err(Error::Memory { what, need, have, hint: "lower --context or --max-pixels, or take a smaller model".into() })
}

impl Executor for CudaExecutor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn write(&mut self, region: Region, offset: usize, bytes: &[u8]) -> Result<()> {
        self.range(region, offset, bytes.len())?;
        self.device.bind()?;
        for (i, chunk) in bytes.chunks(STAGING).enumerate() {
            if std::mem::replace(&mut self.copying, true) {
                self.device.synchronize()?;
            }
            self.staging.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
            self.device.copy_in(&self.regions[region as usize], offset + i * STAGING, &self.staging, chunk.len())?;
        }
        Ok(())
    }

    fn read(&mut self, region: Region, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.range(region, offset, bytes.len())?;
        self.device.bind()?;
        self.copying = false;
        self.device.copy_out(bytes, &self.regions[region as usize], offset).map_err(|e| self.while_running(e))
    }

    fn load(&mut self, plan: Arc<Plan>) -> Result<PlanId> {
        self.device.bind()?;
        super::check_arenas(&plan, |r| self.regions[r as usize].size())?;
        let steps = (0..plan.ops().len()).map(|i| self.resolve(&plan, i)).collect::<Result<_>>()?;
        self.plans.insert(self.next, Resident { plan, steps, whole: 0, graph: None });
        self.next += 1;
        Ok(PlanId(self.next - 1))
    }

    fn unload(&mut self, id: PlanId) {
        // A graph is destroyed in its context. What cannot be bound is broken, and the next call says so.
        let _ = self.device.bind();
        self.plans.remove(&id.0);
    }

    fn plan(&self, id: PlanId) -> &Arc<Plan> {
        &self.plans[&id.0].plan
    }

    fn wait(&mut self) -> Result<()> {
        self.device.bind()?;
        self.copying = false;
        self.device.synchronize().map_err(|e| self.while_running(e))
    }

    fn run(&mut self, id: PlanId, ops: Range<usize>) -> Result<()> {
        self.device.bind()?;
        self.running = Some(id);
        self.plans.get_mut(&id.0).expect("a loaded plan").run(&self.device, ops)
    }
}

impl Drop for CudaExecutor {
    fn drop(&mut self) {
        // Memory and modules go only when nothing uses them any more. A device that fails here has stopped.
        let _ = self.device.bind().and_then(|()| self.device.synchronize());
    }
}
