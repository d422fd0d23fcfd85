//! Who runs: by priority, then first come, first served. A request waits until there is room for its whole prompt; when blocks run out the
//! youngest of the least important gives its own back and waits before its equals, to compute its tokens again.
//!
//! The surprise: each answer of a request is a sequence of its own from the start. One that finds another of the same request at the common
//! prompt follows it: it takes a seat, computes nothing, and shares that one's blocks once the prompt is in them. One that comes too late, or
//! loses its blocks, computes its tokens like any other.

use super::draw::{Controls, Drawn};
use super::guide::{Guide, Guides};
use super::pool::Pool;
use super::request::{Event, Finish, RequestId, Sampling, Timing, What};
use super::sequence::Sequence;
use super::{Engine, Request};
use crate::error::Result;
use crate::kv::prefix::Key;
use crate::tensor::Place;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An answer under way.
#[derive(Debug)]
pub(super) struct Live {
    pub id: RequestId,
    pub choice: usize,
    pub priority: i32,
    /// True while it waits for another answer of its request, which runs before it, to compute the prompt.
    pub follows: bool,
    pub sequence: Sequence,
    pub sampling: Sampling,
    pub controls: Controls,
    /// To what its constraint allows.
    pub guide: Option<Guide>,
    /// Logits that its next token is to be drawn from here.
    pub kept: Option<Vec<f32>>,
    max_new_tokens: usize,
    stop: Vec<u32>,
    pub drawn: usize,
    /// Its row of seen tokens, while it runs.
    pub state_row: usize,
    pub timing: Timing,
    submitted: Instant,
    seated: Option<Instant>,
    /// When its first token was drawn.
    first: Option<Instant>,
}

impl Live {
    fn new(id: RequestId, choice: usize, request: &Request, guide: Option<Guide>) -> Self {
        let submitted = Instant::now();
        let seed = request.sampling.seed.wrapping_add(choice as u64);
        Live {
            id,
            choice,
            priority: request.priority,
            follows: false,
            sequence: Sequence::new(request),
            sampling: Sampling { seed, ..request.sampling },
            controls: request.controls.clone(),
            guide,
            kept: None,
            max_new_tokens: request.max_new_tokens,
            stop: request.stop.clone(),
            drawn: 0,
            state_row: 0,
            timing: Timing::default(),
            submitted,
            seated: None,
            first: None,
        }
    }

    /// True if a device can draw its tokens.
    pub fn is_plain(&self) -> bool {
        self.controls.is_plain()
    }

    /// True if its prompt is not computed yet.
    fn begins(&self) -> bool {
        self.drawn == 0 && self.sequence.pending() > 0
    }

    /// True if it waits for a picture.
    pub fn wants(&self, key: &Key) -> bool {
        self.sequence.media.iter().any(|m| m.row.is_some() && m.key == *key)
    }

    /// Tokens to try behind the newest one: what followed its like earlier in the sequence. None where the next draw depends on more than the logits.
    pub fn drafts(&self, most: usize) -> &[u32] {
        let left = self.max_new_tokens - self.drawn;
        let plain = self.sampling.repetition_penalty == 1.0 && self.is_plain();
        let most = most.min(left.saturating_sub(1));
        if plain && most > 0 { self.sequence.continuation(most) } else { &[] }
    }

    /// Takes a drawn token; says how the answer ends if it does.
    fn push(&mut self, id: u32) -> Option<Finish> {
        self.first.get_or_insert_with(Instant::now);
        self.drawn += 1;
        self.sequence.push(id);
        match () {
            _ if self.stop.contains(&id) => Some(Finish::Stop),
            _ if self.drawn == self.max_new_tokens => Some(Finish::Length),
            _ => None,
        }
    }

    /// Takes what was drawn for it, and says so; if the answer ends with that, how.
    pub fn give(&mut self, drawn: Result<Drawn>, events: &mut Vec<Event>) -> Option<What> {
        let Drawn { id, logprobs } = match drawn {
            Ok(drawn) => drawn,
            Err(error) => return Some(What::Failed(error)),
        };
        let finish = self.push(id);
        events.push(Event { request: self.id, choice: self.choice, what: What::Token { id, logprobs } });
        finish.map(|finish| What::Done(finish, self.timing()))
    }

    /// Where its time went up to now.
    pub fn timing(&self) -> Timing {
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let seated = self.seated.unwrap_or(now);
        Timing {
            queued: seated - self.submitted,
            prefill: (first - seated).saturating_sub(self.timing.vision),
            decode: now - first,
            decoded: self.drawn.saturating_sub(1),
            ..self.timing
        }
    }

    fn sit(&mut self, state_row: usize) {
        self.state_row = state_row;
        if self.seated.is_none() {
            self.seated = Some(Instant::now());
            if !self.follows {
                self.timing.reused = self.sequence.computed;
                self.timing.prefilled = self.sequence.pending();
            }
        }
    }
}

/// Requests, oldest first.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    waiting: VecDeque<Live>,
    pub running: Vec<Live>,
    submitted: u64,
    /// How often one that ran lost its blocks.
    pub preemptions: u64,
}

impl Schedule {
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// As [`Guides::begin`].
    pub fn submit(&mut self, request: &Request, guides: &mut Guides) -> Result<RequestId> {
        let mut guide = || request.controls.constraint.clone().map(|constraint| guides.begin(constraint)).transpose();
        let guides = (0..request.choices).map(|_| guide()).collect::<Result<Vec<_>>>()?;
        let id = RequestId(self.submitted);
        self.submitted += 1;
        let behind = self.waiting.partition_point(|live| live.priority <= request.priority);
        for (i, guide) in guides.into_iter().enumerate() {
            self.waiting.insert(behind + i, Live::new(id, i, request, guide));
        }
        Ok(id)
    }

    /// Takes an answer out, and what it held back.
    pub fn remove(&mut self, id: RequestId, choice: usize, pool: &mut Pool) -> Option<Live> {
        let is_it = |live: &Live| (live.id, live.choice) == (id, choice);
        if let Some(i) = self.running.iter().position(is_it) {
            let mut live = self.running.remove(i);
            pool.unseat(&mut live.sequence);
            if live.drawn == 0 && !live.follows {
                self.strand(id);
            }
            return Some(live);
        }
        let i = self.waiting.iter().position(is_it)?;
        self.waiting.remove(i)
    }

    /// Lets those that followed an answer that is gone wait for a seat again.
    fn strand(&mut self, id: RequestId) {
        while let Some(at) = self.running.iter().rposition(|live| live.id == id && live.follows) {
            let live = self.running.remove(at);
            self.wait_first(live);
        }
    }

    /// Puts one that ran before its equals that wait.
    fn wait_first(&mut self, live: Live) {
        let before = self.waiting.partition_point(|other| other.priority < live.priority);
        self.waiting.insert(before, Live { follows: false, kept: None, ..live });
    }

    /// Lets the first of those that wait run, if there is room. Those that run keep a block each to grow into.
    fn seat(&mut self, seqs: usize, pool: &mut Pool) -> Option<&Live> {
        if self.running.len() == seqs {
            return None;
        }
        let mut live = self.waiting.pop_front()?;
        live.follows = live.drawn == 0 && self.running.iter().any(|other| other.id == live.id && other.begins());
        if !live.follows && !pool.seat(&mut live.sequence, usize::MAX, self.running.len()) {
            self.waiting.push_front(live);
            return None;
        }
        let free = (0..seqs).find(|row| self.running.iter().all(|other| other.state_row != *row));
        live.sit(free.unwrap_or_default());
        self.running.push(live);
        self.running.last()
    }

    /// Gives every running sequence room for its newest token, the oldest first.
    pub fn grow(&mut self, pool: &mut Pool) {
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].follows || pool.grow(&mut self.running[i].sequence) {
                i += 1;
            } else if let Some(given_up) = self.preempt(pool) {
                i -= usize::from(given_up < i);
            }
        }
    }

    /// Lets the youngest of the least important wait again; says where it ran.
    fn preempt(&mut self, pool: &mut Pool) -> Option<usize> {
        let (at, _) = self.running.iter().enumerate().max_by_key(|(_, live)| live.priority)?;
        let mut live = self.running.remove(at);
        pool.unseat(&mut live.sequence);
        self.preemptions += 1;
        self.wait_first(live);
        Some(at)
    }
}

impl Engine {
    /// Lets as many requests run as there is room for.
    pub(super) fn seat_waiting(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let Engine { schedule, pool, exec, limits, model, around, .. } = self;
        while let Some(live) = schedule.seat(limits.seqs, pool) {
            if live.max_new_tokens == 0 {
                let (request, choice, what) = (live.id, live.choice, What::Done(Finish::Length, live.timing()));
                events.push(Event { request, choice, what });
                schedule.remove(request, choice, pool);
                continue;
            }
            // On the device a penalty asks for the tokens that the prompt or the answer so far contains.
            if live.sampling.repetition_penalty != 1.0 && live.is_plain() {
                let vocab = model.config.text.vocab_size;
                let mut seen = vec![0u8; vocab];
                live.sequence.ids().iter().for_each(|&id| seen[id as usize] = 1);
                let Place::At { region, offset } = around.seen.place else { unreachable!("state is fixed") };
                exec.write(region, offset + live.state_row * vocab, &seen)?;
            }
        }
        Ok(())
    }

    /// Adds time that the tower spent on a picture to the first request that waits for it.
    pub(super) fn note_vision(&mut self, key: &Key, took: Duration, done: bool) {
        if let Some(live) = self.schedule.running.iter_mut().find(|live| live.wants(key)) {
            live.timing.vision += took;
            live.timing.encoded += usize::from(done);
        }
    }
}
