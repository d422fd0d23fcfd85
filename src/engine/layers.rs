//! A model's decoder on rows that the caller keeps: for whoever changes a model layer by layer.
//!
//! The surprise: rows enter the decoder where pictures do, each in place of a token, so that no plan is needed that the engine does not have.

use super::trace::read_rows;
use super::{Engine, Request, stored};
use crate::error::Result;
use crate::launch::Access;
use crate::model::text::Tail;
use crate::step::HostStep;
use crate::tensor::{Place, Region};

/// Sees the inputs of a product.
pub type Tap<'a> = &'a mut dyn FnMut(&str, &[f32]);

impl Engine {
    /// The rows that a prompt's tokens and pictures enter the first layer with, f32 `[T, D]`. The prompt must fit one chunk.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn embedded(&mut self, request: &Request) -> Result<Vec<f32>> {
        self.clear_cache();
        self.alone(request, 0, |engine, sequence| {
            engine.encode_all()?;
            let step = engine.step_alone(sequence, sequence.len(), 1);
            let mut rows = Vec::new();
            engine.run_layers(&step, 1, &mut rows, None)?;
            Ok(rows)
        })
    }

    /// Runs all layers on the rows of a prompt's tokens, which become those that leave the last layer. `tap` sees the inputs of every product of a layer,
    /// `[T, K]`, under the names of its tensors, joined by `+`; they must be floats.
    ///
    /// # Errors
    /// As [`submit`](Engine::submit); [`Error::Contract`](crate::error::Error::Contract) beyond the engine's limits.
    pub fn through_layers(&mut self, request: &Request, rows: &mut Vec<f32>, tap: Option<Tap>) -> Result<()> {
        // The rows take the place of pictures.
        self.clear_cache();
        self.alone(request, 0, |engine, sequence| {
            let mut step = engine.step_alone(sequence, sequence.len(), 1);
            let layout = step.layout;
            step.i32s_mut(&layout.embed_rows).iter_mut().zip(0..).for_each(|(row, i)| *row = i);
            let images = engine.around.images;
            let Place::At { region, offset } = images.place else { unreachable!("image rows are fixed") };
            engine.exec.write(region, offset, &stored(rows, images.dtype))?;
            engine.run_layers(&step, usize::MAX, rows, tap)
        })
    }

    /// Runs the first `ops` ops of a step and reads the stream.
    fn run_layers(&mut self, step: &HostStep, ops: usize, rows: &mut Vec<f32>, mut tap: Option<Tap>) -> Result<()> {
        let (id, io) = self.text_plan(step.layout.shape, Tail::None)?;
        let stream = io.stream;
        self.exec.write(Region::Step, 0, step.bytes())?;
        let plan = self.exec.plan(id).clone();
        for (i, launch) in plan.launches().iter().enumerate().take(ops) {
            let weight = launch.weights().next().map(|(id, _)| self.model.weights.get(id).name.as_str());
            let input = launch.operands().find(|(_, access)| *access == Access::Read);
            if let (Some(tap), Some(name), Some((&x, _))) = (&mut tap, weight, input)
                && name.contains("_proj.weight")
            {
                let (region, offset) = plan.locate(&x);
                tap(name, &read_rows(&mut *self.exec, (region, offset, x))?);
            }
            self.exec.run(id, i..i + 1)?;
        }
        let (region, offset) = plan.locate(&stream);
        *rows = read_rows(&mut *self.exec, (region, offset, stream))?;
        Ok(())
    }
}
