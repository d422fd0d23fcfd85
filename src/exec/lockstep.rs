//! Two executors, op by op: the run ends at the first op whose results differ.
//!
//! It owns no memory of its own. The surprise: after every op the second executor takes over the first one's results, so that each op is compared
//! on equal inputs and a difference is the op's own. What an op updates is handed over before it, too: caches begin with what memory held.

use super::{Executor, PlanId};
use crate::dtype::{DType, Float, with_float};
use crate::error::{Error, Result};
use crate::launch::Access;
use crate::plan::Plan;
use crate::tensor::{Region, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// How far two results may lie apart, in units of the output's root mean square: both round every output once, and attention also rounds its
/// weights (2^-9 of the largest value for bf16). Eight times that is far below what a wrong index or a missing term does.
const SLACK: f64 = 1.0 / 64.0;

/// `first` computes, `second` checks.
pub struct Lockstep {
    first: Box<dyn Executor>,
    second: Box<dyn Executor>,
    plans: HashMap<PlanId, PlanId>,
}

impl Lockstep {
    /// Two executors that were made for the same needs.
    pub fn new(first: Box<dyn Executor>, second: Box<dyn Executor>) -> Self {
        Lockstep { first, second, plans: HashMap::new() }
    }

    /// Compares what op `index` wrote, and hands the first executor's results to the second. `before` is what the op was to update.
    fn compare(&mut self, plan: &Plan, index: usize, before: &[Vec<u8>]) -> Result<()> {
        let mut before = before.iter();
        let launch = &plan.launches()[index];
        for (t, access) in launch.operands().filter(|(_, a)| matches!(a, Access::Write | Access::Update)) {
            let (region, offset) = plan.locate(t);
            let (mut ours, mut theirs) = (vec![0; t.bytes()], vec![0; t.bytes()]);
            self.first.read(region, offset, &mut ours)?;
            self.second.read(region, offset, &mut theirs)?;
            let old = (access == Access::Update).then(|| before.next()).flatten();
            if let Some(what) = difference(t, old.map(Vec::as_slice), &ours, &theirs) {
                let (a, b) = (self.first.name(), self.second.name());
                return Err(Error::Numerics(format!(
                    "plan {}, op {index}: {a} and {b} differ: {what}, in {launch}",
                    plan.name()
                )));
            }
            self.second.write(region, offset, &ours)?;
        }
        Ok(())
    }

    /// Gives the second executor what op `index` will update, and the caller too.
    fn prepare(&mut self, plan: &Plan, index: usize) -> Result<Vec<Vec<u8>>> {
        let mut before = Vec::new();
        for (t, _) in plan.launches()[index].operands().filter(|(_, a)| *a == Access::Update) {
            let (region, offset) = plan.locate(t);
            let mut bytes = vec![0; t.bytes()];
            self.first.read(region, offset, &mut bytes)?;
            self.second.write(region, offset, &bytes)?;
            before.push(bytes);
        }
        Ok(before)
    }
}

/// The first element that is too far apart. Rows may be padded; what lies between them is compared too, since nobody may write it. Of an
/// update only the elements that changed say how large its numbers are: the rest of a cache is old, or was never written.
fn difference(t: &Tensor, before: Option<&[u8]>, ours: &[u8], theirs: &[u8]) -> Option<String> {
    if !t.dtype.is_float() {
        let at = ours.iter().zip(theirs).position(|(a, b)| a != b)?;
        return Some(format!("element {} of {t}", at / t.dtype.size()));
    }
    let theirs_raw = theirs;
    let (ours, theirs) = (widen(t.dtype, ours), widen(t.dtype, theirs));
    let size = t.dtype.size();
    let changed = |i: usize| before.is_none_or(|b| b[i * size..][..size] != theirs_raw[i * size..][..size]);
    let counted = theirs.iter().enumerate().filter(|&(i, x)| x.is_finite() && changed(i)).map(|(_, x)| x);
    let squares: f64 = counted.clone().map(|x| x * x).sum();
    let allowed = SLACK * (squares / counted.count().max(1) as f64).sqrt();
    // A NaN is near nothing but the same NaN.
    let near = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a - b).abs() <= allowed + SLACK * b.abs();
    let at = ours.iter().zip(&theirs).position(|(a, b)| !near(*a, *b))?;
    Some(format!("element {at} of {t} is {} and {}", ours[at], theirs[at]))
}

fn widen(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    with_float!(dtype, T => {
        let values = bytes.chunks_exact(dtype.size()).map(bytemuck::pod_read_unaligned::<T>);
        values.map(|x| f64::from(x.to_f32())).collect()
    })
}

impl Executor for Lockstep {
    fn name(&self) -> &'static str {
        self.first.name()
    }

    fn write(&mut self, region: Region, offset: usize, bytes: &[u8]) -> Result<()> {
        self.first.write(region, offset, bytes)?;
        self.second.write(region, offset, bytes)
    }

    fn read(&mut self, region: Region, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.first.read(region, offset, bytes)
    }

    fn load(&mut self, plan: Arc<Plan>) -> Result<PlanId> {
        let id = self.first.load(plan.clone())?;
        let other = self.second.load(plan)?;
        self.plans.insert(id, other);
        Ok(id)
    }

    fn unload(&mut self, id: PlanId) {
        self.first.unload(id);
        if let Some(other) = self.plans.remove(&id) {
            self.second.unload(other);
        }
    }

    fn plan(&self, id: PlanId) -> &Arc<Plan> {
        self.first.plan(id)
    }

    fn wait(&mut self) -> Result<()> {
        self.first.wait()
    }

    fn run(&mut self, id: PlanId, ops: Range<usize>) -> Result<()> {
        let plan = self.plan(id).clone();
        let other = self.plans[&id];
        for i in ops {
            let before = self.prepare(&plan, i)?;
            self.first.run(id, i..i + 1)?;
            self.second.run(other, i..i + 1)?;
            self.compare(&plan, i, &before)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_passes_and_a_wrong_element_does_not() {
        let t = Tensor::at(Region::Arena, 0, DType::Bf16, &[2, 4]);
        let right: Vec<bf16> = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, 3.0, 1.0].map(bf16::from_f32).to_vec();
        let mut other = right.clone();
        other[3] = bf16::from_f32(0.251);
        assert_eq!(difference(&t, None, bytemuck::cast_slice(&other), bytemuck::cast_slice(&right)), None);
        other[5] = bf16::from_f32(-0.65);
        let said = difference(&t, None, bytemuck::cast_slice(&other), bytemuck::cast_slice(&right)).unwrap();
        assert!(said.starts_with("element 5 of arena:bf16[2,4]"), "{said}");
        other[5] = bf16::NAN;
        assert!(difference(&t, None, bytemuck::cast_slice(&other), bytemuck::cast_slice(&right)).is_some());
    }

    #[test]
    fn what_an_update_leaves_alone_does_not_widen_the_bound() {
        let t = Tensor::at(Region::Kv, 0, DType::F32, &[4]);
        let before = [1e30f32, 1e30, 0.0, 0.0];
        let (ours, theirs) = ([1e30f32, 1e30, 0.5, 1.0], [1e30f32, 1e30, 0.5, 1.1]);
        let said = difference(
            &t,
            Some(bytemuck::cast_slice(&before)),
            bytemuck::cast_slice(&ours),
            bytemuck::cast_slice(&theirs),
        );
        assert!(said.is_some_and(|s| s.starts_with("element 3")));
        assert!(difference(&t, None, bytemuck::cast_slice(&ours), bytemuck::cast_slice(&theirs)).is_none());
    }

    #[test]
    fn indices_must_be_equal() {
        let t = Tensor::at(Region::Out, 0, DType::I32, &[3]);
        let (a, b) = ([1i32, 2, 3], [1i32, 2, 4]);
        assert_eq!(difference(&t, None, bytemuck::cast_slice(&a), bytemuck::cast_slice(&a)), None);
        assert!(
            difference(&t, None, bytemuck::cast_slice(&a), bytemuck::cast_slice(&b)).unwrap().starts_with("element 2")
        );
    }
}
