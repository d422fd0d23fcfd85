//! The Rust interface: load, launch, read.

use cuda_emulator::config::Config;
use cuda_emulator::device::A100;
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::{self, Arg, Gpu};

/// Adds a number to the element that the thread has.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 at, .param .f32 n)
{
    .reg .b64 %rd<5>;
    .reg .b32 %r<2>;
    .reg .f32 %f<4>;
    ld.param.u64 %rd1, [at];
    ld.param.f32 %f1, [n];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    add.rn.f32 %f3, %f1, %f2;
    st.global.f32 [%rd4], %f3;
    ret;
}
";

#[test]
fn a_kernel_is_loaded_launched_and_checked() {
    let gpu = Gpu::new(A100, Config::default()).unwrap();
    let module = gpu.load(PTX).unwrap();
    let add = gpu::kernel(&module, "add").unwrap();
    assert!(gpu::kernel(&module, "sub").is_none());
    let at = gpu.alloc(8).unwrap();
    gpu.write(at, &[1.0f32, 2.0].map(f32::to_le_bytes).concat()).unwrap();
    let run = |threads| gpu.launch(add, [1; 3], [threads, 1, 1], 0, &[Arg::U64(at), Arg::F32(0.5)]);
    assert_eq!(run(2).unwrap().threads_per_block, 2);
    assert_eq!(gpu.read(at, 8).unwrap(), [1.5f32, 2.5].map(f32::to_le_bytes).concat());
    assert_eq!(run(3).unwrap_err().kind, FaultKind::OutOfBounds);
    for threads in [0, 1025] {
        assert_eq!(run(threads).unwrap_err().kind, FaultKind::ImpossibleLaunch, "{threads} threads");
    }
}
