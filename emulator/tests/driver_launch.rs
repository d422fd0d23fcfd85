//! Kernels through the driver API: modules, functions, limits, launches, faults, counters and graphs of kernels.

mod driver_library;

use driver_library::*;
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

/// `add` adds `n` to every element, `fill` stores its block's number through dynamic shared memory, `small` and `exact`
/// state their threads; `scale` is a variable that `scaled` multiplies with.
const PTX: &str = concat!(
    include_str!("data/add.ptx"),
    r#"
.global .align 4 .u32 scale = 3;
.extern .shared .align 4 .b8 dynamic[];

.visible .entry scaled(.param .u64 at)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [at];
    cvta.to.global.u64 %rd2, %rd1;
    ld.global.u32 %r1, [scale];
    ld.global.u32 %r2, [%rd2];
    mul.lo.s32 %r3, %r1, %r2;
    st.global.u32 [%rd2], %r3;
    ret;
}

.visible .entry fill(.param .u64 at)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [at];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, dynamic;
    st.shared.u32 [%r2], %r1;
    ld.shared.u32 %r3, [%r2];
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r3;
    ret;
}

.visible .entry small(.param .u64 at)
.maxntid 64, 1, 1
{
    ret;
}

.visible .entry exact(.param .u64 at)
.reqntid 8, 4, 1
{
    ret;
}
"#
);

fn load() -> usize {
    let text = CString::new(PTX).unwrap();
    made!(usize: cuModuleLoadData(text.as_ptr().cast::<c_void>()))
}

fn function(module: usize, name: &str) -> usize {
    let name = CString::new(name).unwrap();
    made!(usize: cuModuleGetFunction(module, name.as_ptr()))
}

/// The code of a launch with these pointers to arguments.
fn launch(function: usize, grid: u32, block: [u32; 3], shared: u32, stream: usize, arguments: &[*const c_void]) -> u32 {
    let [x, y, z] = block;
    let (pointers, extra) = (arguments.as_ptr(), null::<*const c_void>());
    cu!(cuLaunchKernel(function, grid, 1u32, 1u32, x, y, z, shared, stream, pointers, extra))
}

fn pointer<T>(to: &T) -> *const c_void {
    (&raw const *to).cast()
}

#[test]
fn a_kernel_runs_with_pointers_and_with_a_buffer() {
    context();
    let (add, at) = (function(load(), "add"), upload(&[1, 2, 3, 4]));
    assert_eq!(launch(add, 1, [4, 1, 1], 0, 0, &[pointer(&at), pointer(&10u32)]), 0);
    assert_eq!(download(at, 4), [11, 12, 13, 14]);
    let mut buffer = at.to_le_bytes().to_vec();
    buffer.extend(100u32.to_le_bytes());
    let bytes = buffer.len();
    let extra = [1, buffer.as_ptr() as usize, 2, &raw const bytes as usize, 0];
    let none = null::<*const c_void>();
    let with =
        |extra: *const usize| cu!(cuLaunchKernel(add, 1u32, 1u32, 1u32, 4u32, 1u32, 1u32, 0u32, 0usize, none, extra));
    assert_eq!(with(extra.as_ptr()), 0);
    assert_eq!(download(at, 4), [111, 112, 113, 114]);
    assert_eq!(with(null()), INVALID_VALUE, "arguments are missing");
    let short = 8usize;
    let extra = [1, buffer.as_ptr() as usize, 2, &raw const short as usize, 0];
    assert_eq!(with(extra.as_ptr()), INVALID_VALUE, "the buffer is too short");
}

#[test]
fn modules_show_their_functions_and_variables() {
    context();
    let module = load();
    assert_eq!(made!(u32: cuModuleGetFunctionCount(module)), 5);
    assert_eq!(code!(usize: cuModuleGetFunction(module, c"none".as_ptr())), NOT_FOUND);
    let add = function(module, "add");
    assert_eq!(add, function(module, "add"), "the same handle");
    let (mut offset, mut bytes) = (0usize, 0usize);
    ok!(cuFuncGetParamInfo(add, 1usize, &raw mut offset, &raw mut bytes));
    assert_eq!((offset, bytes), (8, 4));
    assert_eq!(cu!(cuFuncGetParamInfo(add, 2usize, &raw mut offset, &raw mut bytes)), INVALID_VALUE);
    let (mut scale, mut bytes) = (0u64, 0usize);
    ok!(cuModuleGetGlobal_v2(&raw mut scale, &raw mut bytes, module, c"scale".as_ptr()));
    assert_eq!((download(scale, 1), bytes), (vec![3], 4));
    ok!(cuMemsetD32_v2(scale, 5u32, 1usize));
    let at = upload(&[7]);
    assert_eq!(launch(function(module, "scaled"), 1, [1, 1, 1], 0, 0, &[pointer(&at)]), 0);
    assert_eq!(download(at, 1), [35]);
    ok!(cuModuleUnload(module));
    assert_eq!(launch(add, 1, [1, 1, 1], 0, 0, &[]), INVALID_HANDLE);
}

#[test]
fn library_kernels_run_in_the_current_context() {
    context();
    let text = CString::new(PTX).unwrap();
    let none = null::<c_void>();
    let library = made!(usize: cuLibraryLoadData(text.as_ptr().cast::<c_void>(), none, none, 0u32, none, none, 0u32));
    let kernel = made!(usize: cuLibraryGetKernel(library, c"add".as_ptr()));
    for _ in 0..2 {
        context();
        let at = upload(&[1]);
        assert_eq!(launch(kernel, 1, [1, 1, 1], 0, 0, &[pointer(&at), pointer(&1u32)]), 0);
        assert_eq!(download(at, 1), [2]);
        let function = made!(usize: cuKernelGetFunction(kernel));
        assert_eq!(launch(function, 1, [1, 1, 1], 0, 0, &[pointer(&at), pointer(&1u32)]), 0);
        assert_eq!(download(at, 1), [3]);
    }
    ok!(cuLibraryUnload(library));
    assert_eq!(launch(kernel, 1, [1, 1, 1], 0, 0, &[]), INVALID_HANDLE);
}

#[test]
fn launches_beyond_the_limits_are_refused_and_break_nothing() {
    context();
    let module = load();
    let at = upload(&[0; 64]);
    let arguments = [pointer(&at), pointer(&1u32)];
    let refused = |name: &str, grid, block| launch(function(module, name), grid, block, 0, 0, &arguments);
    for (name, grid, block) in [
        ("add", 0, [1, 1, 1]),
        ("add", 1, [1, 0, 1]),
        ("add", 0x8000_0000, [1, 1, 1]),
        ("add", 1, [1, 1, 65]),
        ("add", 1, [512, 2, 2]),
        ("small", 1, [65, 1, 1]),
        ("exact", 1, [32, 1, 1]),
    ] {
        assert_eq!(refused(name, grid, block), INVALID_VALUE, "{name} {grid} {block:?}");
    }
    assert_eq!(refused("small", 1, [64, 1, 1]), 0);
    assert_eq!(refused("exact", 1, [8, 4, 1]), 0);
    assert_eq!(made!(i32: cuFuncGetAttribute(0i32, function(module, "small"))), 64);
    let null = null::<c_void>();
    let add = function(module, "add");
    // 2048 threads a multiprocessor, 108 of them: 216 blocks of 1024 threads.
    let cooperative = |blocks: u32| {
        let pointers = arguments.as_ptr();
        cu!(cuLaunchCooperativeKernel(add, blocks, 1u32, 1u32, 1024u32, 1u32, 1u32, 0u32, null, pointers))
    };
    assert_eq!(cooperative(217), COOPERATIVE_LAUNCH_TOO_LARGE);
    ok!(cuCtxSynchronize());
}

#[test]
fn more_shared_memory_must_be_asked_for() {
    context();
    let (fill, at) = (function(load(), "fill"), upload(&[9; 3]));
    let run = |bytes| launch(fill, 3, [1, 1, 1], bytes, 0, &[pointer(&at)]);
    assert_eq!(run(48 << 10), 0);
    assert_eq!(run((48 << 10) + 1), INVALID_VALUE);
    assert_eq!(cu!(cuFuncSetAttribute(fill, 8i32, (163i32 << 10) + 1)), INVALID_VALUE);
    ok!(cuFuncSetAttribute(fill, 8i32, 163i32 << 10));
    assert_eq!(made!(i32: cuFuncGetAttribute(8i32, fill)), 163 << 10);
    assert_eq!(run(163 << 10), 0);
    assert_eq!(download(at, 3), [0, 1, 2]);
}

#[test]
fn a_fault_shows_from_the_next_call_on() {
    let healthy = context();
    let at = upload(&[1; 4]);
    context();
    let (add, own) = (function(load(), "add"), upload(&[1; 4]));
    let run = || launch(add, 1, [5, 1, 1], 0, 0, &[pointer(&own), pointer(&1u32)]);
    assert_eq!(run(), 0, "the launch itself is fine");
    assert_eq!(cu!(cuCtxSynchronize()), ILLEGAL_ADDRESS);
    assert_eq!(run(), ILLEGAL_ADDRESS);
    assert_eq!(cu!(cuMemFree_v2(own)), ILLEGAL_ADDRESS);
    let mut bytes = 0usize;
    ok!(cuEmuLastFault(null_mut::<u8>(), &raw mut bytes));
    let mut text = vec![0u8; bytes];
    ok!(cuEmuLastFault(text.as_mut_ptr(), &raw mut bytes));
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("OutOfBounds in add, block (0,0,0) thread (4,0,0)"), "{text}");
    ok!(cuCtxSetCurrent(healthy));
    ok!(cuCtxSynchronize());
    assert_eq!(download(at, 4), [1; 4]);
}

#[test]
fn a_reset_heals_the_primary_context() {
    ok!(cuInit(0u32));
    let primary = made!(usize: cuDevicePrimaryCtxRetain(0i32));
    ok!(cuCtxSetCurrent(primary));
    let add = function(load(), "add");
    assert_eq!(launch(add, 1, [1, 1, 1], 0, 0, &[pointer(&4096u64), pointer(&1u32)]), 0);
    assert_eq!(cu!(cuStreamSynchronize(0usize)), ILLEGAL_ADDRESS);
    ok!(cuDevicePrimaryCtxReset_v2(0i32));
    ok!(cuStreamSynchronize(0usize));
    assert_eq!(launch(add, 1, [1, 1, 1], 0, 0, &[]), INVALID_HANDLE, "its modules are gone");
}

#[test]
fn bad_text_is_refused_with_its_line() {
    context();
    let mut log = [0u8; 256];
    let options = [5i32, 6];
    let mut load = |text: &str| {
        let (mut module, text) = (0usize, CString::new(text).unwrap());
        let mut values = [log.as_mut_ptr() as usize, log.len()];
        let image = text.as_ptr().cast::<c_void>();
        let code = cu!(cuModuleLoadDataEx(&raw mut module, image, 2u32, options.as_ptr(), values.as_mut_ptr()));
        (code, String::from_utf8_lossy(&log[..values[1].saturating_sub(1)]).into_owned())
    };
    let (code, why) = load(&PTX.replace("add.s64 %rd4", "add.s63 %rd4"));
    assert_eq!(code, INVALID_PTX);
    assert!(why.starts_with("PTX line 14"), "{why}");
    assert_eq!(load(&PTX.replace("sm_80", "sm_90")).0, NO_BINARY_FOR_GPU);
    assert_eq!(load("").0, INVALID_PTX);
}

#[test]
fn counters_and_operands_belong_to_the_last_launch() {
    #[repr(C)]
    struct Operand {
        address: u64,
        bytes: u64,
        rows: u64,
        stride: u64,
        access: u32,
    }
    context();
    let mut bytes = 0usize;
    assert_eq!(cu!(cuEmuCounters(null_mut::<u8>(), &raw mut bytes)), NOT_FOUND);
    let (add, at) = (function(load(), "add"), upload(&[1; 8]));
    let run = |threads| launch(add, 1, [threads, 1, 1], 0, 0, &[pointer(&at), pointer(&1u32)]);
    for (rows, stride) in [(2, 8), (u64::MAX, 16), (2, u64::MAX)] {
        let operand = Operand { address: at, bytes: 16, rows, stride, access: 3 };
        assert_eq!(cu!(cuEmuOperands(&raw const operand, 1u32)), INVALID_VALUE, "{rows} rows {stride} apart");
    }
    let operand = Operand { address: at, bytes: 16, rows: 1, stride: 16, access: 3 };
    ok!(cuEmuOperands(&raw const operand, 1u32));
    assert_eq!(run(4), 0);
    ok!(cuEmuCounters(null_mut::<u8>(), &raw mut bytes));
    let mut json = vec![0u8; bytes];
    ok!(cuEmuCounters(json.as_mut_ptr(), &raw mut bytes));
    json.pop();
    let counters: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(counters["blocks"], 1);
    assert_eq!(counters["threads_per_block"], 4);
    assert_eq!(counters["global_bytes_read"], 16);
    // One warp of four lanes runs the ten instructions of `add` once. Its load and its store are one request each,
    // to one sector.
    let expected = [
        ("warp_instructions", 10),
        ("active_lanes", 40),
        ("global_load_requests", 1),
        ("global_store_requests", 1),
        ("global_load_sectors", 1),
        ("global_store_sectors", 1),
        ("global_bytes_written", 16),
        ("shared_wavefronts", 0),
        ("barriers", 0),
        ("local_bytes", 0),
        ("shared_bytes", 0),
    ];
    for (name, value) in expected {
        assert_eq!(counters[name], value, "{name}");
    }
    assert_eq!(counters["by_class"]["memory"], 4, "two of the parameters, one load, one store");
    let classes: u64 = counters["by_class"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(classes, 10);
    assert_eq!(run(8), 0);
    ok!(cuCtxSynchronize());
    ok!(cuEmuOperands(&raw const operand, 1u32));
    assert_eq!(run(5), 0);
    assert_eq!(name(cu!(cuCtxSynchronize())), "CUDA_ERROR_LAUNCH_FAILED");
}

/// `CUDA_KERNEL_NODE_PARAMS`.
#[repr(C)]
struct Node {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    arguments: *const *const c_void,
    extra: usize,
    kernel: usize,
    context: usize,
}

#[test]
fn kernels_of_a_graph_keep_their_arguments_until_they_are_changed() {
    context();
    let stream = made!(usize: cuStreamCreate(1u32));
    let (add, at) = (function(load(), "add"), upload(&[0; 4]));
    let mut graph = 0usize;
    ok!(cuStreamBeginCapture_v2(stream, 2u32));
    for n in [1u32, 10] {
        assert_eq!(launch(add, 1, [4, 1, 1], 0, stream, &[pointer(&at), pointer(&n)]), 0);
    }
    ok!(cuStreamEndCapture(stream, &raw mut graph));
    let mut nodes = [0usize; 2];
    let mut count = nodes.len();
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count));
    assert_eq!(count, 2);
    let exec = made!(usize: cuGraphInstantiateWithFlags(graph, 0u64));
    let run = || {
        ok!(cuGraphLaunch(exec, stream));
        download(at, 4)
    };
    assert_eq!(run(), [11; 4]);
    let arguments = [pointer(&at), pointer(&100u32)];
    let node = Node {
        function: add,
        grid: [1, 1, 1],
        block: [2, 1, 1],
        shared: 0,
        arguments: arguments.as_ptr(),
        extra: 0,
        kernel: 0,
        context: 0,
    };
    ok!(cuGraphExecKernelNodeSetParams_v2(exec, nodes[1], &raw const node));
    assert_eq!(run(), [112, 112, 12, 12]);
    let mut shown = Node { ..node };
    ok!(cuGraphKernelNodeGetParams_v2(nodes[1], &raw mut shown));
    // SAFETY: the second argument is a number in the node.
    let n = unsafe { (*shown.arguments.add(1)).cast::<u32>().read() };
    assert_eq!((shown.block, n), ([4, 1, 1], 10), "the graph itself is as it was");
}

#[test]
fn threads_launch_at_once() {
    let context = context();
    let add = function(load(), "add");
    let work = |seed: u32| {
        ok!(cuCtxSetCurrent(context));
        let stream = made!(usize: cuStreamCreate(1u32));
        let at = upload(&[seed; 64]);
        for _ in 0..50 {
            assert_eq!(launch(add, 1, [64, 1, 1], 0, stream, &[pointer(&at), pointer(&1u32)]), 0);
        }
        assert_eq!(download(at, 64), [seed + 50; 64]);
    };
    std::thread::scope(|scope| (0..4).for_each(|seed| drop(scope.spawn(move || work(seed)))));
}
