//! What the engine is asked and what it answers.

use super::Picture;
use super::draw::{Controls, Logprobs};
use crate::checkpoint::GenerationConfig;
use crate::error::Error;
use crate::step::RowSampling;
use crate::text::positions::Positions;
use crate::text::prompt::Prompt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How tokens are drawn. Names and meanings are those of transformers' `GenerationConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is no limit.
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub seed: u64,
}

impl Sampling {
    /// Always the most probable token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    /// What a checkpoint's `generation_config.json` asks for; what it leaves out is as in transformers (`top_k` 50 when sampling).
    pub fn from_config(c: &GenerationConfig) -> Self {
        let repetition_penalty = c.repetition_penalty.unwrap_or(1.0) as f32;
        if !c.do_sample.unwrap_or(false) {
            return Sampling { repetition_penalty, ..Sampling::GREEDY };
        }
        Sampling {
            temperature: c.temperature.unwrap_or(1.0) as f32,
            top_k: c.top_k.unwrap_or(50).min(i32::MAX as u64) as u32,
            top_p: c.top_p.unwrap_or(1.0) as f32,
            min_p: c.min_p.unwrap_or(0.0) as f32,
            repetition_penalty,
            seed: 0,
        }
    }

    /// The parameters of the `counter`-th token of the sequence in a state row.
    pub(super) fn row(&self, state_row: i32, counter: i32) -> RowSampling {
        RowSampling {
            temperature: self.temperature,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            top_k: self.top_k as i32,
            state_row,
            seed: self.seed,
            counter,
        }
    }
}

/// A prompt with its media, and how to continue it.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt: Prompt,
    pub positions: Positions,
    /// The pixels of each of the prompt's spans, in order.
    pub media: Vec<Picture>,
    pub sampling: Sampling,
    pub controls: Controls,
    /// Answers to the same prompt, which is computed once; each draws with a seed of its own, the request's plus the answer's number.
    pub choices: usize,
    /// Lower runs first; the same number runs in the order of arrival.
    pub priority: i32,
    pub max_new_tokens: usize,
    /// Tokens that end the answer; they are part of it.
    pub stop: Vec<u32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    Cancelled,
}

impl Finish {
    /// The name that OpenAI's API uses, and `cancelled`.
    pub const fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Until it ran first.
    pub queued: Duration,
    pub vision: Duration,
    pub prefill: Duration,
    pub decode: Duration,
    /// Media encoded for this request; the rest was in the cache.
    pub encoded: usize,
    /// Prompt tokens computed for this request.
    pub prefilled: usize,
    /// Prompt tokens found in the cache.
    pub reused: usize,
    /// Tokens that decode steps computed: all but the first, which prefill gives.
    pub decoded: usize,
    /// Steps that tried tokens ahead of their turn, those tokens, and those of them that were right.
    pub drafts: usize,
    pub drafted: usize,
    pub accepted: usize,
}

/// Names a request that was submitted to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What a step did for a request.
#[derive(Debug)]
pub struct Event {
    pub request: RequestId,
    /// Which of its answers.
    pub choice: usize,
    pub what: What,
}

/// An answer's tokens come one by one, then one of the two others as its last event.
#[derive(Debug)]
pub enum What {
    /// A token was drawn; with what its logits said, if that was asked for.
    Token { id: u32, logprobs: Option<Box<Logprobs>> },
    /// The answer is complete.
    Done(Finish, Timing),
    /// The answer cannot go on; others can.
    Failed(Error),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Generated {
    pub ids: Vec<u32>,
    pub finish: Finish,
    pub timing: Timing,
}

/// A flag that ends a generation between two ops; set from a signal handler or another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the generation to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
