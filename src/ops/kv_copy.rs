//! Copies whole blocks of the KV cache: a block that several sequences share is copied before one of them writes into it.

use super::case::{Case, CaseBuilder, Tolerance};
use super::{Cost, Op, Result, require, require_index, require_kernel};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::WeightSet;

/// Threads that copy a block of a plane on a device.
const THREADS: u32 = 128;
/// Words of a device's load.
const PIECE: usize = 4;

/// `cache[plane, to] = cache[plane, from]` for every plane and pair.
#[derive(Debug)]
pub struct KvCopy {
    /// i32 `[planes, blocks * W]`, whatever the words mean. A plane is the keys or values of a layer, or their scales.
    pub cache: Tensor,
    /// Words of a block in a plane.
    pub words: usize,
    /// i32 `[n, 2]`: blocks from and to. No block is copied to twice, or copied to and from.
    pub pairs: Tensor,
}

impl Op for KvCopy {
    fn name(&self) -> &'static str {
        "kv_copy"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let (name, whole) = (self.name(), self.words > 0 && self.cache.cols().is_multiple_of(self.words));
        require(name, self.cache.dtype == DType::I32, || format!("{}: words", self.cache))?;
        require(name, whole, || format!("{} is not made of blocks of {} words", self.cache, self.words))?;
        require(name, self.pairs.cols() == 2, || format!("{}: pairs", self.pairs))?;
        require_index(name, &self.pairs, self.pairs.elements())
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new("kv_copy").update(&self.cache).read(&self.pairs);
        launch.i32(self.words / PIECE).i32(self.cache.row_stride / PIECE)
    }

    /// A block per pair and plane.
    fn kernel(&self) -> Result<Kernel> {
        let whole = self.words.is_multiple_of(PIECE) && self.cache.row_stride.is_multiple_of(PIECE);
        require_kernel(self.name(), whole, || format!("blocks of {} words in {}", self.words, self.cache))?;
        let grid = [self.pairs.rows() as u32, self.cache.rows() as u32, 1];
        Ok(Kernel { entry: "kv_copy".into(), grid, block: THREADS, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        let (cache, pairs) = (m.write::<i32>(&self.cache), m.read::<i32>(&self.pairs));
        for plane in cache.chunks_mut(self.cache.row_stride) {
            for pair in pairs.chunks_exact(2) {
                let [from, to] = [pair[0], pair[1]].map(|block| block as usize * self.words);
                plane.copy_within(from..from + self.words, to);
            }
        }
    }

    fn cpu(&self, m: &OpMem, _: &Cpu) {
        self.reference(m);
    }

    fn cost(&self, _: &HostStep, _: &WeightSet) -> Cost {
        let block = self.cache.rows() * self.words * 4;
        Cost { bytes: (self.pairs.rows() * (2 * block + 8)) as u64, flops: 0 }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Every block reads its pair.
        self.cost(step, weights).bytes + ((self.cache.rows() - 1) * self.pairs.elements() * 4) as u64
    }
}

/// One pair and several with a common source, blocks shorter and longer than what the threads load at once.
pub fn cases() -> Vec<Case> {
    let case = |planes: usize, blocks: usize, words: usize, pairs: &[[i32; 2]]| {
        let mut b =
            CaseBuilder::new(format!("{planes} planes, {blocks} blocks of {words} words, {} pairs", pairs.len()));
        let values: Vec<i32> = (0..(planes * blocks * words) as i32).map(|i| i * 7 + 1).collect();
        let bytes = bytemuck::cast_slice(&values);
        let cache = b.changed(DType::I32, &[planes, blocks * words], bytes, Tolerance::Exact);
        let pairs = b.bytes(DType::I32, &[pairs.len(), 2], bytemuck::cast_slice(pairs));
        b.finish(KvCopy { cache, words, pairs })
    };
    vec![case(2, 3, 64, &[[2, 0]]), case(3, 5, 1040, &[[1, 4], [1, 0], [3, 2]]), case(56, 2, 4096, &[[0, 1]])]
}
