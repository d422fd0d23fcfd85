//! Rotary angles: the frequencies, and which position axis turns which channel.
//!
//! Angles are products of two f32 numbers, as transformers computes them; sine and cosine are taken of that rounded product.

use super::{Result, require, require_dim, require_vector};
use crate::hostmem::OpMem;
use crate::tensor::WeightId;
use crate::weights::WeightSet;

/// `1 / theta^(2 i / dim)` for `i < dim / 2`, rounded as transformers rounds them (power first, then reciprocal; both f32).
pub fn inv_freq(theta: f32, dim: usize) -> Vec<f32> {
    (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / (theta as f64).powf(exponent as f64) as f32
        })
        .collect()
}

/// M-RoPE (Qwen2-VL, section 2.1): the half-head's channels are split in three runs that turn by t, h and w.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mrope {
    /// Frequencies of half a head, [`inv_freq`] of a whole one.
    pub inv_freq: WeightId,
    /// Channels that turn by t, h and w; their sum is half the head.
    pub section: [usize; 3],
}

impl Mrope {
    /// Checks that the sections fill half a head.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract).
    pub fn check(&self, op: &'static str, weights: &WeightSet, head_dim: usize) -> Result<()> {
        require_vector(op, weights, self.inv_freq, head_dim / 2)?;
        require_dim(op, "sum of mrope_section", self.section.iter().sum(), head_dim / 2)
    }

    /// The table of frequencies.
    pub fn frequencies(&self, m: &OpMem) -> Vec<f32> {
        super::body::vector(m.weight(self.inv_freq))
    }

    /// The axis (0 t, 1 h, 2 w) of a channel of the half-head.
    pub fn axis(&self, channel: usize) -> usize {
        let [t, h, _] = self.section;
        usize::from(channel >= t) + usize::from(channel >= t + h)
    }

    /// The angles of one token's half-head.
    pub fn angles(&self, inv_freq: &[f32], thw: [i32; 3], out: &mut [f32]) {
        for (i, (angle, f)) in out.iter_mut().zip(inv_freq).enumerate() {
            *angle = thw[self.axis(i)] as f32 * f;
        }
    }
}

/// The tower's 2-D rope: the first quarter of a head turns by the patch row, the second by its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope2d {
    /// Frequencies of a quarter of a head, [`inv_freq`] of half a one.
    pub inv_freq: WeightId,
}

impl Rope2d {
    /// Checks that a head splits into two axes of pairs.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract).
    pub fn check(&self, op: &'static str, weights: &WeightSet, head_dim: usize) -> Result<()> {
        require(op, head_dim.is_multiple_of(4), || format!("head_dim {head_dim} is no multiple of 4"))?;
        require_vector(op, weights, self.inv_freq, head_dim / 4)
    }

    /// The table of frequencies.
    pub fn frequencies(&self, m: &OpMem) -> Vec<f32> {
        super::body::vector(m.weight(self.inv_freq))
    }

    /// The angles of one patch's half-head; `inv_freq` is that of half a head.
    pub fn angles(&self, inv_freq: &[f32], row_col: [i32; 2], out: &mut [f32]) {
        for (i, angle) in out.iter_mut().enumerate() {
            *angle = row_col[i / inv_freq.len()] as f32 * inv_freq[i % inv_freq.len()];
        }
    }
}
