//! The Rust interface: load, launch, read.

use cuda_emulator::config::Config;
use cuda_emulator::device::A100;
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::{self, Arg, Gpu};

/// `add` adds `n` to the element that the thread has.
const PTX: &str = include_str!("data/add.ptx");

#[test]
fn a_kernel_is_loaded_launched_and_checked() {
    let gpu = Gpu::new(A100, Config::default()).unwrap();
    let module = gpu.load(PTX).unwrap();
    let add = gpu::kernel(&module, "add").unwrap();
    assert!(gpu::kernel(&module, "sub").is_none());
    let at = gpu.alloc(8).unwrap();
    gpu.write(at, &[1u32, 2].map(u32::to_le_bytes).concat()).unwrap();
    let run = |threads| gpu.launch(add, [1; 3], [threads, 1, 1], 0, &[Arg::U64(at), Arg::U32(10)]);
    assert_eq!(run(2).unwrap().threads_per_block, 2);
    assert_eq!(gpu.read(at, 8).unwrap(), [11u32, 12].map(u32::to_le_bytes).concat());
    assert_eq!(run(3).unwrap_err().kind, FaultKind::OutOfBounds);
    for threads in [0, 1025] {
        assert_eq!(run(threads).unwrap_err().kind, FaultKind::ImpossibleLaunch, "{threads} threads");
    }
}
