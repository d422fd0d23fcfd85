//! The vocabulary projection of the rows that are sampled.

use super::body::{self, Dest, Floats, Operand};
use super::case::{Case, CaseBuilder, Tolerance, product_error};
use super::input::Input;
use super::reference::{load, load_i32, project, store, weight};
use super::sample::best;
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, product, require, require_bests, require_index, require_kernel,
};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::Tensor;
use crate::weights::{Matrix, WeightSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// `logits[s] = x[rows[s]] Wᵀ`, and each row's best token for the draw.
#[derive(Debug)]
pub struct LmHead {
    /// `[T, D]`
    pub x: Tensor,
    /// i32 `[S]`
    pub rows: Tensor,
    /// `[V, D]`
    pub weight: Matrix,
    /// f32 `[S, V]`
    pub logits: Tensor,
    /// i64 `[S]`, zero before: the [`Sample`](super::sample::Sample) that follows reads it and zeroes it again.
    pub bests: Option<Tensor>,
}

impl Op for LmHead {
    fn name(&self) -> &'static str {
        "lm_head"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require(name, self.logits.dtype == DType::F32, || format!("{}: logits are f32", self.logits))?;
        require_index(name, &self.rows, self.logits.rows())?;
        Input::from(self.x).check_product(name, weights, self.weight, self.logits.cols())?;
        self.bests.map_or(Ok(()), |b| require_bests(name, &b, self.logits.rows()))
    }

    fn launch(&self) -> Launch {
        let launch = product::launch(format!("lm_head_{}", self.x.dtype), &self.x.into(), self.weight, None)
            .read(&self.rows)
            .write(&self.logits);
        let launch = match &self.bests {
            Some(bests) => launch.scratch(bests),
            None => launch.absent(),
        };
        launch.i32(self.logits.rows()).i32(self.logits.cols()).i32(self.x.cols())
    }

    fn kernel(&self) -> Result<Kernel> {
        require_kernel(self.name(), self.logits.is_contiguous(), || format!("rows apart in {}", self.logits))?;
        let v = self.logits.cols();
        let four = matches!(self.weight.format, Format::W4A16 { .. });
        require_kernel(self.name(), !four, || format!("{} weights", self.weight.format))?;
        require_kernel(self.name(), self.bests.is_none() || v.is_multiple_of(16), || {
            format!("best tokens of V = {v}")
        })?;
        let (family, x) = (self.launch().entry, self.x.into());
        product::kernel(self.name(), &family, &x, self.x.dtype, self.weight, self.logits.rows(), v)
    }

    fn reference(&self, m: &OpMem) {
        let (x, w) = (load(m, &self.x), weight(m, self.weight.id));
        let logits = |&row: &i32| project(&x[row as usize], &w);
        let rows = load_i32(m, &self.rows).iter().map(logits).collect();
        let rows = store(m, &self.logits, &rows);
        if let Some(t) = &self.bests {
            let narrow = |row: &Vec<f64>| row.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            m.write::<i64>(t).iter_mut().zip(&rows).for_each(|(to, row)| *to = best(0, &narrow(row)) as i64);
        }
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (w, d) = (m.weight(self.weight.id), self.x.cols());
        let x = body::load(m, cpu, &self.x);
        let picked: Vec<f32> =
            m.read::<i32>(&self.rows).iter().flat_map(|&r| &x[r as usize * d..][..d]).copied().collect();
        let logits = Dest::<f32>::new(m, cpu, &self.logits);
        let bests: Vec<_> = (0..self.logits.rows()).map(|_| AtomicU64::new(0)).collect();
        let picked = Operand::Floats(Floats::Stored(&picked), self.x.dtype);
        body::product(cpu, &picked, self.logits.rows(), w, &body::even_units(w.n()), &|unit, tile| {
            let column = body::even_column(unit);
            for i in 0..tile.rows {
                bests[tile.row0 + i].fetch_max(best(column, tile.row(i)), Ordering::Relaxed);
            }
            logits.set(tile, column);
        });
        if let Some(t) = &self.bests {
            m.write::<i64>(t).iter_mut().zip(bests).for_each(|(to, best)| *to = best.into_inner() as i64);
        }
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        let (s, v, d) = (self.logits.rows(), self.logits.cols(), self.x.cols());
        let unread = (self.x.rows() - s.min(self.x.rows())) * d * self.x.dtype.size();
        Cost { bytes: launch_bytes(&self.launch(), weights) - unread as u64, flops: matmul_flops(s, v, d) }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        self.cost(step, weights).bytes
            + product::again(&self.x.into(), self.weight, self.logits.rows(), self.logits.cols(), 1, false)
    }
}

/// One sampled row, several, and all of them.
pub fn cases() -> Vec<Case> {
    let of = |format: Format, dtype: DType, t: usize, rows: &[i32], d: usize, v: usize| {
        let mut b = CaseBuilder::new(format!("{format:?} {dtype} T={t} S={} D={d} V={v}", rows.len()));
        let x = b.random(dtype, &[t, d], 1.0);
        let rows_at = b.indices(rows);
        let weight = b.operand(format, dtype, &[(v, d)], 0.1);
        let logits =
            b.output(DType::F32, &[rows.len(), v], Tolerance::rounded(product_error(format, dtype, d, 1.0, 0.1)));
        let bests = v.is_multiple_of(16).then(|| b.zeros(DType::I64, &[rows.len()], Tolerance::Anything));
        b.finish(LmHead { x, rows: rows_at, weight, logits, bests })
    };
    let case = |dtype, t, rows: &[i32], d, v| of(Format::Float, dtype, t, rows, d, v);
    let int8 = |group, zeros| Format::W8A16 { group, zeros };
    let some: Vec<i32> = (0..36).map(|i| i * 11 % 40).collect();
    vec![
        case(DType::F32, 1, &[0], 128, 384),
        case(DType::Bf16, 6, &[5, 2], 96, 1000),
        case(DType::F32, 9, &[0, 1, 2, 3, 4, 5, 6, 7, 8], 60, 257),
        case(DType::Bf16, 40, &(0..36).map(|i| i * 11 % 40).collect::<Vec<_>>(), 264, 136),
        case(DType::F16, 3, &[2, 0], 776, 152),
        case(DType::Bf16, 5, &[4, 1, 1], 96, 144),
        case(DType::F16, 40, &(0..36).map(|i| i * 11 % 40).collect::<Vec<_>>(), 264, 144),
        case(DType::F16, 35, &(0..35).collect::<Vec<_>>(), 64, 72),
        of(int8(96, false), DType::F32, 3, &[2], 96, 257),
        of(int8(264, false), DType::Bf16, 6, &[5, 2], 264, 1000),
        of(int8(128, true), DType::Bf16, 40, &some, 384, 144),
        of(int8(1544, false), DType::F16, 3, &[2, 0], 1544, 144),
        of(int8(64, false), DType::F16, 40, &some, 192, 272),
    ]
}
