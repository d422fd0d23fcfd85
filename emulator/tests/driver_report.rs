//! The report file: a line of JSON per launch, with its counters or its fault.

mod driver_library;

use driver_library::*;
use serde_json::{Value, json};
use std::ffi::c_void;
use std::ptr::null;

/// Stores a zero at an address.
const PTX: &std::ffi::CStr = c"
.version 8.0
.target sm_80
.address_size 64
.visible .entry zero(.param .u64 at)
{
    .reg .b64 %rd<3>;
    .reg .b32 %r<2>;
    ld.param.u64 %rd1, [at];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 0;
    st.global.u32 [%rd2], %r1;
    ret;
}
";

#[test]
fn launches_and_faults_are_lines() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // SAFETY: the only test of this process, and the driver has not started.
    unsafe { std::env::set_var("CUDA_EMU_REPORT", file.path()) };
    context();
    let module = made!(usize: cuModuleLoadData(PTX.as_ptr().cast::<c_void>()));
    let zero = made!(usize: cuModuleGetFunction(module, c"zero".as_ptr()));
    let at = upload(&[1]);
    for address in [at, at + 2] {
        let arguments = [&raw const address];
        let extra = null::<c_void>();
        ok!(cuLaunchKernel(zero, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, 0usize, arguments.as_ptr(), extra));
    }
    assert_eq!(name(cu!(cuCtxSynchronize())), "CUDA_ERROR_MISALIGNED_ADDRESS");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [run, fault] = &lines[..] else { panic!("{text}") };
    assert_eq!((&run["kernel"], &run["grid"], &run["device"]), (&json!("zero"), &json!([1, 1, 1]), &json!(0)));
    assert_eq!(run["counters"]["global_bytes_written"], 4);
    assert_eq!((&fault["counters"], &fault["fault"]["kind"]), (&Value::Null, &json!("Misaligned")));
    assert_eq!((&fault["fault"]["thread"], &fault["fault"]["ptx_line"]), (&json!([0, 0, 0]), &json!(12)));
}
