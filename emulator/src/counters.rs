//! What a launch did, counted; each counter names the Nsight Compute metric that it stands for. Nothing here is a time.

use serde::Serialize;
use std::collections::BTreeMap;

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
    /// Distinct bytes: what DRAM must move at least (`dram__bytes_read.sum`, `dram__bytes_write.sum` with a cold, endless cache).
    pub global_bytes_read: u64,
    pub global_bytes_written: u64,
    /// Shared-memory wavefronts, and the least that the same accesses could take:
    /// `l1tex__data_pipe_lsu_wavefronts_mem_shared.sum`
    pub shared_wavefronts: u64,
    pub shared_wavefronts_ideal: u64,
    /// Instructions whose wavefronts exceed the ideal: PTX line -> (wavefronts, ideal).
    pub shared_conflicts: BTreeMap<u32, (u64, u64)>,
    /// `smsp__inst_executed_op_barrier`: barrier arrivals of warps.
    pub barriers: u64,
    /// Atomic and reduction requests: `l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum` + `.._op_red.sum`, and those on shared memory.
    pub global_atomics: u64,
    pub shared_atomics: u64,
    /// Bytes that threads load and store in local memory: `smsp__inst_executed_op_local_ld`, `.._st`.
    pub local_bytes: u64,
    /// Blocks, threads of a block, bytes of shared memory of a block (static and dynamic).
    pub blocks: u64,
    pub threads_per_block: u32,
    pub shared_bytes: u32,
}
