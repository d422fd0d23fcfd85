//! Every registered op on every executor against its scalar reference: outputs within the derived bound, nothing else touched, same bits twice.
//! The kernels run on the emulator, with all its checks.

mod ops;

use osprey::exec::cuda::driver::Driver;
use osprey::ops::REGISTRY;

#[test]
fn cpu_bodies_match_their_references() {
    ops::check_cpu();
}

#[test]
fn kernels_match_their_references_on_the_emulator() {
    ops::check_device(Driver::Emulator);
}

#[test]
fn every_op_file_is_registered() {
    let unlisted = ["mod", "body", "case", "norm", "product", "reference", "rope"];
    let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops"))
        .unwrap()
        .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|f| !unlisted.contains(&f.as_str()))
        .collect();
    files.sort();
    let mut names: Vec<String> = REGISTRY.iter().map(|e| e.name.to_string()).collect();
    names.sort();
    assert_eq!(files, names);
}
