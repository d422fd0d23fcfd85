//! One sequence's tokens: ids, positions, pictures, cache blocks, and how much of it is in the cache.
//!
//! It knows neither its request nor the others. It fills rows of a step.

use super::BLOCK_SIZE;
use super::request::Request;
use crate::kv::BlockTable;
use crate::kv::prefix::{Key, NO_ADAPTER, Part, block_key};
use crate::media::patches::Patches;
use crate::step::HostStep;
use crate::text::prompt::MediaSpan;
use std::ops::Range;
use std::sync::Arc;

/// A picture or video of the prompt.
#[derive(Debug)]
pub(super) struct Medium {
    span: MediaSpan,
    pub patches: Arc<Patches>,
    pub key: Key,
    /// The first of its rows in the `Embeds` region, while it holds them.
    pub row: Option<usize>,
}

impl Medium {
    pub fn start(&self) -> usize {
        self.span.start
    }

    pub fn end(&self) -> usize {
        self.span.start + self.span.len
    }

    pub fn rows(&self) -> usize {
        self.span.len
    }
}

/// Tokens in order; those before `computed` are in the KV cache.
#[derive(Debug)]
pub(super) struct Sequence {
    ids: Vec<u32>,
    thw: [Vec<i32>; 3],
    next_position: i32,
    pub media: Vec<Medium>,
    pub table: BlockTable,
    pub computed: usize,
    /// Of the full blocks, as far as they were asked for.
    keys: Vec<Key>,
}

impl Sequence {
    /// A prompt of which nothing is computed.
    pub fn new(request: &Request) -> Self {
        let media = request.prompt.spans.iter().zip(&request.media).map(|(&span, picture)| Medium {
            span,
            patches: picture.patches.clone(),
            key: picture.key,
            row: None,
        });
        Sequence {
            ids: request.prompt.ids.clone(),
            thw: request.positions.thw.clone(),
            next_position: request.positions.next,
            media: media.collect(),
            table: BlockTable::default(),
            computed: 0,
            keys: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The tokens that are not yet in the cache.
    pub fn pending(&self) -> usize {
        self.len() - self.computed
    }

    /// At most `most` tokens that followed where the sequence last went on as it does now: the longest end of three tokens or two that came before.
    /// Prompt lookup decoding (Saxena 2023).
    pub fn continuation(&self, most: usize) -> &[u32] {
        let len = self.ids.len();
        let found = [3, 2].into_iter().filter(|n| len > *n).find_map(|n| {
            let (end, before) = (&self.ids[len - n..], &self.ids[..len - 1]);
            before.windows(n).rposition(|ids| ids == end).map(|at| at + n)
        });
        found.map_or(&[], |at| &self.ids[at..len.min(at + most)])
    }

    /// The keys of all full blocks, those of generated tokens too.
    pub fn keys(&mut self) -> &[Key] {
        for block in self.keys.len()..self.len() / BLOCK_SIZE {
            let range = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
            let parts = self.media.iter().filter_map(|m| {
                let (start, end) = (m.start().max(range.start), m.end().min(range.end));
                let part =
                    || Part { pixels: &m.key, at: start - range.start, before: start - m.start(), len: end - start };
                (start < end).then(part)
            });
            let parent = self.keys.last().unwrap_or(&NO_ADAPTER);
            let positions = [0, 1, 2].map(|axis| &self.thw[axis][range.clone()]);
            let key = block_key(parent, &self.ids[range.clone()], positions, parts);
            self.keys.push(key);
        }
        &self.keys
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.thw.iter_mut().for_each(|axis| axis.push(self.next_position));
        self.next_position += 1;
    }

    /// Appends tokens that may be wrong.
    pub fn push_all(&mut self, ids: &[u32]) {
        ids.iter().for_each(|&id| self.push(id));
    }

    /// Takes generated tokens back until `len` are left. None of them may be counted as computed.
    pub fn truncate(&mut self, len: usize) {
        self.next_position -= (self.ids.len() - len) as i32;
        self.ids.truncate(len);
        self.thw.iter_mut().for_each(|axis| axis.truncate(len));
    }

    /// Writes tokens `range` into rows from `row` on, and the table as that of sequence `seq` of a step.
    pub fn fill(&self, step: &mut HostStep, row: usize, seq: usize, range: Range<usize>) {
        let l = step.layout;
        for (row, token) in (row..).zip(range.clone()) {
            step.i32s_mut(&l.ids)[row] = self.ids[token] as i32;
            for (axis, positions) in self.thw.iter().enumerate() {
                step.i32s_mut(&l.positions)[axis * l.shape.rows + row] = positions[token];
            }
            step.i32s_mut(&l.slots)[row] = self.table.slot(token, BLOCK_SIZE);
            step.i32s_mut(&l.seq_of_row)[row] = seq as i32;
            step.i32s_mut(&l.visible)[row] = token as i32 + 1;
        }
        for medium in &self.media {
            let Some(first) = medium.row else { continue };
            for token in medium.start().max(range.start)..medium.end().min(range.end) {
                step.i32s_mut(&l.embed_rows)[row + token - range.start] = (first + token - medium.start()) as i32;
            }
        }
        let table = &mut step.i32s_mut(&l.block_tables)[seq * l.shape.blocks..][..l.shape.blocks];
        table.iter_mut().zip(self.table.blocks()).for_each(|(entry, block)| *entry = block.0 as i32);
    }
}
