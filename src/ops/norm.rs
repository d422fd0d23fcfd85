//! The norm of a finished row.
//!
//! The op that completes a row of the residual stream also stores its norm, rounded to the activations' type, for the op that reads it: every
//! product then has plain operands. The surprise is where it stands: after the op before, not in the op that the model names it with.

use super::input::Input;
use super::{Result, require, require_dim, require_vector};
use crate::dtype::DType;
use crate::launch::Launch;
use crate::tensor::{Tensor, WeightId};
use crate::weights::WeightSet;

/// Which statistics a norm removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps) * w + b` (Ba et al. 2016).
    Layer,
}

/// A norm over each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    pub kind: NormKind,
    /// `[D]`
    pub weight: WeightId,
    /// `[D]`; a LayerNorm has one.
    pub bias: Option<WeightId>,
    pub eps: f32,
}

/// A norm of the rows that an op completes, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normed {
    pub norm: Norm,
    /// `[T, D]`, in the form that the product reads which follows.
    pub y: Input,
    /// What its rows are rounded to, before they become int8 if they do.
    pub activations: DType,
    /// How many tiles of each block of rows are done: zero between launches, i32. Only devices count.
    pub counters: Tensor,
}

impl Normed {
    /// Checks it against the rows that it is taken of.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) naming the dimension.
    pub fn check(&self, op: &'static str, weights: &WeightSet, of: &Tensor) -> Result<()> {
        self.y.check(op)?;
        require(op, self.y.x.shape() == of.shape(), || format!("{} is no norm of {of}", self.y))?;
        require(op, self.y.scales.is_some() || self.y.x.dtype == self.activations, || {
            format!("{} is not rounded to {}", self.y, self.activations)
        })?;
        require_vector(op, weights, self.norm.weight, of.cols())?;
        require(op, self.norm.bias.is_some() == (self.norm.kind == NormKind::Layer), || {
            "a LayerNorm has a bias, an RMSNorm has none".into()
        })?;
        self.norm.bias.map_or(Ok(()), |b| require_vector(op, weights, b, of.cols()))?;
        require(op, self.counters.dtype == DType::I32, || format!("{}: counters are i32", self.counters))?;
        require_dim(op, "rows of the counters", self.counters.rows(), 1)
    }

    /// Bytes that a device asks for again for it: the rows `of`, once for each statistic and once to scale them, and the weights of each row.
    /// What becomes int8 is scaled twice.
    pub fn again(&self, of: &Tensor) -> u64 {
        let (passes, vectors) = if self.norm.kind == NormKind::Layer { (3, 2) } else { (2, 1) };
        let int8 = usize::from(self.y.scales.is_some());
        // Eight floats of a lane are two loads, and these touch the same sectors.
        let rows = (passes + int8) * of.bytes() * if of.dtype == DType::F32 { 2 } else { 1 };
        let weights = (2 * (1 + int8) * of.rows() - 1) * of.cols() * 4 * vectors;
        (rows + weights) as u64
    }
}

/// Adds a norm's operands to a launch, or their absence.
pub fn operands(launch: Launch, normed: Option<&Normed>) -> Launch {
    match normed {
        None => launch.absent().absent().absent().absent().absent(),
        Some(n) => {
            let launch = launch.vector(n.norm.weight).maybe_vector(n.norm.bias).write(&n.y.x);
            let launch = match n.y.scales {
                Some(scales) => launch.write(&scales),
                None => launch.absent(),
            };
            launch.update(&n.counters)
        }
    }
}

/// The epsilon, 0 without a norm.
pub fn eps(normed: Option<&Normed>) -> f32 {
    normed.map_or(0.0, |n| n.norm.eps)
}
