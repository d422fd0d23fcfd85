//! Where a model is put: on a GPU, on the emulator, or on the CPU.
//!
//! `auto` takes the first GPU if the driver, the kernels and the model's shapes and types allow it; whoever asks learns why it did not.

use super::args::Device as Flag;
use super::memory;
use super::terminal::{Bar, Unit, note};
use crate::cpu::{Cpu, Isa};
use crate::dtype::DType;
use crate::engine::{Engine, Limits};
use crate::error::{Error, Result};
use crate::exec::cpu::CpuExecutor;
use crate::exec::cuda::driver::{Device, Driver, is_present};
use crate::exec::cuda::{self, CudaExecutor};
use crate::exec::lockstep::Lockstep;
use crate::exec::{Executor, Needs};
use crate::model::Precision;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::ptx;
use crate::weights::WeightSet;
use std::sync::Arc;

/// Where and how a model runs.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    pub device: Flag,
    /// A second device that checks every op of the first.
    pub lockstep: Option<Flag>,
    pub precision: Precision,
    pub threads: usize,
}

/// Puts a model where `placement` says.
///
/// # Errors
/// [`Error::Memory`] with the numbers if it does not fit; [`Error::Unsupported`] or [`Error::Device`] for a device that was asked for by name and
/// cannot run it.
pub fn engine(model: Qwen2Vl, limits: Limits, placement: &Placement) -> Result<Engine> {
    Engine::new(model, limits, |needs, weights| {
        // Each has its own layout.
        let mut others = placement.lockstep.map(|other| (other, weights.clone()));
        let first = executor(placement.device, &needs, weights, placement)?;
        match &mut others {
            None => Ok(first),
            Some((other, weights)) => Ok(Box::new(Lockstep::new(first, executor(*other, &needs, weights, placement)?))),
        }
    })
}

/// Why `auto` took the executor of that name.
pub fn reason(taken: &str) -> &'static str {
    match taken {
        "cuda" => "there is a GPU with kernels for this model",
        _ if ptx::MODULES.is_empty() => "this build has no CUDA kernels",
        _ if !is_present() => "there is no CUDA driver",
        _ => "the GPU cannot run this model as asked",
    }
}

fn executor(
    device: Flag,
    needs: &Needs,
    weights: &mut Arc<WeightSet>,
    placement: &Placement,
) -> Result<Box<dyn Executor>> {
    let dtype = placement.precision.activations;
    match device {
        Flag::Cpu => on_cpu(needs, weights, placement),
        Flag::Cuda => on_device(Driver::Cuda, needs, weights, dtype),
        Flag::Emulator => on_device(Driver::Emulator, needs, weights, dtype),
        Flag::Auto if nothing_but_cpu() => on_cpu(needs, weights, placement),
        Flag::Auto => on_device(Driver::Cuda, needs, weights, dtype).or_else(|e| {
            note(&format!("the GPU is not used: {e}"));
            on_cpu(needs, weights, placement)
        }),
    }
}

fn on_cpu(needs: &Needs, weights: &mut Arc<WeightSet>, placement: &Placement) -> Result<Box<dyn Executor>> {
    // Floats stay in the file's mapping and do not count; codes are copied into panels, and whoever holds the files holds their rows.
    let need = needs.regions.total() + weights.quantized_bytes();
    let hint = "lower --max-pixels, --max-new-tokens or --context";
    check_memory(need as u64, "quantized weights, the KV cache and the buffers", hint)?;
    Ok(Box::new(CpuExecutor::new(needs.regions, weights, Cpu::new(Isa::detect(), placement.threads))?))
}

fn on_device(driver: Driver, needs: &Needs, weights: &WeightSet, dtype: DType) -> Result<Box<dyn Executor>> {
    let device = open(driver, dtype)?;
    let mut bar = Bar::new(format!("weights to {}", device.name), Unit::Bytes);
    Ok(Box::new(CudaExecutor::new(device, needs, weights, &mut |done, total| bar.set(done, total))?))
}

fn open(driver: Driver, dtype: DType) -> Result<Device> {
    if dtype == DType::F32 {
        return Err(Error::unsupported("--dtype f32 on a GPU", "pass --dtype bf16 or f16, or --device cpu"));
    }
    Device::open(driver, 0)
}

/// Without a driver or kernels the CPU is what anybody expects.
fn nothing_but_cpu() -> bool {
    ptx::MODULES.is_empty() || !is_present()
}

/// Bytes for caches and buffers where `placement` puts a model: all that a GPU has left beside the weights, and half of what the machine has beside
/// quantized ones, where it says so.
///
/// # Errors
/// As [`engine`], for a device that was asked for by name.
pub fn room(needs: &Needs, weights: &WeightSet, placement: &Placement) -> Result<Option<u64>> {
    let machine = memory::available().map(|free| free.saturating_sub(weights.quantized_bytes() as u64) / 2);
    let of = |driver| cuda::room(&open(driver, placement.precision.activations)?, needs, weights);
    let on = |device| match device {
        Flag::Cpu => Ok(machine),
        Flag::Cuda => of(Driver::Cuda).map(Some),
        // Its memory is the machine's.
        Flag::Emulator => of(Driver::Emulator).map(|room| machine.into_iter().chain([room]).min()),
        Flag::Auto if nothing_but_cpu() => Ok(machine),
        Flag::Auto => Ok(of(Driver::Cuda).map_or(machine, Some)),
    };
    let devices = [Some(placement.device), placement.lockstep];
    let rooms: Vec<Option<u64>> = devices.into_iter().flatten().map(on).collect::<Result<_>>()?;
    Ok(rooms.into_iter().flatten().min())
}

/// Refuses what the machine has no room for.
///
/// # Errors
/// [`Error::Memory`] with the numbers.
pub fn check_memory(need: u64, what: impl Into<String>, hint: &str) -> Result<()> {
    match memory::available() {
        Some(have) if need > have => Err(Error::Memory { what: what.into(), need, have, hint: hint.into() }),
        _ => Ok(()),
    }
}
