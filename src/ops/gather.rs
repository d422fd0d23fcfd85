//! Columns of rows in another order: what a product reads whose weight was quantized in the order of its activations (GPTQ's act-order).
//!
//! The surprise: the order is a vector of f32 like every other, which holds each column's number exactly (K is below 2^24).

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance};
use super::reference::{load, store, vector};
use super::{Cost, Op, Result, launch_bytes, require, require_float, require_kernel, require_vector};
use crate::cpu::Cpu;
use crate::dtype::{DType, Float, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::WeightSet;

/// Threads that share a row on a device.
const THREADS: u32 = 256;

/// `y[m, j] = x[m, order[j]]`
#[derive(Debug)]
pub struct Gather {
    /// `[M, K]`
    pub x: Tensor,
    /// `[K]`, a permutation.
    pub order: WeightId,
    /// `[M, K]`
    pub y: Tensor,
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.x)?;
        let alike = self.x.dtype == self.y.dtype && (self.x.rows(), self.x.cols()) == (self.y.rows(), self.y.cols());
        require(name, alike, || format!("{} does not hold {}", self.y, self.x))?;
        require_vector(name, weights, self.order, self.x.cols())
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new(format!("gather_{}", self.x.dtype)).read(&self.x).vector(self.order);
        launch.write(&self.y).i32(self.x.cols())
    }

    /// A block per row, which passes through shared memory.
    fn kernel(&self) -> Result<Kernel> {
        let half = self.x.dtype.is_half();
        let fits = half && self.x.is_contiguous() && self.y.is_contiguous() && self.x.cols().is_multiple_of(8);
        require_kernel(self.name(), fits, || format!("{} to {}", self.x, self.y))?;
        let smem = (self.x.cols() * self.x.dtype.size()) as u32;
        Ok(Kernel { entry: self.launch().entry, grid: [self.x.rows() as u32, 1, 1], block: THREADS, smem })
    }

    fn reference(&self, m: &OpMem) {
        let (x, order) = (load(m, &self.x), vector(m, self.order));
        store(m, &self.y, &x.iter().map(|row| order.iter().map(|&from| row[from as usize]).collect()).collect());
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let order: Vec<usize> = body::vector(m.weight(self.order)).into_iter().map(|from| from as usize).collect();
        with_float!(self.x.dtype, T => {
            let (x, y) = (m.read::<T>(&self.x), Dest::<T>::new(m, cpu, &self.y));
            cpu.for_each(self.x.rows(), |row| {
                let from = &x[row * self.x.row_stride..];
                let values: Vec<f32> = order.iter().map(|&column| from[column].to_f32()).collect();
                y.put(row, 0, &values);
            });
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        Cost { bytes: launch_bytes(&self.launch(), weights), flops: 0 }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Every row reads the order, eight columns a lane in two loads that touch the same sectors.
        self.cost(step, weights).bytes + ((2 * self.x.rows() - 1) * self.x.cols() * 4) as u64
    }
}

/// A permutation without a pattern: multiples of a number that has no divisor in common with `k`.
pub fn scattered(k: usize) -> Vec<f32> {
    let step = (k / 2 + 1..).find(|step| gcd(*step, k) == 1).unwrap_or(1);
    (0..k).map(|j| (j * step % k) as f32).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Rows shorter and longer than a block's stride, and a view of wider rows.
pub fn cases() -> Vec<Case> {
    let case = |dtype: DType, m: usize, k: usize| {
        let mut b = CaseBuilder::new(format!("{dtype} M={m} K={k}"));
        let x = b.random(dtype, &[m, k], 3.0);
        let order = b.table(&scattered(k));
        let y = b.output(dtype, &[m, k], Tolerance::Exact);
        b.finish(Gather { x, order, y })
    };
    let view = || {
        let mut b = CaseBuilder::new("f32 a view");
        let x = b.random(DType::F32, &[3, 20], 3.0).columns(4, 9);
        let order = b.table(&scattered(9));
        let y = b.output(DType::F32, &[3, 9], Tolerance::Exact);
        b.finish(Gather { x, order, y })
    };
    vec![
        case(DType::F32, 3, 77),
        view(),
        case(DType::Bf16, 5, 1536),
        case(DType::F16, 2, 40),
        case(DType::F16, 3, 8960),
        case(DType::Bf16, 1, 29696),
    ]
}
