//! What comparing models needs: every tensor of a prompt, and the logits of given tokens.

use super::{Cancel, Engine, Request, Timing};
use crate::dtype::widened;
use crate::error::Result;
use crate::exec::{Executor, PlanId};
use crate::model::text::{Tail, TextIo};
use crate::tensor::{Region, Tensor};
use std::ops::{ControlFlow, Range};

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
        self.admit(request)?;
        let mut trace = Trace::default();
        self.sequence.restart(request);
        self.sequence.advance(0);
        self.sequence.reserve(&mut self.blocks)?;
        for (row, patches) in self.sequence.pending_media() {
            let hidden = &mut trace.hidden;
            self.encode(&patches, row, &Cancel::default(), |exec, name, stream| {
                if detail == Detail::All {
                    append(hidden, name, read_rows(exec, stream)?, stream.2.cols());
                }
                Ok(())
            })?;
            let rows = self.around.images.row_range(row, patches.tokens(self.model.config.vision.spatial_merge_size));
            let data = read_rows(&mut *self.exec, (Region::Embeds, row * rows.cols() * rows.dtype.size(), rows))?;
            trace.embeds.push(Hidden { name: "embeds".into(), rows: rows.rows(), cols: rows.cols(), data });
        }
        while self.sequence.computed() < self.sequence.len() {
            self.trace_chunk(&mut trace, detail)?;
        }
        trace.generated = self.generate(request, &Cancel::default(), |_| ControlFlow::Continue(()))?.ids;
        Ok(trace)
    }

    fn trace_chunk(&mut self, trace: &mut Trace, detail: Detail) -> Result<()> {
        let (range, id, io) = self.begin_logits()?;
        let (region, offset) = self.exec.plan(id).locate(&io.stream);
        let ops = self.exec.plan(id).ops().len();
        let mut done = 0;
        for tap in io.taps.iter().filter(|_| detail == Detail::All) {
            self.exec.run(id, done..tap.ops)?;
            done = tap.ops;
            let rows = read_rows(&mut *self.exec, (region, offset, io.stream))?;
            append(&mut trace.hidden, &tap.name, rows, io.stream.cols());
        }
        self.exec.run(id, done..ops)?;
        self.end_logits(range, id, &io, &mut trace.logits)
    }

    /// Readies a step over the next tokens, as many as may have logits.
    fn begin_logits(&mut self) -> Result<(Range<usize>, PlanId, TextIo)> {
        let mut range = self.next_chunk();
        range.end = range.end.min(range.start + self.limits.samples);
        let mut step = self.step(range.clone(), range.len());
        let layout = step.layout;
        step.i32s_mut(&layout.sample_rows).iter_mut().zip(0..).for_each(|(r, i)| *r = i);
        let (id, io) = self.text_plan(layout.shape, Tail::Logits)?;
        let io = io.clone();
        self.exec.write(Region::Step, 0, step.bytes())?;
        Ok((range, id, io))
    }

    /// Appends the logits of a step that ran.
    fn end_logits(&mut self, range: Range<usize>, id: PlanId, io: &TextIo, logits: &mut Vec<f32>) -> Result<()> {
        let (region, offset) = self.exec.plan(id).locate(&io.logits);
        logits.extend(read_rows(&mut *self.exec, (region, offset, io.logits))?);
        self.sequence.advance(range.end);
        Ok(())
    }

    /// The logits that predict a prompt's tokens from `first` (above 0) on: f32 `[T - first, V]`. What the cache shares with the conversation
    /// before is not computed again.
    ///
    /// # Errors
    /// As [`generate`](Engine::generate).
    pub fn score(&mut self, request: &Request, first: usize) -> Result<Vec<f32>> {
        self.admit(request)?;
        let cancel = Cancel::default();
        self.start(request, &mut Timing::default(), &cancel)?;
        let (from, end) = (first - 1, self.sequence.len() - 1);
        self.sequence.advance(self.sequence.computed().min(from));
        while self.sequence.computed() < from {
            let range = self.sequence.computed()..from.min(self.next_chunk().end);
            let step = self.step(range.clone(), 1);
            self.run_step(&step, Tail::None, &cancel)?;
            self.sequence.advance(range.end);
        }
        let mut logits = Vec::new();
        while self.sequence.computed() < end {
            let (range, id, io) = self.begin_logits()?;
            self.exec.run(id, 0..self.exec.plan(id).ops().len())?;
            self.end_logits(range, id, &io, &mut logits)?;
        }
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
