//! How a device runs a product `x Wᵀ`: the two shapes of `kernels/linear.cuh`, which give the same bits.
//!
//! It knows row counts and widths, not what follows the product.

use super::{Result, require_kernel};
use crate::dtype::DType;
use crate::launch::Kernel;
use crate::tensor::Tensor;

/// The most rows that the narrow shape takes: one pass over the weights, whatever the rows.
const NARROW_ROWS: usize = 32;
/// Rows and features of a block in the wide shape, and its dynamic shared memory: three stages of 64 k of both.
const WIDE: usize = 128;
const WIDE_SMEM: u32 = 3 * 2 * (WIDE * 64 * 2) as u32;
/// Rows that share a counter of the norm after a product.
pub const ROWS_PER_COUNTER: usize = WIDE;

/// The launch of a family's kernel for `m` rows of `x` and `n` features.
///
/// # Errors
/// [`Error::Unsupported`](crate::error::Error::Unsupported) if the rows of an operand cannot be read or written 16 bytes at a time.
pub fn kernel(op: &'static str, family: &str, x: &Tensor, m: usize, n: usize) -> Result<Kernel> {
    let k = x.cols();
    let half = [DType::Bf16, DType::F16].contains(&x.dtype) && x.is_contiguous();
    require_kernel(op, half && k.is_multiple_of(8) && n.is_multiple_of(8), || format!("{x} and N = {n}"))?;
    let (shape, blocks, block, smem) = if m <= NARROW_ROWS {
        ("narrow", n.div_ceil(16), 32 * slices(k), 0)
    } else {
        ("wide", n.div_ceil(WIDE) * m.div_ceil(WIDE), 256, WIDE_SMEM)
    };
    Ok(Kernel { entry: format!("{family}_{shape}"), grid: [blocks as u32, 1, 1], block, smem })
}

/// The slices of K that are summed apart, as `Product::log_slices` has them.
fn slices(k: usize) -> u32 {
    1 << [768, 1536, 6144].iter().filter(|&&most| k >= most).count()
}
