//! Kernels launched by cudarc: modules, functions, launches, graphs and faults.

mod driver_library;

use cudarc::driver::{CudaContext, CudaFunction, DriverError, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// `saxpy`: y[i] += a * x[i] for i < n.
const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry saxpy(.param .u64 y, .param .u64 x, .param .f32 a, .param .u64 n)
{
    .reg .pred %p;
    .reg .b32 %r<4>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    cvt.u64.u32 %rd1, %r1;
    ld.param.u64 %rd2, [n];
    setp.ge.u64 %p, %rd1, %rd2;
    @%p bra done;
    ld.param.u64 %rd3, [x];
    ld.param.u64 %rd4, [y];
    ld.param.f32 %f1, [a];
    cvta.to.global.u64 %rd3, %rd3;
    cvta.to.global.u64 %rd4, %rd4;
    shl.b64 %rd5, %rd1, 2;
    add.s64 %rd6, %rd3, %rd5;
    add.s64 %rd7, %rd4, %rd5;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f3, %f1, %f2, %f3;
    st.global.f32 [%rd7], %f3;
done:
    ret;
}
"#;

fn saxpy(device: usize) -> (Arc<CudaContext>, CudaFunction) {
    driver_library::open();
    let context = CudaContext::new(device).unwrap();
    let function = context.load_module(Ptx::from_src(PTX)).unwrap().load_function("saxpy").unwrap();
    (context, function)
}

#[test]
fn a_launch_computes() -> Result<(), DriverError> {
    let (context, saxpy) = saxpy(0);
    let stream = context.new_stream()?;
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (dx, mut dy) = (stream.clone_htod(&x)?, stream.clone_htod(&vec![1.0f32; 1000])?);
    let mut launch = stream.launch_builder(&saxpy);
    launch.arg(&mut dy).arg(&dx).arg(&2.0f32).arg(&1000usize);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(1000))? };
    let expected: Vec<f32> = x.iter().map(|x| 2.0 * x + 1.0).collect();
    assert_eq!(stream.clone_dtoh(&dy)?, expected);
    Ok(())
}

#[test]
fn a_captured_launch_runs_with_its_graph() -> Result<(), DriverError> {
    let (context, saxpy) = saxpy(0);
    // SAFETY: one stream only: nothing has to wait for another.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let (dx, mut dy) = (stream.clone_htod(&[1.0f32; 32])?, stream.clone_htod(&[0.0f32; 32])?);
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
    let mut launch = stream.launch_builder(&saxpy);
    launch.arg(&mut dy).arg(&dx).arg(&3.0f32).arg(&32usize);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(32))? };
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?.expect("a graph");
    for times in [3.0, 6.0, 9.0] {
        graph.launch()?;
        assert_eq!(stream.clone_dtoh(&dy)?, [times; 32]);
    }
    Ok(())
}

#[test]
fn a_fault_is_an_error_of_the_next_call() -> Result<(), DriverError> {
    let (context, saxpy) = saxpy(1);
    let stream = context.default_stream();
    let (dx, mut dy) = (stream.clone_htod(&[1.0f32; 8])?, stream.clone_htod(&[0.0f32; 8])?);
    let mut launch = stream.launch_builder(&saxpy);
    launch.arg(&mut dy).arg(&dx).arg(&3.0f32).arg(&9usize);
    // SAFETY: the emulator finds what is wrong.
    unsafe { launch.launch(LaunchConfig::for_num_elems(9))? };
    let error = context.synchronize().unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    Ok(())
}
