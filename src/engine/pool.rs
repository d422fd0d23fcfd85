//! What running sequences share: cache blocks, known prefixes, rows of pictures. It seats a sequence with all that its tokens need, or not at all.

use super::BLOCK_SIZE;
use super::pictures::Pictures;
use super::sequence::Sequence;
use crate::error::Result;
use crate::kv::prefix::PrefixCache;
use crate::kv::{BlockAllocator, BlockId, BlockTable};

#[derive(Debug)]
pub(super) struct Pool {
    pub blocks: BlockAllocator,
    pub prefix: PrefixCache,
    pub pictures: Pictures,
    /// What to copy before the next step.
    copies: Vec<Copy>,
}

/// The first tokens of a block that goes into another one. The first is held until then.
#[derive(Debug)]
pub(super) struct Copy {
    pub from: BlockId,
    pub to: BlockId,
    pub tokens: usize,
}

impl Pool {
    pub fn new(blocks: usize, rows: usize) -> Self {
        let blocks = BlockAllocator::new(blocks, BLOCK_SIZE);
        Pool { blocks, prefix: PrefixCache::default(), pictures: Pictures::new(rows), copies: Vec::new() }
    }

    /// Gives a sequence the blocks of all its tokens, as many as possible with what they hold (below token `reuse`, and never the last one), and the rows of
    /// its pictures. False, and nothing has changed but what the caches forgot, if there is no room that leaves `spare` blocks.
    pub fn seat(&mut self, sequence: &mut Sequence, reuse: usize, spare: usize) -> bool {
        let most = reuse.min(sequence.len() - 1) / BLOCK_SIZE;
        let known = self.prefix.find(&sequence.keys()[..most], &mut self.blocks);
        let need = sequence.len().div_ceil(BLOCK_SIZE) - known.len() + spare;
        sequence.computed = known.len() * BLOCK_SIZE;
        sequence.table = BlockTable::beginning_with(known);
        let have = self.blocks.free_blocks() + self.blocks.idle_blocks();
        if have >= need && self.pin(sequence) && self.grow(sequence) {
            return true;
        }
        self.unseat(sequence);
        false
    }

    /// Gives a sequence blocks for all its tokens, and one of its own where it writes next; false if even without known prefixes too few are free.
    pub fn grow(&mut self, sequence: &mut Sequence) -> bool {
        let len = sequence.len();
        self.evicting(|blocks| sequence.table.reserve(len, blocks)).is_some() && self.part(sequence)
    }

    /// Takes blocks, and forgets known prefixes as far as it takes; none if even then too few are free.
    fn evicting<T>(&mut self, mut take: impl FnMut(&mut BlockAllocator) -> Result<T>) -> Option<T> {
        loop {
            match take(&mut self.blocks) {
                Ok(taken) => return Some(taken),
                Err(_) if self.prefix.evict(&mut self.blocks) => {}
                Err(_) => return None,
            }
        }
    }

    /// Lets go of the block that a sequence is about to write into, if others hold it too: what it holds is copied to one of its own. Only forks
    /// share a block that is not full.
    fn part(&mut self, sequence: &mut Sequence) -> bool {
        let (at, tokens) = (sequence.computed / BLOCK_SIZE, sequence.computed % BLOCK_SIZE);
        let Some(&shared) = sequence.table.blocks().get(at) else { return true };
        if self.blocks.references(shared) == 1 || tokens == 0 {
            return true;
        }
        let own = self.evicting(BlockAllocator::take);
        self.copies.extend(own.map(|to| Copy { from: sequence.table.replace(at, to), to, tokens }));
        own.is_some()
    }

    /// What to copy before the next step, which the caller does now.
    pub fn take_copies(&mut self) -> Vec<Copy> {
        self.copies.iter().for_each(|copy| self.blocks.release(copy.from));
        std::mem::take(&mut self.copies)
    }

    /// Pins the pictures of tokens that are not computed.
    fn pin(&mut self, sequence: &mut Sequence) -> bool {
        if self.pin_between(sequence) {
            return true;
        }
        self.unpin(sequence, sequence.len());
        // Rows that are only kept may lie so that a prompt's pictures do not fit between them. If nobody needs any, there is room for all.
        if self.pictures.pinned() > 0 {
            return false;
        }
        self.pictures.clear();
        self.pin_between(sequence)
    }

    fn pin_between(&mut self, sequence: &mut Sequence) -> bool {
        let computed = sequence.computed;
        sequence.media.iter_mut().filter(|m| m.end() > computed).all(|m| {
            m.row = self.pictures.pin(&m.key, &m.patches, m.rows());
            m.row.is_some()
        })
    }

    /// The end of the tokens whose pictures are encoded.
    pub fn ready(&self, sequence: &Sequence) -> usize {
        let waiting = sequence.media.iter().find(|m| m.row.is_some() && !self.pictures.is_ready(&m.key));
        waiting.map_or(sequence.len(), |m| m.start().max(sequence.computed))
    }

    /// Says that the tokens before `end` are computed: full blocks become known, pictures behind are given back.
    pub fn advance(&mut self, sequence: &mut Sequence, end: usize) {
        let full = sequence.computed / BLOCK_SIZE..end / BLOCK_SIZE;
        sequence.computed = end;
        for depth in full {
            let (key, block) = (sequence.keys()[depth], sequence.table.blocks()[depth]);
            self.prefix.publish(key, depth, block, &mut self.blocks);
        }
        self.unpin(sequence, end);
    }

    /// Takes everything back from a sequence, of which nothing is computed then.
    pub fn unseat(&mut self, sequence: &mut Sequence) {
        let full = sequence.computed / BLOCK_SIZE;
        self.prefix.touch(&sequence.keys()[..full], &mut self.blocks);
        for copy in self.copies.extract_if(.., |copy| sequence.table.blocks().contains(&copy.to)) {
            self.blocks.release(copy.from);
        }
        sequence.table.clear(&mut self.blocks);
        sequence.computed = 0;
        self.unpin(sequence, sequence.len());
    }

    /// Gives back the pictures that end at token `end` or before.
    fn unpin(&mut self, sequence: &mut Sequence, end: usize) {
        for m in sequence.media.iter_mut().filter(|m| m.end() <= end) {
            if m.row.take().is_some() {
                self.pictures.unpin(&m.key);
            }
        }
    }

    /// Forgets prefixes and pictures that no sequence holds.
    pub fn clear(&mut self) {
        self.prefix.clear(&mut self.blocks);
        self.pictures.clear();
    }
}
