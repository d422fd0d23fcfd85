//! The first half of the decoder's MLP: gate and up projections, SwiGLU.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance, product_error};
use super::input::Input;
use super::reference::{load_input, project, store, weight};
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, product, require, require_dim, require_float, require_kernel,
};
use crate::cpu::{Cpu, Unit, math};
use crate::dtype::{DType, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::{Matrix, WeightSet};

/// Gate columns that are multiplied at a time, with as many of up.
const COLUMNS: usize = 64;

/// `y = silu(x Wgᵀ) * (x Wuᵀ)` (Shazeer 2020).
#[derive(Debug)]
pub struct GateUp {
    /// `[T, D]`
    pub x: Input,
    /// Two parts: gate `[F, D]`, up `[F, D]`.
    pub weight: Matrix,
    /// `[T, F]`
    pub y: Tensor,
}

impl Op for GateUp {
    fn name(&self) -> &'static str {
        "gate_up"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.y)?;
        require_dim(name, "T of y", self.y.rows(), self.x.rows())?;
        self.x.check_product(name, weights, self.weight, 2 * self.y.cols())?;
        let parts = &weights.get(self.weight.id).parts;
        require(name, parts.len() == 2 && parts[0].n == parts[1].n, || "gate and up must be two equal parts".into())
    }

    fn launch(&self) -> Launch {
        product::launch(format!("gate_up_{}", self.y.dtype), &self.x, self.weight, Some(self.y.cols()))
            .write(&self.y)
            .i32(self.x.rows())
            .i32(self.y.cols())
            .i32(self.x.cols())
    }

    fn kernel(&self) -> Result<Kernel> {
        let f = self.y.cols();
        let fits = self.x.stands_for(self.y.dtype) && self.y.is_contiguous() && f.is_multiple_of(8);
        require_kernel(self.name(), fits, || format!("{} to {}", self.x, self.y))?;
        let family = self.launch().entry;
        product::kernel(self.name(), &family, &self.x, self.y.dtype, self.weight, self.x.rows(), 2 * f)
    }

    fn reference(&self, m: &OpMem) {
        let w = weight(m, self.weight.id);
        let gate_up = |row: &Vec<f64>| {
            let both = project(row, &w);
            let (gate, up) = both.split_at(both.len() / 2);
            gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
        };
        store(m, &self.y, &load_input(m, &self.x).iter().map(gate_up).collect());
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let f = self.y.cols();
        let units: Vec<Unit> = (0..f)
            .step_by(COLUMNS)
            .map(|first| {
                let rows = COLUMNS.min(f - first);
                Unit::pair((0, first, rows), (1, first, rows))
            })
            .collect();
        let x = body::operand(m, cpu, &self.x);
        with_float!(self.y.dtype, Y => {
            let y = Dest::<Y>::new(m, cpu, &self.y);
            body::product(cpu, &x, self.x.rows(), m.weight(self.weight.id), &units, &|unit, tile| {
                let half = tile.cols / 2;
                for i in 0..tile.rows {
                    let row = tile.row0 + i;
                    let (gate, up) = tile.row(i).split_at_mut(half);
                    math::swiglu(cpu.isa(), gate, up);
                    y.put(row, unit * COLUMNS, gate);
                }
            });
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        Cost {
            bytes: launch_bytes(&self.launch(), weights),
            flops: matmul_flops(self.x.rows(), 2 * self.y.cols(), self.x.cols()),
        }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        self.cost(step, weights).bytes
            + product::again(&self.x, self.weight, self.x.rows(), 2 * self.y.cols(), 2, false)
    }
}

/// Decode and prefill rows, widths that split unevenly.
pub fn cases() -> Vec<Case> {
    let of = |format: Format, dtype: DType, t: usize, d: usize, f: usize| {
        let mut b = CaseBuilder::new(format!("{format:?} {dtype} T={t} D={d} F={f}"));
        let x = b.input(format, dtype, &[t, d], 1.0);
        let weight = b.operand(format, dtype, &[(f, d), (f, d)], 0.1);
        // Both factors stay below 4 here, so each one's error counts four times.
        let y = b.output(dtype, &[t, f], Tolerance::rounded(8.0 * product_error(format, dtype, d, 1.0, 0.1)));
        b.finish(GateUp { x, weight, y })
    };
    let int4 = |group, zeros| Format::W4A16 { group, zeros };
    let int8 = |group, zeros| Format::W8A16 { group, zeros };
    let case = |dtype, t, d, f| of(Format::Float, dtype, t, d, f);
    vec![
        case(DType::F32, 1, 128, 256),
        case(DType::Bf16, 1, 300, 77),
        case(DType::F16, 3, 64, 40),
        case(DType::F32, 33, 144, 200),
        case(DType::Bf16, 20, 256, 130),
        case(DType::Bf16, 1, 1536, 72),
        case(DType::Bf16, 33, 264, 136),
        case(DType::F16, 129, 776, 72),
        of(int4(128, true), DType::F32, 1, 384, 72),
        of(Format::W8A8, DType::F32, 3, 65, 77),
        of(Format::W8A8, DType::Bf16, 1, 1536, 72),
        of(Format::W8A8, DType::Bf16, 33, 272, 136),
        of(Format::W8A8, DType::F16, 20, 784, 40),
        of(Format::W8A8, DType::F16, 129, 784, 72),
        of(int4(128, false), DType::Bf16, 1, 1536, 72),
        of(int4(32, true), DType::Bf16, 70, 288, 136),
        of(int4(64, false), DType::F16, 17, 192, 40),
        of(int4(200, true), DType::F16, 33, 200, 264),
        of(int8(264, false), DType::Bf16, 9, 264, 40),
        of(int8(128, true), DType::Bf16, 65, 1664, 40),
        of(int8(64, true), DType::F16, 3, 320, 72),
        of(int8(32, false), DType::F16, 129, 96, 136),
    ]
}
