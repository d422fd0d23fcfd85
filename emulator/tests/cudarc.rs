//! The library as cudarc sees it: its own `dlopen("libcuda.so")` gets the emulator, which was loaded by path before.

mod driver_library;

use cudarc::driver::{CudaContext, DriverError, sys};
use std::sync::Arc;

fn context(device: usize) -> Arc<CudaContext> {
    driver_library::open();
    CudaContext::new(device).unwrap()
}

#[test]
fn devices_are_described() -> Result<(), DriverError> {
    let context = context(1);
    assert_eq!(CudaContext::device_count()?, 2);
    assert_eq!(context.name()?, "NVIDIA A100-SXM4-80GB");
    assert_eq!(context.compute_capability()?, (8, 0));
    assert_eq!(context.total_mem()?, 80 << 30);
    let sms = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(sms)?, 108);
    assert_ne!(context.uuid()?.bytes, self::context(0).uuid()?.bytes);
    Ok(())
}

#[test]
fn slices_are_copied_between_host_device_and_streams() -> Result<(), DriverError> {
    let context = context(0);
    let (first, second) = (context.default_stream(), context.new_stream()?);
    let numbers: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let mut device = first.clone_htod(&numbers)?;
    let zeros = second.alloc_zeros::<f32>(10)?;
    first.memcpy_dtod(&zeros, &mut device.slice_mut(5..15))?;
    let copy = second.clone_dtod(&device)?;
    let back = second.clone_dtoh(&copy)?;
    context.synchronize()?;
    let expected: Vec<f32> = (0..1000).map(|i| if (5..15).contains(&i) { 0.0 } else { i as f32 }).collect();
    assert_eq!(back, expected);
    let (free, total) = context.mem_get_info()?;
    assert!(total - free >= 8040, "two copies and the zeros");
    Ok(())
}

#[test]
fn pinned_slices_hold_what_the_device_had() -> Result<(), DriverError> {
    let stream = context(0).new_stream()?;
    let device = stream.clone_htod(&[1u8, 2, 3])?;
    // SAFETY: written before it is read.
    let mut pinned = unsafe { stream.context().alloc_pinned::<u8>(3)? };
    stream.memcpy_dtoh(&device, &mut pinned)?;
    assert_eq!(pinned.as_slice()?, [1, 2, 3]);
    Ok(())
}

#[test]
fn events_order_and_time_streams() -> Result<(), DriverError> {
    let context = context(0);
    let (a, b) = (context.new_stream()?, context.new_stream()?);
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = a.record_event(timed)?;
    b.wait(&start)?;
    std::thread::sleep(std::time::Duration::from_millis(5));
    let end = b.record_event(timed)?;
    end.synchronize()?;
    assert!(end.is_complete());
    assert!(start.elapsed_ms(&end)? >= 5.0);
    Ok(())
}

#[test]
fn graphs_run_as_often_as_they_are_launched() -> Result<(), DriverError> {
    let context = context(0);
    // SAFETY: one stream only: nothing has to wait for another.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let mut a = stream.clone_htod(&[1u32, 2, 3])?;
    let mut b = stream.clone_htod(&[7u32, 7, 7])?;
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    stream.memcpy_dtod(&a, &mut b)?;
    stream.memset_zeros(&mut a)?;
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?.expect("a graph");
    assert_eq!(stream.clone_dtoh(&b)?, [7, 7, 7]);
    graph.launch()?;
    assert_eq!((stream.clone_dtoh(&a)?, stream.clone_dtoh(&b)?), (vec![0; 3], vec![1, 2, 3]));
    graph.launch()?;
    assert_eq!(stream.clone_dtoh(&b)?, [0; 3]);
    Ok(())
}

#[test]
fn host_threads_share_a_context() {
    let context = context(0);
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let stream = context.new_stream().unwrap();
            scope.spawn(move || {
                let numbers: Vec<u64> = (0..100).map(|i| seed * 1000 + i).collect();
                for _ in 0..50 {
                    let device = stream.clone_htod(&numbers).unwrap();
                    assert_eq!(stream.clone_dtoh(&device).unwrap(), numbers);
                }
            });
        }
    });
}
