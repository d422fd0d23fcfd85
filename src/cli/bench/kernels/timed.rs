//! Times on the CPU and on a GPU, with operands that no cache holds.
//!
//! Copies of an op take turns until they have touched twice what a cache holds; where that takes too many copies, the row says that it was warm.

use super::Row;
use super::check::{OnCpu, OnDevice};
use super::code::Assembler;
use crate::cli::bench::table::Probe;
use crate::cli::bench::take_probe;
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::exec::cuda::driver::{Device, Driver};
use crate::exec::cuda::probe;
use crate::ops::Op;
use crate::ops::case::Case;
use crate::ops::workload::Workload;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How a GPU is timed.
pub const HOW: &str = "times are medians of 30 replays of a CUDA graph in which copies of the op take turns, so that operands come from memory; \
                       rates are the least work over that time, and the roof was measured in the same run (a copy, mma on registers)";

/// More copies than this are not made: tiny ops are then timed warm.
const MOST_COPIES: usize = 64;
/// What the last cache of a CPU holds, at most: larger ones are rare.
const CPU_CACHE: usize = 64 << 20;
const CPU_RUNS: usize = 5;
const GPU_RUNS: usize = 30;
/// Bytes that the probe of a GPU copies, and its mma steps: a millisecond or so.
const GPU_COPY: usize = 256 << 20;
const GPU_STEPS: u32 = 1 << 14;

/// What a device can do at most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Roof {
    pub gbytes_per_s: f64,
    pub gflops: f64,
    pub source: &'static str,
}

impl Roof {
    /// For the emulator, which has no speed of its own.
    pub const A100: Roof = Roof {
        gbytes_per_s: 2039.0,
        gflops: 312_000.0,
        source: "data sheet of the A100 SXM 80 GB; nothing here ran on one",
    };

    /// The better of both, each way.
    pub fn best(&self, other: &Roof) -> Roof {
        let (gbytes_per_s, gflops) = (self.gbytes_per_s.max(other.gbytes_per_s), self.gflops.max(other.gflops));
        Roof { gbytes_per_s, gflops, ..*self }
    }
}

/// How long one launch takes.
#[derive(Debug, Serialize)]
pub struct Timed {
    pub microseconds: f64,
    /// The least work over the time.
    pub gbytes_per_s: f64,
    pub gflops: f64,
    /// As shares of the roof.
    pub of_bandwidth: f64,
    pub of_flops: f64,
    /// Copies that took turns.
    pub copies: usize,
    /// True if together they touch twice what the cache holds.
    pub cold: bool,
}

impl Timed {
    fn new(times: &mut [Duration], copies: usize, cache: usize, row: &Row) -> Timed {
        times.sort_unstable();
        let seconds = times[times.len() / 2].as_secs_f64() / copies as f64;
        Timed {
            microseconds: 1e6 * seconds,
            gbytes_per_s: row.bytes as f64 / 1e9 / seconds,
            gflops: row.flops as f64 / 1e9 / seconds,
            of_bandwidth: 0.0,
            of_flops: 0.0,
            copies,
            cold: copies as u64 * row.bytes >= 2 * cache as u64,
        }
    }

    /// Fills in the shares.
    pub fn compare(&mut self, roof: &Roof) {
        self.of_bandwidth = self.gbytes_per_s / roof.gbytes_per_s;
        self.of_flops = self.gflops / roof.gflops;
    }
}

/// The workload in as many copies as it takes to leave a cache cold.
fn beyond(w: &Workload, cache: usize) -> (Case, Vec<Box<dyn Op>>) {
    let (case, none) = w.rotation(1);
    let bytes = case.op.cost(&case.step, &case.weights).bytes.max(1);
    match (2 * cache as u64).div_ceil(bytes) {
        0 | 1 => (case, none),
        copies => w.rotation((copies as usize).min(MOST_COPIES)),
    }
}

/// What the CPU can do now.
pub fn cpu_roof(cpu: &Cpu) -> Roof {
    let Probe { gflops, gbytes_per_s } = take_probe(cpu);
    Roof { gflops, gbytes_per_s, source: "f32 FMA and reads on all threads, measured before and after" }
}

/// Times a workload on the CPU.
///
/// # Errors
/// If a case is wrong.
pub fn on_cpu(w: &Workload, cpu: &Cpu) -> Result<Row> {
    let (case, copies) = beyond(w, CPU_CACHE);
    let mut row = Row::new(w, case.op.cost(&case.step, &case.weights));
    let mut host = OnCpu::new(&case, &copies);
    host.run(cpu)?;
    let mut once = || {
        let start = Instant::now();
        host.run(cpu).map(|()| start.elapsed())
    };
    let mut times = (0..CPU_RUNS).map(|_| once()).collect::<Result<Vec<_>>>()?;
    row.timed = Some(Timed::new(&mut times, 1 + copies.len(), CPU_CACHE, &row));
    Ok(row)
}

/// A GPU's name and what it can do now.
///
/// # Errors
/// If it is missing, or the driver fails.
pub fn gpu_roof(driver: Driver, dtype: DType) -> Result<(String, Roof)> {
    let device = Device::open(driver, 0)?;
    device.bind()?;
    let gbytes_per_s = probe::copy_rate(&device, GPU_COPY)? / 1e9;
    let gflops = probe::mma_rate(&device, dtype, GPU_STEPS)? / 1e9;
    let source = "a copy of device memory and mma on registers, measured in this run";
    Ok((device.name, Roof { gbytes_per_s, gflops, source }))
}

/// Checks a workload on a device and times it.
///
/// # Errors
/// What the device reports.
pub fn on_device(driver: Driver, w: &Workload, cpu: &Cpu, code: &mut Assembler) -> Result<Row> {
    let device = Device::open(driver, 0)?;
    let cache = device.l2_bytes()?;
    let (case, copies) = beyond(w, cache);
    let mut row = Row::new(w, case.op.cost(&case.step, &case.weights));
    let kernel = match case.op.kernel() {
        Err(Error::Unsupported { what, .. }) => return Ok(Row { left_out: Some(what), ..row }),
        kernel => kernel?,
    };
    row.code = code.of(&kernel);
    let mut ran = OnDevice::check(device, case, copies, cpu)?;
    row.error = Some(ran.error);
    // The second run of a plan captures it.
    ran.executor.time(ran.plan)?;
    let mut times = (0..GPU_RUNS).map(|_| ran.executor.time(ran.plan)).collect::<Result<Vec<_>>>()?;
    row.timed = Some(Timed::new(&mut times, ran.ops, cache, &row));
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::shapes::Shape;
    use crate::cpu::Isa;
    use crate::ops::workload::{Phase, workloads};
    use crate::quant::Format;

    /// On the emulator, whose clock is the host's: everything but the numbers is as on a GPU.
    #[test]
    fn copies_take_turns_in_a_graph() {
        let config = Shape::Demo.config().unwrap();
        let mut work = workloads(&config, DType::Bf16, Format::Float).into_iter();
        let w = work.find(|w| w.op == "embed" && w.phase == Phase::Decode).unwrap();
        let target = Device::open(Driver::Emulator, 0).unwrap().target;
        let cpu = Cpu::new(Isa::detect(), 1);
        let row = on_device(Driver::Emulator, &w, &cpu, &mut Assembler::new(&target)).unwrap();
        assert!(row.error.unwrap().within());
        let t = row.timed.as_ref().unwrap();
        // A row of the demo model is nothing beside an L2 cache.
        assert_eq!((t.copies, t.cold), (MOST_COPIES, false));
        assert!(t.microseconds > 0.0);
    }

    #[test]
    fn a_time_is_the_median_for_each_copy() {
        let config = Shape::Demo.config().unwrap();
        let w = workloads(&config, DType::Bf16, Format::Float).into_iter().find(|w| w.op == "gate_up").unwrap();
        let case = w.case();
        let row = Row::new(&w, case.op.cost(&case.step, &case.weights));
        let mut t = Timed::new(&mut [9, 1, 4].map(Duration::from_millis), 2, row.bytes as usize, &row);
        assert_eq!((t.microseconds, t.cold), (2000.0, true));
        t.compare(&Roof { gbytes_per_s: 2.0 * t.gbytes_per_s, gflops: 4.0 * t.gflops, source: "" });
        assert_eq!((t.of_bandwidth, t.of_flops), (0.5, 0.25));
        assert!(!Timed::new(&mut [Duration::from_millis(1)], 2, row.bytes as usize + 1, &row).cold);
    }
}
