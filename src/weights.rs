//! The weights of a loaded model, by identity.
//!
//! A weight is a list of checkpoint tensors (q, k and v; gate and up): floats in place in the file's mapping, possibly unaligned, or codes, which are in place
//! only where the file has them by rows, and in panels where a CPU is to multiply them. It refuses to know what they are for.

use crate::data::TensorData;
use crate::dtype::DType;
use crate::quant::panels::Panels;
use crate::quant::{Format, Values};
use crate::tensor::WeightId;
use rayon::prelude::*;
use std::sync::Arc;

/// One checkpoint tensor of a weight, as `[n, k]` rows (a vector is `[n, 1]`).
#[derive(Debug, Clone)]
pub struct Part {
    pub values: Values,
    pub n: usize,
    pub k: usize,
}

impl Part {
    /// The bytes and type of one that is not quantized, as vectors and tables always are.
    pub fn float(&self) -> (&[u8], DType) {
        match &self.values {
            Values::Float(data, dtype) => (data.bytes(), *dtype),
            _ => unreachable!("contracts admit codes in products only"),
        }
    }
}

/// Tensors that one op uses together; their rows follow each other, and their formats are the same.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Names of the checkpoint tensors, joined by `+`.
    pub name: String,
    pub parts: Vec<Part>,
}

impl Weight {
    /// A vector that no checkpoint holds.
    pub fn table(name: String, values: &[f32]) -> Self {
        let data = TensorData::from_bytes(bytemuck::cast_slice(values).to_vec());
        Weight { name, parts: vec![Part { values: Values::Float(data, DType::F32), n: values.len(), k: 1 }] }
    }

    /// Rows of all parts.
    pub fn n(&self) -> usize {
        self.parts.iter().map(|p| p.n).sum()
    }

    /// Columns, the same in every part.
    pub fn k(&self) -> usize {
        self.parts[0].k
    }

    /// The format, the same in every part.
    pub fn format(&self) -> Format {
        self.parts[0].values.format()
    }

    /// The order of its columns, if it is not that of the inputs; the same in every part.
    pub fn order(&self) -> Option<&[u32]> {
        self.parts[0].values.order()
    }

    /// Bytes of its parts as they are held, in a file's mapping or in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.values.bytes()).sum()
    }
}

/// A weight that rows are multiplied with, and its format: an op's launch follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    pub id: WeightId,
    pub format: Format,
    /// The order that its columns are in, `[K]`: a product takes rows whose columns have been brought into it.
    pub order: Option<WeightId>,
}

/// All weights of a model.
#[derive(Debug, Clone, Default)]
pub struct WeightSet {
    weights: Vec<Weight>,
}

impl WeightSet {
    /// Adds a weight and gives its identity.
    pub fn push(&mut self, weight: Weight) -> WeightId {
        debug_assert!(weight.parts.iter().all(|p| p.k == weight.parts[0].k), "{}: parts of unequal width", weight.name);
        self.weights.push(weight);
        WeightId(self.weights.len() as u32 - 1)
    }

    /// The weight behind an identity.
    pub fn get(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    /// Brings codes into panels where `takes(group, k)`; rows that nobody else holds are freed on the way.
    pub fn into_panels(self, takes: fn(usize, usize) -> bool) -> WeightSet {
        let paneled = |mut weight: Weight| {
            for part in &mut weight.parts {
                if let Values::Quantized(q) = &part.values
                    && takes(q.group, q.k)
                {
                    part.values = Values::Panels(Arc::new(Panels::new(q)));
                }
            }
            weight
        };
        WeightSet { weights: self.weights.into_par_iter().map(paneled).collect() }
    }

    /// Bytes of quantized weights, as rows and about as much as panels.
    pub fn quantized_bytes(&self) -> usize {
        let quantized = self.weights.iter().filter(|weight| weight.format() != Format::Float);
        quantized.map(Weight::bytes).sum()
    }

    /// A weight as the operand of a product that reads rows as they are.
    pub fn matrix(&self, id: WeightId) -> Matrix {
        Matrix { id, format: self.get(id).format(), order: None }
    }
}
