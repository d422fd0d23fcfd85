//! The norm that opens a fused op.

use super::{Result, require, require_vector};
use crate::tensor::WeightId;
use crate::weights::WeightSet;

/// Which statistics a norm removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps) * w + b` (Ba et al. 2016).
    Layer,
}

/// A norm over each `width` elements of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    pub kind: NormKind,
    /// `[width]`
    pub weight: WeightId,
    /// `[width]`
    pub bias: Option<WeightId>,
    pub eps: f32,
    /// Elements that share their statistics: the row, or a quarter of it where four patches were merged into one row.
    pub width: usize,
}

impl Norm {
    /// Checks it against the rows it is applied to.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) naming the dimension.
    pub fn check(&self, op: &'static str, weights: &WeightSet, cols: usize) -> Result<()> {
        require(op, self.width > 0 && cols.is_multiple_of(self.width), || {
            format!("rows of {cols} do not split into norms of {}", self.width)
        })?;
        require_vector(op, weights, self.weight, self.width)?;
        self.bias.map_or(Ok(()), |b| require_vector(op, weights, b, self.width))
    }
}
