//! The kernels on a real GPU. Without one every test says so and passes, unless the environment's REQUIRE names cuda.
//!
//! Paths are relative to the repository, so that a built test runs in a copy of it elsewhere.

mod bits;
mod ops;
mod traces;

use osprey::dtype::DType;
use osprey::exec::cuda::driver::{Driver, is_present};

/// True if there is a driver to test with.
fn present() -> bool {
    let required = std::env::var("REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "cuda"));
    assert!(is_present() || !required, "REQUIRE names cuda, but there is no CUDA driver");
    if !is_present() {
        println!("skipped: there is no CUDA driver on this machine");
    }
    is_present()
}

#[test]
fn kernels_match_their_references() {
    if present() {
        ops::check_device(Driver::Cuda);
    }
}

#[test]
fn chunks_do_not_change_a_bit() {
    if present() {
        [DType::Bf16, DType::F16]
            .map(|dtype| bits::under(Driver::Cuda, dtype))
            .into_iter()
            .for_each(bits::check_chunks);
    }
}

#[test]
fn a_batch_does_not_change_a_bit() {
    if present() {
        [DType::Bf16, DType::F16]
            .map(|d| bits::under(Driver::Cuda, d))
            .into_iter()
            .for_each(bits::batch::check_batches);
    }
}

#[test]
fn a_decoded_token_equals_a_recomputed_one() {
    if present() {
        [DType::Bf16, DType::F16].map(|d| bits::under(Driver::Cuda, d)).into_iter().for_each(bits::check_recomputed);
    }
}

#[test]
fn bf16_is_no_noisier_than_transformers() {
    if present() {
        traces::check_rounded("tiny_a", "bf16", &["--device", "cuda"]);
        traces::check_rounded("tiny_a", "f16", &["--device", "cuda"]);
    }
}
