//! The GPUs that can be imitated: attributes and limits, from NVIDIA's data sheets and the CUDA programming guide's
//! table of technical specifications per compute capability.

/// What a program can ask about a device, and what a launch may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As `cuDeviceGetName` says it.
    pub name: &'static str,
    /// Compute capability, major and minor: PTX for a newer target is refused.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of shared memory of a block without, and with, opting in by function attribute.
    pub shared_per_block: u32,
    pub shared_per_block_optin: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Threads and blocks that a multiprocessor holds.
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
    /// Bytes of second-level cache.
    pub l2: u32,
    /// kHz, and bits of the memory bus: reported, never used.
    pub clock: u32,
    pub memory_clock: u32,
    pub memory_bus: u32,
}

/// Threads of a block, and the largest block and grid in x, y, z; registers of a block and of a thread: alike on all.
pub const THREADS_PER_BLOCK: u32 = 1024;
pub const BLOCK_DIM: [u32; 3] = [1024, 1024, 64];
pub const GRID_DIM: [u32; 3] = [0x7fff_ffff, 65535, 65535];
pub const REGISTERS_PER_BLOCK: u32 = 65536;
pub const REGISTERS_PER_THREAD: u32 = 255;

/// A100 SXM4 80 GB (GA100).
pub const A100: Device = Device {
    name: "NVIDIA A100-SXM4-80GB",
    capability: (8, 0),
    multiprocessors: 108,
    memory: 80 << 30,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 163 << 10,
    shared_per_multiprocessor: 164 << 10,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    l2: 40 << 20,
    clock: 1_410_000,
    memory_clock: 1_593_000,
    memory_bus: 5120,
};

/// H100 SXM5 80 GB (GH100). Threads, blocks and the usual shared memory of a block are as on the A100.
pub const H100: Device = Device {
    name: "NVIDIA H100 80GB HBM3",
    capability: (9, 0),
    multiprocessors: 132,
    memory: 80 << 30,
    shared_per_block_optin: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    l2: 50 << 20,
    clock: 1_980_000,
    memory_clock: 2_619_000,
    memory_bus: 5120,
    ..A100
};

/// GeForce RTX 4090 (AD102).
pub const RTX_4090: Device = Device {
    name: "NVIDIA GeForce RTX 4090",
    capability: (8, 9),
    multiprocessors: 128,
    memory: 24 << 30,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 99 << 10,
    shared_per_multiprocessor: 100 << 10,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    l2: 72 << 20,
    clock: 2_520_000,
    memory_clock: 10_501_000,
    memory_bus: 384,
};

/// The devices by the names that a configuration uses.
pub const DEVICES: [(&str, Device); 3] = [("A100", A100), ("H100", H100), ("RTX_4090", RTX_4090)];
