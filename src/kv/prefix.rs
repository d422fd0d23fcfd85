//! The prefix cache: full blocks by what they hold, so that a prompt that begins like an earlier one starts where they part.
//!
//! A key is a SHA-256 over everything that decides the bits of a block: the block before it, its tokens, their positions, and the pixels behind
//! tokens that stand for a picture. So equal keys mean equal blocks, and nobody can make one picture answer for another. The surprise: the chain
//! begins with the adapter, since the same prompt under other weights has other keys and values.

use super::{BlockAllocator, BlockId};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;

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

#[derive(Debug)]
struct Entry {
    block: BlockId,
    /// When it was last used, and how deep in its chain it lies: the deepest goes first, or what is behind it could not be found any more.
    used: (u64, Reverse<usize>),
}

/// Full blocks by key. It holds one reference to each.
#[derive(Debug, Default)]
pub struct PrefixCache {
    entries: HashMap<Key, Entry>,
    clock: u64,
}

impl PrefixCache {
    /// Blocks in the cache.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The blocks of the longest known beginning of a chain, each with one more reference, which is the caller's.
    pub fn find(&mut self, chain: &[Key], within: &mut BlockAllocator) -> Vec<BlockId> {
        let known = chain.iter().map_while(|key| self.entries.get(key).map(|entry| entry.block));
        let blocks: Vec<BlockId> = known.collect();
        blocks.iter().for_each(|&block| within.share(block));
        self.touch(&chain[..blocks.len()]);
        blocks
    }

    /// Adds the block at place `depth` of a chain, unless an equal one is there.
    pub fn publish(&mut self, key: Key, depth: usize, block: BlockId, within: &mut BlockAllocator) {
        let used = (self.clock, Reverse(depth));
        self.entries.entry(key).or_insert_with(|| {
            within.share(block);
            Entry { block, used }
        });
    }

    /// Marks a chain as the last one used.
    pub fn touch(&mut self, chain: &[Key]) {
        self.clock += 1;
        for (depth, key) in chain.iter().enumerate() {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.used = (self.clock, Reverse(depth));
            }
        }
    }

    /// Blocks that nobody but the cache holds.
    pub fn evictable(&self, within: &BlockAllocator) -> usize {
        self.entries.values().filter(|entry| within.references(entry.block) == 1).count()
    }

    /// Frees the block that was used longest ago among those that nobody else holds; false if there is none.
    pub fn evict(&mut self, within: &mut BlockAllocator) -> bool {
        let unused = self.entries.iter().filter(|(_, entry)| within.references(entry.block) == 1);
        let Some(key) = unused.min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key) else { return false };
        self.entries.remove(&key).into_iter().for_each(|entry| within.release(entry.block));
        true
    }

    /// Forgets everything; blocks that others hold stay theirs.
    pub fn clear(&mut self, within: &mut BlockAllocator) {
        self.entries.drain().for_each(|(_, entry)| within.release(entry.block));
    }
}
