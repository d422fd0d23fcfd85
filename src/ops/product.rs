//! How a device runs a product `x Wᵀ`: the two shapes of `kernels/linear.cuh`, which give the same bits.
//!
//! It knows row counts and widths, not what follows the product.

use super::input::Input;
use super::{Result, require_kernel};
use crate::dtype::DType;
use crate::launch::{Kernel, Launch, Layout};
use crate::quant::{Format, Groups};
use crate::tensor::Tensor;
use crate::weights::Matrix;

/// The most rows that the narrow shape takes: one pass over the weights, whatever the rows. Its blocks have 16 features each.
pub const NARROW_ROWS: usize = 32;

/// A block of the wide shape.
struct Wide {
    features: usize,
    /// Also the rows that share a counter of the norm after a product.
    rows: usize,
    threads: u32,
    /// Dynamic shared memory.
    smem: usize,
}

/// Weights that are staged with their rows: three stages of 64 k of both.
const STAGED: Wide = Wide { features: 128, rows: 128, threads: 256, smem: 3 * 2 * (128 * 64 * 2) };
/// The same of int8.
const INT8: Wide = Wide { features: 128, rows: 128, threads: 128, smem: 3 * 2 * (128 * 64) };
/// Codes, which go to registers: two stages of 128 k of rows, and the sums, whose tokens are 4 floats apart.
const CODES: Wide = Wide { features: 256, rows: 64, threads: 256, smem: 2 * (64 * 128 * 2) + 64 * (256 + 4) * 4 };

fn wide(format: Format) -> &'static Wide {
    match format {
        Format::Float => &STAGED,
        Format::W8A8 => &INT8,
        Format::W4A16 { .. } | Format::W8A16 { .. } => &CODES,
    }
}

/// Rows that share a counter of the norm after a product.
pub fn rows_per_counter(weight: Matrix) -> usize {
    wide(weight.format).rows
}

/// Begins a launch of a family with what it multiplies: rows and their scales, the weight, and what `kernels/codes.cuh` must know of its groups.
/// With `half`, the weight is stored in pairs of rows that far apart.
pub fn launch(family: String, x: &Input, weight: Matrix, half: Option<usize>) -> Launch {
    let (format, launch) = (weight.format, x.read(Launch::new(family_of(family, weight))));
    match format.groups() {
        Some(groups) => {
            let k = x.cols();
            let launch = launch.weight(weight.id, Layout::Codes { format, half }).i32(k / groups.group);
            launch.i32(chains(groups.group)).i32(groups.zero_bytes(k))
        }
        None => launch.weight(weight.id, Layout::Tiled { dtype: x.x.dtype, half }),
    }
}

/// Groups that end in a turn of 128 columns; 1 of groups that are turns, or rows.
fn chains(group: usize) -> usize {
    if matches!(group, 32 | 64) { 128 / group } else { 1 }
}

/// The name of a family of kernels, with the format of the weights unless they are floats.
fn family_of(name: String, weight: Matrix) -> String {
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
    let (k, wide) = (x.cols(), wide(weight.format));
    let grouped = weight.format.groups().is_none_or(|g| [32, 64, 128, k].contains(&g.group));
    require_kernel(op, grouped, || format!("groups other than 32, 64, 128 and all columns: {:?}", weight.format))?;
    let half = activations.is_half() && x.x.is_contiguous();
    let lines = (k * x.x.dtype.size()).is_multiple_of(16) && n.is_multiple_of(8);
    require_kernel(op, half && lines, || format!("{x} and N = {n}"))?;
    let (shape, blocks, block, smem) = if m <= NARROW_ROWS {
        ("narrow", n.div_ceil(16), 32 * slices(weight.format, k), 0)
    } else {
        ("wide", n.div_ceil(wide.features) * m.div_ceil(wide.rows), wide.threads, wide.smem as u32)
    };
    Ok(Kernel { entry: format!("{family}_{shape}"), grid: [blocks as u32, 1, 1], block, smem })
}

/// The slices of K that are summed apart, as `log_slices` of the kernels has them.
pub fn slices(format: Format, k: usize) -> u32 {
    let borders = if format.groups().is_some() { [1536, 3072, 6144] } else { [768, 1536, 6144] };
    1 << borders.iter().filter(|&&least| k >= least).count()
}

/// Bytes that `m` rows ask for of `n` floats that belong to features, such as a bias; features come in pairs with `members` 2. In the wide shape
/// a lane's eight floats are two loads of one sector, and the rows of a warp share it: as many as a warp has lanes for each eight features or pairs.
pub fn vector_again(weight: Matrix, m: usize, n: usize, members: usize) -> usize {
    let each = m * n * 4;
    if m <= NARROW_ROWS { each } else { each * wide(weight.format).features / (128 * members) }
}

/// Bytes that the tiles of `m` rows of `x` by `n` features, in pairs with `members` 2, ask for beyond one reading of both.
pub fn again(x: &Input, weight: Matrix, m: usize, n: usize, members: usize, biased: bool) -> u64 {
    let (row, wide) = (x.cols() * x.x.dtype.size(), wide(weight.format));
    // Zero points of a group are half a sector, of which all is asked for.
    let (column, halves) = match weight.format.groups() {
        Some(Groups { bits, group, zeros }) => {
            let zeros = if zeros { x.cols() / group } else { 0 };
            (x.cols() * bits / 8 + x.cols() / group * 4 + zeros, n * zeros)
        }
        None => (row, 0),
    };
    let (rows, weights) = (m * row, n * column);
    // So is the scale of an int8 feature.
    let vectors = usize::from(biased) + usize::from(x.scales.is_some());
    // A row is read in pieces of 64 bytes: where rows end in the middle of a sector, every other row's pieces lie in three.
    let split = if row.is_multiple_of(32) { 0 } else { n.div_ceil(wide.features) * rows / 4 };
    let tiles = if m <= NARROW_ROWS {
        (n.div_ceil(16) - 1) * rows + halves
    } else {
        let over = m.div_ceil(wide.rows);
        (n.div_ceil(wide.features) - 1) * rows + (over - 1) * weights + over * halves
    };
    (tiles + split + vectors * vector_again(weight, m, n, members)) as u64
}

/// Bytes that storing or loading the results asks for again: in the wide shape eight floats of a lane are two accesses to the same sectors.
pub fn results_again(y: &Tensor) -> u64 {
    if y.dtype == DType::F32 && y.rows() > NARROW_ROWS { y.bytes() as u64 } else { 0 }
}
