//! The tower, in slices between steps: a picture never holds up running streams for longer than about two of their tokens.

use super::pictures::Wanted;
use super::request::Cancel;
use super::{Engine, SLICE, stored};
use crate::error::Result;
use crate::exec::PlanId;
use crate::model::vision::{VisionIo, VisionTower};
use crate::plan::Plan;
use crate::tensor::Tensor;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A picture that is being encoded: its temporaries are in the tower's arena, so there is one at a time.
#[derive(Debug)]
pub(super) struct Encoding {
    wanted: Wanted,
    pub plan: PlanId,
    pub io: VisionIo,
    ops: usize,
    done: usize,
}

impl Engine {
    /// Runs the next ops of the tower for the picture that is wanted first, if any: beside streams no longer than `budget`, so that they end in time for the
    /// next token.
    pub(super) fn encode_slice(&mut self, budget: Option<Duration>, cancel: &Cancel) -> Result<()> {
        let Some(wanted) = self.pool.pictures.wanted() else { return Ok(()) };
        let started = Instant::now();
        let mut work = self.resume(wanted)?;
        let (first, mut longest) = (work.done, Duration::ZERO);
        while work.done < work.ops && !cancel.is_cancelled() {
            let start = Instant::now();
            self.exec.run(work.plan, work.done..work.done + 1)?;
            work.done += 1;
            if budget.is_some() {
                // A device runs behind; only what is done has a duration.
                self.exec.wait()?;
                longest = longest.max(start.elapsed());
            }
            let enough = match budget {
                Some(budget) => started.elapsed() + longest > budget,
                None => work.done - first == SLICE,
            };
            if enough {
                break;
            }
        }
        self.exec.wait()?;
        let (key, done) = (work.wanted.key, work.done == work.ops);
        self.note_vision(&key, started.elapsed(), done);
        match done {
            true => self.finish_encoding(work),
            false => self.encoding = Some(work),
        }
        Ok(())
    }

    /// Encodes all that is wanted.
    pub(super) fn encode_all(&mut self) -> Result<()> {
        while self.pool.pictures.wanted().is_some() {
            self.encode_slice(None, &Cancel::default())?;
        }
        Ok(())
    }

    /// The work on a picture, begun if it is not under way. What is under way for one that nobody wants any more is dropped.
    fn resume(&mut self, wanted: Wanted) -> Result<Encoding> {
        if let Some(work) = self.encoding.take() {
            if (work.wanted.key, work.wanted.row) == (wanted.key, wanted.row) {
                return Ok(work);
            }
            self.exec.unload(work.plan);
        }
        self.begin_encoding(wanted)
    }

    /// Loads the tower for a picture and writes its inputs.
    pub(super) fn begin_encoding(&mut self, wanted: Wanted) -> Result<Encoding> {
        let (patches, grid) = (&wanted.patches, wanted.patches.grid_thw);
        let tokens = patches.tokens(self.model.config.vision.spatial_merge_size);
        let (plan, io) = self.record_tower(grid, self.around.images.row_range(wanted.row, tokens))?;
        let at = |t: &Tensor| plan.locate(t);
        let (pixels, positions, segments) = (at(&io.patches), at(&io.positions), at(&io.cu_seqlens));
        let exec = &mut *self.exec;
        exec.write(pixels.0, pixels.1, &stored(&patches.data, io.patches.dtype))?;
        exec.write(positions.0, positions.1, bytemuck::cast_slice(&self.model.tower.positions(grid)))?;
        exec.write(segments.0, segments.1, bytemuck::cast_slice(&VisionTower::cu_seqlens(grid)))?;
        let ops = plan.ops().len();
        let plan = exec.load(Arc::new(plan))?;
        Ok(Encoding { wanted, plan, io, ops, done: 0 })
    }

    /// Says that a picture's rows are there.
    pub(super) fn finish_encoding(&mut self, work: Encoding) {
        self.exec.unload(work.plan);
        self.pool.pictures.encoded(&work.wanted.key);
    }

    pub(super) fn record_tower(&self, grid: [usize; 3], out: Tensor) -> Result<(Plan, VisionIo)> {
        let m = &self.model;
        m.tower.record(&m.weights, m.precision, grid, out, self.around.counters)
    }
}
