//! What the engine's steps cost at least, from the ops' own formulas: for benches, which compare it with what the machine can do.

use super::Engine;
use crate::error::Result;
use crate::model::text::Tail;
use crate::ops::Cost;
use crate::step::{HostStep, StepShape};
use std::ops::Range;

impl Engine {
    /// The least work of computing tokens `range` of a sequence in one step and drawing the next token.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) if the step cannot be recorded: a bug.
    pub fn step_cost(&self, range: Range<usize>) -> Result<Cost> {
        let shape = self.limits.shape(range.len(), 1, 1);
        let (plan, _) = self.record(shape, Tail::Sample)?;
        let mut step = HostStep::new(shape);
        let visible = step.layout.visible;
        step.i32s_mut(&visible).iter_mut().zip(range).for_each(|(v, token)| *v = token as i32 + 1);
        Ok(plan.cost(&step, &self.model.weights))
    }

    /// The least work of encoding one picture or video of `grid` patches (t, h, w).
    ///
    /// # Errors
    /// As [`step_cost`](Engine::step_cost).
    pub fn vision_cost(&self, grid: [usize; 3]) -> Result<Cost> {
        let merge = self.model.config.vision.spatial_merge_size.pow(2);
        let out = self.around.images.row_range(0, grid.iter().product::<usize>() / merge);
        let (plan, _) = self.record_tower(grid, out)?;
        let step = HostStep::new(StepShape { rows: 0, seqs: 0, blocks: 0, samples: 0 });
        Ok(plan.cost(&step, &self.model.weights))
    }
}
