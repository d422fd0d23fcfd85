//! The driver API without kernels: devices, contexts, memory, streams, events, captures and graphs.

mod driver_library;

use driver_library::*;
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

#[test]
fn devices_have_the_attributes_of_their_data_sheets() {
    ok!(cuInit(0u32));
    assert_eq!(made!(i32: cuDeviceGetCount()), 2);
    assert_eq!(code!(i32: cuDeviceGet(2i32)), INVALID_DEVICE);
    assert_eq!(made!(i32: cuDriverGetVersion()), 13000);
    assert_eq!(made!(usize: cuDeviceTotalMem_v2(1i32)), 80 << 30);
    // NVIDIA A100: SMs, warp size, capability, shared memory with opting in, threads of an SM.
    for (number, value) in [(16, 108), (10, 32), (75, 8), (76, 0), (97, 163 << 10), (39, 2048), (1, 1024), (115, 1)] {
        assert_eq!(made!(i32: cuDeviceGetAttribute(number, 0i32)), value, "attribute {number}");
    }
    assert_eq!(code!(i32: cuDeviceGetAttribute(100_000i32, 0i32)), INVALID_VALUE);
    let mut text = [0u8; 8];
    ok!(cuDeviceGetName(text.as_mut_ptr(), 8i32, 0i32));
    assert_eq!(&text, b"NVIDIA \0");
    let uuids = [0, 1].map(|device: i32| made!([u8; 16]: cuDeviceGetUuid_v2(device)));
    assert_ne!(uuids[0], uuids[1]);
}

#[test]
fn contexts_are_a_stack_of_each_thread() {
    ok!(cuInit(0u32));
    let now = || made!(usize: cuCtxGetCurrent());
    assert_eq!(now(), 0);
    assert_eq!(cu!(cuCtxSynchronize()), INVALID_CONTEXT);
    let (a, b) = (context(), context());
    assert_eq!(now(), b);
    assert_eq!(made!(usize: cuCtxPopCurrent_v2()), b);
    assert_eq!(now(), a);
    std::thread::spawn(move || {
        assert_eq!(made!(usize: cuCtxGetCurrent()), 0);
        ok!(cuCtxSetCurrent(b));
        ok!(cuCtxDestroy_v2(a));
    })
    .join()
    .unwrap();
    assert_eq!(cu!(cuCtxSynchronize()), CONTEXT_IS_DESTROYED);
    ok!(cuCtxSetCurrent(0usize));
    assert_eq!(now(), 0);
    ok!(cuCtxDestroy_v2(b));
}

#[test]
fn the_primary_context_is_counted_and_keeps_its_handle() {
    ok!(cuInit(0u32));
    let active = || {
        let (mut flags, mut active) = (0u32, 0i32);
        ok!(cuDevicePrimaryCtxGetState(1i32, &raw mut flags, &raw mut active));
        active == 1
    };
    let first = made!(usize: cuDevicePrimaryCtxRetain(1i32));
    assert_eq!(made!(usize: cuDevicePrimaryCtxRetain(1i32)), first);
    ok!(cuCtxSetCurrent(first));
    assert_eq!(made!(i32: cuCtxGetDevice()), 1);
    let memory = made!(u64: cuMemAlloc_v2(64usize));
    ok!(cuDevicePrimaryCtxReset_v2(1i32));
    assert_eq!(cu!(cuMemFree_v2(memory)), INVALID_VALUE, "the reset freed it");
    ok!(cuDevicePrimaryCtxRelease_v2(1i32));
    assert!(active());
    ok!(cuDevicePrimaryCtxRelease_v2(1i32));
    assert!(!active());
    assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2(1i32)), INVALID_CONTEXT);
    assert_eq!(made!(usize: cuDevicePrimaryCtxRetain(1i32)), first);
}

#[test]
fn memory_is_copied_and_filled() {
    context();
    let at = upload(&[1, 2, 3, 4]);
    let other = made!(u64: cuMemAlloc_v2(16usize));
    ok!(cuMemcpyDtoD_v2(other, at + 4, 12usize));
    ok!(cuMemsetD32_v2(other + 12, 9u32, 1usize));
    assert_eq!(download(other, 4), [2, 3, 4, 9]);
    ok!(cuMemsetD8_v2(other, 0xabu8, 2usize));
    ok!(cuMemsetD16_v2(other + 2, 0x1234u16, 3usize));
    assert_eq!(download(other, 2), [0x1234_abab, 0x1234_1234]);
    let mut host = [0u32; 2];
    ok!(cuMemcpy(host.as_mut_ptr() as u64, at + 8, 8usize));
    assert_eq!(host, [3, 4]);
    ok!(cuMemcpy(at, host.as_ptr() as u64, 8usize));
    assert_eq!(download(at, 4), [3, 4, 3, 4]);
    let mut base = 0u64;
    ok!(cuMemGetAddressRange_v2(&raw mut base, null_mut::<usize>(), at + 5));
    assert_eq!(base, at);
}

#[test]
fn wrong_addresses_are_refused() {
    context();
    let at = made!(u64: cuMemAlloc_v2(16usize));
    let host = [0u8; 32];
    let from = host.as_ptr().cast::<c_void>();
    assert_eq!(cu!(cuMemcpyHtoD_v2(at, from, 17usize)), INVALID_VALUE);
    assert_eq!(cu!(cuMemcpyHtoD_v2(at + 15, from, 2usize)), INVALID_VALUE);
    assert_eq!(cu!(cuMemcpyHtoD_v2(from as u64, from, 2usize)), INVALID_VALUE, "not the device's");
    assert_eq!(cu!(cuMemsetD32_v2(at + 1, 0u32, 1usize)), INVALID_VALUE, "misaligned");
    assert_eq!(cu!(cuMemFree_v2(at + 4)), INVALID_VALUE);
    ok!(cuMemFree_v2(at));
    ok!(cuMemFree_v2(0u64));
    assert_eq!(cu!(cuMemFree_v2(at)), INVALID_VALUE, "twice");
    assert_eq!(cu!(cuMemcpyHtoD_v2(at, from, 1usize)), INVALID_VALUE, "freed");
    assert_eq!(code!(u64: cuMemAlloc_v2(0usize)), INVALID_VALUE);
    assert_eq!(code!(u64: cuMemAlloc_v2(81usize << 30)), OUT_OF_MEMORY);
    assert_eq!(cu!(cuMemAlloc_v2(null_mut::<u64>(), 8usize)), INVALID_VALUE);
}

#[test]
fn sizes_without_sense_are_refused_at_once() {
    context();
    let at = upload(&[0; 4]);
    // Rows that overlap without end, a pitch beyond all memory, more elements than bytes there can be.
    assert_eq!(cu!(cuMemsetD2D8_v2(at, 0usize, 1u8, 4usize, usize::MAX)), INVALID_VALUE);
    assert_eq!(cu!(cuMemsetD2D8_v2(at, 1usize << 62, 1u8, 4usize, 8usize)), INVALID_VALUE);
    assert_eq!(cu!(cuMemsetD32_v2(at, 1u32, usize::MAX)), INVALID_VALUE);
    assert_eq!(cu!(cuMemcpyDtoH_v2(null_mut::<c_void>(), at, usize::MAX)), INVALID_VALUE);
    assert_eq!(download(at, 4), [0; 4]);
}

#[test]
fn pinned_memory_is_of_the_host_and_the_device() {
    context();
    let host = made!(usize: cuMemHostAlloc(16usize, 2u32));
    // SAFETY: sixteen bytes were allocated there.
    unsafe { (host as *mut [u32; 4]).write([5, 6, 7, 8]) };
    let device = made!(u64: cuMemHostGetDevicePointer_v2(host, 0u32));
    assert_eq!(download(device, 4), [5, 6, 7, 8]);
    assert_eq!(made!(u32: cuMemHostGetFlags(host)), 2);
    assert_eq!(cu!(cuMemFree_v2(host as u64)), INVALID_VALUE, "the wrong call");
    assert_eq!(made!(u32: cuPointerGetAttribute(2i32, device)), 1, "host memory");
    ok!(cuMemFreeHost(host));
    let at = made!(u64: cuMemAlloc_v2(8usize));
    assert_eq!(made!(u32: cuPointerGetAttribute(2i32, at)), 2, "device memory");
    assert_eq!(made!(u64: cuPointerGetAttribute(11i32, at + 7)), at);
}

#[test]
fn info_counts_what_is_allocated() {
    context();
    let (mut free, mut total) = (0usize, 0usize);
    ok!(cuMemGetInfo_v2(&raw mut free, &raw mut total));
    assert_eq!((free, total), (80 << 30, 80 << 30));
    made!(u64: cuMemAlloc_v2(1000usize));
    ok!(cuMemGetInfo_v2(&raw mut free, &raw mut total));
    assert_eq!(total - free, 1000);
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
struct Copy2d {
    from: (usize, usize, u32),
    from_host: *const u32,
    from_device: u64,
    from_array: usize,
    from_pitch: usize,
    to: (usize, usize, u32),
    to_host: *mut u32,
    to_device: u64,
    to_array: usize,
    to_pitch: usize,
    width: usize,
    height: usize,
}

#[test]
fn rows_are_copied_with_their_pitches() {
    context();
    let mut pitch = 0usize;
    let mut at = 0u64;
    ok!(cuMemAllocPitch_v2(&raw mut at, &raw mut pitch, 12usize, 3usize, 4u32));
    assert_eq!(pitch % 256, 0);
    ok!(cuMemsetD2D32_v2(at, pitch, 7u32, 3usize, 3usize));
    let host = [1u32, 2, 3, 4, 5, 6];
    // The right two columns of a 2 x 3 picture go to rows 1 and 2, from the second element.
    let copy = Copy2d {
        from: (4, 0, 1),
        from_host: host.as_ptr(),
        from_device: 0,
        from_array: 0,
        from_pitch: 12,
        to: (4, 1, 2),
        to_host: null_mut(),
        to_device: at,
        to_array: 0,
        to_pitch: pitch,
        width: 8,
        height: 2,
    };
    ok!(cuMemcpy2D_v2(&raw const copy));
    let rows = [0, 1, 2].map(|row| download(at + row * pitch as u64, 3));
    assert_eq!(rows, [[7, 7, 7], [7, 2, 3], [7, 5, 6]]);
    let narrow = Copy2d { to_pitch: 4, ..copy };
    assert_eq!(cu!(cuMemcpy2D_v2(&raw const narrow)), INVALID_VALUE);
}

#[test]
fn stream_ordered_memory_comes_and_goes() {
    context();
    let stream = made!(usize: cuStreamCreate(1u32));
    let at = made!(u64: cuMemAllocAsync(16usize, stream));
    ok!(cuMemsetD32Async(at, 3u32, 4usize, stream));
    assert_eq!(download(at, 4), [3; 4]);
    ok!(cuMemFreeAsync(at, stream));
    assert_eq!(cu!(cuMemFreeAsync(at, stream)), INVALID_VALUE);
    let pool = made!(usize: cuDeviceGetDefaultMemPool(0i32));
    let threshold = u64::MAX;
    ok!(cuMemPoolSetAttribute(pool, 4i32, &raw const threshold));
    let mut read = 0u64;
    ok!(cuMemPoolGetAttribute(pool, 4i32, &raw mut read));
    assert_eq!(read, threshold);
}

#[test]
fn stale_handles_are_refused() {
    context();
    let stream = made!(usize: cuStreamCreate(0u32));
    ok!(cuStreamSynchronize(stream));
    ok!(cuStreamDestroy_v2(stream));
    for status in [cu!(cuStreamSynchronize(stream)), cu!(cuStreamDestroy_v2(stream))] {
        assert_eq!(status, INVALID_HANDLE);
    }
    assert_eq!(code!(usize: cuModuleGetFunction(0x1230usize, c"f".as_ptr())), INVALID_HANDLE);
    assert_eq!(cu!(cuEventSynchronize(stream)), INVALID_HANDLE);
    for default in [0usize, 1, 2] {
        ok!(cuStreamSynchronize(default));
    }
}

#[test]
fn events_measure_the_hosts_time() {
    context();
    let [start, end] = [0u32; 2].map(|flags| made!(usize: cuEventCreate(flags)));
    ok!(cuEventQuery(start));
    assert_eq!(code!(f32: cuEventElapsedTime(start, end)), INVALID_HANDLE, "never recorded");
    ok!(cuEventRecord(start, 0usize));
    std::thread::sleep(std::time::Duration::from_millis(20));
    ok!(cuEventRecord(end, 0usize));
    let elapsed = made!(f32: cuEventElapsedTime(start, end));
    assert!(elapsed >= 20.0, "{elapsed} ms");
    assert!(made!(f32: cuEventElapsedTime(end, start)) <= -20.0);
    let untimed = made!(usize: cuEventCreate(2u32));
    ok!(cuEventRecord(untimed, 0usize));
    assert_eq!(code!(f32: cuEventElapsedTime(start, untimed)), INVALID_HANDLE);
}

extern "C" fn add_one(to: *mut c_void) {
    // SAFETY: the tests pass a number.
    unsafe { *to.cast::<u32>() += 1 };
}

#[test]
fn a_capture_runs_only_when_its_graph_is_launched() {
    context();
    let (stream, at) = (made!(usize: cuStreamCreate(1u32)), upload(&[0; 4]));
    let mut calls = 0u32;
    ok!(cuStreamBeginCapture_v2(stream, 0u32));
    ok!(cuMemsetD32Async(at, 1u32, 4usize, stream));
    ok!(cuMemsetD32Async(at + 4, 2u32, 2usize, stream));
    ok!(cuLaunchHostFunc(stream, add_one as *const c_void, (&raw mut calls).cast::<c_void>()));
    assert_eq!(made_status(stream), 1);
    let (mut status, mut id, mut graph, mut after, mut edges, mut count) =
        (0u32, 0u64, 0usize, 0usize, null::<u64>(), 0usize);
    let (tail, data) = (&raw mut after, &raw mut edges);
    ok!(cuStreamGetCaptureInfo_v3(stream, &raw mut status, &raw mut id, &raw mut graph, tail, data, &raw mut count));
    // SAFETY: as many as `count` says.
    assert_eq!((status, count, unsafe { edges.read() }), (1, 1, 0), "one node without edge data is the last");
    ok!(cuStreamEndCapture(stream, &raw mut graph));
    assert_eq!(made_status(stream), 0);
    assert_eq!((download(at, 4), calls), (vec![0; 4], 0));
    let exec = made!(usize: cuGraphInstantiateWithFlags(graph, 0u64));
    ok!(cuGraphDestroy(graph));
    for _ in 0..2 {
        ok!(cuGraphLaunch(exec, stream));
    }
    assert_eq!((download(at, 4), calls), (vec![1, 2, 2, 1], 2));
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(cu!(cuGraphLaunch(exec, stream)), INVALID_VALUE);
}

fn made_status(stream: usize) -> u32 {
    let mut status = 9;
    ok!(cuStreamIsCapturing(stream, &raw mut status));
    status
}

#[test]
fn default_streams_capture_by_thread_only() {
    let (context, at) = (context(), upload(&[0; 2]));
    for legacy in [0usize, 1] {
        assert_eq!(name(cu!(cuStreamBeginCapture_v2(legacy, 0u32))), "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED");
    }
    ok!(cuStreamBeginCapture_v2(2usize, 0u32));
    ok!(cuMemsetD32Async(at, 5u32, 2usize, 2usize));
    assert_eq!(made_status(2), 1);
    let status = || {
        let mut status = 9u32;
        name(cu!(cuStreamIsCapturing(0usize, &raw mut status)))
    };
    std::thread::spawn(move || {
        ok!(cuCtxSetCurrent(context));
        assert_eq!(made_status(2), 0, "the other thread's stream is another one");
    })
    .join()
    .unwrap();
    assert_eq!(status(), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT");
    let mut graph = 0usize;
    ok!(cuStreamEndCapture(2usize, &raw mut graph));
    assert_eq!((status(), download(at, 2)), ("CUDA_SUCCESS".into(), vec![0; 2]));
    ok!(cuGraphLaunch(made!(usize: cuGraphInstantiateWithFlags(graph, 0u64)), 2usize));
    assert_eq!(download(at, 2), [5; 2]);
}

#[test]
fn captured_streams_fork_and_join_by_events() {
    context();
    let [a, b] = [1u32; 2].map(|flags| made!(usize: cuStreamCreate(flags)));
    let [fork, join] = [2u32; 2].map(|flags| made!(usize: cuEventCreate(flags)));
    let at = upload(&[0; 2]);
    let mut graph = 0usize;
    let capture = |joined: bool| {
        ok!(cuStreamBeginCapture_v2(a, 0u32));
        ok!(cuEventRecord(fork, a));
        ok!(cuStreamWaitEvent(b, fork, 0u32));
        ok!(cuMemsetD32Async(at, 5u32, 1usize, b));
        ok!(cuMemsetD32Async(at + 4, 6u32, 1usize, a));
        ok!(cuEventRecord(join, b));
        if joined {
            ok!(cuStreamWaitEvent(a, join, 0u32));
        }
    };
    capture(true);
    assert_eq!(name(cu!(cuEventQuery(join))), "CUDA_ERROR_CAPTURED_EVENT");
    ok!(cuMemsetD32Async(at, 7u32, 1usize, a));
    ok!(cuStreamEndCapture(a, &raw mut graph));
    let mut count = 0usize;
    ok!(cuGraphGetEdges(graph, null_mut::<usize>(), null_mut::<usize>(), &raw mut count));
    assert_eq!(count, 2, "the last comes after both branches");
    ok!(cuGraphGetRootNodes(graph, null_mut::<usize>(), &raw mut count));
    assert_eq!(count, 2);
    let exec = made!(usize: cuGraphInstantiateWithFlags(graph, 0u64));
    ok!(cuGraphLaunch(exec, a));
    assert_eq!(download(at, 2), [7, 6]);
    capture(false);
    assert_eq!(name(cu!(cuStreamEndCapture(a, &raw mut graph))), "CUDA_ERROR_STREAM_CAPTURE_UNJOINED");
    assert_eq!(made_status(b), 0);
}

#[test]
fn a_capture_that_waits_for_itself_is_invalid() {
    context();
    let stream = made!(usize: cuStreamCreate(0u32));
    let mut graph = 1usize;
    ok!(cuStreamBeginCapture_v2(stream, 0u32));
    assert_eq!(name(cu!(cuStreamSynchronize(stream))), "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED");
    let at = made!(u64: cuMemAlloc_v2(4usize));
    assert_eq!(name(cu!(cuMemsetD8Async(at, 0u8, 4usize, stream))), "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED");
    assert_eq!(name(cu!(cuStreamEndCapture(stream, &raw mut graph))), "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED");
    assert_eq!(graph, 0);
    ok!(cuStreamSynchronize(stream));
    ok!(cuStreamBeginCapture_v2(stream, 0u32));
    assert_eq!(name(cu!(cuMemsetD8_v2(at, 0u8, 4usize))), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT");
    assert_eq!(name(cu!(cuStreamEndCapture(stream, &raw mut graph))), "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED");
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
struct Fill {
    at: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

#[test]
fn graphs_run_in_the_order_of_their_edges_and_are_updated() {
    context();
    let at = upload(&[0]);
    let fill = |value| Fill { at, pitch: 0, value, element: 4, width: 1, height: 1 };
    let graph = made!(usize: cuGraphCreate(0u32));
    let add = |value| {
        let fill = fill(value);
        made!(usize: cuGraphAddMemsetNode(graph, null::<usize>(), 0usize, &raw const fill, 0usize))
    };
    let (first, second) = (add(1), add(2));
    ok!(cuGraphAddDependencies(graph, &raw const second, &raw const first, 1usize));
    let exec = made!(usize: cuGraphInstantiateWithFlags(graph, 0u64));
    let launch = || {
        ok!(cuGraphLaunch(exec, 0usize));
        download(at, 1)[0]
    };
    assert_eq!(launch(), 1, "the second node runs first");
    let three = fill(3);
    ok!(cuGraphExecMemsetNodeSetParams(exec, first, &raw const three, 0usize));
    assert_eq!(launch(), 3);
    ok!(cuGraphNodeSetEnabled(exec, first, 0u32));
    assert_eq!(launch(), 2);
    ok!(cuGraphNodeSetEnabled(exec, first, 1u32));

    let clone = made!(usize: cuGraphClone(graph));
    let mut result = [0u64; 3];
    ok!(cuGraphExecUpdate_v2(exec, clone, result.as_mut_ptr()));
    assert_eq!(launch(), 1, "what the graph has");
    made!(usize: cuGraphAddEmptyNode(clone, null::<usize>(), 0usize));
    let refused = cu!(cuGraphExecUpdate_v2(exec, clone, result.as_mut_ptr()));
    assert_eq!((name(refused).as_str(), result[0] as u32), ("CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", 2));

    ok!(cuGraphAddDependencies(graph, &raw const first, &raw const second, 1usize));
    assert_eq!(code!(usize: cuGraphInstantiateWithFlags(graph, 0u64)), INVALID_VALUE, "a circle");
}

/// `CUgraphNodeParams`.
#[repr(C)]
struct Params {
    kind: i32,
    reserved: [i32; 3],
    value: [u64; 30],
}

#[test]
fn nodes_are_made_of_one_structure_and_shown() {
    context();
    let (graph, at) = (made!(usize: cuGraphCreate(0u32)), upload(&[0; 4]));
    let add = |kind: i32, words: &[u64], after: &[usize]| {
        let mut params = Params { kind, reserved: [0; 3], value: [0; 30] };
        params.value[..words.len()].copy_from_slice(words);
        let (mut node, edges) = (0usize, null::<u64>());
        let (from, count) = (after.as_ptr(), after.len());
        let code = cu!(cuGraphAddNode_v2(&raw mut node, graph, from, edges, count, &raw const params));
        (code, node)
    };
    let kind = |node: usize| {
        let mut kind = 0i32;
        ok!(cuGraphNodeGetType(node, &raw mut kind));
        kind
    };
    // Two words of 7 at the start; then from there to the third word on.
    let fill = [at, 0, 7 | 4 << 32, 2, 1];
    let corner = |at: u64| [0, 0, 0, 0, 2, 0, at, 0, 0, 0, 0];
    let copy = [&corner(at)[..], &corner(at + 8), &[8, 1, 1]].concat();
    let (code, first) = add(2, &fill, &[]);
    assert_eq!(code, 0);
    let (code, second) = add(1, &[&[0, 0], &copy[..]].concat(), &[first]);
    assert_eq!(code, 0);
    assert_eq!([first, second].map(kind), [2, 1]);
    assert_eq!((name(add(10, &[], &[]).0), add(99, &[], &[]).0), ("CUDA_ERROR_NOT_SUPPORTED".into(), INVALID_VALUE));
    let (mut shown_fill, mut shown_copy) = ([0u64; 5], [0u64; 25]);
    ok!(cuGraphMemsetNodeGetParams(first, &raw mut shown_fill));
    ok!(cuGraphMemcpyNodeGetParams(second, &raw mut shown_copy));
    [4, 15].into_iter().for_each(|kind| shown_copy[kind] &= 0xffff_ffff);
    assert_eq!((shown_fill, &shown_copy[..]), (fill, &copy[..]));
    assert_eq!(cu!(cuGraphMemsetNodeGetParams(second, &raw mut shown_fill)), INVALID_VALUE);
    ok!(cuGraphLaunch(made!(usize: cuGraphInstantiateWithFlags(graph, 0u64)), 0usize));
    assert_eq!(download(at, 4), [7; 4]);
}

#[test]
fn memory_of_a_capture_lives_with_its_graph() {
    context();
    let stream = made!(usize: cuStreamCreate(1u32));
    let used = || {
        let (mut free, mut total) = (0usize, 0usize);
        ok!(cuMemGetInfo_v2(&raw mut free, &raw mut total));
        total - free
    };
    ok!(cuStreamBeginCapture_v2(stream, 0u32));
    let at = made!(u64: cuMemAllocAsync(64usize, stream));
    ok!(cuMemsetD8Async(at, 1u8, 64usize, stream));
    ok!(cuMemFreeAsync(at, stream));
    let mut graph = 0usize;
    ok!(cuStreamEndCapture(stream, &raw mut graph));
    let exec = made!(usize: cuGraphInstantiateWithFlags(graph, 0u64));
    ok!(cuGraphDestroy(graph));
    for _ in 0..2 {
        ok!(cuGraphLaunch(exec, stream));
    }
    assert_eq!(used(), 64);
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(used(), 0);
}

#[test]
fn binaries_are_refused_with_a_reason() {
    context();
    let mut log = [0u8; 64];
    let (options, mut values) = ([5i32, 6], [log.as_mut_ptr() as usize, 64]);
    let load = |image: &[u8], values: *mut usize| {
        let (mut module, image) = (0usize, image.as_ptr().cast::<c_void>());
        cu!(cuModuleLoadDataEx(&raw mut module, image, 2u32, options.as_ptr(), values))
    };
    assert_eq!(load(b"\x7fELF\x02\0", values.as_mut_ptr()), NO_BINARY_FOR_GPU);
    let text = String::from_utf8_lossy(&log[..values[1] - 1]).into_owned();
    assert_eq!(text, "only PTX text runs here, this image is a cubin");
    let empty = b".version 8.0\n.target sm_80\n.address_size 64\n\0";
    values = [log.as_mut_ptr() as usize, 64];
    assert_eq!((load(empty, values.as_mut_ptr()), values[1]), (0, 0), "nothing to say");
    assert_eq!(load(b"\x50\xed\x55\xba\0", [0, 0].as_mut_ptr()), NO_BINARY_FOR_GPU);
    assert_eq!(load(b"\xff\xfe\xfd\xfc\0", [0, 0].as_mut_ptr()), INVALID_PTX);
}

#[test]
fn a_text_that_is_loaded_twice_has_its_variables_twice_and_lives_as_long_as_one() {
    context();
    const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let load = |text: &str| {
        let (text, mut module) = (CString::new(format!("{HEAD}{text}")).unwrap(), 0usize);
        ok!(cuModuleLoadData(&raw mut module, text.as_ptr()));
        module
    };
    let variable = |module: usize| {
        let (mut at, mut bytes) = (0u64, 0usize);
        ok!(cuModuleGetGlobal_v2(&raw mut at, &raw mut bytes, module, c"v".as_ptr()));
        at
    };
    let [a, b] = [(); 2].map(|()| load(".global .u32 v;"));
    assert_ne!(variable(a), variable(b));
    let [a, b] = [(); 2].map(|()| load(".visible .entry k() { ret; }"));
    assert_ne!(a, b);
    ok!(cuModuleUnload(a));
    let mut function = 0usize;
    ok!(cuModuleGetFunction(&raw mut function, b, c"k".as_ptr()));
    assert_ne!(cu!(cuModuleGetFunction(&raw mut function, a, c"k".as_ptr())), 0);
}

#[test]
fn the_linker_puts_texts_together() {
    context();
    let linker = {
        let mut linker = 0usize;
        ok!(cuLinkCreate_v2(0u32, null::<i32>(), null_mut::<usize>(), &raw mut linker));
        linker
    };
    let text = b".version 8.0\n.target sm_80\n.address_size 64\n";
    let add = |kind: i32| {
        let (at, bytes) = (text.as_ptr(), text.len());
        cu!(cuLinkAddData_v2(linker, kind, at, bytes, null::<u8>(), 0u32, null::<i32>(), null_mut::<usize>()))
    };
    assert_eq!(add(0), NO_BINARY_FOR_GPU);
    assert_eq!([add(1), add(1)], [0, 0]);
    let (mut image, mut bytes) = (null::<u8>(), 0usize);
    ok!(cuLinkComplete(linker, &raw mut image, &raw mut bytes));
    // SAFETY: the driver says that so many bytes are there.
    let linked = unsafe { std::slice::from_raw_parts(image, bytes) };
    assert_eq!(linked, [&text[..], b"\n", text, b"\0"].concat());
    assert_eq!(add(1), INVALID_VALUE, "it is complete");
    ok!(cuLinkDestroy(linker));
}

#[test]
fn what_a_link_lacks_shows_when_it_is_completed() {
    context();
    const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let caller = format!("{HEAD}.extern .func f();\n.visible .entry k() {{ call f; ret; }}");
    let callee = format!("{HEAD}.visible .func f() {{ ret; }}");
    let link = |inputs: &[&str]| {
        let mut log = [0u8; 200];
        let (options, mut values) = ([5i32, 6], [log.as_mut_ptr() as usize, 200]);
        let (mut linker, mut image, mut bytes) = (0usize, null::<u8>(), 0usize);
        ok!(cuLinkCreate_v2(2u32, options.as_ptr(), values.as_mut_ptr(), &raw mut linker));
        for text in inputs {
            let (at, bytes) = (text.as_ptr(), text.len());
            ok!(cuLinkAddData_v2(linker, 1i32, at, bytes, null::<u8>(), 0u32, null::<i32>(), null_mut::<usize>()));
        }
        let code = cu!(cuLinkComplete(linker, &raw mut image, &raw mut bytes));
        ok!(cuLinkDestroy(linker));
        (code, String::from_utf8_lossy(&log[..values[1].saturating_sub(1)]).into_owned())
    };
    assert_eq!(link(&[&caller, &callee]), (0, String::new()));
    let (code, log) = link(&[&caller]);
    assert_eq!(code, INVALID_PTX);
    assert!(log.contains("PTX line 5") && log.contains("`f`"), "{log}");
    let (code, log) = link(&[&callee, "garbage"]);
    assert_eq!(code, INVALID_PTX);
    assert!(log.contains("`garbage`"), "{log}");
    let (code, log) = link(&[&HEAD.replace("sm_80", "sm_121")]);
    assert_eq!(code, NO_BINARY_FOR_GPU);
    assert!(log.contains("sm_121"), "{log}");
}

#[test]
fn functions_are_found_by_name_and_version() {
    ok!(cuInit(0u32));
    let find = |name: &str, version: i32| {
        let (name, mut at, mut status) = (CString::new(name).unwrap(), 0usize, 9u32);
        let code = cu!(cuGetProcAddress_v2(name.as_ptr(), &raw mut at, version, 0u64, &raw mut status));
        (code, at, status)
    };
    let exported = |name| symbol(name) as usize;
    assert_eq!(find("cuMemFree", 13000), (0, exported("cuMemFree"), 0));
    assert_eq!(find("cuCtxCreate", 13000), (0, exported("cuCtxCreate_v4"), 0));
    assert_eq!(find("cuCtxCreate", 3020), (0, exported("cuCtxCreate_v2"), 0));
    assert_eq!(find("cuNoSuchThing", 13000), (NOT_FOUND, 0, 1));
    assert_eq!(cu!(cuGetExportTable(null_mut::<usize>(), null::<u8>())), NOT_FOUND);
    assert_eq!(name(700), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(name(0), "CUDA_SUCCESS");
    let mut unknown = 0usize;
    assert_eq!(cu!(cuGetErrorName(12345u32, &raw mut unknown)), INVALID_VALUE);
}

#[test]
fn threads_allocate_and_copy_at_once() {
    let context = context();
    let work = |seed: u32| {
        ok!(cuCtxSetCurrent(context));
        let stream = made!(usize: cuStreamCreate(1u32));
        for round in 0..50 {
            let numbers: Vec<u32> = (0..64).map(|i| seed * 1000 + round + i).collect();
            let at = upload(&numbers);
            let copy = made!(u64: cuMemAllocAsync(256usize, stream));
            ok!(cuMemcpyDtoDAsync_v2(copy, at, 256usize, stream));
            assert_eq!(download(copy, 64), numbers);
            ok!(cuMemFree_v2(at));
            ok!(cuMemFreeAsync(copy, stream));
        }
        ok!(cuStreamDestroy_v2(stream));
    };
    std::thread::scope(|scope| (0..8).for_each(|seed| drop(scope.spawn(move || work(seed)))));
}

/// The arguments of `cuTensorMapEncodeTiled` behind the map.
#[derive(Clone)]
struct Tiled {
    ty: u32,
    rank: u32,
    address: u64,
    dimensions: [u64; 5],
    strides: [u64; 4],
    extents: [u32; 5],
    steps: [u32; 5],
    modes: [u32; 4],
}

impl Tiled {
    fn encode(&self, to: usize) -> u32 {
        let Tiled { ty, rank, address, modes, .. } = *self;
        let [interleave, swizzle, promotion, fill] = modes;
        let (dimensions, strides) = (self.dimensions.as_ptr(), self.strides.as_ptr());
        let (extents, steps) = (self.extents.as_ptr(), self.steps.as_ptr());
        cu!(cuTensorMapEncodeTiled(
            to, ty, rank, address, dimensions, strides, extents, steps, interleave, swizzle, promotion, fill
        ))
    }
}

#[test]
fn tensor_maps_are_checked_as_the_interface_says() {
    const NOT_SUPPORTED: u32 = 801;
    #[repr(align(64))]
    struct Map([u8; 129]);
    ok!(cuInit(0u32));
    let mut map = Map([0; 129]);
    let to = map.0.as_mut_ptr() as usize;
    // 16-bit floats, 64 columns of a box with the 128-byte swizzle.
    let fine = Tiled {
        ty: 6,
        rank: 2,
        address: 0x7000_0000,
        dimensions: [1000, 7, 0, 0, 0],
        strides: [2000, 0, 0, 0],
        extents: [64, 256, 0, 0, 0],
        steps: [1; 5],
        modes: [0, 3, 3, 0],
    };
    assert_eq!(fine.encode(to), 0);
    let first = map.0;
    ok!(cuTensorMapReplaceAddress(to, 0x7000_0010u64));
    assert_ne!(map.0, first);
    assert_eq!(cu!(cuTensorMapReplaceAddress(to, 0x7000_0008u64)), INVALID_VALUE);
    ok!(cuTensorMapReplaceAddress(to, 0x7000_0000u64));
    assert_eq!(map.0, first);
    let invalid: &[fn(&mut Tiled)] = &[
        |t| t.ty = 16,
        |t| t.rank = 0,
        |t| t.rank = 6,
        |t| t.rank = 3,
        |t| t.address = 0x7000_0008,
        |t| t.dimensions[1] = 0,
        |t| t.dimensions[0] = (1 << 32) + 1,
        |t| t.strides[0] = 2008,
        |t| t.strides[0] = 1 << 40,
        |t| t.extents[1] = 257,
        |t| t.extents[0] = 68,
        |t| t.extents[0] = 72,
        |t| t.steps[1] = 9,
        |t| t.steps[0] = 0,
        |t| t.modes = [3, 3, 0, 0],
        |t| t.modes = [0, 7, 0, 0],
        |t| t.modes = [0, 2, 0, 0],
        |t| t.modes = [0, 3, 4, 0],
        |t| t.modes = [0, 3, 0, 2],
        |t| (t.ty, t.modes) = (1, [0, 3, 0, 1]),
    ];
    let missing: &[fn(&mut Tiled)] = &[
        |t| t.ty = 10,
        |t| t.steps[0] = 2,
        |t| t.modes = [1, 3, 0, 0],
        |t| t.modes = [0, 4, 0, 0],
        |t| t.modes = [0, 3, 0, 1],
    ];
    for (changes, expected) in [(invalid, INVALID_VALUE), (missing, NOT_SUPPORTED)] {
        for (i, change) in changes.iter().enumerate() {
            let mut case = fine.clone();
            change(&mut case);
            assert_eq!(case.encode(to), expected, "change {i}");
        }
    }
    assert_eq!(fine.encode(to + 1), INVALID_VALUE);
    assert_eq!(fine.encode(0), INVALID_VALUE);
    assert_eq!(map.0, first);
}
