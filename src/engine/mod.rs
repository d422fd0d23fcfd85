//! The engine: requests become steps, steps become tokens. It owns the executor, the requests under way, and what they share.
//!
//! Requests run together: a step is one row of every sequence that decodes and chunks of the prompts behind. What a request gets depends on the
//! request alone, bit for bit: not on who runs beside it, how its prompt is cut, what the caches hold, or whether it had to begin again.

mod batch;
mod check;
mod cost;
mod draw;
mod guide;
mod layers;
mod memory;
mod pace;
mod picture;
mod pictures;
mod pool;
mod request;
mod schedule;
mod sequence;
pub mod trace;
mod vision;

pub use draw::{Constraint, Controls, Logprobs, MAX_TOP_LOGPROBS};
pub use memory::{Limits, needs};
pub use picture::Picture;
pub use request::{Cancel, Event, Finish, Generated, Request, RequestId, Sampling, Timing, What};

use crate::dtype::{DType, narrowed};
use crate::error::{Error, Result};
use crate::exec::{Executor, Needs, PlanId};
use crate::model::qwen2_vl::Qwen2Vl;
use crate::model::text::{Surroundings, Tail, TextIo};
use crate::plan::Plan;
use crate::step::{HostStep, StepShape};
use crate::tensor::Region;
use crate::weights::WeightSet;
use guide::Guides;
use memory::surroundings;
use pace::Pace;
use pool::Pool;
use schedule::Schedule;
use sequence::Sequence;
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;
use vision::Encoding;

/// Tokens of a KV-cache block.
pub const BLOCK_SIZE: usize = 32;
/// Ops that run between two looks at the cancel flag: a layer where products read floats. A decode step runs whole, since an executor may replay it.
const SLICE: usize = 5;
/// Ops that stay together at the end: the head and the draw.
const TAIL: usize = 2;
/// Decoder plans that stay loaded.
const LOADED_PLANS: usize = 16;

/// One model on one executor.
pub struct Engine {
    model: Qwen2Vl,
    exec: Box<dyn Executor>,
    limits: Limits,
    around: Surroundings,
    schedule: Schedule,
    pool: Pool,
    pace: Pace,
    guides: Guides,
    /// The picture that the tower is at.
    encoding: Option<Encoding>,
    /// True if the tower had the last turn.
    tower_was_last: bool,
    /// Most recently used last.
    plans: Vec<((StepShape, Tail), PlanId, TextIo)>,
}

/// What an engine holds, to watch and to test it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// Requests that have blocks; others under way wait for some.
    pub running: usize,
    /// Blocks that nobody holds.
    pub free_blocks: usize,
    /// Blocks of known prefixes.
    pub cached_blocks: usize,
    /// Blocks that requests hold; those of known prefixes among them.
    pub used_blocks: usize,
    /// Rows of pictures that a request needs.
    pub pinned_rows: usize,
    /// How often a request had to give its blocks back and begin again.
    pub preemptions: u64,
}

/// Values as little-endian bytes in the type that a plan reads, rounded to nearest even.
fn stored(values: &[f32], dtype: DType) -> Cow<'_, [u8]> {
    if dtype == DType::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    Cow::Owned(narrowed(dtype, values))
}

impl Engine {
    /// Puts a model on an executor, which `make` builds; it may bring the weights into another layout.
    ///
    /// # Errors
    /// [`Error::Contract`] if more sequences may run than a step has rows; what `make` reports.
    pub fn new(
        mut model: Qwen2Vl,
        limits: Limits,
        make: impl FnOnce(Needs, &mut Arc<WeightSet>) -> Result<Box<dyn Executor>>,
    ) -> Result<Self> {
        if limits.seqs == 0 || limits.seqs > limits.chunk {
            let why = format!("{} sequences in steps of at most {} rows: let 1 to {1} run", limits.seqs, limits.chunk);
            return Err(Error::contract("engine", why));
        }
        let exec = make(needs(&model, &limits)?, &mut model.weights)?;
        Ok(Engine {
            around: surroundings(&model, &limits),
            pool: Pool::new(limits.blocks, limits.images),
            model,
            exec,
            limits,
            schedule: Schedule::default(),
            pace: Pace::default(),
            guides: Guides::default(),
            encoding: None,
            tower_was_last: false,
            plans: Vec::new(),
        })
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

    /// What requests and caches hold now.
    pub fn holding(&self) -> Holding {
        let Pool { blocks, prefix, pictures, .. } = &self.pool;
        Holding {
            running: self.schedule.running.len(),
            free_blocks: blocks.free_blocks(),
            cached_blocks: prefix.len(),
            used_blocks: self.limits.blocks - blocks.free_blocks() - blocks.idle_blocks(),
            pinned_rows: pictures.pinned(),
            preemptions: self.schedule.preemptions,
        }
    }

    /// Forgets the prefixes and pictures that no request holds.
    pub fn clear_cache(&mut self) {
        self.pool.clear();
    }

    /// Queues a request, which later steps answer.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field if it could never be answered within the limits; [`Error::Io`] if there can be no threads for its constraint.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.check(&request)?;
        self.schedule.submit(&request, &mut self.guides)
    }

    /// Ends an answer, of which nothing more is heard. What it held is free at once. Says where its time went, if it was under way.
    pub fn cancel(&mut self, request: RequestId, choice: usize) -> Option<Timing> {
        self.schedule.remove(request, choice, &mut self.pool).map(|live| live.timing())
    }

    /// True if no request is under way.
    pub fn is_idle(&self) -> bool {
        self.schedule.is_idle()
    }

    /// Does one step for the requests under way: a slice of a picture, or rows that decode and prefill. Says what came of it, which may be nothing yet.
    ///
    /// # Errors
    /// What the executor reports. What is wrong with one request is an event of its own.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        self.turn(&Cancel::default())
    }

    /// Continues a prompt while nothing else is under way. `on_token` sees every token as it is drawn and may end the answer.
    ///
    /// # Errors
    /// As [`submit`](Engine::submit); [`Error::Numerics`] naming the step whose logits are unusable.
    pub fn generate(
        &mut self,
        request: &Request,
        cancel: &Cancel,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generated> {
        self.require_idle()?;
        let id = self.submit(Request { choices: 1, ..request.clone() })?;
        let mut out = Generated { ids: Vec::new(), finish: Finish::Cancelled, timing: Timing::default() };
        let ended = self.drive(cancel, on_token, &mut out);
        if let Some(timing) = self.cancel(id, 0) {
            out.timing = timing;
        }
        ended.map(|()| out)
    }

    /// Steps until the only request is answered or the caller has enough.
    fn drive(
        &mut self,
        cancel: &Cancel,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
        out: &mut Generated,
    ) -> Result<()> {
        let mut enough = false;
        while !self.is_idle() && !enough && !cancel.is_cancelled() {
            for event in self.turn(cancel)? {
                match event.what {
                    What::Token { id, .. } => {
                        out.ids.push(id);
                        enough = on_token(id).is_break() || cancel.is_cancelled();
                    }
                    What::Done(finish, timing) => {
                        let broken = enough && finish != Finish::Stop;
                        out.finish = if broken { Finish::Cancelled } else { finish };
                        out.timing = timing;
                    }
                    What::Failed(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn require_idle(&self) -> Result<()> {
        let why = "other requests are under way: step until the engine is idle";
        if self.is_idle() { Ok(()) } else { Err(Error::contract("engine", why)) }
    }

    /// Works on a sequence that no request stands behind, with all its pictures' rows at hand; of the cache it uses what lies before token `reuse`.
    fn alone<T>(
        &mut self,
        request: &Request,
        reuse: usize,
        work: impl FnOnce(&mut Self, &mut Sequence) -> Result<T>,
    ) -> Result<T> {
        self.require_idle()?;
        self.check(request)?;
        let mut sequence = Sequence::new(request);
        if !self.pool.seat(&mut sequence, reuse, 0) {
            return Err(Error::contract("engine", "a sequence within the limits found no room"));
        }
        let done = work(self, &mut sequence);
        self.pool.unseat(&mut sequence);
        done
    }

    /// The inputs of a step over the next tokens of a sequence alone, `samples` of them with logits.
    fn step_alone(&self, sequence: &Sequence, rows: usize, samples: usize) -> HostStep {
        let mut step = HostStep::new(self.limits.shape(rows, 1, samples));
        sequence.fill(&mut step, 0, 0, sequence.computed..sequence.computed + rows);
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

    fn record(&self, shape: StepShape, tail: Tail) -> Result<(Plan, TextIo)> {
        let m = &self.model;
        m.decoder.record(&m.weights, m.precision, shape, tail, &self.around)
    }
}
