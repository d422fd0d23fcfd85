//! One conversation's tokens: ids, positions, image rows, cache blocks, and how much of it is in the cache.

use super::request::Request;
use crate::error::Result;
use crate::kv::{BlockAllocator, BlockTable};
use crate::media::patches::Patches;
use crate::step::HostStep;
use crate::text::prompt::MediaSpan;
use std::ops::Range;
use std::sync::Arc;

/// Tokens in order; those before `computed` are in the KV cache.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    ids: Vec<u32>,
    thw: [Vec<i32>; 3],
    /// Row of the `Embeds` region, or -1.
    embed_rows: Vec<i32>,
    media: Vec<(MediaSpan, Arc<Patches>)>,
    table: BlockTable,
    computed: usize,
    next_position: i32,
}

impl Sequence {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn computed(&self) -> usize {
        self.computed
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Takes a new prompt; what it shares with the old tokens stays in the cache. At least one token is left to compute.
    pub fn restart(&mut self, request: &Request) {
        self.computed = self.shared_prefix(request).min(request.prompt.ids.len().saturating_sub(1));
        self.ids.clone_from(&request.prompt.ids);
        self.thw.clone_from(&request.positions.thw);
        self.next_position = request.positions.next;
        self.media = request.prompt.spans.iter().copied().zip(request.media.iter().cloned()).collect();
        self.embed_rows = vec![-1; self.ids.len()];
        let mut row = 0;
        for (span, _) in &self.media {
            self.embed_rows[span.start..span.start + span.len].iter_mut().for_each(|r| {
                *r = row;
                row += 1;
            });
        }
    }

    /// Tokens at the front that are the same: equal ids, and media with equal pixels.
    fn shared_prefix(&self, request: &Request) -> usize {
        let old = &self.ids[..self.computed];
        let same = old.iter().zip(&request.prompt.ids).take_while(|(a, b)| a == b).count();
        let spans = request.prompt.spans.iter().zip(&request.media);
        let other = spans.enumerate().find(|&(i, (span, patches))| {
            let known = self.media.get(i);
            !known.is_some_and(|(s, p)| s.start == span.start && s.grid_thw == span.grid_thw && **p == **patches)
        });
        let dropped = self.media.get(request.prompt.spans.len()).map(|(span, _)| span.start);
        let changed = other.map(|(_, (span, _))| span.start);
        same.min(dropped.unwrap_or(same)).min(changed.unwrap_or(same))
    }

    /// Media with a token that is not yet computed, with the first `Embeds` row of each.
    pub fn pending_media(&self) -> Vec<(usize, Arc<Patches>)> {
        let pending = self.media.iter().filter(|(span, _)| span.start + span.len > self.computed);
        pending.map(|(span, patches)| (self.embed_rows[span.start] as usize, patches.clone())).collect()
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.thw.iter_mut().for_each(|axis| axis.push(self.next_position));
        self.next_position += 1;
        self.embed_rows.push(-1);
    }

    /// Takes the blocks that all tokens need.
    pub fn reserve(&mut self, blocks: &mut BlockAllocator) -> Result<()> {
        self.table.reserve(self.ids.len(), blocks)
    }

    /// Says that the cache now holds the tokens before `end`.
    pub fn advance(&mut self, end: usize) {
        self.computed = end;
    }

    /// Writes tokens `range` as rows of a step with one sequence.
    pub fn fill(&self, step: &mut HostStep, range: Range<usize>, block_size: usize) {
        let l = step.layout;
        let rows = l.shape.rows;
        for (row, token) in range.enumerate() {
            step.i32s_mut(&l.ids)[row] = self.ids[token] as i32;
            step.i32s_mut(&l.embed_rows)[row] = self.embed_rows[token];
            for (axis, positions) in self.thw.iter().enumerate() {
                step.i32s_mut(&l.positions)[axis * rows + row] = positions[token];
            }
            step.i32s_mut(&l.slots)[row] = self.table.slot(token, block_size);
            step.i32s_mut(&l.visible)[row] = token as i32 + 1;
        }
        for (entry, block) in step.i32s_mut(&l.block_tables).iter_mut().zip(self.table.blocks()) {
            *entry = block.0 as i32;
        }
    }
}
