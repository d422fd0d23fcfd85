//! What the CUDA executor refuses, and how it says so; on the emulator.

mod bits;

use bits::under;
use osprey::dtype::DType;
use osprey::engine::{Limits, needs};
use osprey::error::Error;
use osprey::exec::cuda::driver::Driver;
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::tensor::Region;

const LIMITS: Limits = Limits::single(64, 32, 16, 1);

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let s = under(Driver::Emulator, DType::Bf16);
    let model = bits::model(s);
    let mut needs = needs(&model, &LIMITS).unwrap();
    // More than the 80 GiB of the imitated device; nothing may try to take it.
    needs.regions.set(Region::Kv, 1 << 40);
    match bits::executor(s, &needs, &mut model.weights.clone()).map(|_| ()) {
        Err(Error::Memory { what, need, have, hint }) => {
            assert!(need > 1 << 40 && have < 81 << 30, "{need} of {have}");
            assert!(what.contains("weights") && hint.contains("--context"), "{what}: {hint}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_without_a_kernel_are_named_before_anything_is_uploaded() {
    let s = under(Driver::Emulator, DType::Bf16);
    let files = osprey::checkpoint::ModelFiles::open("tests/golden/tiny_b").unwrap();
    let model = Qwen2Vl::load(&files.config, &files.weights, Precision::new(DType::Bf16)).unwrap();
    let needs = needs(&model, &LIMITS).unwrap();
    match bits::executor(s, &needs, &mut model.weights.clone()).map(|_| ()) {
        Err(Error::Unsupported { what, hint }) => {
            assert!(what.contains("24") && hint.contains("--device cpu"), "{what}: {hint}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn regions_have_ends() {
    let s = under(Driver::Emulator, DType::Bf16);
    let model = bits::model(s);
    let needs = needs(&model, &LIMITS).unwrap();
    let mut exec = bits::executor(s, &needs, &mut model.weights.clone()).unwrap();
    let size = needs.regions.get(Region::Step);
    exec.write(Region::Step, size - 4, &[1, 2, 3, 4]).unwrap();
    let mut back = [0; 4];
    exec.read(Region::Step, size - 4, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4]);
    let error = exec.write(Region::Step, size - 3, &back).unwrap_err().to_string();
    assert!(error.contains(&format!("{}+4 bytes in step of {size}", size - 3)), "{error}");
}
