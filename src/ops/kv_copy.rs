//! Copies what blocks of the KV cache hold: a block that several sequences share is copied before one of them writes into it.

use super::case::{Case, CaseBuilder, Tolerance};
use super::{Cost, Op, Result, require, require_index};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::WeightSet;

/// Threads that copy a block of a plane on a device.
const THREADS: u32 = 128;

/// `cache[plane, to, :, ..tokens] = cache[plane, from, :, ..tokens]` for every plane and copy. What lies behind was never written, so it is not read.
#[derive(Debug)]
pub struct KvCopy {
    /// i32 `[planes, blocks * G * tokens * words]`, whatever the words mean. A plane is the keys or values of a layer, or their scales.
    pub cache: Tensor,
    /// KV heads.
    pub heads: usize,
    /// Tokens of a block.
    pub tokens: usize,
    /// Words of a token of a head.
    pub words: usize,
    /// i32 `[n, 3]`: blocks from and to, and how many of its first tokens. No block is copied to twice, or copied to and from.
    pub copies: Tensor,
}

impl KvCopy {
    /// Words of a block in a plane.
    fn block(&self) -> usize {
        self.heads * self.tokens * self.words
    }
}

impl Op for KvCopy {
    fn name(&self) -> &'static str {
        "kv_copy"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let (name, block) = (self.name(), self.block());
        require(name, self.cache.dtype == DType::I32, || format!("{}: words", self.cache))?;
        let whole = block > 0 && self.cache.cols().is_multiple_of(block);
        require(name, whole, || format!("{} is not made of blocks of {block} words", self.cache))?;
        require(name, self.copies.cols() == 3, || format!("{}: from, to, tokens", self.copies))?;
        require_index(name, &self.copies, self.copies.elements())
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new("kv_copy").update(&self.cache).read(&self.copies);
        launch.i32(self.heads).i32(self.tokens).i32(self.words).i32(self.cache.row_stride)
    }

    /// A block per copy and plane.
    fn kernel(&self) -> Result<Kernel> {
        let grid = [self.copies.rows() as u32, self.cache.rows() as u32, 1];
        Ok(Kernel { entry: "kv_copy".into(), grid, block: THREADS, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        let (cache, copies) = (m.write::<i32>(&self.cache), m.read::<i32>(&self.copies));
        for plane in cache.chunks_mut(self.cache.row_stride) {
            for copy in copies.chunks_exact(3) {
                let [from, to, tokens] = [0, 1, 2].map(|i| copy[i] as usize);
                for head in 0..self.heads {
                    let at = |block: usize| block * self.block() + head * self.tokens * self.words;
                    plane.copy_within(at(from)..at(from) + tokens * self.words, at(to));
                }
            }
        }
    }

    fn cpu(&self, m: &OpMem, _: &Cpu) {
        self.reference(m);
    }

    /// Of full blocks.
    fn cost(&self, _: &HostStep, _: &WeightSet) -> Cost {
        let block = self.cache.rows() * self.block() * 4;
        Cost { bytes: (self.copies.rows() * (2 * block + 12)) as u64, flops: 0 }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Every block reads its copy.
        self.cost(step, weights).bytes + ((self.cache.rows() - 1) * self.copies.elements() * 4) as u64
    }
}

/// A part of a block, several with a common source, tokens of one word, and full blocks of a model's size.
pub fn cases() -> Vec<Case> {
    let case = |planes: usize, blocks: usize, [heads, tokens, words]: [usize; 3], copies: &[[i32; 3]]| {
        let label =
            format!("{planes} planes, {blocks} blocks of {heads} x {tokens} x {words}, {} copies", copies.len());
        let mut b = CaseBuilder::new(label);
        let len = blocks * heads * tokens * words;
        let values: Vec<i32> = (0..(planes * len) as i32).map(|i| i * 7 + 1).collect();
        let cache = b.changed(DType::I32, &[planes, len], bytemuck::cast_slice(&values), Tolerance::Exact);
        let copies = b.bytes(DType::I32, &[copies.len(), 3], bytemuck::cast_slice(copies));
        b.finish(KvCopy { cache, heads, tokens, words, copies })
    };
    vec![
        case(2, 3, [2, 8, 4], &[[2, 0, 5]]),
        case(3, 5, [3, 32, 10], &[[1, 4, 32], [1, 0, 1], [3, 2, 31]]),
        case(4, 2, [2, 32, 1], &[[0, 1, 7]]),
        case(56, 2, [2, 32, 64], &[[0, 1, 32]]),
    ]
}
