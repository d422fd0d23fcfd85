//! Hopper's instructions from PTX text: products of warpgroups, bulk and tensor copies, clusters of one block.

mod bulk;
mod cluster;
mod faults;
mod gemm;
mod tensor;
mod wgmma;

use cuda_emulator::config::{Checks, Config};
use cuda_emulator::device::H100;
use cuda_emulator::fault::{Fault, FaultKind};
use cuda_emulator::gpu::{Arg, Gpu};

pub const HEAD: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// A device and its memory.
pub struct Bench(pub Gpu);

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(Checks::ALL)
    }

    pub fn with(checks: Checks) -> Bench {
        Bench(
            Gpu::new(H100, Config { checks, threads: 1, patience: 1 << 20, ..Config::default() })
                .expect("address space"),
        )
    }

    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let at = self.0.alloc(bytes.len() as u64).expect("memory");
        self.0.write(at, bytes).expect("just allocated");
        at
    }

    pub fn words(&self, at: u64, count: usize) -> Vec<u32> {
        let bytes = self.0.read(at, count * 4).expect("allocated");
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four"))).collect()
    }

    /// Runs a text that is wrong, and checks what the report says.
    pub fn refuses(&self, kind: FaultKind, part: &str, text: &str, threads: u32, shared: u32, args: &[Arg]) {
        let fault = self.run(text, threads, shared, args).expect_err(part);
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.why.contains(part), "{part}: {fault}");
    }

    /// Runs the only kernel of a text with one block of `threads` and dynamic shared memory.
    pub fn run(&self, text: &str, threads: u32, shared: u32, args: &[Arg]) -> Result<(), Box<Fault>> {
        let module = self.0.load(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        self.0.launch(&module.kernels[0], [1, 1, 1], [threads, 1, 1], shared, args).map(|_| ())
    }
}

/// Numbers that look random.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Waits until the phase of this parity of the mbarrier at `bar` is complete.
pub fn wait(bar: &str, parity: u32, label: &str) -> String {
    format!(
        "{label}: mbarrier.try_wait.parity.shared::cta.b64 %p, [{bar}], {parity};
    @!%p bra {label};
"
    )
}
