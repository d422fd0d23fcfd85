//! A wrong environment is refused when the driver starts.

mod driver_library;

use driver_library::{INVALID_VALUE, open};

#[test]
fn a_wrong_word_is_an_error_of_the_start() {
    open();
    // SAFETY: the only test of this process, and the driver has not started.
    unsafe { std::env::set_var("CUDA_EMU_CHECKS", "memory,-rases") };
    assert_eq!(cu!(cuInit(0u32)), INVALID_VALUE);
    assert_eq!(code!(i32: cuDeviceGetCount()), INVALID_VALUE, "and stays one");
}
