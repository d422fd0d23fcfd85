//! A kernel that fails on the device: the host learns it later, and the message still says where to look. A file of its own, because a fault
//! breaks the driver for the rest of the process.

mod bits;

use bits::under;
use osprey::dtype::DType;
use osprey::engine::{Limits, needs};
use osprey::exec::cuda::driver::Driver;
use osprey::tensor::Region;

#[test]
fn a_fault_names_the_plan_and_what_finds_the_op() {
    let s = under(Driver::Emulator, DType::Bf16);
    let model = bits::model(s);
    let limits = Limits::single(64, 32, 0, 1);
    let mut needs = needs(&model, &limits).unwrap();
    let mut exec = bits::executor(s, &needs, &mut model.weights.clone()).unwrap();
    let id = exec.load(needs.plans.swap_remove(0)).unwrap();
    // Token ids of 0x7f7f7f7f: far beyond the table.
    exec.write(Region::Step, 0, &vec![0x7f; needs.regions.get(Region::Step)]).unwrap();
    exec.run(id, 0..1).unwrap();
    let error = exec.read(Region::Out, 0, &mut [0; 4]).unwrap_err().to_string();
    let name = exec.plan(id).name();
    assert!(error.contains(&format!("after plan {name}")) && error.contains("--lockstep cpu"), "{error}");
    assert!(error.contains("embed_bf16"), "{error}");
}
