//! One step of many sequences: who has how many rows in it, and what came of them.

use super::draw::{Drawn, unusable};
use super::request::{Cancel, Event, RequestId, What};
use super::schedule::Live;
use super::{BLOCK_SIZE, Engine};
use crate::dtype::DType;
use crate::error::Result;
use crate::model::text::{Tail, outputs};
use crate::ops::kv_copy::KvCopy;
use crate::plan::Recorder;
use crate::step::{HostStep, RowSampling};
use crate::tensor::{Place, Region, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at what other threads are about, where there is nothing else to do.
const GLANCE: Duration = Duration::from_micros(100);

/// Rows of one sequence in a step.
#[derive(Debug)]
struct Part {
    /// Among those that run.
    index: usize,
    /// Its tokens; none if it follows.
    range: Range<usize>,
    /// If it follows, who computes its prompt, in whose last row both draw.
    leader: Option<usize>,
    /// Tokens behind its newest one that are tried ahead of their turn.
    drafts: Vec<u32>,
    /// Rows that tokens are drawn from: none, or its last ones, from the newest token's on.
    draws: usize,
}

impl Part {
    fn rows(&self) -> usize {
        self.range.len() + self.drafts.len()
    }

    /// True if it has a prompt's tokens.
    fn prefills(&self) -> bool {
        self.range.len() > 1
    }
}

impl Engine {
    /// A [`step`](Engine::step), the tower's or the decoder's; if both have work they alternate. One that is cancelled between two ops changes nothing.
    ///
    /// # Errors
    /// As [`step`](Engine::step).
    pub fn turn(&mut self, cancel: &Cancel) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.seat_waiting(&mut events)?;
        self.draw_kept(&mut events);
        self.schedule.grow(&mut self.pool);
        self.copy_blocks()?;
        let parts = self.choose();
        let tower = self.pool.pictures.wanted().is_some() && (parts.is_empty() || !self.tower_was_last);
        self.tower_was_last = tower;
        if tower {
            let streams = self.schedule.running.iter().filter(|live| live.drawn > 0).count();
            let prompts = parts.iter().any(Part::prefills);
            self.encode_slice((streams > 0).then(|| self.pace.slice(streams, prompts).unwrap_or_default()), cancel)?;
        } else if !parts.is_empty() {
            self.run_parts(&parts, cancel, &mut events)?;
        } else if events.is_empty() && !self.is_idle() {
            // All that run wait for other threads to say what may come next.
            std::thread::sleep(GLANCE);
        }
        Ok(events)
    }

    /// One row of every sequence that needs no more, with what may follow it, and beside them prompts, the most important and the oldest first, as far
    /// as the step has room.
    fn choose(&self) -> Vec<Part> {
        let running = &self.schedule.running;
        let ready = running.iter().map(|live| live.sequence.computed..self.pool.ready(&live.sequence)).enumerate();
        let ready = ready.filter(|(i, range)| !range.is_empty() && !running[*i].follows);
        let (decoding, mut prompts): (Vec<_>, Vec<_>) = ready.partition(|(i, _)| running[*i].sequence.pending() == 1);
        prompts.sort_by_key(|(i, _)| running[*i].priority);
        let mut room = self.limits.chunk - decoding.len();
        let mut parts: Vec<Part> = Vec::new();
        for (index, range) in decoding {
            let live = &running[index];
            let most = self.limits.drafts.min(room).min(live.sequence.table.room(BLOCK_SIZE) - live.sequence.len());
            let drafts = live.drafts(most).to_vec();
            room -= drafts.len();
            parts.push(Part { index, range, leader: None, draws: 1 + drafts.len(), drafts });
        }
        if !parts.is_empty() {
            room = room.min(self.pace.rows(parts.len()));
        }
        let waiting = prompts.len();
        for (place, (index, range)) in prompts.into_iter().enumerate() {
            // Nobody behind a long prompt waits for its end.
            let most = if place + 1 < waiting { room - room / 4 } else { room };
            let range = range.start..range.end.min(range.start + most);
            room -= range.len();
            let draws = usize::from(range.end == running[index].sequence.len());
            parts.extend((!range.is_empty()).then_some(Part { index, range, leader: None, draws, drafts: Vec::new() }));
        }
        parts.extend(self.followers(&parts));
        parts
    }

    /// The answers that draw from the rows of others in `parts`.
    fn followers(&self, parts: &[Part]) -> Vec<Part> {
        let running = &self.schedule.running;
        let follows = |(index, live): (usize, &Live)| {
            let leads = |part: &&Part| {
                let other = &running[part.index];
                other.id == live.id && other.drawn == 0 && part.draws > 0
            };
            let leader = live.follows.then(|| parts.iter().find(leads)).flatten()?;
            let range = leader.range.end..leader.range.end;
            Some(Part { index, range, leader: Some(leader.index), draws: 1, drafts: Vec::new() })
        };
        running.iter().enumerate().filter_map(follows).collect()
    }

    fn run_parts(&mut self, parts: &[Part], cancel: &Cancel, events: &mut Vec<Event>) -> Result<()> {
        let start = Instant::now();
        let lengths: Vec<usize> = parts.iter().map(|p| self.schedule.running[p.index].sequence.len()).collect();
        parts.iter().for_each(|p| self.schedule.running[p.index].sequence.push_all(&p.drafts));
        let drawn = self.drawn_in_step(parts, cancel);
        parts.iter().zip(lengths).for_each(|(p, len)| self.schedule.running[p.index].sequence.truncate(len));
        let Some(drawn) = drawn? else { return Ok(()) };
        self.take(parts, &drawn, events);
        self.draw_kept(events);
        let prefilling: usize = parts.iter().filter(|p| p.prefills()).map(Part::rows).sum();
        let decoding = parts.iter().filter(|p| !p.prefills()).count();
        self.pace.note(decoding, prefilling, start.elapsed());
        Ok(())
    }

    /// Runs a step; gives what its rows draw on the device, if it was not cancelled.
    fn drawn_in_step(&mut self, parts: &[Part], cancel: &Cancel) -> Result<Option<Vec<i32>>> {
        let step = self.inputs(parts);
        let tail = if parts.iter().any(|p| p.draws > 0) { Tail::Sample } else { Tail::None };
        if !self.run_step(&step, tail, cancel)? {
            return Ok(None);
        }
        let drawn = if tail == Tail::Sample { self.drawn(parts, step.layout.shape.samples)? } else { Vec::new() };
        self.exec.wait()?;
        Ok(Some(drawn))
    }

    /// The inputs of a step. Steps that decode only have few sizes, some for each number of tokens tried ahead, since an executor may keep them; others
    /// have as many rows as they need.
    fn inputs(&self, parts: &[Part]) -> HostStep {
        let rows: usize = parts.iter().map(Part::rows).sum();
        let seqs = self.limits.bucket(parts.len());
        let prefills = parts.iter().any(Part::prefills);
        let rows = if prefills { rows } else { self.limits.rows(rows, seqs) };
        let samples = self.limits.samples_of(parts.iter().map(|p| p.draws).sum());
        let mut step = HostStep::new(self.limits.shape(rows, seqs, samples));
        let padding = RowSampling { state_row: self.limits.spare_state(), ..RowSampling::default() };
        (0..samples).for_each(|i| step.set_sampling(i, &padding));
        let (mut row, mut sample, sample_rows) = (0, 0, step.layout.sample_rows);
        // Of each part, for those that follow.
        let mut last_rows = HashMap::new();
        for (i, part) in parts.iter().enumerate() {
            let live = &self.schedule.running[part.index];
            live.sequence.fill(&mut step, row, i, part.range.start..part.range.end + part.drafts.len());
            row += part.rows();
            let last = part.leader.map_or(row - 1, |leader| last_rows[&leader]);
            last_rows.insert(part.index, last);
            for draw in 0..part.draws {
                step.i32s_mut(&sample_rows)[sample] = (last + 1 + draw - part.draws) as i32;
                if live.is_plain() {
                    let counter = (live.drawn + draw) as i32;
                    step.set_sampling(sample, &live.sampling.row(live.state_row as i32, counter));
                }
                sample += 1;
            }
        }
        step
    }

    /// What each row draws on the device, part by part. The logits of those that ask for more than it can do are kept.
    fn drawn(&mut self, parts: &[Part], samples: usize) -> Result<Vec<i32>> {
        let (ids, logits) = outputs(samples, self.model.config.text.vocab_size);
        let mut drawn = vec![0i32; ids.elements()];
        self.exec.read(Region::Out, 0, bytemuck::cast_slice_mut(&mut drawn))?;
        let mut sample = 0;
        for part in parts {
            let live = &mut self.schedule.running[part.index];
            if part.draws > 0 && !live.is_plain() {
                let mut row = vec![0.0; logits.cols()];
                let Place::At { region, offset } = logits.row_range(sample, 1).place else {
                    unreachable!("outputs are fixed")
                };
                self.exec.read(region, offset, bytemuck::cast_slice_mut(&mut row))?;
                live.kept = Some(row);
            }
            sample += part.draws;
        }
        Ok(drawn)
    }

    /// Notes what a step computed and the device drew: `drawn` has the tokens of all rows that draw, part by part.
    fn take(&mut self, parts: &[Part], drawn: &[i32], events: &mut Vec<Event>) {
        let mut drawn = drawn.iter();
        let mut ended = Vec::new();
        for part in parts {
            if let Some(leader) = part.leader {
                self.follow(part.index, leader);
            }
            self.pool.advance(&mut self.schedule.running[part.index].sequence, part.range.end);
            let live = &mut self.schedule.running[part.index];
            live.timing.drafts += usize::from(!part.drafts.is_empty());
            live.timing.drafted += part.drafts.len();
            let draws = drawn.by_ref().take(part.draws).enumerate();
            if !live.is_plain() {
                draws.for_each(drop);
                continue;
            }
            for (i, &id) in draws.collect::<Vec<_>>() {
                let end = part.range.end + i;
                let id = u32::try_from(id).map(Drawn::plain).map_err(|_| unusable(end - 1));
                let draft = id.as_ref().is_ok_and(|drawn| part.drafts.get(i) == Some(&drawn.id));
                if let Some(what) = live.give(id, events) {
                    ended.push((live.id, live.choice, what));
                    break;
                }
                // What was drawn behind a wrong token means nothing.
                if !draft {
                    break;
                }
                live.timing.accepted += 1;
                self.pool.advance(&mut live.sequence, end + 1);
            }
        }
        self.end(ended, events);
    }

    /// Draws from the logits that are kept, as far as it is known what may be drawn.
    fn draw_kept(&mut self, events: &mut Vec<Event>) {
        let Engine { schedule, guides, .. } = self;
        if schedule.running.iter().all(|live| live.kept.is_none()) {
            return;
        }
        let draws = schedule.running.par_iter_mut().filter_map(|live| Some((live.draw_kept()?, live)));
        let draws: Vec<_> = draws.collect();
        let mut ended = Vec::new();
        for (drawn, live) in draws {
            let id = drawn.as_ref().map(|drawn| drawn.id).ok();
            match (live.give(drawn, events), id, live.guide.take()) {
                (Some(what), ..) => ended.push((live.id, live.choice, what)),
                (None, Some(id), Some(guide)) => live.guide = Some(guide.behind(id, guides)),
                _ => {}
            }
        }
        self.end(ended, events);
    }

    /// Says how answers ended, and takes back what they held.
    fn end(&mut self, ended: Vec<(RequestId, usize, What)>, events: &mut Vec<Event>) {
        for (request, choice, what) in ended {
            self.schedule.remove(request, choice, &mut self.pool);
            events.push(Event { request, choice, what });
        }
    }

    /// Gives an answer the blocks of the prompt that another one of its request has computed.
    fn follow(&mut self, index: usize, leader: usize) {
        let running = &mut self.schedule.running;
        let table = running[leader].sequence.table.fork(&mut self.pool.blocks);
        let live = &mut running[index];
        (live.sequence.table, live.sequence.computed, live.follows) = (table, live.sequence.len(), false);
    }

    /// Copies the blocks that sequences part with.
    fn copy_blocks(&mut self) -> Result<()> {
        let copies = self.pool.take_copies();
        if copies.is_empty() {
            return Ok(());
        }
        let words: Vec<i32> = copies.iter().flat_map(|c| [c.from.0 as i32, c.to.0 as i32, c.tokens as i32]).collect();
        let at = Tensor::at(Region::Step, 0, DType::I32, &[copies.len(), 3]);
        let mut plan = Recorder::new("kv_copy", Region::Arena, &self.model.weights);
        let heads = self.model.config.text.num_key_value_heads;
        for (cache, words) in self.around.kv.words() {
            plan.push(KvCopy { cache, heads, tokens: BLOCK_SIZE, words, copies: at })?;
        }
        let plan = plan.finish()?;
        self.exec.write(Region::Step, 0, bytemuck::cast_slice(&words))?;
        let ops = plan.ops().len();
        let id = self.exec.load(Arc::new(plan))?;
        self.exec.run(id, 0..ops)?;
        self.exec.wait()?;
        self.exec.unload(id);
        Ok(())
    }
}
