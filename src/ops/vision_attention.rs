//! Attention of the vision tower: every patch of a frame sees every patch of that frame, and no other.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance};
use super::reference::{attend, load, load_i32, store};
use super::{Cost, Op, Result, launch_bytes, require, require_dim, require_float, require_index, require_kernel};
use crate::cpu::{Cpu, Heads, Kv, Mask, Place, Sequence, attention};
use crate::dtype::{DType, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::WeightSet;

/// Queries of a device's tile.
const QUERIES: usize = 128;

/// `o = softmax(q kᵀ / sqrt(d)) v` within each segment.
#[derive(Debug)]
pub struct VisionAttention {
    /// q, k and v side by side, `[P, 3 H d]`.
    pub qkv: Tensor,
    /// First patch of each segment and the end of the last, i32 `[segments + 1]`.
    pub cu_seqlens: Tensor,
    pub head_dim: usize,
    /// Sum of the squared segment lengths: (query, key) pairs of one head.
    pub pairs: u64,
    /// `[P, H d]`
    pub y: Tensor,
}

impl Op for VisionAttention {
    fn name(&self) -> &'static str {
        "vision_attention"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.qkv)?;
        require_float(name, &self.y)?;
        require_dim(name, "P of y", self.y.rows(), self.qkv.rows())?;
        require_dim(name, "columns of qkv", self.qkv.cols(), 3 * self.y.cols())?;
        require(name, self.head_dim > 0 && self.y.cols().is_multiple_of(self.head_dim), || {
            format!("{} columns do not split into heads of {}", self.y.cols(), self.head_dim)
        })?;
        require_index(name, &self.cu_seqlens, self.cu_seqlens.cols())
    }

    fn launch(&self) -> Launch {
        Launch::new(format!("vision_attention_{}_d{}", self.y.dtype, self.head_dim))
            .read(&self.qkv)
            .read(&self.cu_seqlens)
            .write(&self.y)
            .i32(self.cu_seqlens.cols() - 1)
            .i32(self.y.cols() / self.head_dim)
            .i32(self.y.rows())
    }

    /// 128 queries of one segment and one head a block; with that many blocks more than segments, all tiles find one.
    fn kernel(&self) -> Result<Kernel> {
        let (dtype, d) = (self.qkv.dtype, self.head_dim);
        let half = dtype.is_half() && self.y.dtype == dtype;
        let plain = self.qkv.is_contiguous() && self.y.is_contiguous();
        require_kernel(self.name(), half && d == 80 && plain, || format!("{} -> {} and d = {d}", self.qkv, self.y))?;
        let tiles = self.y.rows().div_ceil(QUERIES) + self.cu_seqlens.cols() - 1;
        let grid = [tiles as u32, (self.y.cols() / d) as u32, 1];
        Ok(Kernel { entry: self.launch().entry, grid, block: 128, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        let (qkv, cu) = (load(m, &self.qkv), load_i32(m, &self.cu_seqlens));
        let (d, width) = (self.head_dim, self.y.cols());
        let mut out = vec![Vec::new(); qkv.len()];
        for segment in cu.windows(2).map(|w| w[0] as usize..w[1] as usize) {
            for i in segment.clone() {
                for h in (0..width).step_by(d) {
                    let kv = qkv[segment.clone()].iter().map(|r| (&r[width + h..][..d], &r[2 * width + h..][..d]));
                    out[i].extend(attend(&qkv[i][h..][..d], kv));
                }
            }
        }
        store(m, &self.y, &out);
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (d, width, dtype) = (self.head_dim, self.y.cols(), self.qkv.dtype);
        let stored = body::bytes(m, &self.qkv);
        let q = body::load_columns(cpu, stored, &self.qkv, width);
        let kv = Kv {
            keys: &stored[width * dtype.size()..],
            values: &stored[2 * width * dtype.size()..],
            dtype,
            scales: None,
        };
        let stride = self.qkv.row_stride;
        let cu = m.read::<i32>(&self.cu_seqlens);
        assert!(cu[0] == 0 && cu.is_sorted() && cu[cu.len() - 1] as usize <= self.y.rows(), "segments overlap: {cu:?}");
        let segments = cu.windows(2).map(|w| w[0] as usize..w[1] as usize);
        let sequences: Vec<Sequence> = segments
            .map(|rows| Sequence {
                mask: Mask::All(rows.len()),
                place: Place::Rows { first: rows.start, stride },
                rows,
            })
            .collect();
        let heads = Heads { query: width / d, kv: width / d, dim: d, stride: width, scale: 1.0 / (d as f32).sqrt() };
        with_float!(self.y.dtype, Y => {
            let y = Dest::<Y>::new(m, cpu, &self.y);
            attention(cpu, &q, heads, kv, &sequences, &|head, tile| y.set(tile, head * d));
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        Cost { bytes: launch_bytes(&self.launch(), weights), flops: 4 * self.pairs * self.y.cols() as u64 }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Keys and values once for every tile of queries.
        let patch = (2 * self.y.cols() * self.qkv.dtype.size()) as u64;
        let again = self.pairs.div_ceil(QUERIES as u64).saturating_sub(self.y.rows() as u64);
        self.cost(step, weights).bytes + patch * again
    }
}

/// Segments of uneven length around the tile borders.
pub fn cases() -> Vec<Case> {
    let case = |dtype: DType, lengths: &[i32], heads: usize, d: usize, scale: f32| {
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let cu: Vec<i32> = std::iter::once(0).chain(ends).collect();
        let patches = cu[lengths.len()] as usize;
        let mut b = CaseBuilder::new(format!("{dtype} segments={lengths:?} H={heads} d={d} scale={scale}"));
        let qkv = b.random(dtype, &[patches, 3 * heads * d], scale);
        let cu_seqlens = b.indices(&cu);
        let keys = lengths.iter().max().map_or(0, |&n| n as usize);
        let y = b.output(dtype, &[patches, heads * d], attention_tolerance(dtype, d, [scale; 3], keys));
        let pairs = lengths.iter().map(|&n| (n as u64).pow(2)).sum();
        b.finish(VisionAttention { qkv, cu_seqlens, head_dim: d, pairs, y })
    };
    let many: Vec<i32> = (0..70).map(|i| i * 7 % 13).collect();
    vec![
        case(DType::F32, &[4], 1, 80, 1.0),
        case(DType::F32, &[64, 8, 100], 2, 80, 1.0),
        case(DType::Bf16, &[16, 130], 2, 80, 1.0),
        case(DType::Bf16, &[129, 0, 300], 1, 80, 2.0),
        case(DType::F16, &[68], 3, 32, 1.0),
        case(DType::F16, &[0, 63, 65, 128, 1, 0], 2, 80, 1.0),
        case(DType::F16, &[330], 2, 80, 3.0),
        case(DType::F16, &many, 1, 80, 1.0),
    ]
}

/// For queries, keys and values below `scale`. A score is a dot product of `d` numbers; its error turns into a relative error of every weight. Twice,
/// for numerator and denominator, plus the chain over `keys`. Kernels also round the weights, at most 1, to `dtype`: each by half a unit in its
/// last place, and where f16 has no normal number by 2^-25; the sum of the weights is at least 1.
pub(super) fn attention_tolerance(dtype: DType, d: usize, scale: [f32; 3], keys: usize) -> Tolerance {
    let [q, k, v] = scale.map(f64::from);
    let score = super::case::dot_error(d, q, k) / (d as f64).sqrt();
    let weights = match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11) + keys as f64 * 2f64.powi(-25),
        _ => 0.0,
    };
    Tolerance::rounded(v * (2.0 * score + weights + 1e-5))
}
