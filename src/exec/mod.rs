//! Executors: they own the memory behind regions, load plans and replay them. They never see a model.

pub mod cpu;
pub mod cuda;
pub mod lockstep;

use crate::error::{Error, Result};
use crate::hostmem::RegionBytes;
use crate::launch::Layout;
use crate::plan::Plan;
use crate::tensor::{Region, WeightId};
use std::ops::Range;
use std::sync::Arc;

/// What an executor must have room for.
#[derive(Debug, Default)]
pub struct Needs {
    pub regions: RegionBytes,
    /// The weights that plans use, and how a device stores them.
    pub weights: Vec<(WeightId, Layout)>,
    /// The plans that this was computed from: one of every kind that will be run.
    pub plans: Vec<Arc<Plan>>,
}

impl Needs {
    /// Grows to what a plan takes.
    pub fn cover(&mut self, plan: Plan) {
        for region in Region::ALL {
            self.regions.at_least(region, plan.regions().get(region));
        }
        for weight in plan.launches().iter().flat_map(|l| l.weights()) {
            if !self.weights.contains(&weight) {
                self.weights.push(weight);
            }
        }
        self.plans.push(Arc::new(plan));
    }
}

/// Refuses a plan whose temporaries do not fit their arena.
fn check_arenas(plan: &Plan, have: impl Fn(Region) -> usize) -> Result<()> {
    for region in Region::ALL {
        let (need, have) = (plan.regions().get(region) as u64, have(region) as u64);
        if need > have {
            let what = format!("plan {} in {}", plan.name(), region.name());
            return Err(Error::Memory { what, need, have, hint: "record it for a smaller chunk or image".into() });
        }
    }
    Ok(())
}

/// A loaded plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanId(pub usize);

/// What runs plans. One executor owns its regions and its weights for its whole life.
pub trait Executor: Send {
    /// `cpu`, `cuda` or `emulator`.
    fn name(&self) -> &'static str;

    /// Copies bytes into a region.
    ///
    /// # Errors
    /// [`Error::Contract`] beyond the region's end.
    fn write(&mut self, region: Region, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Copies bytes out of a region.
    ///
    /// # Errors
    /// [`Error::Contract`] beyond the region's end.
    fn read(&mut self, region: Region, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Takes a plan.
    ///
    /// # Errors
    /// [`Error::Memory`] if its temporaries do not fit their arena.
    fn load(&mut self, plan: Arc<Plan>) -> Result<PlanId>;

    /// Forgets a plan.
    fn unload(&mut self, id: PlanId);

    /// A loaded plan.
    fn plan(&self, id: PlanId) -> &Arc<Plan>;

    /// Waits until everything that was run is done: a device may be behind.
    ///
    /// # Errors
    /// [`Error::Device`] with what went wrong on it.
    fn wait(&mut self) -> Result<()>;

    /// Runs ops of a loaded plan in order.
    ///
    /// # Errors
    /// [`Error::Contract`] if an operand lies outside its region.
    fn run(&mut self, id: PlanId, ops: Range<usize>) -> Result<()>;
}
