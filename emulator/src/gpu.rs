//! One device for Rust: memory, modules and launches. The driver stands on it and adds handles, streams and limits.
//!
//! It checks no limit of the device; a launch that a GPU would refuse is the caller's to refuse.

use crate::config::Config;
use crate::counters::Counters;
use crate::device::Device;
use crate::fault::Fault;
use crate::machine::{self, Launch, Operand};
use crate::memory::{Memory, NotAllocated, OutOfMemory};
use crate::program::{Param, Program};
use crate::ptx::{self, Module, PtxError};

/// A device with its memory.
pub struct Gpu {
    pub device: Device,
    pub config: Config,
    pub memory: Memory,
}

/// The value of a kernel parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    U32(u32),
    S32(i32),
    F32(f32),
    /// A number, or an address.
    U64(u64),
    F64(f64),
    /// A structure, or a type of another width, as its bytes.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::S32(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        }
    }
}

/// How a kernel is launched: the shape, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub cooperative: bool,
    pub operands: Option<Vec<Operand>>,
}

impl Gpu {
    /// A device whose memory is empty.
    pub fn new(device: Device, config: Config) -> Result<Gpu, OutOfMemory> {
        let memory = Memory::new(device.memory)?;
        Ok(Gpu { device, config, memory })
    }

    /// Loads a module of PTX text; its variables live in the device's memory.
    pub fn load(&self, text: &str) -> Result<Module, PtxError> {
        ptx::load(text, &self.device, &self.memory)
    }

    /// Memory that holds nothing yet; its address.
    pub fn alloc(&self, bytes: u64) -> Result<u64, OutOfMemory> {
        self.memory.alloc(bytes, "Gpu::alloc")
    }

    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), NotAllocated> {
        self.memory.write(address, from)
    }

    pub fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, NotAllocated> {
        let mut to = vec![0; bytes];
        self.memory.read(address, &mut to).map(|()| to)
    }

    /// Runs a kernel of a module that this device loaded.
    ///
    /// # Errors
    /// The first fault that a check found.
    pub fn launch(
        &self,
        kernel: &Program,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: &[Arg],
    ) -> Result<Counters, Box<Fault>> {
        let shape = Shape { grid, block, shared, cooperative: false, operands: None };
        self.run(kernel, &shape, &pack(&kernel.params, args))
    }

    /// As `launch`, with everything that a launch can have and the parameters as their bytes.
    pub fn run(&self, program: &Program, shape: &Shape, params: &[u8]) -> Result<Counters, Box<Fault>> {
        let launch = Launch {
            program,
            device: &self.device,
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.shared,
            params,
            cooperative: shape.cooperative,
            operands: shape.operands.as_deref(),
        };
        machine::launch(&launch, &self.memory, &self.config)
    }
}

/// The kernel of a name.
pub fn kernel<'m>(module: &'m Module, name: &str) -> Option<&'m Program> {
    module.kernels.iter().find(|kernel| kernel.name == name)
}

/// Bytes of all parameters of a kernel.
pub fn param_bytes(params: &[Param]) -> usize {
    params.iter().map(|p| (p.offset + p.bytes) as usize).max().unwrap_or(0)
}

/// Lays arguments out as the parameters want it; what is missing is zero, what is too long is cut.
pub fn pack(params: &[Param], args: &[Arg]) -> Vec<u8> {
    let mut packed = vec![0; param_bytes(params)];
    for (param, arg) in params.iter().zip(args) {
        let bytes = arg.bytes();
        let count = bytes.len().min(param.bytes as usize);
        packed[param.offset as usize..][..count].copy_from_slice(&bytes[..count]);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_at_their_parameters_offsets() {
        let at = |offset, bytes| Param { offset, bytes, align: bytes };
        let params = [at(0, 4), at(8, 8), at(16, 2)];
        let packed = pack(&params, &[Arg::U32(0x0403_0201), Arg::U64(5), Arg::Bytes(vec![7, 8, 9])]);
        assert_eq!(packed, [1, 2, 3, 4, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7, 8]);
    }

    #[test]
    fn memory_gives_back_what_was_written() {
        let gpu = Gpu::new(crate::device::A100, Config::default()).unwrap();
        let at = gpu.alloc(8).unwrap();
        gpu.write(at + 2, &[1, 2, 3]).unwrap();
        assert_eq!(gpu.read(at, 8).unwrap(), [0, 0, 1, 2, 3, 0, 0, 0]);
        assert!(gpu.write(at + 7, &[1, 2]).is_err());
    }
}
