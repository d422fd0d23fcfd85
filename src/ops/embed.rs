//! Token embeddings, with image rows put in place of placeholder tokens, and their norm.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance};
use super::norm::{self, NormKind, Normed};
use super::reference::{load, load_i32, store, store_normed, weight};
use super::{Cost, Op, Result, require, require_dim, require_float, require_index, require_kernel, require_weight};
use crate::cpu::Cpu;
use crate::dtype::{DType, Float, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch, Layout};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::WeightSet;

/// `y[t] = images[rows[t]]` where `rows[t] >= 0`, and `table[ids[t]]` elsewhere.
#[derive(Debug)]
pub struct Embed {
    /// i32 `[T]`
    pub ids: Tensor,
    /// i32 `[T]`
    pub rows: Tensor,
    /// `[V, D]`
    pub table: WeightId,
    /// `[R, D]`
    pub images: Tensor,
    /// `[T, D]`
    pub y: Tensor,
    pub normed: Option<Normed>,
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let (name, table) = (self.name(), weights.get(self.table));
        require_float(name, &self.images)?;
        require_float(name, &self.y)?;
        require_index(name, &self.ids, self.y.rows())?;
        require_index(name, &self.rows, self.y.rows())?;
        require_weight(name, weights, weights.matrix(self.table), table.n(), self.y.cols())?;
        require(name, table.parts.len() == 1 && table.format() == Format::Float, || {
            format!("{} is no table", table.name)
        })?;
        require_dim(name, "D of the image rows", self.images.cols(), self.y.cols())?;
        self.normed.map_or(Ok(()), |n| n.check(name, weights, &self.y))
    }

    fn launch(&self) -> Launch {
        let (images, y) = (self.images.dtype, self.y.dtype);
        let dtypes = if images == y { format!("{y}") } else { format!("{images}_{y}") };
        let launch = Launch::new(format!("embed_{dtypes}"))
            .read(&self.ids)
            .read(&self.rows)
            .weight(self.table, Layout::Tiled { dtype: images, half: None })
            .read(&self.images)
            .write(&self.y);
        norm::operands(launch, self.normed.as_ref()).i32(self.y.cols()).f32(norm::eps(self.normed.as_ref()))
    }

    /// A warp per token.
    fn kernel(&self) -> Result<Kernel> {
        let d = self.y.cols();
        let half = self.images.dtype.is_half();
        require_kernel(self.name(), half && d.is_multiple_of(8), || format!("{} and D = {d}", self.images.dtype))?;
        Ok(Kernel { entry: self.launch().entry, grid: [self.y.rows() as u32, 1, 1], block: 32, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        let (ids, rows) = (load_i32(m, &self.ids), load_i32(m, &self.rows));
        let (table, images) = (weight(m, self.table), load(m, &self.images));
        let pick =
            |t: usize| if rows[t] >= 0 { images[rows[t] as usize].clone() } else { table[ids[t] as usize].clone() };
        let y = store(m, &self.y, &(0..ids.len()).map(pick).collect());
        store_normed(m, self.normed.as_ref(), &y);
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (ids, rows) = (m.read::<i32>(&self.ids), m.read::<i32>(&self.rows));
        let table = &m.weight(self.table).parts[0];
        let (stored, dtype) = table.float();
        let row_bytes = table.k * dtype.size();
        with_float!(self.y.dtype, Y => with_float!(self.images.dtype, I => with_float!(dtype, W => {
            let images = m.read::<I>(&self.images);
            let y = Dest::<Y>::new(m, cpu, &self.y);
            for (t, (&id, &image)) in ids.iter().zip(rows).enumerate() {
                let row: Vec<f32> = if image >= 0 {
                    let row = &images[image as usize * self.images.row_stride..][..table.k];
                    row.iter().map(|x| x.to_f32()).collect()
                } else {
                    let row = &stored[id as usize * row_bytes..][..row_bytes];
                    let row = row.chunks_exact(dtype.size());
                    row.map(|x| bytemuck::pod_read_unaligned::<W>(x).to_f32()).collect()
                };
                y.put(t, 0, &row);
            }
            body::store_normed(m, cpu, self.normed.as_ref(), &y);
        })))
    }

    fn cost(&self, step: &HostStep, _: &WeightSet) -> Cost {
        let row = |dtype: DType| (self.y.elements() * dtype.size()) as u64;
        let normed = self.normed.map_or(0, |n| (n.y.bytes() + self.y.cols() * 4) as u64);
        Cost {
            bytes: row(self.images.dtype) + row(self.y.dtype) + normed + 4 * (self.y.rows() + tokens(step)) as u64,
            flops: 0,
        }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        // A row of the table lies in pieces of 4 bytes: a sector holds two of its own and two of its neighbour, and is asked for twice.
        let again = 3 * tokens(step) * self.y.cols() * self.images.dtype.size();
        // Eight floats of a lane are two stores to the same sectors.
        let stored = if self.y.dtype == DType::F32 { self.y.bytes() } else { 0 };
        self.cost(step, weights).bytes + (again + stored) as u64 + self.normed.map_or(0, |n| n.again(&self.y))
    }
}

/// Rows of a step that come from the table: only their ids are read.
fn tokens(step: &HostStep) -> usize {
    step.i32s(&step.layout.embed_rows).iter().filter(|&&row| row < 0).count()
}

/// Tokens and image rows mixed, in every storage type.
pub fn cases() -> Vec<Case> {
    let case = |dtype: DType, width: usize, normed: Option<Format>| {
        let mut b = CaseBuilder::new(format!("{dtype} D={width} normed={normed:?}"));
        let ids = b.indices(&[0, 7, 9, 9, 3]);
        let rows = b.indices(&[-1, -1, 2, 0, -1]);
        let table = b.weight(dtype, &[(10, width)], 1.0);
        let images = b.random(dtype, &[3, width], 1.0);
        let y = b.output(dtype.stream(), &[5, width], Tolerance::Exact);
        let normed = normed.map(|reader| b.normed(NormKind::Rms, dtype, reader, &y, Tolerance::Exact));
        b.finish(Embed { ids, rows, table, images, y, normed })
    };
    vec![
        case(DType::F32, 24, None),
        case(DType::F32, 100, Some(Format::Float)),
        case(DType::Bf16, 40, Some(Format::Float)),
        case(DType::Bf16, 1536, Some(Format::Float)),
        case(DType::F16, 1, None),
        case(DType::F16, 264, Some(Format::Float)),
        case(DType::F32, 100, Some(Format::W8A8)),
        case(DType::Bf16, 1536, Some(Format::W8A8)),
        case(DType::F16, 264, Some(Format::W8A8)),
    ]
}
