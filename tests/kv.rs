//! The block allocator and the prefix cache under random operations: no block is lost, given twice, or freed while held, and a known prefix is the one that
//! was published.

use osprey::kv::prefix::{Key, NO_ADAPTER, Part, PrefixCache, block_key, pixels_key};
use osprey::kv::{BlockAllocator, BlockId, BlockTable};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::HashMap;

#[derive(Debug, Clone)]
enum Step {
    Reserve { table: usize, tokens: usize },
    Fork { table: usize },
    Clear { table: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6usize, 0..40usize).prop_map(|(table, tokens)| Step::Reserve { table, tokens }),
        (0..6usize).prop_map(|table| Step::Fork { table }),
        (0..6usize).prop_map(|table| Step::Clear { table }),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #[test]
    fn every_block_is_either_free_or_counted(steps in steps(), blocks in 1..20usize) {
        let mut allocator = BlockAllocator::new(blocks, 4);
        let mut tables: Vec<BlockTable> = (0..3).map(|_| BlockTable::default()).collect();
        for step in steps {
            match step {
                Step::Reserve { table, tokens } => {
                    let i = table % tables.len();
                    let fits = tables[i].reserve(tokens, &mut allocator).is_ok();
                    prop_assert!(!fits || tables[i].blocks().len() * 4 >= tokens);
                    prop_assert!(fits || allocator.free_blocks() == 0);
                }
                Step::Fork { table } => {
                    let fork = tables[table % tables.len()].fork(&mut allocator);
                    tables.push(fork);
                }
                Step::Clear { table } => {
                    let i = table % tables.len();
                    tables[i].clear(&mut allocator);
                }
            }
            let mut holders: HashMap<_, u32> = HashMap::new();
            tables.iter().flat_map(|t| t.blocks()).for_each(|&b| *holders.entry(b).or_default() += 1);
            prop_assert_eq!(holders.len() + allocator.free_blocks(), blocks);
            for (block, count) in holders {
                prop_assert_eq!(allocator.references(block), count);
            }
        }
    }
}

#[test]
fn slots_follow_the_blocks() {
    let mut allocator = BlockAllocator::new(4, 8);
    let mut other = BlockTable::default();
    other.reserve(3, &mut allocator).unwrap();
    let mut table = BlockTable::default();
    table.reserve(17, &mut allocator).unwrap();
    let slots: Vec<i32> = [0, 7, 8, 16].iter().map(|&t| table.slot(t, 8)).collect();
    assert_eq!(slots, [8, 15, 16, 24]);
}

#[test]
fn a_full_cache_says_what_to_do() {
    let mut allocator = BlockAllocator::new(2, 8);
    let error = BlockTable::default().reserve(17, &mut allocator).unwrap_err().to_string();
    assert!(error.contains("24") && error.contains("16") && error.contains("--max-new-tokens"), "{error}");
}

/// The prefix cache as it would be if it looked at every entry each time.
#[derive(Default)]
struct Scanning {
    entries: HashMap<Key, (BlockId, (u64, Reverse<usize>))>,
    clock: u64,
}

impl Scanning {
    fn publish(&mut self, key: Key, depth: usize, block: BlockId) {
        self.entries.entry(key).or_insert((block, (self.clock, Reverse(depth))));
    }

    fn touch(&mut self, chain: &[Key]) {
        self.clock += 1;
        for (depth, key) in chain.iter().enumerate() {
            self.entries.entry(*key).and_modify(|(_, used)| *used = (self.clock, Reverse(depth)));
        }
    }

    /// Those that nobody else holds, what is forgotten first before others.
    fn idle(&self, within: &BlockAllocator) -> Vec<BlockId> {
        let idle = self.entries.values().filter(|(block, _)| within.references(*block) == 1);
        let mut idle: Vec<_> = idle.map(|&(block, used)| (used, block)).collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, block)| block).collect()
    }
}

#[derive(Debug, Clone)]
enum Use {
    /// A sequence of a family, with so many blocks: it takes what is known of it, and publishes the rest.
    Begin {
        family: u8,
        blocks: usize,
    },
    End {
        sequence: usize,
    },
    /// Another table over the same blocks, as for one more answer.
    Fork {
        sequence: usize,
    },
    Evict,
    Clear,
}

fn uses() -> impl Strategy<Value = Vec<Use>> {
    let step = prop_oneof![
        4 => (0..4u8, 0..6usize).prop_map(|(family, blocks)| Use::Begin { family, blocks }),
        3 => (0..6usize).prop_map(|sequence| Use::End { sequence }),
        1 => (0..6usize).prop_map(|sequence| Use::Fork { sequence }),
        2 => Just(Use::Evict),
        1 => Just(Use::Clear),
    ];
    prop::collection::vec(step, 1..60)
}

/// Keys of a family's blocks.
fn chain(family: u8, blocks: usize) -> Vec<Key> {
    let key = |parent: &mut Key, i: usize| {
        *parent = block_key(parent, &[u32::from(family), i as u32], [&[0, 1]; 3], std::iter::empty());
        Some(*parent)
    };
    (0..blocks).scan(NO_ADAPTER, key).collect()
}

proptest! {
    #[test]
    fn the_prefix_cache_shares_what_it_knows_and_loses_nothing(uses in uses(), total in 1..16usize) {
        let (mut allocator, mut cache) = (BlockAllocator::new(total, 2), PrefixCache::default());
        let mut model = Scanning::default();
        let mut sequences: Vec<(Vec<Key>, BlockTable)> = Vec::new();
        let mut content: HashMap<BlockId, Key> = HashMap::new();
        for step in uses {
            match step {
                Use::Begin { family, blocks } => {
                    let keys = chain(family, blocks);
                    let known = cache.find(&keys, &mut allocator);
                    model.touch(&keys[..known.len()]);
                    for (block, key) in known.iter().zip(&keys) {
                        prop_assert_eq!(&content[block], key);
                    }
                    let mut table = BlockTable::beginning_with(known.clone());
                    if table.reserve(2 * blocks, &mut allocator).is_err() {
                        table.clear(&mut allocator);
                        continue;
                    }
                    for (depth, &key) in keys.iter().enumerate().skip(known.len()) {
                        content.insert(table.blocks()[depth], key);
                        cache.publish(key, depth, table.blocks()[depth], &mut allocator);
                        model.publish(key, depth, table.blocks()[depth]);
                    }
                    model.touch(&keys);
                    let mut again = BlockTable::beginning_with(cache.find(&keys, &mut allocator));
                    prop_assert_eq!(again.blocks(), table.blocks());
                    again.clear(&mut allocator);
                    sequences.push((keys, table));
                }
                Use::End { sequence } if sequence < sequences.len() => {
                    let (keys, mut table) = sequences.swap_remove(sequence);
                    cache.touch(&keys, &mut allocator);
                    model.touch(&keys);
                    table.clear(&mut allocator);
                }
                Use::Fork { sequence } if sequence < sequences.len() => {
                    let (keys, table) = &sequences[sequence];
                    let fork = (keys.clone(), table.fork(&mut allocator));
                    sequences.push(fork);
                }
                Use::End { .. } | Use::Fork { .. } => {}
                Use::Evict => {
                    let (free, first) = (allocator.free_blocks(), model.idle(&allocator).first().copied());
                    prop_assert_eq!(cache.evict(&mut allocator), first.is_some());
                    prop_assert_eq!(allocator.free_blocks(), free + usize::from(first.is_some()));
                    prop_assert!(first.is_none_or(|block| allocator.references(block) == 0));
                    model.entries.retain(|_, (block, _)| Some(*block) != first);
                }
                Use::Clear => {
                    cache.clear(&mut allocator);
                    model.entries.clear();
                }
            }
            prop_assert_eq!((cache.len(), allocator.idle_blocks()), (model.entries.len(), model.idle(&allocator).len()));
            // What a chain has behind a hole can never be found: the deepest is forgotten first.
            let reachable: usize = (0..4).map(|family| {
                let keys = chain(family, 6);
                let mut found = BlockTable::beginning_with(cache.find(&keys, &mut allocator));
                let n = found.blocks().len();
                model.touch(&keys[..n]);
                found.clear(&mut allocator);
                n
            }).sum();
            prop_assert_eq!(reachable, cache.len());
        }
        sequences.iter_mut().for_each(|(_, table)| table.clear(&mut allocator));
        prop_assert_eq!(allocator.free_blocks() + cache.len(), total);
        cache.clear(&mut allocator);
        prop_assert_eq!((allocator.free_blocks(), cache.is_empty()), (total, true));
    }
}

#[test]
fn whatever_decides_a_block_decides_its_key() {
    let pixels = [1.0, 2.0, 3.0, 4.0].map(|x| pixels_key(&[x; 8], [1, 2, 4]));
    let part = |i: usize, at, before, len| vec![Part { pixels: &pixels[i], at, before, len }];
    let key = |parent: &Key, ids: [u32; 2], thw: [[i32; 2]; 3], parts: Vec<Part>| {
        block_key(parent, &ids, thw.each_ref().map(|axis| &axis[..]), parts.into_iter())
    };
    let flat = [[0, 1]; 3];
    let keys = [
        key(&NO_ADAPTER, [1, 2], flat, vec![]),
        key(&[1; 32], [1, 2], flat, vec![]),
        key(&NO_ADAPTER, [1, 3], flat, vec![]),
        key(&NO_ADAPTER, [1, 2], [[0, 1], [0, 1], [0, 2]], vec![]),
        key(&NO_ADAPTER, [1, 2], [[0, 2], [0, 1], [0, 1]], vec![]),
        key(&NO_ADAPTER, [1, 2], flat, part(0, 0, 0, 2)),
        key(&NO_ADAPTER, [1, 2], flat, part(1, 0, 0, 2)),
        key(&NO_ADAPTER, [1, 2], flat, part(0, 1, 0, 1)),
        key(&NO_ADAPTER, [1, 2], flat, part(0, 0, 5, 2)),
        pixels_key(&[1.0; 8], [2, 2, 2]),
        pixels[0],
        pixels[1],
    ];
    let distinct: std::collections::HashSet<Key> = keys.into_iter().collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(keys[0], chain_of_one());
}

/// The first key above: SHA-256 of 32 zeros, the count, the tokens and the positions, little-endian.
fn chain_of_one() -> Key {
    use sha2::{Digest, Sha256};
    let mut bytes = vec![0u8; 32];
    bytes.extend(2u64.to_le_bytes());
    [1u32, 2, 0, 1, 0, 1, 0, 1].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    Sha256::digest(bytes).into()
}
