//! What comparing models needs: every tensor of a prompt, and the logits of given tokens.

use super::pictures::Wanted;
use super::sequence::{Medium, Sequence};
use super::{Cancel, Engine, Request};
use crate::dtype::widened;
use crate::error::Result;
use crate::exec::{Executor, PlanId};
use crate::model::Tap;
use crate::model::text::{Tail, TextIo};
use crate::tensor::{Region, Tensor};
use std::ops::ControlFlow;

/// Rows of a tensor in f32, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

/// What one prompt went through.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Per image or video, in the prompt's order: f32 `[tokens, D]`.
    pub embeds: Vec<Hidden>,
    /// f32 `[T, V]`
    pub logits: Vec<f32>,
    /// The drawn answer.
    pub generated: Vec<u32>,
    /// The residual stream after every block, if asked for; the tower's rows of all media one after the other.
    pub hidden: Vec<Hidden>,
}

/// How much a trace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Basic,
    All,
}

impl Engine {
    /// Computes a prompt from its first token, with the logits of every position, and continues it.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn trace(&mut self, request: &Request, detail: Detail) -> Result<Trace> {
        self.clear_cache();
        let mut trace = self.alone(request, 0, |engine, sequence| {
            let mut trace = Trace::default();
            for medium in &sequence.media {
                engine.trace_medium(medium, &mut trace, detail)?;
            }
            while sequence.pending() > 0 {
                engine.trace_chunk(sequence, &mut trace, detail)?;
            }
            Ok(trace)
        })?;
        trace.generated = self.generate(request, &Cancel::default(), |_| ControlFlow::Continue(()))?.ids;
        Ok(trace)
    }

    /// Encodes a picture, block by block.
    fn trace_medium(&mut self, medium: &Medium, trace: &mut Trace, detail: Detail) -> Result<()> {
        let Some(row) = medium.row else { return Ok(()) };
        let work = self.begin_encoding(Wanted { key: medium.key, row, patches: medium.patches.clone() })?;
        self.run_tapped(work.plan, &work.io.taps, work.io.stream, &mut trace.hidden, detail)?;
        self.finish_encoding(work);
        let rows = self.around.images.row_range(row, medium.rows());
        let data = read_rows(&mut *self.exec, (Region::Embeds, row * rows.cols() * rows.dtype.size(), rows))?;
        trace.embeds.push(Hidden { name: "embeds".into(), rows: rows.rows(), cols: rows.cols(), data });
        Ok(())
    }

    fn trace_chunk(&mut self, sequence: &mut Sequence, trace: &mut Trace, detail: Detail) -> Result<()> {
        let (end, id, io) = self.begin_logits(sequence)?;
        self.run_tapped(id, &io.taps, io.stream, &mut trace.hidden, detail)?;
        trace.logits.extend(self.end_logits(sequence, end, id, &io)?);
        Ok(())
    }

    /// Runs a plan; if all is asked for, the stream is read at every tap.
    fn run_tapped(
        &mut self,
        id: PlanId,
        taps: &[Tap],
        stream: Tensor,
        hidden: &mut Vec<Hidden>,
        detail: Detail,
    ) -> Result<()> {
        let plan = self.exec.plan(id);
        let ((region, offset), ops) = (plan.locate(&stream), plan.ops().len());
        let mut done = 0;
        for tap in taps.iter().filter(|_| detail == Detail::All) {
            self.exec.run(id, done..tap.ops)?;
            done = tap.ops;
            let rows = read_rows(&mut *self.exec, (region, offset, stream))?;
            append(hidden, &tap.name, rows, stream.cols());
        }
        self.exec.run(id, done..ops)
    }

    /// Readies a step over the next tokens, as many as may have logits, and gives their end.
    fn begin_logits(&mut self, sequence: &Sequence) -> Result<(usize, PlanId, TextIo)> {
        let rows = sequence.pending().min(self.limits.chunk).min(self.limits.samples);
        let mut step = self.step_alone(sequence, rows, rows);
        let layout = step.layout;
        step.i32s_mut(&layout.sample_rows).iter_mut().zip(0..).for_each(|(r, i)| *r = i);
        let (id, io) = self.text_plan(layout.shape, Tail::Logits)?;
        let io = io.clone();
        self.exec.write(Region::Step, 0, step.bytes())?;
        Ok((sequence.computed + rows, id, io))
    }

    /// The logits of a step that ran.
    fn end_logits(&mut self, sequence: &mut Sequence, end: usize, id: PlanId, io: &TextIo) -> Result<Vec<f32>> {
        let (region, offset) = self.exec.plan(id).locate(&io.logits);
        self.pool.advance(sequence, end);
        read_rows(&mut *self.exec, (region, offset, io.logits))
    }

    /// The logits that predict a prompt's tokens from `first` (above 0) on: f32 `[T - first, V]`. What the cache holds of it
    /// is not computed again.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn score(&mut self, request: &Request, first: usize) -> Result<Vec<f32>> {
        let (from, end) = (first - 1, request.prompt.ids.len().saturating_sub(1));
        let mut logits = self.alone(request, from, |engine, sequence| {
            engine.encode_all()?;
            while sequence.computed < from {
                let rows = (from - sequence.computed).min(engine.limits.chunk);
                let step = engine.step_alone(sequence, rows, 1);
                engine.run_step(&step, Tail::None, &Cancel::default())?;
                engine.pool.advance(sequence, sequence.computed + rows);
            }
            let mut logits = Vec::new();
            while sequence.computed < end {
                let (end, id, io) = engine.begin_logits(sequence)?;
                engine.exec.run(id, 0..engine.exec.plan(id).ops().len())?;
                logits.extend(engine.end_logits(sequence, end, id, &io)?);
            }
            Ok(logits)
        })?;
        logits.truncate((end - from) * self.model.config.text.vocab_size);
        Ok(logits)
    }
}

/// Appends rows to the tensor of that name.
fn append(hidden: &mut Vec<Hidden>, name: &str, data: Vec<f32>, cols: usize) {
    let rows = data.len() / cols;
    match hidden.iter_mut().find(|h| h.name == name) {
        Some(h) => {
            h.rows += rows;
            h.data.extend(data);
        }
        None => hidden.push(Hidden { name: name.into(), rows, cols, data }),
    }
}

/// A contiguous tensor's elements as f32.
pub(super) fn read_rows(exec: &mut dyn Executor, (region, offset, t): (Region, usize, Tensor)) -> Result<Vec<f32>> {
    let mut bytes = vec![0; t.bytes()];
    exec.read(region, offset, &mut bytes)?;
    Ok(widened(t.dtype, &bytes))
}
