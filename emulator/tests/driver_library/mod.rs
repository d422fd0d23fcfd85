//! The built library as a C program sees it: opened by path, functions looked up by name.
#![allow(dead_code)] // Every test uses a part of it.

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

/// Results that the tests expect, as in `cuda.h`.
pub const INVALID_VALUE: u32 = 1;
pub const OUT_OF_MEMORY: u32 = 2;
pub const INVALID_DEVICE: u32 = 101;
pub const INVALID_CONTEXT: u32 = 201;
pub const NO_BINARY_FOR_GPU: u32 = 209;
pub const INVALID_PTX: u32 = 218;
pub const INVALID_HANDLE: u32 = 400;
pub const NOT_FOUND: u32 = 500;
pub const ILLEGAL_ADDRESS: u32 = 700;
pub const CONTEXT_IS_DESTROYED: u32 = 709;
pub const COOPERATIVE_LAUNCH_TOO_LARGE: u32 = 720;

/// Opens the library beside the test, with two A100s, so that it also answers to the name `libcuda.so`.
pub fn open() -> usize {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        let path = std::env::current_exe().unwrap().with_file_name("libcuda_emulator.so");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: no other thread of this test has read the environment yet: all come through this lock first.
        let handle = unsafe {
            std::env::set_var("CUDA_EMU_DEVICES", "A100,A100");
            libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL)
        };
        assert!(!handle.is_null(), "{path:?} does not load");
        handle as usize
    })
}

/// The address of an exported function.
pub fn symbol(name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the library stays open.
    let at = unsafe { libc::dlsym(open() as *mut c_void, name.as_ptr()) };
    assert!(!at.is_null(), "{name:?} is not exported");
    at
}

/// `cu!(cuName(arguments))`: calls an exported function with arguments of exactly its types; its code.
#[macro_export]
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        let symbol = $crate::driver_library::symbol(stringify!($name));
        // SAFETY: the test passes what the function takes.
        let function: extern "C" fn($($crate::cu!(@any $arg)),*) -> u32 = unsafe { std::mem::transmute(symbol) };
        function($($arg),*)
    }};
    (@any $arg:expr) => { _ };
}

/// As `cu!`, and the call must succeed.
#[macro_export]
macro_rules! ok {
    ($name:ident($($arg:expr),* $(,)?)) => {
        assert_eq!($crate::cu!($name($($arg),*)), 0, stringify!($name))
    };
}

/// `made!(type: cuName(_, arguments))`: what a successful call writes through its first argument.
#[macro_export]
macro_rules! made {
    ($ty:ty: $name:ident($($arg:expr),* $(,)?)) => {{
        let mut made = <$ty>::default();
        $crate::ok!($name(&raw mut made, $($arg),*));
        made
    }};
}

/// `code!(type: cuName(_, arguments))`: the code of a call whose first argument is a place for its result.
#[macro_export]
macro_rules! code {
    ($ty:ty: $name:ident($($arg:expr),* $(,)?)) => {{
        let mut unused = <$ty>::default();
        $crate::cu!($name(&raw mut unused, $($arg),*))
    }};
}

/// Initialises the driver and makes a context of its own current in this thread.
pub fn context() -> usize {
    ok!(cuInit(0u32));
    made!(usize: cuCtxCreate_v2(0u32, 0i32))
}

/// The name of a code.
pub fn name(code: u32) -> String {
    let mut name = std::ptr::null::<libc::c_char>();
    ok!(cuGetErrorName(code, &raw mut name));
    // SAFETY: the driver's own string.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
}

/// Device memory with these numbers.
pub fn upload(numbers: &[u32]) -> u64 {
    let bytes = size_of_val(numbers);
    let at = made!(u64: cuMemAlloc_v2(bytes));
    ok!(cuMemcpyHtoD_v2(at, numbers.as_ptr().cast::<c_void>(), bytes));
    at
}

/// The numbers at an address.
pub fn download(at: u64, count: usize) -> Vec<u32> {
    let mut numbers = vec![0u32; count];
    ok!(cuMemcpyDtoH_v2(numbers.as_mut_ptr().cast::<c_void>(), at, count * 4));
    numbers
}
