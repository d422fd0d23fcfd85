//! Draws on the host, for requests that ask for more than the op that draws on the device knows: additive penalties, biases, a constraint, or
//! what the logits said.
//!
//! It chooses with the op's own reference, seed and counter, so a request that asks for nothing in effect draws what a plain one draws. The
//! surprise: it keeps no counts. They are taken from the sequence each time, which is little beside the vocabulary, so that a sequence that
//! lost its blocks, or a fork, needs no care.

use super::schedule::Live;
use crate::error::{Error, Result};
use crate::ops::sample::{choose, penalise};
use crate::step::RowSampling;
use std::fmt::Debug;
use std::sync::Arc;

/// The most alternatives that a drawn token can list.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Says which tokens may come next. It may take its time where it is first asked behind a token: no step waits for it.
pub trait Constraint: Debug + Send + Sync {
    /// Bit `id % 32` of word `id / 32` is set if the token may come next. Those behind the end may not. Asked again, it knows.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field that asks for too much.
    fn allowed(&mut self) -> Result<&[u32]>;

    /// Goes on behind a token that was allowed.
    ///
    /// # Errors
    /// As [`allowed`](Constraint::allowed).
    fn take(&mut self, id: u32) -> Result<()>;

    /// The same, at the same place.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// What changes a request's logits, or looks at them. The default does neither.
///
/// In this order, that of vLLM 0.11 (`v1/sample/sampler.py`): constraint, biases, repetition penalty, frequency, presence; then, as for every
/// request, temperature, top-k, top-p and min-p.
#[derive(Debug, Clone, Default)]
pub struct Controls {
    /// Taken off the logit of every token that the answer contains.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time that the answer contains it.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Lists so many alternatives with each token.
    pub top_logprobs: Option<usize>,
    /// Each answer has a fork of it.
    pub constraint: Option<Arc<dyn Constraint>>,
}

/// What the model's own logits, before anything changed them, say of a drawn token: natural logarithms of probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token.
    pub drawn: f32,
    /// The most probable tokens, the best first, ties by id.
    pub top: Vec<(u32, f32)>,
}

/// A token that was drawn.
#[derive(Debug)]
pub(super) struct Drawn {
    pub id: u32,
    pub logprobs: Option<Box<Logprobs>>,
}

impl Drawn {
    /// Of a request that asks for nothing else.
    pub fn plain(id: u32) -> Drawn {
        Drawn { id, logprobs: None }
    }
}

/// The tokens of a sequence whose next one is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub prompt: &'a [u32],
    pub answer: &'a [u32],
}

impl Controls {
    /// True if a device can draw.
    pub(super) fn is_plain(&self) -> bool {
        let Controls { presence_penalty, frequency_penalty, logit_bias, top_logprobs, constraint } = self;
        *presence_penalty == 0.0
            && *frequency_penalty == 0.0
            && logit_bias.is_empty()
            && top_logprobs.is_none()
            && constraint.is_none()
    }

    /// Refuses what no draw could follow.
    pub(super) fn check(&self, vocab: usize) -> Result<()> {
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, bias)| *id as usize >= vocab || !bias.is_finite()) {
            let why = format!("token {id} is outside the vocabulary of {vocab}, or its bias is not a number");
            return Err(Error::request("logit_bias", why));
        }
        let penalties = [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)];
        if let Some((name, _)) = penalties.iter().find(|(_, penalty)| !penalty.is_finite()) {
            return Err(Error::request(*name, "is not a number"));
        }
        match self.top_logprobs {
            Some(n) if n > MAX_TOP_LOGPROBS => {
                Err(Error::request("top_logprobs", format!("{n} are asked for, at most {MAX_TOP_LOGPROBS} are given")))
            }
            _ => Ok(()),
        }
    }

    /// Draws the token behind `tokens`, of a mask of them if there is one.
    ///
    /// # Errors
    /// [`Error::Numerics`] if a logit is NaN or infinite; [`Error::Request`] if the mask is empty.
    pub(super) fn draw(
        &self,
        logits: &[f32],
        mask: Option<&[u32]>,
        tokens: Tokens,
        row: &RowSampling,
    ) -> Result<Drawn> {
        if logits.iter().any(|x| !x.is_finite()) {
            return Err(unusable(tokens.prompt.len() + tokens.answer.len() - 1));
        }
        let changed = self.changed(logits, tokens, row.repetition_penalty).into_iter().zip(0..);
        let allowed =
            |id: u32| mask.is_none_or(|m| m.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1));
        let id = choose(changed.filter(|(_, id)| allowed(*id)), row);
        let id = id.ok_or_else(|| Error::request("constraint", "allows no token of the vocabulary"))?;
        let logprobs = self.top_logprobs.map(|n| Box::new(Logprobs::new(logits, id, n)));
        Ok(Drawn { id, logprobs })
    }

    /// Logits with their biases and penalties.
    fn changed(&self, logits: &[f32], Tokens { prompt, answer }: Tokens, repetition: f32) -> Vec<f32> {
        let (mut changed, mut prompted, mut counts) =
            (logits.to_vec(), vec![false; logits.len()], vec![0u32; logits.len()]);
        self.logit_bias.iter().for_each(|&(id, bias)| changed[id as usize] += bias);
        prompt.iter().for_each(|&id| prompted[id as usize] = true);
        answer.iter().for_each(|&id| counts[id as usize] += 1);
        for ((x, prompted), count) in changed.iter_mut().zip(prompted).zip(counts) {
            *x = penalise(*x, prompted || count > 0, repetition);
            if count > 0 {
                *x -= self.frequency_penalty * count as f32;
                *x -= self.presence_penalty;
            }
        }
        changed
    }
}

impl Logprobs {
    /// Of the log-softmax of `logits`, in f64.
    fn new(logits: &[f32], drawn: u32, top: usize) -> Logprobs {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
        let of = |id: u32| (f64::from(logits[id as usize]) - f64::from(largest) - sum.ln()) as f32;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let best_first = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if top < ids.len() {
            ids.select_nth_unstable_by(top, best_first);
            ids.truncate(top);
        }
        ids.sort_unstable_by(best_first);
        Logprobs { drawn: of(drawn), top: ids.into_iter().map(|id| (id, of(id))).collect() }
    }
}

impl Live {
    /// Draws its next token from the logits that are kept for it; none if there are none, or it is not yet known what may be drawn.
    ///
    /// # Errors
    /// As [`Controls::draw`] and [`Constraint::allowed`].
    pub(super) fn draw_kept(&mut self) -> Option<Result<Drawn>> {
        let logits = self.kept.take()?;
        let ids = self.sequence.ids();
        let (prompt, answer) = ids.split_at(ids.len() - self.drawn);
        let row = self.sampling.row(self.state_row as i32, self.drawn as i32);
        let draw = |mask: Option<&[u32]>| self.controls.draw(&logits, mask, Tokens { prompt, answer }, &row);
        let Some(guide) = &mut self.guide else { return Some(draw(None)) };
        let drawn = guide.allowed().map(|mask| draw(Some(mask?)));
        if drawn.is_none() {
            self.kept = Some(logits);
        }
        drawn
    }
}

/// What is said of a token whose logits nothing can be drawn from.
pub(super) fn unusable(position: usize) -> Error {
    let hint = "the weights may be damaged, or overflow in f16: try --dtype bf16 or f32";
    Error::Numerics(format!("the step at token {position} gave logits that are NaN or infinite; {hint}"))
}
