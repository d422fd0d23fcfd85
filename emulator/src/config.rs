//! What can be switched: the devices, the checks, the seed, the threads.

use crate::device::{A100, Device, H100, RTX_4090};

/// A check that a launch makes; all are on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Accesses outside every allocation, to freed memory, or not aligned to their size. Off: such loads give 0, such
    /// stores are dropped.
    Memory,
    /// Registers, shared and global bytes that are read before anything was written there.
    Uninitialised,
    /// Conflicting shared-memory accesses that no barrier orders; writes to locations read through `ld.global.nc`.
    Races,
    /// Barriers in divergent code, and lanes missing from a `.sync`.
    Barriers,
    /// The declared operands of a launch (`cuEmuOperands`).
    Operands,
}

/// The names that `Config::from_text` takes, in the order of [`Checks`]' bits.
pub const CHECKS: [(&str, Check); 5] = [
    ("memory", Check::Memory),
    ("uninitialised", Check::Uninitialised),
    ("races", Check::Races),
    ("barriers", Check::Barriers),
    ("operands", Check::Operands),
];

/// A set of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks(u8);

impl Checks {
    pub const ALL: Checks = Checks(u8::MAX);
    pub const NONE: Checks = Checks(0);

    pub fn has(self, check: Check) -> bool {
        self.0 >> check as u8 & 1 == 1
    }

    pub fn without(self, check: Check) -> Checks {
        Checks(self.0 & !(1 << check as u8))
    }

    pub fn with(self, check: Check) -> Checks {
        Checks(self.0 | 1 << check as u8)
    }
}

/// How the emulator behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices that a program sees, in order.
    pub devices: Vec<Device>,
    pub checks: Checks,
    /// Shuffles the order in which the warps of a block run between barriers.
    pub seed: u64,
    /// Host threads that run blocks.
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config { devices: vec![A100, H100, RTX_4090], checks: Checks::ALL, seed: 1, threads }
    }
}
