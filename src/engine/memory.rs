//! How much an engine may take on, and the memory that follows from it before anything is allocated.

use super::BLOCK_SIZE;
use crate::dtype::DType;
use crate::error::Result;
use crate::exec::Needs;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::model::text::{Surroundings, Tail, outputs};
use crate::ops::qkv_mrope::QkvMrope;
use crate::step::{StepLayout, StepShape};
use crate::tensor::{Region, Tensor};

/// Counters for kernels: more than any launch has blocks of rows, or decoded rows times kv heads.
const COUNTERS: usize = 4096;

/// Rows that kernels work on together.
const TILE: usize = 8;

/// What the engine must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one sequence, prompt and answer.
    pub context: usize,
    /// Rows of a step: those that decode and those of prompts.
    pub chunk: usize,
    /// Patches of the largest image or video.
    pub patches: usize,
    /// Rows of one step whose logits may be asked for.
    pub samples: usize,
    /// Sequences that run at a time; at most `chunk`.
    pub seqs: usize,
    /// KV-cache blocks, of all sequences and of prefixes that are kept.
    pub blocks: usize,
    /// Rows of encoded pictures that are kept; all of a prompt's must fit.
    pub images: usize,
    /// Tokens of each sequence that a step may try ahead of their turn.
    pub drafts: usize,
}

impl Limits {
    /// Room for one sequence at a time.
    pub const fn single(context: usize, chunk: usize, patches: usize, samples: usize) -> Self {
        let blocks = context.div_ceil(BLOCK_SIZE);
        Limits { context, chunk, patches, samples, seqs: 1, blocks, images: context, drafts: 0 }
    }

    /// Sequences of a step that has `n`: few sizes, so that few plans are recorded.
    pub(super) fn bucket(&self, n: usize) -> usize {
        n.next_power_of_two().min(self.seqs)
    }

    /// Rows of a step of `seqs` sequences that has `n` and no prompt: as many as sequences, or few sizes beyond, for tokens that are tried ahead.
    pub(super) fn rows(&self, n: usize, seqs: usize) -> usize {
        if n <= seqs { seqs } else { n.next_multiple_of(seqs.min(TILE)).min(self.chunk) }
    }

    /// A step of so many rows, sequences and rows with logits.
    pub(super) fn shape(&self, rows: usize, seqs: usize, samples: usize) -> StepShape {
        StepShape { rows, seqs, blocks: self.context.div_ceil(BLOCK_SIZE), samples }
    }

    /// Rows with logits of a step that has `n`: few sizes likewise, and one where none is wanted.
    pub(super) fn samples_of(&self, n: usize) -> usize {
        n.max(1).next_power_of_two().min(self.most_samples())
    }

    /// Rows with logits of any step.
    fn most_samples(&self) -> usize {
        self.samples.max(self.seqs * (1 + self.drafts))
    }

    /// The row of seen tokens that padding draws into.
    pub(super) fn spare_state(&self) -> i32 {
        self.seqs as i32
    }
}

/// Everything outside the plans' temporaries.
pub(super) fn surroundings(model: &Qwen2Vl, limits: &Limits) -> Surroundings {
    let text = &model.config.text;
    let counters = Tensor::at(Region::State, 0, DType::I32, &[COUNTERS]);
    let bests = Tensor::at(Region::State, counters.bytes(), DType::I64, &[limits.most_samples(), 1]);
    let seen = [limits.seqs + 1, text.vocab_size];
    Surroundings {
        kv: model.kv_layout(limits.blocks, BLOCK_SIZE),
        images: Tensor::at(Region::Embeds, 0, model.precision.activations, &[limits.images, text.hidden_size]),
        counters,
        bests,
        seen: Tensor::at(Region::State, counters.bytes() + bests.bytes(), DType::U8, &seen),
    }
}

/// What an executor must have room for with these limits.
///
/// # Errors
/// [`Error::Contract`](crate::error::Error::Contract) if a plan cannot be recorded: a bug.
pub fn needs(model: &Qwen2Vl, limits: &Limits) -> Result<Needs> {
    let around = surroundings(model, limits);
    let mut needs = Needs::default();
    let bytes = &mut needs.regions;
    bytes.set(Region::Kv, around.kv.bytes());
    bytes.set(Region::Embeds, around.images.bytes());
    bytes.set(Region::State, around.counters.bytes() + around.bests.bytes() + around.seen.bytes());
    let largest = limits.shape(limits.chunk, limits.seqs, limits.most_samples());
    bytes.set(Region::Step, StepLayout::new(largest).bytes());
    let (ids, logits) = outputs(limits.most_samples(), model.config.text.vocab_size);
    bytes.set(Region::Out, ids.bytes().next_multiple_of(64) + logits.bytes());
    // With an int8 cache few rows have temporaries that more do without.
    let few = limits.chunk.min(QkvMrope::MEETING_ROWS);
    let few = QkvMrope::meets(&around.kv.keys(0), few).then_some(few);
    let decoding = (1..=limits.seqs).filter(|&n| limits.bucket(n) == n).map(|n| limits.shape(n, n, n));
    let prefilling = few.into_iter().chain([limits.chunk]).map(|rows| limits.shape(rows, 1, rows.min(limits.samples)));
    for shape in decoding.chain(prefilling) {
        let (plan, _) = model.decoder.record(&model.weights, model.precision, shape, Tail::Sample, &around)?;
        needs.cover(plan);
    }
    if limits.patches > 0 {
        // Many small frames need the longest list of segments, everything else depends on the number of patches alone.
        let grid = [limits.patches.div_ceil(4), 2, 2];
        let rows = around.images.row_range(0, around.images.rows().min(grid[0]));
        let out = Tensor::new(rows.place, rows.dtype, &[grid[0], rows.cols()]);
        let (plan, _) = model.tower.record(&model.weights, model.precision, grid, out, around.counters)?;
        needs.cover(plan);
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// However many tokens each of 16 streams tries ahead, the steps have few shapes.
    #[test]
    fn steps_that_try_tokens_have_few_shapes() {
        let limits = Limits { chunk: 62, seqs: 16, drafts: 3, ..Limits::single(160, 62, 0, 1) };
        let (mut exact, mut shapes) = (BTreeSet::new(), BTreeSet::new());
        for streams in 9..=16 {
            for n in streams..=4 * streams.min(15) {
                let rows = limits.rows(n, limits.bucket(streams));
                assert!(rows >= n && rows <= limits.chunk, "{rows} rows for {n}");
                exact.insert((n, limits.samples_of(n)));
                shapes.insert((rows, limits.samples_of(n)));
            }
        }
        assert_eq!((exact.len(), shapes.len()), (52, 7));
    }
}
