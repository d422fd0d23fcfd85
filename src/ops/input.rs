//! Rows of floats, or int8 rows with a scale for each: what a product reads, and what a KV cache keeps.
//!
//! The format of the weight decides which of the two a product reads; int8 rows come from the norm before it or from
//! [`QuantizeRows`](super::quantize_rows::QuantizeRows). The surprise: a row is rounded to the activations' type before it is quantized, so that a
//! fused norm and a separate op give the same int8.

use super::{Result, require, require_dim, require_float, require_weight};
use crate::dtype::DType;
use crate::launch::Launch;
use crate::quant::Format;
use crate::tensor::Tensor;
use crate::weights::{Matrix, WeightSet};
use std::fmt;

/// Rows in one of two forms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Input {
    /// `[M, K]`, or the rows of a KV cache: floats, or int8.
    pub x: Tensor,
    /// f32 `[M]`, if `x` is int8: row `m` stands for `scales[m] * x[m]`.
    pub scales: Option<Tensor>,
}

impl From<Tensor> for Input {
    fn from(x: Tensor) -> Self {
        Input { x, scales: None }
    }
}

impl Input {
    /// M.
    pub fn rows(&self) -> usize {
        self.x.rows()
    }

    /// K.
    pub fn cols(&self) -> usize {
        self.x.cols()
    }

    /// Checks that the rows are floats, or int8 with as many scales.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract).
    pub fn check(&self, op: &'static str) -> Result<()> {
        let Some(scales) = self.scales else { return require_float(op, &self.x) };
        require(op, self.x.dtype == DType::I8, || format!("{} has scales, but is not int8", self.x))?;
        require(op, scales.dtype == DType::F32 && scales.is_contiguous(), || format!("{scales}: scales are f32"))?;
        require_dim(op, "scales", scales.elements(), self.x.rows())
    }

    /// Checks the rows and the weight `[n, K]` that they are multiplied with: W8A8 takes int8, every other format floats.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract).
    pub fn check_product(&self, op: &'static str, weights: &WeightSet, weight: Matrix, n: usize) -> Result<()> {
        self.check(op)?;
        require_weight(op, weights, weight, n, self.cols())?;
        let int8 = weight.format == Format::W8A8;
        require(op, self.scales.is_some() == int8, || format!("{} weights do not multiply {}", weight.format, self.x))
    }

    /// True if they are, or were before they became int8, of a type.
    pub fn stands_for(&self, dtype: DType) -> bool {
        self.scales.is_some() || self.x.dtype == dtype
    }

    /// Adds the rows to a launch, and their scales behind them if they have some.
    pub fn read(&self, launch: Launch) -> Launch {
        let launch = launch.read(&self.x);
        match &self.scales {
            Some(scales) => launch.read(scales),
            None => launch,
        }
    }

    /// The same where some of the rows are written.
    pub fn update(&self, launch: Launch) -> Launch {
        let launch = launch.update(&self.x);
        match &self.scales {
            Some(scales) => launch.update(scales),
            None => launch,
        }
    }

    /// Bytes of the rows and their scales.
    pub fn bytes(&self) -> usize {
        self.x.bytes() + self.scales.map_or(0, |s| s.bytes())
    }

    /// Bytes of one row and its scale.
    pub fn row_bytes(&self) -> usize {
        self.cols() * self.x.dtype.size() + self.scales.map_or(0, |s| s.dtype.size())
    }

    /// The type of the floats that are, or become, rows of these: of a cache that is filled with activations.
    pub fn float(&self, activations: DType) -> DType {
        if self.scales.is_some() { activations } else { self.x.dtype }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.x.fmt(f)
    }
}
