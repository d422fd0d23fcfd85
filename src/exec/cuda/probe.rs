//! What a GPU can do at most: copies of its memory, and mma on registers.
//!
//! Rates are the best of some runs, as on the CPU. On the emulator they run and mean nothing.

use super::driver::{Device, Operand, OperandAccess};
use crate::dtype::DType;
use crate::error::Result;
use crate::launch::Kernel;
use crate::ptx;
use std::time::Duration;

/// Threads of a block, mma that a warp does in a step, and flops of an mma, as `kernels/probe.cu` has them.
const THREADS: u32 = 256;
const MMA: u64 = 8;
const FLOPS: u64 = 4096;
const RUNS: usize = 10;

/// Bytes per second, read and written ones together, of copying `bytes` of device memory.
///
/// # Errors
/// [`Error::Device`](crate::error::Error::Device).
pub fn copy_rate(device: &Device, bytes: usize) -> Result<f64> {
    let (to, from) = (device.alloc("a probe", bytes)?, device.alloc("a probe", bytes)?);
    device.zero(&from)?;
    Ok(2.0 * bytes as f64 / best(|| device.time(|| device.copy(&to, &from, bytes)))?.as_secs_f64())
}

/// Operations per second of mma with f32 sums; each warp does 8 `steps` of them.
///
/// # Errors
/// [`Error::Device`](crate::error::Error::Device), if only because this build has no kernels.
pub fn mma_rate(device: &Device, dtype: DType, steps: u32) -> Result<f64> {
    let blocks = 2 * device.target.sms as u32;
    let kernel = Kernel { entry: format!("probe_{dtype}"), grid: [blocks, 1, 1], block: THREADS, smem: 0 };
    let module = ptx::module_of(&kernel.entry);
    let module =
        module.ok_or_else(|| crate::error::Error::Device { at: device.name.clone(), why: ptx::MISSING.into() })?;
    let loaded = device.load(module)?;
    let function = device.function(&loaded, &kernel)?;
    let out = device.alloc("a probe", 4)?;
    let operand = Operand { address: out.address(), bytes: 4, rows: 1, stride: 4, access: OperandAccess::ReadWrite };
    let mut params = [out.address(), steps as u64];
    let seconds = best(|| device.time(|| device.launch(&function, &kernel, &mut params, &[operand])))?.as_secs_f64();
    Ok((blocks as u64 * (THREADS / 32) as u64 * MMA * steps as u64 * FLOPS) as f64 / seconds)
}

fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    // The first run also pays for loading.
    run()?;
    (0..RUNS).try_fold(Duration::MAX, |best, _| Ok(best.min(run()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::cuda::driver::Driver;

    /// The emulator's clock is the host's, so rates mean nothing; its checks see what the probes touch.
    #[test]
    fn probes_run() {
        let device = Device::open(Driver::Emulator, 0).unwrap();
        device.bind().unwrap();
        assert!(copy_rate(&device, 1 << 16).unwrap() > 0.0);
        for dtype in [DType::Bf16, DType::F16] {
            assert!(mma_rate(&device, dtype, 1).unwrap() > 0.0);
            let counters = device.counters().unwrap();
            let mma = format!("\"m16n8k16.{dtype}.{dtype}.f32\":{}", 2 * device.target.sms as u64 * 8 * MMA);
            assert!(counters.contains(&mma), "{counters}");
        }
    }
}
