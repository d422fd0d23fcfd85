//! One step of many sequences: who has how many rows in it, and what came of them.

use super::Engine;
use super::draw::{Drawn, unusable};
use super::request::{Cancel, Event, What};
use crate::error::Result;
use crate::model::text::{Tail, outputs};
use crate::step::{HostStep, RowSampling};
use crate::tensor::{Place, Region, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

/// Rows of one sequence in a step.
#[derive(Debug)]
struct Part {
    /// Among those that run.
    index: usize,
    /// Its tokens.
    range: Range<usize>,
    /// True if the last one is the sequence's newest token, so that the next is drawn from it.
    draws: bool,
}

impl Engine {
    /// A [`step`](Engine::step), the tower's or the decoder's; if both have work they alternate. One that is cancelled between two ops changes nothing.
    ///
    /// # Errors
    /// As [`step`](Engine::step).
    pub fn turn(&mut self, cancel: &Cancel) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.seat_waiting(&mut events)?;
        self.schedule.grow(&mut self.pool);
        let parts = self.choose();
        let tower = self.pool.pictures.wanted().is_some() && (parts.is_empty() || !self.tower_was_last);
        self.tower_was_last = tower;
        if tower {
            let streams = self.schedule.running.iter().any(|live| live.drawn > 0);
            self.encode_slice(streams, cancel)?;
        } else if !parts.is_empty() {
            self.run_parts(&parts, cancel, &mut events)?;
        }
        Ok(events)
    }

    /// One row of every sequence that needs no more, and beside them prompts, the oldest first, as far as the step has room.
    fn choose(&self) -> Vec<Part> {
        let running = &self.schedule.running;
        let ready = running.iter().map(|live| live.sequence.computed..self.pool.ready(&live.sequence)).enumerate();
        let (decoding, prompts): (Vec<_>, Vec<_>) =
            ready.filter(|(_, range)| !range.is_empty()).partition(|(i, _)| running[*i].sequence.pending() == 1);
        let mut room = self.limits.chunk - decoding.len();
        if !decoding.is_empty() {
            room = room.min(self.pace.rows());
        }
        let cut = |(index, range): (usize, Range<usize>)| {
            let range = range.start..range.end.min(range.start + room);
            room -= range.len();
            (index, range)
        };
        let prompts: Vec<_> = prompts.into_iter().map(cut).collect();
        let part = |(index, range): (usize, Range<usize>)| {
            let draws = range.end == running[index].sequence.len();
            (!range.is_empty()).then_some(Part { index, range, draws })
        };
        decoding.into_iter().chain(prompts).filter_map(part).collect()
    }

    fn run_parts(&mut self, parts: &[Part], cancel: &Cancel, events: &mut Vec<Event>) -> Result<()> {
        let start = Instant::now();
        let step = self.inputs(parts);
        let tail = if parts.iter().any(|p| p.draws) { Tail::Sample } else { Tail::None };
        if !self.run_step(&step, tail, cancel)? {
            return Ok(());
        }
        let drawn = if tail == Tail::Sample { self.drawn(parts, step.layout.shape.samples)? } else { Vec::new() };
        self.exec.wait()?;
        let prompts = parts.iter().map(|p| p.range.len()).filter(|&n| n > 1);
        let (count, prefilling) = prompts.fold((0, 0), |(count, rows), n| (count + 1, rows + n));
        self.pace.note(parts.len() - count, prefilling, start.elapsed());
        self.take(parts, drawn, events);
        Ok(())
    }

    /// The inputs of a step. Steps that decode only have few sizes, since an executor may keep them; others have as many rows as they need.
    fn inputs(&self, parts: &[Part]) -> HostStep {
        let rows: usize = parts.iter().map(|p| p.range.len()).sum();
        let seqs = self.limits.bucket(parts.len());
        let rows = if rows == parts.len() { seqs } else { rows };
        let samples = if parts.iter().any(|p| p.draws) { seqs } else { 1 };
        let mut step = HostStep::new(self.limits.shape(rows, seqs, samples));
        let padding = RowSampling { state_row: self.limits.spare_state(), ..RowSampling::default() };
        (0..samples).for_each(|i| step.set_sampling(i, &padding));
        let (mut row, sample_rows) = (0, step.layout.sample_rows);
        for (i, part) in parts.iter().enumerate() {
            let live = &self.schedule.running[part.index];
            live.sequence.fill(&mut step, row, i, part.range.clone());
            row += part.range.len();
            if part.draws {
                step.i32s_mut(&sample_rows)[i] = row as i32 - 1;
            }
            if part.draws && live.controls.is_plain() {
                step.set_sampling(i, &live.sampling.row(live.state_row as i32, live.drawn as i32));
            }
        }
        step
    }

    /// What each part draws: on the device, or here where its request asks for more than that.
    fn drawn(&mut self, parts: &[Part], samples: usize) -> Result<Vec<Result<Drawn>>> {
        let (ids, logits) = outputs(samples, self.model.config.text.vocab_size);
        let mut there = vec![0i32; ids.elements()];
        self.exec.read(Region::Out, 0, bytemuck::cast_slice_mut(&mut there))?;
        let mut here = self.drawn_here(parts, &logits)?;
        let of = |(part, id): (&Part, i32)| {
            let there = || u32::try_from(id).map(Drawn::plain).map_err(|_| unusable(part.range.end - 1));
            here.remove(&part.index).unwrap_or_else(there)
        };
        Ok(parts.iter().zip(there).map(of).collect())
    }

    /// What the host draws, by place among those that run.
    fn drawn_here(&mut self, parts: &[Part], logits: &Tensor) -> Result<HashMap<usize, Result<Drawn>>> {
        let mut rows = HashMap::new();
        for (i, part) in parts.iter().enumerate() {
            if part.draws && !self.schedule.running[part.index].controls.is_plain() {
                let mut row = vec![0.0; logits.cols()];
                let Place::At { region, offset } = logits.row_range(i, 1).place else {
                    unreachable!("outputs are fixed")
                };
                self.exec.read(region, offset, bytemuck::cast_slice_mut(&mut row))?;
                rows.insert(part.index, row);
            }
        }
        if rows.is_empty() {
            return Ok(HashMap::new());
        }
        let draws = self.schedule.running.par_iter_mut().enumerate();
        Ok(draws.filter_map(|(index, live)| Some((index, live.draw(rows.get(&index)?)))).collect())
    }

    /// Notes what a step computed and drew; `drawn` is empty or says of every part what came of it, if it draws.
    fn take(&mut self, parts: &[Part], drawn: Vec<Result<Drawn>>, events: &mut Vec<Event>) {
        let mut ended = Vec::new();
        for part in parts {
            self.pool.advance(&mut self.schedule.running[part.index].sequence, part.range.end);
        }
        for (part, drawn) in parts.iter().zip(drawn).filter(|(part, _)| part.draws) {
            let live = &mut self.schedule.running[part.index];
            let request = live.id;
            match drawn {
                Ok(Drawn { id, logprobs }) => {
                    let finish = live.push(id);
                    events.push(Event { request, what: What::Token { id, logprobs } });
                    ended.extend(finish.map(|finish| (request, What::Done(finish, live.timing()))));
                }
                Err(error) => ended.push((request, What::Failed(error))),
            }
        }
        for (request, what) in ended {
            self.schedule.remove(request, &mut self.pool);
            events.push(Event { request, what });
        }
    }
}
