//! The KV cache's blocks: which are free, who shares them, and what the full ones hold. Host logic only; no tensor is in here.

pub mod prefix;

use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A block of the cache: [`BlockAllocator::block_size`] tokens of every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// When a known block was last used, and how deep in its chain it lies: the deepest is forgotten first, or what is behind it could not be found any
/// more.
pub type Used = (u64, Reverse<usize>);

/// Hands out fixed-size blocks and counts their references.
#[derive(Debug)]
pub struct BlockAllocator {
    block_size: usize,
    /// Most recently freed last: it is warm, so it is used first.
    free: Vec<BlockId>,
    references: Vec<u32>,
    /// Of blocks that the prefix cache knows, and has a reference to.
    known: Vec<Option<Used>>,
    /// Known blocks that nobody else holds.
    idle: BTreeSet<(Used, BlockId)>,
}

impl BlockAllocator {
    /// `blocks` free blocks of `block_size` tokens.
    pub fn new(blocks: usize, block_size: usize) -> Self {
        let free = (0..blocks as u32).rev().map(BlockId).collect();
        BlockAllocator {
            block_size,
            free,
            references: vec![0; blocks],
            known: vec![None; blocks],
            idle: BTreeSet::new(),
        }
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Takes a free block with one reference.
    ///
    /// # Errors
    /// [`Error::Memory`] if none is left.
    pub fn take(&mut self) -> Result<BlockId> {
        let total = self.references.len();
        let block = self.free.pop().ok_or_else(|| Error::Memory {
            what: "one more KV-cache block (counted in tokens)".into(),
            need: ((total + 1) * self.block_size) as u64,
            have: (total * self.block_size) as u64,
            hint: "shorten the prompt, or lower --max-new-tokens or --max-pixels".into(),
        })?;
        self.references[block.0 as usize] = 1;
        Ok(block)
    }

    /// Adds a reference to a held block.
    ///
    /// # Panics
    /// If nobody holds it.
    pub fn share(&mut self, block: BlockId) {
        let count = &mut self.references[block.0 as usize];
        assert!(*count > 0, "block {} is free", block.0);
        *count += 1;
        if let Some(used) = self.known[block.0 as usize] {
            self.idle.remove(&(used, block));
        }
    }

    /// Drops a reference; the last one frees the block.
    ///
    /// # Panics
    /// If nobody holds it.
    pub fn release(&mut self, block: BlockId) {
        let count = &mut self.references[block.0 as usize];
        assert!(*count > 0, "block {} is released twice", block.0);
        *count -= 1;
        match (*count, self.known[block.0 as usize]) {
            (0, _) => self.free.push(block),
            (1, Some(used)) => {
                self.idle.insert((used, block));
            }
            _ => {}
        }
    }

    /// Says when a block was last used that the prefix cache knows, which shared it for that.
    fn know(&mut self, block: BlockId, used: Used) {
        let before = self.known[block.0 as usize].replace(used);
        if before.is_some_and(|before| self.idle.remove(&(before, block))) {
            self.idle.insert((used, block));
        }
    }

    /// Drops the prefix cache's reference to a block that it knows.
    fn forget(&mut self, block: BlockId) {
        if let Some(used) = self.known[block.0 as usize].take() {
            self.idle.remove(&(used, block));
            self.release(block);
        }
    }

    /// Blocks that only the prefix cache holds.
    pub fn idle_blocks(&self) -> usize {
        self.idle.len()
    }

    /// The one of them that was used longest ago.
    fn oldest_idle(&self) -> Option<BlockId> {
        self.idle.first().map(|(_, block)| *block)
    }

    /// How many hold a block.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block.0 as usize]
    }
}

/// One sequence's blocks, in token order.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    /// The blocks.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// A table that begins with blocks whose references the caller hands over.
    pub fn beginning_with(blocks: Vec<BlockId>) -> Self {
        BlockTable { blocks }
    }

    /// Takes blocks until `tokens` fit. On error nothing is lost: what was taken stays in the table.
    ///
    /// # Errors
    /// [`Error::Memory`] if too few are free.
    pub fn reserve(&mut self, tokens: usize, from: &mut BlockAllocator) -> Result<()> {
        while self.blocks.len() * from.block_size() < tokens {
            self.blocks.push(from.take()?);
        }
        Ok(())
    }

    /// Tokens that fit into the blocks.
    pub fn room(&self, block_size: usize) -> usize {
        self.blocks.len() * block_size
    }

    /// The cache slot of a token.
    ///
    /// # Panics
    /// If no block was reserved for it.
    pub fn slot(&self, token: usize, block_size: usize) -> i32 {
        (self.blocks[token / block_size].0 as usize * block_size + token % block_size) as i32
    }

    /// Another table over the same blocks, each with one more reference.
    pub fn fork(&self, within: &mut BlockAllocator) -> BlockTable {
        self.blocks.iter().for_each(|&b| within.share(b));
        BlockTable { blocks: self.blocks.clone() }
    }

    /// Puts another block, with its reference, in the place of one; gives that one, whose reference is the caller's then.
    pub fn replace(&mut self, index: usize, by: BlockId) -> BlockId {
        std::mem::replace(&mut self.blocks[index], by)
    }

    /// Gives all blocks back.
    pub fn clear(&mut self, to: &mut BlockAllocator) {
        self.blocks.drain(..).rev().for_each(|b| to.release(b));
    }
}
