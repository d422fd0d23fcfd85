//! Runs a case of an op on an executor and compares what it left with the scalar reference.
#![allow(dead_code)] // Every test uses a part of it.

use osprey::cpu::{Codes, Cpu, Isa};
use osprey::dtype::DType;
use osprey::error::{Error, Result};
use osprey::exec::cuda::CudaExecutor;
use osprey::exec::cuda::driver::{Device, Driver};
use osprey::exec::{Executor, Needs};
use osprey::hostmem::{HostRegions, OpMem};
use osprey::launch::Access;
use osprey::ops::case::{Case, Tolerance, value};
use osprey::ops::{Op, REGISTRY};
use osprey::plan::Recorder;
use osprey::tensor::{Place, Region, Tensor};
use osprey::weights::WeightSet;
use std::ops::Range;

/// Runs one body of a case in fresh memory and gives the whole image after it.
fn run(case: &Case, weights: &WeightSet, body: impl FnOnce(&dyn Op, &OpMem)) -> Vec<u8> {
    let mut memory: HostRegions = case.memory();
    let launch = case.op.launch();
    let view = memory.view(&launch, &[], weights).unwrap_or_else(|e| panic!("{}: {e}", case.label));
    body(&*case.op, &view);
    memory.bytes(Region::Arena).to_vec()
}

/// What two runs left in memory.
type Twice = [Vec<u8>; 2];

fn on_cpu(case: &Case) -> Twice {
    let panels = case.weights.clone().into_panels(Codes::takes);
    [(); 2].map(|()| run(case, &panels, |op, m| op.cpu(m, &Cpu::new(Isa::detect(), 2))))
}

/// Directly, then from a captured graph.
fn on_device(driver: Driver, case: Case) -> Result<Twice> {
    let image = run(&case, &case.weights, |_, _| ());
    let mut recorder = Recorder::new(case.label.clone(), Region::Arena, &case.weights);
    recorder.push_boxed(case.op)?;
    let plan = recorder.finish()?;
    let mut needs = Needs::default();
    needs.cover(plan);
    needs.regions.set(Region::Arena, image.len());
    let mut executor = CudaExecutor::new(Device::open(driver, 0)?, &needs, &case.weights, &mut |_, _| ())?;
    let id = executor.load(needs.plans.swap_remove(0))?;
    let mut once = || -> Result<Vec<u8>> {
        executor.write(Region::Arena, 0, &image)?;
        executor.run(id, 0..1)?;
        let mut after = vec![0; image.len()];
        executor.read(Region::Arena, 0, &mut after)?;
        Ok(after)
    };
    Ok([once()?, once()?])
}

fn bytes_of(t: &Tensor) -> Range<usize> {
    let Place::At { offset, .. } = t.place else { panic!("cases use fixed places") };
    offset..offset + t.bytes()
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

/// Compares two runs of a case with its reference; the worst error as a share of its bound.
fn check(name: &str, case: &Case, [got, again]: &Twice) -> f64 {
    let want = run(case, &case.weights, |op, m| op.reference(m));
    let mut share = 0.0;
    for (t, tolerance) in case.outputs.iter().filter(|(_, tolerance)| *tolerance != Tolerance::Anything) {
        let (s, what) = worst(t, *tolerance, &want, got);
        assert!(s <= 1.0, "{name} [{}]: {what}", case.label);
        share = f64::max(share, s);
    }
    check_bests(name, case, got);
    let launch = case.op.launch();
    let written = |scratch| {
        let outputs = launch.operands().filter(move |(_, a)| *a != Access::Read && (scratch || *a != Access::Scratch));
        outputs.map(|(t, _)| bytes_of(t)).collect::<Vec<Range<usize>>>()
    };
    let (outputs, results) = (written(true), written(false));
    let input = run(case, &case.weights, |_, _| ());
    for (i, (before, after)) in input.iter().zip(got).enumerate() {
        let inside = outputs.iter().any(|r| r.contains(&i));
        assert!(before == after || inside, "{name} [{}]: byte {i} outside the outputs was changed", case.label);
    }
    for r in results {
        assert!(got[r.clone()] == again[r], "{name} [{}]: two runs differ", case.label);
    }
    share
}

/// The best tokens that the head keeps are those of the logits that it wrote, bit for bit.
fn check_bests(name: &str, case: &Case, got: &[u8]) {
    let outputs = |dtype| case.outputs.iter().map(|(t, _)| t).find(move |t| t.dtype == dtype);
    let (true, Some(logits), Some(bests)) = (name == "lm_head", outputs(DType::F32), outputs(DType::I64)) else {
        return;
    };
    let rows: Vec<f32> = bytemuck::pod_collect_to_vec(&got[bytes_of(logits)]);
    let want: Vec<i64> = rows.chunks(logits.cols()).map(|row| osprey::ops::sample::best(0, row) as i64).collect();
    let kept: Vec<i64> = bytemuck::pod_collect_to_vec(&got[bytes_of(bests)]);
    assert_eq!(kept, want, "{name} [{}]: best tokens", case.label);
}

/// Every case on the CPU.
pub fn check_cpu() {
    for entry in REGISTRY {
        let cases = (entry.cases)();
        assert!(!cases.is_empty(), "{} has no cases", entry.name);
        let mut share = 0.0;
        for case in &cases {
            case.op.check(&case.weights).unwrap_or_else(|e| panic!("{} {}: {e}", entry.name, case.label));
            assert_eq!(entry.name, case.op.name());
            share = f64::max(share, check(entry.name, case, &on_cpu(case)));
        }
        println!("{:18} {:2} cases, worst {:.1} % of the bound", entry.name, cases.len(), 100.0 * share);
    }
}

/// Runs a case for each number of rows, whose operands begin alike, and compares what rows they share: all bits must agree.
pub fn check_rows(driver: Driver, make: impl Fn(usize) -> Case, counts: &[usize]) {
    let rows = |m: usize| -> Vec<Vec<Vec<u8>>> {
        let case = make(m);
        let outputs: Vec<Tensor> = case.outputs.iter().map(|(t, _)| *t).filter(|t| t.shape()[0] == m).collect();
        let label = case.label.clone();
        let [image, _] = on_device(driver, case).unwrap_or_else(|e| panic!("{label}: {e}"));
        let split = |t: &Tensor| image[bytes_of(t)].chunks(t.bytes() / m).map(<[u8]>::to_vec).collect();
        outputs.iter().map(split).collect()
    };
    let most = rows(*counts.iter().max().expect("some counts"));
    assert!(!most.is_empty());
    for &m in counts {
        for (output, (few, many)) in rows(m).iter().zip(&most).enumerate() {
            for (row, (a, b)) in few.iter().zip(many).enumerate() {
                assert!(a == b, "{}: row {row} of output {output} differs if there are {m} rows", make(m).label);
            }
        }
    }
}

/// Every case that the kernels take on a driver's first device, and why the others are left out.
pub fn check_device(driver: Driver) {
    for entry in REGISTRY {
        let (mut share, mut ran) = (0.0, 0);
        for (i, case) in (entry.cases)().iter().enumerate() {
            match case.op.kernel() {
                Err(Error::Unsupported { what, .. }) => println!("{:18} [{}] left out: {what}", entry.name, case.label),
                Err(e) => panic!("{} [{}]: {e}", entry.name, case.label),
                Ok(_) => {
                    // A plan owns its ops, so this one is built anew.
                    let twice = on_device(driver, (entry.cases)().swap_remove(i));
                    let twice = twice.unwrap_or_else(|e| panic!("{} [{}]: {e}", entry.name, case.label));
                    share = f64::max(share, check(entry.name, case, &twice));
                    ran += 1;
                }
            }
        }
        println!("{:18} {ran:2} cases, worst {:.1} % of the bound", entry.name, 100.0 * share);
    }
}
