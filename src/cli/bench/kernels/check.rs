//! A workload on the CPU and on a device, and how far their outputs are apart.

use crate::cpu::{Codes, Cpu};
use crate::error::Result;
use crate::exec::cuda::CudaExecutor;
use crate::exec::cuda::driver::Device;
use crate::exec::{Executor, Needs, PlanId};
use crate::hostmem::HostRegions;
use crate::launch::Launch;
use crate::ops::Op;
use crate::ops::case::{Case, Tolerance, value};
use crate::plan::Recorder;
use crate::tensor::{Place, Region, Tensor};
use crate::weights::WeightSet;
use serde::Serialize;

/// What the check means.
pub const HOW: &str = "outputs are compared with the CPU's bodies, which tests/parity.rs holds to the scalar reference: error is the largest \
                       difference as a share of its bound (twice the tolerance of the op's cases, since both sides round) and the mean one";

/// How far two outputs are apart.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Difference {
    /// The largest one, as a share of its bound.
    pub of_bound: f64,
    /// The mean over all elements.
    pub mean: f64,
}

impl Difference {
    /// True if rounding explains it.
    pub fn within(&self) -> bool {
        self.of_bound <= 1.0
    }

    /// Of outputs in two images of a case's memory.
    fn between(outputs: &[(Tensor, Tolerance)], want: &[u8], got: &[u8]) -> Difference {
        let (mut of_bound, mut sum, mut count) = (0f64, 0.0, 0);
        for (t, tolerance) in outputs.iter().filter(|(_, tolerance)| *tolerance != Tolerance::Anything) {
            let Place::At { offset, .. } = t.place else { unreachable!("cases use fixed places") };
            let size = t.dtype.size();
            let elements = |image: &[u8]| -> Vec<f64> {
                image[offset..][..t.bytes()].chunks_exact(size).map(|bytes| value(t.dtype, bytes)).collect()
            };
            for (w, g) in elements(want).into_iter().zip(elements(got)) {
                let difference = (w - g).abs();
                let share = difference / (2.0 * tolerance.allowed(t.dtype, w));
                // Nothing may differ where nothing is allowed; a NaN is beyond any bound.
                let share = if difference == 0.0 { 0.0 } else { share };
                of_bound = of_bound.max(if share.is_nan() { f64::INFINITY } else { share });
                sum += difference;
                count += 1;
            }
        }
        Difference { of_bound, mean: sum / count as f64 }
    }
}

/// Ops with their launches, to be run on the CPU.
pub struct OnCpu<'c> {
    pub memory: HostRegions,
    ops: Vec<(&'c dyn Op, Launch)>,
    weights: WeightSet,
}

impl<'c> OnCpu<'c> {
    /// A case's op and its copies, in fresh memory.
    pub fn new(case: &'c Case, copies: &'c [Box<dyn Op>]) -> Self {
        let ops = std::iter::once(&case.op).chain(copies).map(|op| (&**op, op.launch())).collect();
        OnCpu { memory: case.memory(), ops, weights: case.weights.clone().into_panels(Codes::takes) }
    }

    /// Runs all of them once.
    ///
    /// # Errors
    /// If a case is wrong: its operands overlap.
    pub fn run(&mut self, cpu: &Cpu) -> Result<()> {
        let OnCpu { memory, ops, weights } = self;
        ops.iter().try_for_each(|(op, launch)| {
            op.cpu(&memory.view(launch, &[], weights)?, cpu);
            Ok(())
        })
    }
}

/// A plan of a workload's ops on a device.
pub struct OnDevice {
    pub executor: CudaExecutor,
    pub plan: PlanId,
    /// Launches of the plan.
    pub ops: usize,
    pub error: Difference,
}

impl OnDevice {
    /// Runs a case and its copies once on the CPU and once on a device, and compares.
    ///
    /// # Errors
    /// What the device reports.
    pub fn check(device: Device, case: Case, copies: Vec<Box<dyn Op>>, cpu: &Cpu) -> Result<OnDevice> {
        let mut host = OnCpu::new(&case, &copies);
        let image = host.memory.bytes(Region::Arena).to_vec();
        host.run(cpu)?;
        let memory = host.memory;
        let ops = 1 + copies.len();
        let mut recorder = Recorder::new(case.label, Region::Arena, &case.weights);
        std::iter::once(case.op).chain(copies).try_for_each(|op| recorder.push_boxed(op))?;
        let mut needs = Needs::default();
        needs.cover(recorder.finish()?);
        needs.regions.set(Region::Arena, image.len());
        let mut executor = CudaExecutor::new(device, &needs, &case.weights, &mut |_, _| ())?;
        let plan = executor.load(needs.plans.swap_remove(0))?;
        executor.write(Region::Arena, 0, &image)?;
        executor.run(plan, 0..ops)?;
        let mut got = vec![0; image.len()];
        executor.read(Region::Arena, 0, &mut got)?;
        let error = Difference::between(&case.outputs, memory.bytes(Region::Arena), &got);
        Ok(OnDevice { executor, plan, ops, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    #[test]
    fn a_difference_is_a_share_of_twice_the_tolerance() {
        let t = Tensor::at(Region::Arena, 4, DType::F32, &[2]);
        let image = |values: [f32; 3]| bytemuck::cast_slice(&values).to_vec();
        let outputs = [(t, Tolerance::Rounded { ulps: 0.0, abs: 0.5 })];
        let d = Difference::between(&outputs, &image([9.0, 1.0, 2.0]), &image([0.0, 1.0, 2.5]));
        assert_eq!((d.of_bound, d.mean), (0.5, 0.25));
        assert!(d.within());
        assert!(!Difference::between(&outputs, &image([0.0, 1.0, 2.0]), &image([0.0, 1.0, 3.5])).within());
        assert!(!Difference::between(&outputs, &image([0.0, 1.0, 2.0]), &image([0.0, f32::NAN, 2.0])).within());
        let exact = [(t, Tolerance::Exact)];
        assert!(Difference::between(&exact, &image([0.0, 1.0, 2.0]), &image([0.0, 1.0, 2.0])).within());
        assert!(!Difference::between(&exact, &image([0.0, 1.0, 2.0]), &image([0.0, 1.0, 2.1])).within());
    }
}
