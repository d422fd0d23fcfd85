//! Token embeddings, with image rows put in place of placeholder tokens.

use super::case::{Case, CaseBuilder, Tolerance};
use super::reference::{load, load_i32, store, weight};
use super::{Cost, Op, Result, require_dim, require_float, require_index, require_weight, with_float};
use crate::cpu::Cpu;
use crate::dtype::{DType, Float};
use crate::hostmem::OpMem;
use crate::launch::Launch;
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
        require_weight(name, weights, self.table, table.n(), self.y.cols())?;
        require_dim(name, "parts of the table", table.parts.len(), 1)?;
        require_dim(name, "D of the image rows", self.images.cols(), self.y.cols())
    }

    fn launch(&self) -> Launch {
        Launch::new(format!("embed_{}", self.y.dtype))
            .read(&self.ids)
            .read(&self.rows)
            .weight(self.table)
            .read(&self.images)
            .write(&self.y)
    }

    fn reference(&self, m: &OpMem) {
        let (ids, rows) = (load_i32(m, &self.ids), load_i32(m, &self.rows));
        let (table, images) = (weight(m, self.table), load(m, &self.images));
        let pick =
            |t: usize| if rows[t] >= 0 { images[rows[t] as usize].clone() } else { table[ids[t] as usize].clone() };
        store(m, &self.y, &(0..ids.len()).map(pick).collect());
    }

    fn cpu(&self, m: &OpMem, _: &Cpu) {
        let (ids, rows) = (m.read::<i32>(&self.ids), m.read::<i32>(&self.rows));
        let table = &m.weight(self.table).parts[0];
        let row_bytes = table.k * table.dtype.size();
        with_float!(self.y.dtype, Y => with_float!(self.images.dtype, I => with_float!(table.dtype, W => {
            let images = m.read::<I>(&self.images);
            for (t, y) in m.write::<Y>(&self.y).chunks_mut(self.y.row_stride).enumerate() {
                let y = &mut y[..table.k];
                if rows[t] >= 0 {
                    let image = &images[rows[t] as usize * self.images.row_stride..];
                    y.iter_mut().zip(image).for_each(|(y, x)| *y = Y::from_f32(x.to_f32()));
                } else {
                    let row = &table.data.bytes()[ids[t] as usize * row_bytes..][..row_bytes];
                    let row = row.chunks_exact(table.dtype.size()).map(bytemuck::pod_read_unaligned::<W>);
                    y.iter_mut().zip(row).for_each(|(y, x)| *y = Y::from_f32(x.to_f32()));
                }
            }
        })))
    }

    fn cost(&self, _: &HostStep, _: &WeightSet) -> Cost {
        let row = |dtype: DType| (self.y.elements() * dtype.size()) as u64;
        Cost { bytes: row(self.images.dtype) + row(self.y.dtype) + 8 * self.y.rows() as u64, flops: 0 }
    }
}

/// Tokens and image rows mixed, in every storage type.
pub fn cases() -> Vec<Case> {
    let case = |dtype: DType, width: usize| {
        let mut b = CaseBuilder::new(format!("{dtype} D={width}"));
        let ids = b.indices(&[0, 7, 9, 9, 3]);
        let rows = b.indices(&[-1, -1, 2, 0, -1]);
        let table = b.weight(dtype, &[(10, width)], 1.0);
        let images = b.random(dtype, &[3, width], 1.0);
        let y = b.output(dtype, &[5, width], Tolerance::Exact);
        b.finish(Embed { ids, rows, table, images, y })
    };
    vec![case(DType::F32, 24), case(DType::Bf16, 40), case(DType::F16, 1)]
}
