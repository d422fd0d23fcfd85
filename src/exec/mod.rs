//! Executors: they own the memory behind regions, load plans and replay them. They never see a model.

pub mod cpu;

use crate::error::Result;
use crate::plan::Plan;
use crate::tensor::Region;
use std::ops::Range;

/// A loaded plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanId(pub usize);

/// What runs plans. One executor owns its regions and its weights for its whole life.
pub trait Executor: Send {
    /// `cpu` or `cuda`.
    fn name(&self) -> &'static str;

    /// Copies bytes into a region.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) beyond the region's end.
    fn write(&mut self, region: Region, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Copies bytes out of a region.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) beyond the region's end.
    fn read(&mut self, region: Region, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Takes a plan.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::error::Error::Memory) if its temporaries do not fit their arena.
    fn load(&mut self, plan: Plan) -> Result<PlanId>;

    /// Forgets a plan.
    fn unload(&mut self, id: PlanId);

    /// A loaded plan.
    fn plan(&self, id: PlanId) -> &Plan;

    /// Runs ops of a loaded plan in order.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) if an operand lies outside its region.
    fn run(&mut self, id: PlanId, ops: Range<usize>) -> Result<()>;
}
