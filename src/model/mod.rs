//! Models: they name their weights and record plans. They never see an executor.
//!
//! One file for the decoder, one for the tower, and a short file per family with what differs.

pub mod qwen2_vl;
pub mod text;
pub mod vision;

use crate::checkpoint::Weights;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::gather::Gather;
use crate::ops::input::Input;
use crate::ops::quantize_rows::QuantizeRows;
use crate::plan::Recorder;
use crate::quant::{Format, Values};
use crate::tensor::{Region, Tensor, WeightId};
use crate::weights::{Matrix, Part, Weight, WeightSet};

/// Every tensor of the KV cache begins at a multiple of so many bytes.
const ALIGN: usize = 64;

/// The types that activations and the KV cache are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    pub activations: DType,
    /// The residual stream: f32 where f16 would overflow.
    pub stream: DType,
    /// Keys and values: those of activations, or int8.
    pub cache: DType,
}

impl Precision {
    /// Storage for a floating-point dtype.
    pub fn new(dtype: DType) -> Self {
        let stream = dtype.stream();
        Precision { activations: dtype, stream, cache: dtype }
    }

    /// The same with a KV cache of int8.
    pub fn int8_cache(self) -> Self {
        Precision { cache: DType::I8, ..self }
    }
}

/// The KV cache of all layers inside its region: keys, then values, layer after layer; behind those of int8 their scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    pub layers: usize,
    pub blocks: usize,
    pub kv_heads: usize,
    pub block_size: usize,
    pub head_dim: usize,
    /// A floating-point type, or int8.
    pub dtype: DType,
}

impl KvLayout {
    /// A layer's keys, `[blocks, G, block, d]`, int8 with a scale for each token and head, `[blocks, G, block]`.
    pub fn keys(&self, layer: usize) -> Input {
        self.rows(2 * layer)
    }

    /// A layer's values, likewise.
    pub fn values(&self, layer: usize) -> Input {
        self.rows(2 * layer + 1)
    }

    fn rows(&self, index: usize) -> Input {
        let shape = [self.blocks, self.kv_heads, self.block_size, self.head_dim];
        let at = index * self.rows_bytes();
        let x = Tensor::at(Region::Kv, at, self.dtype, &shape);
        let scales = || Tensor::at(Region::Kv, at + x.bytes().next_multiple_of(ALIGN), DType::F32, &shape[..3]);
        Input { x, scales: (self.dtype == DType::I8).then(scales) }
    }

    /// Bytes from the keys of a layer to its values, and from these to the keys of the next.
    fn rows_bytes(&self) -> usize {
        let rows = self.blocks * self.kv_heads * self.block_size;
        let scales = if self.dtype == DType::I8 { rows * DType::F32.size() } else { 0 };
        (rows * self.head_dim * self.dtype.size()).next_multiple_of(ALIGN) + scales.next_multiple_of(ALIGN)
    }

    /// Bytes of the region.
    pub fn bytes(&self) -> usize {
        2 * self.layers * self.rows_bytes()
    }

    /// The cache as words, `[2 L, blocks * G * block * W]`, each with the words `W` of a token of a head: keys and values, and their scales if they
    /// have any.
    pub fn words(&self) -> impl Iterator<Item = (Tensor, usize)> + use<> {
        let (planes, stride) = (2 * self.layers, self.rows_bytes() / DType::I32.size());
        let rows = self.blocks * self.kv_heads * self.block_size;
        let Input { x, scales } = self.keys(0);
        [Some(x), scales].into_iter().flatten().map(move |of| {
            let words = of.bytes() / DType::I32.size();
            (Tensor::new(of.place, DType::I32, &[planes, stride]).columns(0, words), words / rows)
        })
    }

    /// Bytes that one token takes in all layers.
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.keys(0).row_bytes()
    }
}

/// Gives checkpoint tensors their identities.
struct WeightLoader<'a> {
    tensors: &'a Weights,
    set: WeightSet,
}

impl WeightLoader<'_> {
    /// One weight made of tensors whose rows follow each other.
    fn vector(&mut self, names: &[String]) -> Result<WeightId> {
        let parts = names.iter().map(|name| self.part(name)).collect::<Result<Vec<_>>>()?;
        if let Some(i) = parts.iter().position(|p| storage(p) != storage(&parts[0])) {
            let (this, first) = (storage(&parts[i]), storage(&parts[0]));
            let why = format!("is {this}, but {} is {first}: they are one product, so save both alike", names[0]);
            return Err(Error::checkpoint(self.tensors.file(&names[i])?, &names[i], why));
        }
        Ok(self.set.push(Weight { name: names.join("+"), parts }))
    }

    fn part(&self, name: &str) -> Result<Part> {
        let (values, n, k) = self.tensors.values(name)?;
        Ok(Part { values, n, k })
    }

    /// The same as the operand of a product.
    fn matrix(&mut self, names: &[String]) -> Result<Matrix> {
        let id = self.vector(names)?;
        Ok(Matrix { order: self.order(id, names)?, ..self.set.matrix(id) })
    }

    /// The order of a weight's columns as a vector of its own.
    fn order(&mut self, id: WeightId, names: &[String]) -> Result<Option<WeightId>> {
        let weight = self.set.get(id);
        if let Some(i) = weight.parts.iter().position(|p| p.values.order() != weight.order()) {
            let what = format!("{}: columns in another order than those of {}", names[i], names[0]);
            return Err(Error::unsupported(what, "they are one product: quantize them together, or without desc_act"));
        }
        let order: Option<Vec<f32>> = weight.order().map(|order| order.iter().map(|&column| column as f32).collect());
        Ok(order.map(|order| self.table(&format!("{}.order", names.join("+")), &order)))
    }

    fn one(&mut self, name: String) -> Result<WeightId> {
        self.vector(&[name])
    }

    /// A vector that follows from the configuration.
    fn table(&mut self, name: &str, values: &[f32]) -> WeightId {
        self.set.push(Weight::table(name.into(), values))
    }
}

/// How a part is stored, in words.
fn storage(p: &Part) -> String {
    match &p.values {
        Values::Float(_, dtype) => dtype.to_string(),
        values => format!("{:?}", values.format()),
    }
}

/// A temporary for rows that a weight is multiplied with: int8 with scales where it takes those.
fn rows_for(r: &mut Recorder, weight: Matrix, dtype: DType, shape: &[usize; 2]) -> Input {
    match weight.format {
        Format::W8A8 => Input { x: r.temp(DType::I8, shape), scales: Some(r.temp(DType::F32, &shape[..1])) },
        _ => r.temp(dtype, shape).into(),
    }
}

/// Finished rows in the form that a weight is multiplied with: as they are, in the order of its columns, or int8 made of them, by an op of its own.
fn input_of(r: &mut Recorder, weight: Matrix, x: Tensor) -> Result<Input> {
    if weight.format != Format::W8A8 {
        return ordered(r, weight, x.into());
    }
    let y = rows_for(r, weight, x.dtype, &[x.rows(), x.cols()]);
    r.push(QuantizeRows { x, y })?;
    Ok(y)
}

/// Rows in the order of a weight's columns: those of a norm, which stores them as they are.
fn ordered(r: &mut Recorder, weight: Matrix, rows: Input) -> Result<Input> {
    let Some(order) = weight.order else { return Ok(rows) };
    let x = rows.x;
    let y = r.temp(x.dtype, &[x.rows(), x.cols()]);
    r.push(Gather { x, order, y })?;
    Ok(y.into())
}

/// A point of a plan that a debugger may stop at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Checkpoint name of the block that just ended.
    pub name: String,
    /// Ops run so far.
    pub ops: usize,
}
