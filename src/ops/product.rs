//! How a device runs a product `x Wᵀ`: the two shapes of `kernels/linear.cuh`, which give the same bits.
//!
//! It knows row counts and widths, not what follows the product.

use super::input::Input;
use super::{Result, require_kernel};
use crate::dtype::DType;
use crate::launch::Kernel;
use crate::quant::Format;
use crate::tensor::Tensor;
use crate::weights::Matrix;

/// The most rows that the narrow shape takes: one pass over the weights, whatever the rows.
const NARROW_ROWS: usize = 32;
/// Rows and features of a block in the wide shape, and its dynamic shared memory: three stages of 64 k of both.
const WIDE: usize = 128;
const WIDE_SMEM: u32 = 3 * 2 * (WIDE * 64 * 2) as u32;
/// Rows that share a counter of the norm after a product.
pub const ROWS_PER_COUNTER: usize = WIDE;

/// The name of a family of kernels, with the format of the weights unless they are floats.
pub fn family(name: String, weight: Matrix) -> String {
    if weight.format == Format::Float { name } else { format!("{name}_{}", weight.format) }
}

/// The launch of a family's kernel for `m` rows of `x`, which are or stand for `activations`, and `n` features.
///
/// # Errors
/// [`Error::Unsupported`](crate::error::Error::Unsupported) if the rows of an operand cannot be read or written 16 bytes at a time.
pub fn kernel(
    op: &'static str,
    family: &str,
    x: &Input,
    activations: DType,
    weight: Matrix,
    m: usize,
    n: usize,
) -> Result<Kernel> {
    require_kernel(op, weight.format == Format::Float, || format!("{} weights", weight.format))?;
    let k = x.cols();
    let half = [DType::Bf16, DType::F16].contains(&activations) && x.x.is_contiguous();
    let lines = (k * x.x.dtype.size()).is_multiple_of(16) && n.is_multiple_of(8);
    require_kernel(op, half && lines, || format!("{x} and N = {n}"))?;
    let (shape, blocks, block, smem) = if m <= NARROW_ROWS {
        ("narrow", n.div_ceil(16), 32 * slices(k), 0)
    } else {
        ("wide", n.div_ceil(WIDE) * m.div_ceil(WIDE), 256, WIDE_SMEM)
    };
    Ok(Kernel { entry: format!("{family}_{shape}"), grid: [blocks as u32, 1, 1], block, smem })
}

/// The slices of K that are summed apart, as `Product::log_slices` has them.
pub fn slices(k: usize) -> u32 {
    1 << [768, 1536, 6144].iter().filter(|&&most| k >= most).count()
}

/// Bytes that the tiles of `m` rows of `x` by `n` features ask for beyond one reading of both. A bias is asked for by each row.
pub fn again(x: &Input, m: usize, n: usize, biased: bool) -> u64 {
    let row = x.cols() * x.x.dtype.size();
    let (rows, weights) = (m * row, n * row);
    let bias = if biased { m * n * 4 } else { 0 };
    // A row is read in pieces of 64 bytes: where rows end in the middle of a sector, every other row's pieces lie in three.
    let split = if row.is_multiple_of(32) { 0 } else { n.div_ceil(WIDE) * rows / 4 };
    let tiles = if m <= NARROW_ROWS {
        (n.div_ceil(16) - 1) * rows
    } else {
        (n.div_ceil(WIDE) - 1) * rows + (m.div_ceil(WIDE) - 1) * weights
    };
    (tiles + split + bias) as u64
}

/// Bytes that storing or loading the results asks for again: in the wide shape eight floats of a lane are two accesses to the same sectors.
pub fn results_again(y: &Tensor) -> u64 {
    if y.dtype == DType::F32 && y.rows() > NARROW_ROWS { y.bytes() as u64 } else { 0 }
}
