//! The tower's attention input: fused q/k/v projection with bias, 2-D rope.

use super::body::{self, Dest, Turns};
use super::case::{Case, CaseBuilder, Tolerance, dot_error};
use super::input::Input;
use super::reference::{load_i32, load_input, project, rotate, store, vector, weight};
use super::rope::{Rope2d, inv_freq};
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, product, require, require_float, require_index, require_kernel,
    require_vector,
};
use crate::cpu::{Cpu, Unit};
use crate::dtype::{DType, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};

/// `qkv = x Wᵀ + b` with q and k turned by the patch's row and column.
#[derive(Debug)]
pub struct QkvRope2d {
    /// `[P, E]`
    pub x: Input,
    /// `[3 H d, E]`: q, k, v.
    pub weight: Matrix,
    /// `[3 H d]`
    pub bias: WeightId,
    pub rope: Rope2d,
    /// Row and column of each patch, i32 `[P, 2]`.
    pub positions: Tensor,
    pub head_dim: usize,
    /// `[P, 3 H d]`
    pub qkv: Tensor,
}

impl Op for QkvRope2d {
    fn name(&self) -> &'static str {
        "qkv_rope_2d"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let (name, n) = (self.name(), self.qkv.cols());
        require_float(name, &self.qkv)?;
        require(name, self.head_dim > 0 && n % (3 * self.head_dim) == 0, || {
            format!("{n} columns do not split into q, k and v of heads of {}", self.head_dim)
        })?;
        self.x.check_product(name, weights, self.weight, n)?;
        require_vector(name, weights, self.bias, n)?;
        require_index(name, &self.positions, 2 * self.x.rows())?;
        self.rope.check(name, weights, self.head_dim)
    }

    fn launch(&self) -> Launch {
        product::launch(format!("qkv_rope_2d_{}", self.qkv.dtype), &self.x, self.weight, Some(self.head_dim / 2))
            .vector(self.bias)
            .vector(self.rope.inv_freq)
            .read(&self.positions)
            .write(&self.qkv)
            .i32(self.x.rows())
            .i32(self.x.cols())
            .i32(self.qkv.cols() / 3 / self.head_dim)
    }

    fn kernel(&self) -> Result<Kernel> {
        let fits = self.x.stands_for(self.qkv.dtype) && self.qkv.is_contiguous() && self.head_dim == 80;
        require_kernel(self.name(), fits, || format!("{} to {}, heads of {}", self.x, self.qkv, self.head_dim))?;
        let (family, format) = (self.launch().entry, self.weight.format);
        require_kernel(self.name(), format.groups().is_none(), || format!("{format} weights"))?;
        product::kernel(self.name(), &family, &self.x, self.qkv.dtype, self.weight, self.x.rows(), self.qkv.cols())
    }

    fn reference(&self, m: &OpMem) {
        let (w, bias) = (weight(m, self.weight.id), vector(m, self.bias));
        let positions = load_i32(m, &self.positions);
        let freq = self.rope.frequencies(m);
        let mut angles = vec![0.0; self.head_dim / 2];
        let mut out = load_input(m, &self.x);
        for (i, row) in out.iter_mut().enumerate() {
            let mut qkv = project(row, &w);
            qkv.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            self.rope.angles(&freq, [positions[2 * i], positions[2 * i + 1]], &mut angles);
            let qk = qkv.len() / 3 * 2;
            qkv[..qk].chunks_mut(self.head_dim).for_each(|head| rotate(head, &angles));
            *row = qkv;
        }
        store(m, &self.qkv, &out);
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (w, bias, d) = (m.weight(self.weight.id), body::vector(m.weight(self.bias)), self.head_dim);
        let x = body::operand(m, cpu, &self.x);
        let positions = m.read::<i32>(&self.positions);
        let freq = self.rope.frequencies(m);
        let turns = Turns::new(cpu, self.x.rows(), d / 2, |row, out| {
            self.rope.angles(&freq, [positions[2 * row], positions[2 * row + 1]], out);
        });
        let heads: Vec<Unit> = (0..w.n()).step_by(d).map(|first| Unit::new(0, first, d)).collect();
        let turned = heads.len() / 3 * 2;
        with_float!(self.qkv.dtype, Y => {
            let qkv = Dest::<Y>::new(m, cpu, &self.qkv);
            body::product(cpu, &x, self.x.rows(), w, &heads, &|head, tile| {
                body::add_bias(tile, &bias[head * d..]);
                if head < turned {
                    (0..tile.rows).for_each(|i| turns.apply(tile.row0 + i, tile.row(i)));
                }
                qkv.set(tile, head * d);
            });
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        Cost {
            bytes: launch_bytes(&self.launch(), weights),
            flops: matmul_flops(self.x.rows(), self.qkv.cols(), self.x.cols()),
        }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Halves of heads are 80 bytes: warps store 64 pairs in 13 sectors for what would fit 10.
        let split = self.qkv.bytes() as u64 * 3 / 10;
        self.cost(step, weights).bytes
            + split
            + product::again(&self.x, self.weight, self.x.rows(), self.qkv.cols(), 2, true)
    }
}

/// Native head_dim 80, and others.
pub fn cases() -> Vec<Case> {
    let of = |format: Format, dtype: DType, patches: usize, heads: usize, d: usize| {
        let width = heads * d;
        let mut b = CaseBuilder::new(format!("{format} {dtype} P={patches} H={heads} d={d}"));
        let x = b.input(format, dtype, &[patches, width], 1.0);
        let weight = b.operand(format, dtype, &[(3 * width, width)], 0.1);
        let bias = b.weight(dtype, &[(3 * width, 1)], 0.5);
        let positions: Vec<i32> = (0..2 * patches as i32).map(|i| (i * 7) % 74).collect();
        let positions = b.indices(&positions);
        let qkv = b.output(dtype, &[patches, 3 * width], Tolerance::rounded(4.0 * dot_error(width, 1.0, 0.1)));
        let rope = Rope2d { inv_freq: b.table(&inv_freq(1e4, d / 2)) };
        b.finish(QkvRope2d { x, weight, bias, rope, positions, head_dim: d, qkv })
    };
    let case = |dtype, patches, heads, d| of(Format::Float, dtype, patches, heads, d);
    vec![
        case(DType::F32, 16, 2, 80),
        case(DType::Bf16, 20, 2, 80),
        case(DType::F32, 8, 3, 32),
        case(DType::F16, 4, 1, 72),
        case(DType::Bf16, 130, 3, 80),
        case(DType::F16, 9, 10, 80),
        case(DType::F16, 40, 2, 80),
        of(Format::W8A8, DType::F32, 8, 3, 32),
        of(Format::W8A8, DType::Bf16, 130, 3, 80),
        of(Format::W8A8, DType::Bf16, 20, 2, 80),
        of(Format::W8A8, DType::F16, 9, 10, 80),
        of(Format::W8A8, DType::F16, 40, 2, 80),
    ]
}
