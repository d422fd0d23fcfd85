//! The engine: requests become steps, steps become tokens. It owns the executor, the cache's blocks and one conversation.
//!
//! A prompt is prefilled in chunks; any chunk size gives the same bits. A prompt that begins like the last conversation reuses its cache.

mod cost;
mod layers;
mod request;
mod sequence;
pub mod trace;

pub use request::{Cancel, Finish, Generated, Request, Sampling, Timing};

use crate::dtype::{DType, narrowed};
use crate::error::{Error, Result};
use crate::exec::{Executor, Needs, PlanId};
use crate::kv::BlockAllocator;
use crate::media::patches::Patches;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::model::text::{Surroundings, Tail, TextIo, outputs};
use crate::model::vision::{VisionIo, VisionTower};
use crate::ops::qkv_mrope::QkvMrope;
use crate::plan::Plan;
use crate::step::{HostStep, StepLayout, StepShape};
use crate::tensor::{Place, Region, Tensor};
use crate::text::prompt::MediaSpan;
use crate::weights::WeightSet;
use sequence::Sequence;
use std::borrow::Cow;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Instant;

/// Tokens of a KV-cache block.
pub const BLOCK_SIZE: usize = 32;
/// Ops of a prefill that run between two looks at the cancel flag: a decoder layer where products read floats. A decode step runs whole, since an executor may replay it.
const SLICE: usize = 5;
/// Counters for kernels: more than any launch has blocks of rows, or decoded rows times kv heads.
const COUNTERS: usize = 4096;
/// Ops that stay together at the end: the head and the draw.
const TAIL: usize = 2;
/// Decoder plans that stay loaded.
const LOADED_PLANS: usize = 8;

/// What the engine must have room for. Memory follows from it before anything is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of the conversation, prompt and answer.
    pub context: usize,
    /// Prompt tokens per prefill step.
    pub chunk: usize,
    /// Patches of the largest image or video.
    pub patches: usize,
    /// Rows of one step whose logits may be asked for.
    pub samples: usize,
}

/// One model on one executor.
pub struct Engine {
    model: Qwen2Vl,
    exec: Box<dyn Executor>,
    limits: Limits,
    around: Surroundings,
    blocks: BlockAllocator,
    sequence: Sequence,
    /// Most recently used last.
    plans: Vec<((StepShape, Tail), PlanId, TextIo)>,
}

/// Everything outside the plans' temporaries.
fn surroundings(model: &Qwen2Vl, limits: &Limits) -> Surroundings {
    let text = &model.config.text;
    let counters = Tensor::at(Region::State, 0, DType::I32, &[COUNTERS]);
    let bests = Tensor::at(Region::State, counters.bytes(), DType::I64, &[limits.samples, 1]);
    Surroundings {
        kv: model.kv_layout(limits.context.div_ceil(BLOCK_SIZE), BLOCK_SIZE),
        images: Tensor::at(Region::Embeds, 0, model.precision.activations, &[limits.context, text.hidden_size]),
        counters,
        bests,
        seen: Tensor::at(Region::State, counters.bytes() + bests.bytes(), DType::U8, &[1, text.vocab_size]),
    }
}

/// What an executor must have room for with these limits.
///
/// # Errors
/// [`Error::Contract`] if a plan cannot be recorded: a bug.
pub fn needs(model: &Qwen2Vl, limits: &Limits) -> Result<Needs> {
    let around = surroundings(model, limits);
    let mut needs = Needs::default();
    let bytes = &mut needs.regions;
    bytes.set(Region::Kv, around.kv.bytes());
    bytes.set(Region::Embeds, around.images.bytes());
    bytes.set(Region::State, around.counters.bytes() + around.bests.bytes() + around.seen.bytes());
    // With an int8 cache few rows have temporaries that more do without.
    let few = limits.chunk.min(QkvMrope::MEETING_ROWS);
    let few = QkvMrope::meets(&around.kv.keys(0), few).then_some(few);
    for rows in [1].into_iter().chain(few).chain([limits.chunk]) {
        let shape = step_shape(limits, rows, rows.min(limits.samples));
        let (plan, _) = model.decoder.record(&model.weights, model.precision, shape, Tail::Sample, &around)?;
        needs.cover(plan);
        needs.regions.at_least(Region::Step, StepLayout::new(shape).bytes());
    }
    let (_, logits) = outputs(limits.samples, model.config.text.vocab_size);
    needs.regions.set(Region::Out, limits.samples.next_multiple_of(16) * 4 + logits.bytes());
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

fn step_shape(limits: &Limits, rows: usize, samples: usize) -> StepShape {
    StepShape { rows, seqs: 1, blocks: limits.context.div_ceil(BLOCK_SIZE), samples }
}

/// Values as little-endian bytes in the type that a plan reads, rounded to nearest even.
fn stored(values: &[f32], dtype: DType) -> Cow<'_, [u8]> {
    if dtype == DType::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    Cow::Owned(narrowed(dtype, values))
}

impl Engine {
    /// Puts a model on an executor, which `make` builds.
    ///
    /// # Errors
    /// What `make` reports.
    pub fn new(
        model: Qwen2Vl,
        limits: Limits,
        make: impl FnOnce(Needs, Arc<WeightSet>) -> Result<Box<dyn Executor>>,
    ) -> Result<Self> {
        let exec = make(needs(&model, &limits)?, model.weights.clone())?;
        let around = surroundings(&model, &limits);
        let blocks = BlockAllocator::new(around.kv.blocks, BLOCK_SIZE);
        Ok(Engine { model, exec, limits, around, blocks, sequence: Sequence::default(), plans: Vec::new() })
    }

    /// The executor's name: `cpu`, `cuda` or `emulator`.
    pub fn device(&self) -> &'static str {
        self.exec.name()
    }

    /// The model.
    pub fn model(&self) -> &Qwen2Vl {
        &self.model
    }

    /// What it has room for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Continues a prompt. `on_token` sees every token as it is drawn and may end the answer.
    ///
    /// # Errors
    /// [`Error::Request`] if the prompt does not fit the limits; [`Error::Numerics`] naming the step whose logits are unusable.
    pub fn generate(
        &mut self,
        request: &Request,
        cancel: &Cancel,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generated> {
        self.admit(request)?;
        let mut out = Generated { ids: Vec::new(), finish: Finish::Length, timing: Timing::default() };
        if request.max_new_tokens == 0 {
            return Ok(out);
        }
        self.start(request, &mut out.timing, cancel)?;
        let start = Instant::now();
        let mut drawn = self.prefill(request, cancel)?;
        out.timing.prefill = start.elapsed();
        let start = Instant::now();
        while let Some(id) = drawn {
            out.ids.push(id);
            self.sequence.push(id);
            let end = on_token(id).is_break() || cancel.is_cancelled();
            out.finish = match () {
                _ if request.stop.contains(&id) => Finish::Stop,
                _ if end => Finish::Cancelled,
                _ => Finish::Length,
            };
            if out.finish != Finish::Length || out.ids.len() == request.max_new_tokens {
                break;
            }
            drawn = self.decode(request, out.ids.len(), cancel)?;
        }
        if drawn.is_none() {
            out.finish = Finish::Cancelled;
        }
        out.timing.decode = start.elapsed();
        out.timing.decoded = out.ids.len().saturating_sub(1);
        Ok(out)
    }

    /// Checks a request against the limits.
    fn admit(&self, request: &Request) -> Result<()> {
        let (have, new) = (request.prompt.ids.len(), request.max_new_tokens);
        if have == 0 {
            return Err(Error::request("prompt", "is empty; give at least one token"));
        }
        if have.saturating_add(new) > self.limits.context {
            let why =
                format!("{have} prompt tokens and {new} new ones exceed the context of {} tokens", self.limits.context);
            return Err(Error::request("prompt", why));
        }
        let vocab = self.model.config.text.vocab_size;
        if let Some(id) = request.prompt.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::request("prompt", format!("token id {id} is outside the vocabulary of {vocab}")));
        }
        self.check_media(request)?;
        let largest = request.media.iter().map(|m| m.grid_thw.iter().product::<usize>()).max().unwrap_or(0);
        if largest > self.limits.patches {
            let why =
                format!("a picture has {largest} patches, at most {} fit: lower --max-pixels", self.limits.patches);
            return Err(Error::request("image", why));
        }
        Ok(())
    }

    /// Checks that ids, positions, spans and pixels belong together.
    fn check_media(&self, request: &Request) -> Result<()> {
        let vision = &self.model.config.vision;
        let len = request.prompt.ids.len();
        let spans = request.prompt.spans.iter().zip(&request.media);
        let fits = |(span, patches): (&MediaSpan, &Arc<Patches>)| {
            let values = patches.grid_thw.iter().product::<usize>() * vision.patch_dim();
            span.len == patches.tokens(vision.spatial_merge_size)
                && span.start.checked_add(span.len).is_some_and(|end| end <= len)
                && patches.data.len() == values
        };
        let counted = request.prompt.spans.len() == request.media.len();
        if counted && request.positions.thw.iter().all(|axis| axis.len() == len) && spans.into_iter().all(fits) {
            return Ok(());
        }
        Err(Error::request("prompt", "its ids, positions and pictures do not belong together"))
    }

    /// Takes the prompt into the sequence and encodes the media it needs.
    fn start(&mut self, request: &Request, timing: &mut Timing, cancel: &Cancel) -> Result<()> {
        self.sequence.restart(request);
        self.sequence.reserve(&mut self.blocks)?;
        timing.reused = self.sequence.computed();
        timing.prefilled = self.sequence.len() - timing.reused;
        self.mark_seen(request)?;
        let start = Instant::now();
        for (row, patches) in self.sequence.pending_media() {
            self.encode(&patches, row, cancel, |_, _, _| Ok(()))?;
            timing.encoded += 1;
        }
        self.exec.wait()?;
        timing.vision = start.elapsed();
        Ok(())
    }

    /// Marks the prompt's tokens as seen, if a penalty will ask for them.
    fn mark_seen(&mut self, request: &Request) -> Result<()> {
        if request.sampling.repetition_penalty == 1.0 {
            return Ok(());
        }
        let mut seen = vec![0u8; self.model.config.text.vocab_size];
        self.sequence.ids().iter().for_each(|&id| seen[id as usize] = 1);
        let Place::At { region, offset } = self.around.seen.place else { unreachable!("state is fixed") };
        self.exec.write(region, offset, &seen)
    }

    /// Runs the tower over one image or video; its rows go to `Embeds` from `row`. `tap` is called after every block.
    fn encode(
        &mut self,
        patches: &Patches,
        row: usize,
        cancel: &Cancel,
        mut tap: impl FnMut(&mut dyn Executor, &str, (Region, usize, Tensor)) -> Result<()>,
    ) -> Result<()> {
        let grid = patches.grid_thw;
        let tokens = patches.tokens(self.model.config.vision.spatial_merge_size);
        let out = self.around.images.row_range(row, tokens);
        let (plan, io) = self.record_tower(grid, out)?;
        let at = |t: &Tensor| plan.locate(t);
        let (pixels, positions, segments, stream) =
            (at(&io.patches), at(&io.positions), at(&io.cu_seqlens), at(&io.stream));
        let exec = &mut *self.exec;
        exec.write(pixels.0, pixels.1, &stored(&patches.data, io.patches.dtype))?;
        exec.write(positions.0, positions.1, bytemuck::cast_slice(&self.model.tower.positions(grid)))?;
        exec.write(segments.0, segments.1, bytemuck::cast_slice(&VisionTower::cu_seqlens(grid)))?;
        let ops = plan.ops().len();
        let id = exec.load(Arc::new(plan))?;
        let stops = io.taps.iter().map(|t| (t.ops, Some(t))).chain([(ops, None)]);
        let mut done = 0;
        let result = stops.filter(|_| !cancel.is_cancelled()).try_for_each(|(end, reached)| {
            exec.run(id, done..end)?;
            done = end;
            reached.map_or(Ok(()), |t| tap(exec, &t.name, (stream.0, stream.1, io.stream)))
        });
        exec.unload(id);
        result
    }

    /// Computes what is left of the prompt, chunk by chunk, and draws the first token; none if cancelled.
    fn prefill(&mut self, request: &Request, cancel: &Cancel) -> Result<Option<u32>> {
        loop {
            let range = self.next_chunk();
            let last = range.end == self.sequence.len();
            let (rows, tail) = (range.len(), if last { Tail::Sample } else { Tail::None });
            let mut step = self.step(range.clone(), 1);
            step.i32s_mut(&step.layout.sample_rows.clone())[0] = rows as i32 - 1;
            step.set_sampling(0, &request.sampling.row(0, 0));
            if !self.run_step(&step, tail, cancel)? {
                return Ok(None);
            }
            self.sequence.advance(range.end);
            if last {
                return self.sampled(range.end - 1).map(Some);
            }
        }
    }

    /// Computes the newest token and draws the one after it; `counter` tokens were drawn before.
    fn decode(&mut self, request: &Request, counter: usize, cancel: &Cancel) -> Result<Option<u32>> {
        self.sequence.reserve(&mut self.blocks)?;
        let end = self.sequence.len();
        let mut step = self.step(end - 1..end, 1);
        step.set_sampling(0, &request.sampling.row(0, counter as i32));
        if !self.run_step(&step, Tail::Sample, cancel)? {
            return Ok(None);
        }
        self.sequence.advance(end);
        self.sampled(end - 1).map(Some)
    }

    fn next_chunk(&self) -> Range<usize> {
        let start = self.sequence.computed();
        start..self.sequence.len().min(start + self.limits.chunk)
    }

    /// The inputs of a step over tokens `range`.
    fn step(&self, range: Range<usize>, samples: usize) -> HostStep {
        let mut step = HostStep::new(step_shape(&self.limits, range.len(), samples));
        self.sequence.fill(&mut step, range, BLOCK_SIZE);
        step
    }

    /// Runs a step; false if cancelled.
    fn run_step(&mut self, step: &HostStep, tail: Tail, cancel: &Cancel) -> Result<bool> {
        let (id, _) = self.text_plan(step.layout.shape, tail)?;
        self.exec.write(Region::Step, 0, step.bytes())?;
        let shape = step.layout.shape;
        let ops = self.exec.plan(id).ops().len();
        let slice = if shape.is_decode() { ops } else { SLICE };
        let mut start = 0;
        while start < ops {
            if cancel.is_cancelled() {
                return Ok(false);
            }
            // The head and the draw stay together: what passes between them outlives no step.
            let end = if start + slice + TAIL >= ops { ops } else { start + slice };
            self.exec.run(id, start..end)?;
            start = end;
        }
        Ok(true)
    }

    /// A loaded decoder plan for a shape.
    fn text_plan(&mut self, shape: StepShape, tail: Tail) -> Result<(PlanId, &TextIo)> {
        if let Some(i) = self.plans.iter().position(|(key, ..)| *key == (shape, tail)) {
            let plan = self.plans.remove(i);
            self.plans.push(plan);
        } else {
            if self.plans.len() == LOADED_PLANS {
                self.exec.unload(self.plans.remove(0).1);
            }
            let (plan, io) = self.record(shape, tail)?;
            let id = self.exec.load(Arc::new(plan))?;
            self.plans.push(((shape, tail), id, io));
        }
        let (_, id, io) = &self.plans[self.plans.len() - 1];
        Ok((*id, io))
    }

    fn record_tower(&self, grid: [usize; 3], out: Tensor) -> Result<(Plan, VisionIo)> {
        let m = &self.model;
        m.tower.record(&m.weights, m.precision, grid, out, self.around.counters)
    }

    fn record(&self, shape: StepShape, tail: Tail) -> Result<(Plan, TextIo)> {
        let m = &self.model;
        m.decoder.record(&m.weights, m.precision, shape, tail, &self.around)
    }

    /// The token that the step over token `position` drew.
    fn sampled(&mut self, position: usize) -> Result<u32> {
        let mut id = [0; 4];
        self.exec.read(Region::Out, 0, &mut id)?;
        u32::try_from(i32::from_le_bytes(id)).map_err(|_| {
            let hint = "the weights may be damaged, or overflow in f16: try --dtype bf16 or f32";
            Error::Numerics(format!("the step at token {position} gave logits that are NaN or infinite; {hint}"))
        })
    }
}
