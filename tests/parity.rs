//! Every registered op on every executor against its scalar reference: outputs within the derived bound, nothing else touched, same bits twice.

use osprey::cpu::{Cpu, Isa};
use osprey::dtype::DType;
use osprey::hostmem::HostRegions;
use osprey::ops::case::{Case, Tolerance};
use osprey::ops::{Op, REGISTRY};
use osprey::tensor::{Place, Region, Tensor};
use std::ops::Range;

/// Runs one body of a case in fresh memory and gives the whole image after it.
fn run(case: &Case, body: impl FnOnce(&dyn Op, &osprey::hostmem::OpMem)) -> Vec<u8> {
    let mut memory: HostRegions = case.memory();
    let launch = case.op.launch();
    let view = memory.view(&launch, &[], &case.weights).unwrap_or_else(|e| panic!("{}: {e}", case.label));
    body(&*case.op, &view);
    memory.bytes(Region::Arena).to_vec()
}

fn reference(case: &Case) -> Vec<u8> {
    run(case, |op, m| op.reference(m))
}

fn fast(case: &Case) -> Vec<u8> {
    run(case, |op, m| op.cpu(m, &Cpu::new(Isa::detect(), 2)))
}

fn bytes_of(t: &Tensor) -> Range<usize> {
    let Place::At { offset, .. } = t.place else { panic!("cases use fixed places") };
    offset..offset + t.bytes()
}

fn value(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F32 => bytemuck::pod_read_unaligned::<f32>(bytes) as f64,
        DType::Bf16 => bytemuck::pod_read_unaligned::<half::bf16>(bytes).to_f64(),
        DType::F16 => bytemuck::pod_read_unaligned::<half::f16>(bytes).to_f64(),
        DType::I32 => bytemuck::pod_read_unaligned::<i32>(bytes) as f64,
        other => panic!("{other} is no output type"),
    }
}

/// The worst element of an output as (difference / allowed, description).
fn worst(t: &Tensor, tolerance: Tolerance, want: &[u8], got: &[u8]) -> (f64, String) {
    let size = t.dtype.size();
    let mut worst = (0.0, String::new());
    for (i, (w, g)) in want[bytes_of(t)].chunks(size).zip(got[bytes_of(t)].chunks(size)).enumerate() {
        let (w, g) = (value(t.dtype, w), value(t.dtype, g));
        assert!(w.is_finite(), "the reference left element {i} of {t} unwritten");
        let (difference, allowed) = ((w - g).abs(), tolerance.allowed(t.dtype, w));
        let share = if difference == 0.0 { 0.0 } else { difference / allowed };
        if share.is_nan() || share > worst.0 {
            worst = (
                if share.is_nan() { f64::INFINITY } else { share },
                format!("element {i} of {t}: {g}, reference {w}, allowed {allowed:.3e}"),
            );
        }
    }
    worst
}

fn check(name: &str, case: &Case) -> f64 {
    case.op.check(&case.weights).unwrap_or_else(|e| panic!("{name} {}: {e}", case.label));
    assert_eq!(name, case.op.name());
    let (want, got) = (reference(case), fast(case));
    let mut share = 0.0;
    for (t, tolerance) in case.outputs.iter().filter(|(_, tolerance)| *tolerance != Tolerance::Anything) {
        let (s, what) = worst(t, *tolerance, &want, &got);
        assert!(s <= 1.0, "{name} [{}]: {what}", case.label);
        share = f64::max(share, s);
    }
    let input = run(case, |_, _| ());
    let outputs: Vec<Range<usize>> = case
        .op
        .launch()
        .operands()
        .filter(|(_, a)| *a != osprey::launch::Access::Read)
        .map(|(t, _)| bytes_of(t))
        .collect();
    for (i, (before, after)) in input.iter().zip(&got).enumerate() {
        let written = outputs.iter().any(|r| r.contains(&i));
        assert!(before == after || written, "{name} [{}]: byte {i} outside the outputs was changed", case.label);
    }
    assert!(fast(case) == got, "{name} [{}]: two runs differ", case.label);
    share
}

#[test]
fn cpu_bodies_match_their_references() {
    for entry in REGISTRY {
        let cases = (entry.cases)();
        assert!(!cases.is_empty(), "{} has no cases", entry.name);
        let share = cases.iter().map(|c| check(entry.name, c)).fold(0.0, f64::max);
        println!("{:18} {:2} cases, worst {:.1} % of the bound", entry.name, cases.len(), 100.0 * share);
    }
}

#[test]
fn every_op_file_is_registered() {
    let unlisted = ["mod", "body", "case", "norm", "reference", "rope"];
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
