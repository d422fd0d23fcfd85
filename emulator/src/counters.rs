//! What a launch did, counted; each counter names the Nsight Compute metric that it stands for. Nothing here is a time.
//!
//! As JSON the counters have the names of the fields; as text they are a table with the metrics' names beside.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The counts of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// `smsp__inst_executed.sum`
    pub warp_instructions: u64,
    /// Warp instructions by class: `integer`, `float`, `memory`, `control`, `warp`, `matrix`, `async`, `convert`, `move`.
    pub by_class: BTreeMap<&'static str, u64>,
    /// `smsp__thread_inst_executed.sum`: lanes active over all warp instructions.
    pub active_lanes: u64,
    /// Matrix instructions by shape and types (`m16n8k16.bf16.bf16.f32`): `smsp__inst_executed_pipe_tensor`.
    pub mma: BTreeMap<String, u64>,
    /// `l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum`, `.._op_st.sum`
    pub global_load_requests: u64,
    pub global_store_requests: u64,
    /// 32-byte sectors per request, summed: `l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum`, `.._op_st.sum`
    pub global_load_sectors: u64,
    pub global_store_sectors: u64,
    /// Distinct bytes: what DRAM must move at least (`dram__bytes_read.sum`, `dram__bytes_write.sum` with a cold, endless cache, which has what
    /// the launch itself wrote before it reads it).
    pub global_bytes_read: u64,
    pub global_bytes_written: u64,
    /// Shared-memory wavefronts, and the least that the same accesses could take:
    /// `l1tex__data_pipe_lsu_wavefronts_mem_shared.sum`
    pub shared_wavefronts: u64,
    pub shared_wavefronts_ideal: u64,
    /// Instructions whose wavefronts exceed the ideal: PTX line -> (wavefronts, ideal).
    pub shared_conflicts: BTreeMap<u32, (u64, u64)>,
    /// Barrier arrivals of warps: executions of `BAR` in the profiler's source view.
    pub barriers: u64,
    /// Atomic and reduction requests: `l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum` + `.._op_red.sum`, and those on shared memory.
    pub global_atomics: u64,
    pub shared_atomics: u64,
    /// Bytes that threads load and store in local memory: `smsp__sass_data_bytes_mem_local.sum`
    pub local_bytes: u64,
    /// Blocks, threads of a block, bytes of shared memory of a block (static and dynamic).
    pub blocks: u64,
    pub threads_per_block: u32,
    pub shared_bytes: u32,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut row = |name: &str, value: u64, metric: &str| {
            writeln!(f, "{}", format!("{name:<28} {value:>16}  {metric}").trim_end())
        };
        let nested = |name: &str| format!("  {name}");
        row("warp_instructions", self.warp_instructions, "smsp__inst_executed.sum")?;
        self.by_class.iter().try_for_each(|(class, n)| row(&nested(class), *n, ""))?;
        row("active_lanes", self.active_lanes, "smsp__thread_inst_executed.sum")?;
        row("mma", self.mma.values().sum(), "smsp__inst_executed_pipe_tensor.sum")?;
        self.mma.iter().try_for_each(|(shape, n)| row(&nested(shape), *n, ""))?;
        for (name, value, metric) in [
            ("global_load_requests", self.global_load_requests, "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum"),
            ("global_store_requests", self.global_store_requests, "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum"),
            ("global_load_sectors", self.global_load_sectors, "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"),
            ("global_store_sectors", self.global_store_sectors, "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum"),
            ("global_bytes_read", self.global_bytes_read, "dram__bytes_read.sum, at least"),
            ("global_bytes_written", self.global_bytes_written, "dram__bytes_write.sum, at least"),
            ("shared_wavefronts", self.shared_wavefronts, "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"),
            ("shared_wavefronts_ideal", self.shared_wavefronts_ideal, ""),
        ] {
            row(name, value, metric)?;
        }
        for (line, (taken, ideal)) in &self.shared_conflicts {
            row(&nested(&format!("PTX line {line}")), *taken, &format!("instead of {ideal}"))?;
        }
        for (name, value, metric) in [
            ("barriers", self.barriers, ""),
            ("global_atomics", self.global_atomics, "l1tex__t_requests_pipe_lsu_mem_global_op_{atom,red}.sum"),
            ("shared_atomics", self.shared_atomics, ""),
            ("local_bytes", self.local_bytes, "smsp__sass_data_bytes_mem_local.sum"),
            ("blocks", self.blocks, "launch__grid_size"),
            ("threads_per_block", self.threads_per_block.into(), "launch__block_size"),
            ("shared_bytes", self.shared_bytes.into(), "launch__shared_mem_per_block"),
        ] {
            row(name, value, metric)?;
        }
        Ok(())
    }
}
