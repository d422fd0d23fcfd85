//! The prefix cache: full blocks by what they hold, so that a prompt that begins like an earlier one starts where they part.
//!
//! A key is a SHA-256 over everything that decides the bits of a block: the block before it, its tokens, their positions, and the pixels behind
//! tokens that stand for a picture. So equal keys mean equal blocks, and nobody can make one picture answer for another. The surprise: the chain
//! begins with the adapter, since the same prompt under other weights has other keys and values.

use super::{BlockAllocator, BlockId};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;

/// A content hash.
pub type Key = [u8; 32];

/// Where the chain of a model without an adapter begins.
pub const NO_ADAPTER: Key = [0; 32];

/// The part of a picture or video that lies in a block.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The hash of the pixels and their grid.
    pub pixels: &'a Key,
    /// The first token of the block that belongs to it.
    pub at: usize,
    /// How many tokens of it lie in blocks before.
    pub before: usize,
    /// Its tokens in the block.
    pub len: usize,
}

/// The key of a block of tokens at positions (t, h, w) behind the block of key `parent`.
pub fn block_key<'a>(
    parent: &Key,
    tokens: &[u32],
    positions: [&[i32]; 3],
    parts: impl Iterator<Item = Part<'a>>,
) -> Key {
    let mut hash = Sha256::new().chain_update(parent).chain_update((tokens.len() as u64).to_le_bytes());
    hash.update(bytemuck::cast_slice(tokens));
    positions.iter().for_each(|axis| hash.update(bytemuck::cast_slice(axis)));
    for Part { pixels, at, before, len } in parts {
        [at, before, len].iter().for_each(|&n| hash.update((n as u64).to_le_bytes()));
        hash.update(pixels);
    }
    hash.finalize().into()
}

/// The key of what an encoder reads: pixels after preprocessing, and their grid.
pub fn pixels_key(pixels: &[f32], grid: [usize; 3]) -> Key {
    let mut hash = Sha256::new();
    grid.iter().for_each(|&n| hash.update((n as u64).to_le_bytes()));
    hash.chain_update(bytemuck::cast_slice(pixels)).finalize().into()
}

/// Full blocks by key. It holds one reference to each.
#[derive(Debug, Default)]
pub struct PrefixCache {
    blocks: HashMap<Key, BlockId>,
    keys: HashMap<BlockId, Key>,
    clock: u64,
}

impl PrefixCache {
    /// Blocks in the cache.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// True if nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks of the longest known beginning of a chain, each with one more reference, which is the caller's.
    pub fn find(&mut self, chain: &[Key], within: &mut BlockAllocator) -> Vec<BlockId> {
        let blocks: Vec<BlockId> = chain.iter().map_while(|key| self.blocks.get(key).copied()).collect();
        blocks.iter().for_each(|&block| within.share(block));
        self.touch(&chain[..blocks.len()], within);
        blocks
    }

    /// Adds the block at place `depth` of a chain, unless an equal one is there.
    pub fn publish(&mut self, key: Key, depth: usize, block: BlockId, within: &mut BlockAllocator) {
        if let Vacant(place) = self.blocks.entry(key) {
            place.insert(block);
            self.keys.insert(block, key);
            within.share(block);
            within.know(block, (self.clock, Reverse(depth)));
        }
    }

    /// Marks a chain as the last one used.
    pub fn touch(&mut self, chain: &[Key], within: &mut BlockAllocator) {
        self.clock += 1;
        for (depth, key) in chain.iter().enumerate() {
            if let Some(&block) = self.blocks.get(key) {
                within.know(block, (self.clock, Reverse(depth)));
            }
        }
    }

    /// Frees the block that was used longest ago among those that nobody else holds; false if there is none.
    pub fn evict(&mut self, within: &mut BlockAllocator) -> bool {
        let Some(block) = within.oldest_idle() else { return false };
        if let Some(key) = self.keys.remove(&block) {
            self.blocks.remove(&key);
        }
        within.forget(block);
        true
    }

    /// Forgets everything; blocks that others hold stay theirs.
    pub fn clear(&mut self, within: &mut BlockAllocator) {
        self.keys.clear();
        self.blocks.drain().for_each(|(_, block)| within.forget(block));
    }
}
