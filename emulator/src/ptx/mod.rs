//! The PTX front end: text -> `ast` (parse) -> `Program` (lower). Refuses what the machine cannot do, by line.

pub mod ast;
pub mod forms;
pub mod names;

use crate::device::Device;
use crate::memory::Memory;
use crate::program::Program;

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {why}")]
pub struct PtxError {
    pub line: u32,
    pub why: String,
}

/// A module-scope `.global` or `.const` variable, allocated and initialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    pub name: String,
    pub address: u64,
    pub bytes: u64,
}

/// A loaded module.
pub struct Module {
    pub kernels: Vec<Program>,
    pub globals: Vec<Global>,
}

/// Parses, checks against the device's capability, allocates the variables and makes the programs.
pub fn load(_text: &str, _device: &Device, _memory: &Memory) -> Result<Module, PtxError> {
    unimplemented!()
}
