//! What the emulator counts of one launch, beside the least that the op must move.

use super::Row;
use super::check::OnDevice;
use super::code::Assembler;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::exec::cuda::driver::{Device, Driver};
use crate::launch::Layout;
use crate::ops::case::Case;
use crate::ops::workload::{Phase, Workload};
use crate::pack::Packing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the columns mean.
pub const HOW: &str = "counted by the emulator, nothing is a time. bytes: distinct bytes over the least; sectors: bytes of all 32-byte sectors \
                       asked for over the least (what is above 1 comes out of caches); sect/ld: sectors a load, 16 is a full one of 16 bytes a \
                       lane; bank: shared-memory wavefronts over ideal; in/mma, in/B: warp instructions per mma and per byte of weights";

/// The fields of `emulator/src/counters.rs` that are used here.
#[derive(Deserialize)]
struct Counters {
    warp_instructions: u64,
    mma: BTreeMap<String, u64>,
    global_load_requests: u64,
    global_load_sectors: u64,
    global_store_sectors: u64,
    global_bytes_read: u64,
    global_bytes_written: u64,
    shared_wavefronts: u64,
    shared_wavefronts_ideal: u64,
    barriers: u64,
    blocks: u64,
    threads_per_block: u64,
    shared_bytes: u64,
}

/// The counts of one launch.
#[derive(Debug, Serialize)]
pub struct Counted {
    /// Distinct bytes read, and written.
    pub distinct_bytes: u64,
    /// Bytes of all sectors that loads and stores asked for.
    pub sector_bytes: u64,
    pub sectors_per_load: Option<f64>,
    pub wavefronts_over_ideal: Option<f64>,
    pub warp_instructions: u64,
    pub mma: u64,
    pub instructions_per_mma: Option<f64>,
    /// Where a row is decoded: the bound there are the weights.
    pub instructions_per_weight_byte: Option<f64>,
    /// Of each warp.
    pub barriers: f64,
    pub blocks: u64,
    pub threads: u64,
    /// Of a block.
    pub shared_bytes: u64,
}

/// Runs a workload on the emulator, checked and counted.
///
/// # Errors
/// What the emulator reports: every fault of a kernel.
pub fn on_emulator(w: &Workload, cpu: &Cpu, code: &mut Assembler) -> Result<Row> {
    let (device, case) = (Device::open(Driver::Emulator, 0)?, w.case());
    let mut row = Row::new(w, case.op.cost(&case.step, &case.weights));
    let kernel = match case.op.kernel() {
        Err(Error::Unsupported { what, .. }) => return Ok(Row { left_out: Some(what), ..row }),
        kernel => kernel?,
    };
    let weights = if w.phase == Phase::Decode && row.flops > 0 { matrix_bytes(&case) } else { 0 };
    row.code = code.of(&kernel);
    let ran = OnDevice::check(device, case, Vec::new(), cpu)?;
    row.error = Some(ran.error);
    let json = ran.executor.counters().expect("the emulator counts every launch");
    row.counted = Some(Counted::new(&serde_json::from_str(&json).expect("the fields of counters.rs"), weights));
    Ok(row)
}

/// Bytes of the matrices that an op multiplies with, as a device stores them.
fn matrix_bytes(case: &Case) -> u64 {
    let launch = case.op.launch();
    let matrices = launch.weights().filter(|(_, layout)| *layout != Layout::Vector);
    matrices.map(|(id, layout)| Packing::new(case.weights.get(id), layout).total() as u64).sum()
}

impl Counted {
    fn new(c: &Counters, weight_bytes: u64) -> Counted {
        let over = |a: u64, b: u64| (b > 0).then(|| a as f64 / b as f64);
        let mma = c.mma.values().sum();
        Counted {
            distinct_bytes: c.global_bytes_read + c.global_bytes_written,
            sector_bytes: 32 * (c.global_load_sectors + c.global_store_sectors),
            sectors_per_load: over(c.global_load_sectors, c.global_load_requests),
            wavefronts_over_ideal: over(c.shared_wavefronts, c.shared_wavefronts_ideal),
            warp_instructions: c.warp_instructions,
            mma,
            instructions_per_mma: over(c.warp_instructions, mma),
            instructions_per_weight_byte: over(c.warp_instructions, weight_bytes),
            barriers: c.barriers as f64 / (c.blocks * c.threads_per_block.div_ceil(32)) as f64,
            blocks: c.blocks,
            threads: c.threads_per_block,
            shared_bytes: c.shared_bytes,
        }
    }
}
