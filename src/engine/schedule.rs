//! Who runs: first come, first served. A request waits until there is room for its whole prompt; when blocks run out the youngest one gives
//! its own back and waits at the front, to compute its tokens again.

use super::draw::Controls;
use super::pool::Pool;
use super::request::{Event, Finish, RequestId, Sampling, Timing, What};
use super::sequence::Sequence;
use super::{Engine, Request};
use crate::error::Result;
use crate::kv::prefix::Key;
use crate::tensor::Place;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A request under way.
#[derive(Debug)]
pub(super) struct Live {
    pub id: RequestId,
    pub sequence: Sequence,
    pub sampling: Sampling,
    pub controls: Controls,
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
    fn new(id: RequestId, request: Request) -> Self {
        let submitted = Instant::now();
        Live {
            id,
            sequence: Sequence::new(&request),
            sampling: request.sampling,
            controls: request.controls,
            max_new_tokens: request.max_new_tokens,
            stop: request.stop,
            drawn: 0,
            state_row: 0,
            timing: Timing::default(),
            submitted,
            seated: None,
            first: None,
        }
    }

    /// True if it waits for a picture.
    pub fn wants(&self, key: &Key) -> bool {
        self.sequence.media.iter().any(|m| m.row.is_some() && m.key == *key)
    }

    /// Takes a drawn token; says how the answer ends if it does.
    pub fn push(&mut self, id: u32) -> Option<Finish> {
        self.first.get_or_insert_with(Instant::now);
        self.drawn += 1;
        self.sequence.push(id);
        match () {
            _ if self.stop.contains(&id) => Some(Finish::Stop),
            _ if self.drawn == self.max_new_tokens => Some(Finish::Length),
            _ => None,
        }
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
            self.timing.reused = self.sequence.computed;
            self.timing.prefilled = self.sequence.pending();
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
    pub fn submit(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.submitted);
        self.submitted += 1;
        self.waiting.push_back(Live::new(id, request));
        id
    }

    /// Takes a request out, and what it held back.
    pub fn remove(&mut self, id: RequestId, pool: &mut Pool) -> Option<Live> {
        if let Some(i) = self.running.iter().position(|live| live.id == id) {
            let mut live = self.running.remove(i);
            pool.unseat(&mut live.sequence);
            return Some(live);
        }
        let i = self.waiting.iter().position(|live| live.id == id)?;
        self.waiting.remove(i)
    }

    /// Lets the first of those that wait run, if there is room. Those that run keep a block each to grow into.
    fn seat(&mut self, seqs: usize, pool: &mut Pool) -> Option<&Live> {
        if self.running.len() == seqs {
            return None;
        }
        let mut live = self.waiting.pop_front()?;
        if !pool.seat(&mut live.sequence, usize::MAX, self.running.len()) {
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
            if pool.grow(&mut self.running[i].sequence) {
                i += 1;
            } else if let Some(mut youngest) = self.running.pop() {
                pool.unseat(&mut youngest.sequence);
                self.preemptions += 1;
                self.waiting.push_front(youngest);
            }
        }
    }
}

impl Engine {
    /// Lets as many requests run as there is room for.
    pub(super) fn seat_waiting(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let Engine { schedule, pool, exec, limits, model, around, .. } = self;
        while let Some(live) = schedule.seat(limits.seqs, pool) {
            if live.max_new_tokens == 0 {
                let (id, done) = (live.id, What::Done(Finish::Length, live.timing()));
                events.push(Event { request: id, what: done });
                schedule.remove(id, pool);
                continue;
            }
            // On the device a penalty asks for the tokens that the prompt or the answer so far contains.
            if live.sampling.repetition_penalty != 1.0 && live.controls.is_plain() {
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
