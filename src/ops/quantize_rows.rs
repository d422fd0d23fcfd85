//! Rows of floats to int8 rows with a scale each, where no norm completes them: after attention and after SwiGLU.

use super::body;
use super::case::{Case, CaseBuilder, Tolerance};
use super::input::Input;
use super::reference::load;
use super::{Cost, Op, Result, launch_bytes, require, require_float, require_kernel};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::WeightSet;

/// Threads that share a row on a device.
const THREADS: u32 = 256;

/// `scales[m] = max |x[m]| / 127`, `y[m] = round(x[m] / scales[m])`, halves to even; a row of zeros has the scale 0.
#[derive(Debug)]
pub struct QuantizeRows {
    /// `[M, K]`
    pub x: Tensor,
    /// int8 `[M, K]`, with scales.
    pub y: Input,
}

impl QuantizeRows {
    /// The scales, which the contract asks for.
    fn scales(&self) -> &Tensor {
        self.y.scales.as_ref().expect("the contract asks for scales")
    }
}

impl Op for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.x)?;
        self.y.check(name)?;
        require(name, self.y.scales.is_some(), || format!("{} has no scales", self.y))?;
        require(name, (self.x.rows(), self.x.cols()) == (self.y.rows(), self.y.cols()), || {
            format!("{} does not hold {}", self.y, self.x)
        })
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new(format!("quantize_rows_{}", self.x.dtype)).read(&self.x);
        launch.write(&self.y.x).write(self.scales()).i32(self.x.cols())
    }

    fn kernel(&self) -> Result<Kernel> {
        let half = self.x.dtype.is_half();
        let fits = half && self.x.is_contiguous() && self.y.x.is_contiguous() && self.x.cols().is_multiple_of(8);
        require_kernel(self.name(), fits, || format!("{} to {}", self.x, self.y))?;
        Ok(Kernel { entry: self.launch().entry, grid: [self.x.rows() as u32, 1, 1], block: THREADS, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        super::reference::store_int8(m, &self.y, &load(m, &self.x));
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        body::store_int8(m, cpu, &self.y, &body::load(m, cpu, &self.x));
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        Cost { bytes: launch_bytes(&self.launch(), weights), flops: 0 }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // Once for the scale, once to divide by it.
        self.cost(step, weights).bytes + self.x.bytes() as u64
    }
}

/// Rows shorter and longer than a block's stride, a row of zeros, halves that go to the even side.
pub fn cases() -> Vec<Case> {
    let case = |dtype: DType, m: usize, k: usize| {
        let mut b = CaseBuilder::new(format!("{dtype} M={m} K={k}"));
        let x = b.random(dtype, &[m, k], 3.0);
        let y = b.int8_output(&[m, k], [Tolerance::Exact; 2]);
        b.finish(QuantizeRows { x, y })
    };
    // The scale of these rows is 1, 0 and the least that bf16 can have.
    let mut edges = vec![127.0, 0.5, -0.5, 1.5, 2.5, -2.5, -126.5, -127.0];
    edges.extend([0.0; 8]);
    edges.extend([f32::from_bits(1 << 16), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -f32::from_bits(1 << 16)]);
    let edge = |dtype: DType| {
        let mut b = CaseBuilder::new(format!("{dtype} halves, zeros, least"));
        let x = b.floats(dtype, &[3, 8], &edges);
        let y = b.int8_output(&[3, 8], [Tolerance::Exact; 2]);
        b.finish(QuantizeRows { x, y })
    };
    vec![
        case(DType::F32, 3, 77),
        case(DType::Bf16, 5, 1536),
        case(DType::F16, 2, 40),
        case(DType::F16, 33, 8960),
        edge(DType::F32),
        edge(DType::Bf16),
        edge(DType::F16),
    ]
}
