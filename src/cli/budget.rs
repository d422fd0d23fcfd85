//! What a server's memory goes to: the caches get what the buffers leave, and all of it is known before anything is allocated.
//!
//! The surprise: both caches have room for the same number of tokens. Prompts are pictures to a large part, and a row of one is small beside a token's keys
//! and values, so one number rules both.

use crate::engine::{BLOCK_SIZE, Limits, needs};
use crate::error::{Error, Result};
use crate::exec::Needs;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::tensor::Region;
use std::fmt;

/// Full contexts that the caches have room for, unless a budget is given or there is little memory.
const CONTEXTS: usize = 4;

/// The bytes of a server.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub limits: Limits,
    /// Of one block of the KV cache.
    pub block: u64,
    pub kv: u64,
    /// Rows of encoded pictures.
    pub encoder: u64,
    /// What plans work in.
    pub arena: u64,
    /// What lies between steps, and a step's inputs and outputs.
    pub state: u64,
}

impl Budget {
    /// The largest caches within `most` bytes; `least` has room for one context. Without `most` they hold four, as far as the device has `room` for
    /// them, where anybody knows.
    ///
    /// # Errors
    /// [`Error::Memory`] with the numbers if `most` is too little for one context; those of `room`.
    pub fn new(
        model: &Qwen2Vl,
        least: Limits,
        most: Option<u64>,
        room: impl FnOnce(&Needs) -> Result<Option<u64>>,
    ) -> Result<Budget> {
        let fewest = needs(model, &least)?;
        let smallest = fewest.regions.total() as u64;
        let row = model.config.text.hidden_size * model.precision.activations.size();
        let kv = model.kv_layout(1, BLOCK_SIZE).bytes();
        let block = (kv + BLOCK_SIZE * row) as u64;
        let usual = smallest + ((CONTEXTS - 1) * least.blocks) as u64 * block;
        let most = match most {
            Some(most) => most,
            None => usual.min(room(&fewest)?.unwrap_or(u64::MAX)).max(smallest),
        };
        let left = most.checked_sub(smallest).ok_or_else(|| Error::Memory {
            what: format!("one context of {} tokens, with the buffers for {} requests,", least.context, least.seqs),
            need: smallest,
            have: most,
            hint: "raise --max-memory, or lower --context, --max-num-seqs or --max-pixels".into(),
        })?;
        // Slots of the cache are counted in i32.
        let more = ((left / block) as usize).min(i32::MAX as usize / BLOCK_SIZE - least.blocks);
        let limits = Limits { blocks: least.blocks + more, images: least.images + more * BLOCK_SIZE, ..least };
        Ok(Budget::of(limits, kv as u64, &needs(model, &limits)?))
    }

    fn of(limits: Limits, block: u64, needs: &Needs) -> Budget {
        let bytes = |regions: &[Region]| regions.iter().map(|r| needs.regions.get(*r) as u64).sum();
        Budget {
            limits,
            block,
            kv: bytes(&[Region::Kv]),
            encoder: bytes(&[Region::Embeds]),
            arena: bytes(&[Region::Arena, Region::VisionArena]),
            state: bytes(&[Region::State, Region::Step, Region::Out]),
        }
    }

    /// All that is allocated.
    pub fn total(&self) -> u64 {
        self.kv + self.encoder + self.arena + self.state
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1048576.0);
        let Budget { limits, block, kv, encoder, arena, state } = *self;
        let kib = block as f64 / 1024.0;
        write!(f, "{}: KV cache {} ({} blocks of {kib:.1} KiB), ", mib(self.total()), mib(kv), limits.blocks)?;
        write!(f, "encoder cache {} ({} rows), arena {}, state {}", mib(encoder), limits.images, mib(arena), mib(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ModelFiles;
    use crate::dtype::DType;
    use crate::model::Precision;

    const LEAST: Limits = Limits { seqs: 4, ..Limits::single(1000, 512, 1024, 1) };

    /// For where the flag says it all.
    fn unasked(_: &Needs) -> Result<Option<u64>> {
        panic!("the device was asked")
    }

    fn demo() -> Qwen2Vl {
        let files = ModelFiles::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo")).unwrap();
        Qwen2Vl::load(&files.config, &files.weights, Precision::new(DType::Bf16)).unwrap()
    }

    #[test]
    fn the_caches_take_what_is_left_and_no_more() {
        let model = demo();
        let smallest = needs(&model, &LEAST).unwrap().regions.total() as u64;
        for more in [0, 1, 100_000, 12_345_678] {
            let budget = Budget::new(&model, LEAST, Some(smallest + more), unasked).unwrap();
            let row = (budget.encoder / budget.limits.images as u64) * BLOCK_SIZE as u64;
            let total = needs(&model, &budget.limits).unwrap().regions.total() as u64;
            assert_eq!(budget.total(), total);
            assert!(total <= smallest + more && smallest + more < total + budget.block + row, "{more}: {budget}");
        }
        // What nobody can use is not an overflow.
        assert!(Budget::new(&model, LEAST, Some(u64::MAX), unasked).is_ok());
    }

    #[test]
    fn less_than_a_context_is_refused_with_the_numbers() {
        let model = demo();
        let smallest = needs(&model, &LEAST).unwrap().regions.total() as u64;
        let error = Budget::new(&model, LEAST, Some(smallest - 1), unasked).unwrap_err().to_string();
        let words = ["1000 tokens", &smallest.to_string(), &(smallest - 1).to_string(), "--max-memory"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn without_a_budget_there_is_room_for_four_contexts_or_what_the_device_has() {
        let model = demo();
        let budget = |room: Option<u64>| Budget::new(&model, LEAST, None, |_| Ok(room)).unwrap();
        for room in [None, Some(u64::MAX)] {
            let limits = budget(room).limits;
            assert_eq!((limits.blocks, limits.images), (4 * 32, 1000 + 3 * 32 * 32));
        }
        let smallest = needs(&model, &LEAST).unwrap().regions.total() as u64;
        let some = budget(Some(smallest + 1_000_000));
        assert!((32..4 * 32).contains(&some.limits.blocks) && some.total() <= smallest + 1_000_000, "{some}");
        // One context must fit; whether it does is seen where it is allocated.
        assert_eq!(budget(Some(0)).limits.blocks, 32);
        let broken = Budget::new(&model, LEAST, None, |_| Err(Error::request("--device", "is gone")));
        assert!(broken.is_err());
    }
}
