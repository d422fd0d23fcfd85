//! The block allocator under random operations: no block is lost, given twice, or freed while held.

use osprey::kv::{BlockAllocator, BlockTable};
use proptest::prelude::*;
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
