//! Weights as a device stores them: written once here, read by every kernel.
//!
//! A tile is 16 rows x 32 columns in the order in which `mma.m16n8k16` wants its A operand: two halves, each of 16 bytes for every lane of a warp.
//! Lane `4 g + t` finds rows `g` and `g + 8` of columns `8 t` and `8 t + 2` (two each) in the first half, of `8 t + 4` and `8 t + 6` in the second: one
//! fully coalesced load is one operand, without `ldmatrix`, a swizzle or a move. Tiles of a strip of 16 rows follow each other. The surprise: the
//! columns of a product are thereby permuted, alike in both operands, so that eight neighbours of a token serve two steps.

mod codes;
mod int8;

use crate::dtype::{DType, Float, with_float};
use crate::launch::Layout;
use crate::quant::{Quantized, Values};
use crate::weights::{Part, Weight};
use codes::Strip;
use std::ops::Range;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Columns of a tile.
pub const COLS: usize = 32;

/// A weight's shape on a device.
#[derive(Debug, Clone, Copy)]
pub struct Packing<'w> {
    weight: &'w Weight,
    layout: Layout,
}

impl<'w> Packing<'w> {
    /// A weight in a layout.
    pub fn new(weight: &'w Weight, layout: Layout) -> Self {
        Packing { weight, layout }
    }

    /// Pieces that [`write`](Self::write) can make one by one: strips of 16 rows, or the parts of a vector.
    pub fn pieces(&self) -> usize {
        match self.layout {
            Layout::Vector => self.weight.parts.len(),
            Layout::Tiled { .. } | Layout::Codes { .. } => self.weight.n().div_ceil(ROWS),
        }
    }

    /// Bytes of pieces, which follow each other.
    pub fn bytes(&self, pieces: Range<usize>) -> usize {
        match self.layout {
            Layout::Vector => self.weight.parts[pieces].iter().map(|p| 4 * p.n * p.k).sum(),
            Layout::Tiled { dtype, .. } => pieces.len() * self.strip(dtype),
            Layout::Codes { format, .. } => pieces.len() * Strip::new(format, self.weight.k()).bytes(),
        }
    }

    /// Bytes of the whole weight.
    pub fn total(&self) -> usize {
        self.bytes(0..self.pieces())
    }

    fn strip(&self, dtype: DType) -> usize {
        if dtype == DType::I8 {
            return int8::strip_bytes(self.weight.k());
        }
        ROWS * self.weight.k().next_multiple_of(COLS) * dtype.size()
    }

    /// Writes a piece; `out` has its [`bytes`](Self::bytes).
    pub fn write(&self, piece: usize, out: &mut [u8]) {
        match self.layout {
            Layout::Vector => convert(&self.weight.parts[piece], 0, DType::F32, out),
            Layout::Tiled { dtype: DType::I8, half } => int8::write_strip(&self.codes(piece, half), out),
            Layout::Tiled { dtype, half } => self.write_strip(dtype, out, |row| source(piece, row, half)),
            Layout::Codes { format, half } => Strip::new(format, self.weight.k()).write(&self.codes(piece, half), out),
        }
    }

    /// The quantized rows of a strip.
    fn codes(&self, strip: usize, half: Option<usize>) -> [Option<(&'w Quantized, usize)>; ROWS] {
        std::array::from_fn(|row| self.row(source(strip, row, half)).map(|(p, n)| (codes_of(p), n)))
    }

    /// A strip whose row `r` is the weight's row `source(r)`, zeros beyond its last.
    fn write_strip(&self, dtype: DType, out: &mut [u8], source: impl Fn(usize) -> usize) {
        let (k, run) = (self.weight.k(), COLS * dtype.size());
        let mut line = vec![0; k.next_multiple_of(COLS) * dtype.size()];
        for row in 0..ROWS {
            match self.row(source(row)) {
                Some((part, at)) => convert(part, at * k, dtype, &mut line[..k * dtype.size()]),
                None => line.fill(0),
            }
            for (tile, from) in out.chunks_exact_mut(ROWS * run).zip(line.chunks_exact(run)) {
                match dtype.size() {
                    2 => scatter::<4>(row, from, tile),
                    _ => scatter::<8>(row, from, tile),
                }
            }
        }
    }

    /// The part that holds a row, and the row's place in it.
    fn row(&self, mut row: usize) -> Option<(&'w Part, usize)> {
        for part in &self.weight.parts {
            if row < part.n {
                return Some((part, row));
            }
            row -= part.n;
        }
        None
    }
}

/// The weight's row that a strip has as its own; `half` where pairs of rows stand together.
fn source(strip: usize, row: usize, half: Option<usize>) -> usize {
    let Some(half) = half else { return strip * ROWS + row };
    let per_segment = half / (ROWS / 2);
    let first = 2 * half * (strip / per_segment) + ROWS / 2 * (strip % per_segment);
    first + row % (ROWS / 2) + row / (ROWS / 2) * half
}

fn codes_of(part: &Part) -> &Quantized {
    match &part.values {
        Values::Quantized(q) => q,
        Values::Float(..) | Values::Panels(_) => unreachable!("the layout follows from the format of rows"),
    }
}

/// Where a tile has an element; `column` and its neighbour are together if it is even.
fn place(row: usize, column: usize) -> usize {
    column / 4 % 2 * 256 + (row % 8 * 4 + column / 8) * 8 + column / 2 % 2 * 4 + row / 8 * 2 + column % 2
}

/// Puts a row of a tile, pairs of `PAIR` bytes, where it belongs.
fn scatter<const PAIR: usize>(row: usize, from: &[u8], tile: &mut [u8]) {
    for (i, pair) in from.as_chunks::<PAIR>().0.iter().enumerate() {
        tile[place(row, 2 * i) / 2 * PAIR..][..PAIR].copy_from_slice(pair);
    }
}

/// Elements of a part from `start`, as `dtype`, until `out` is full.
fn convert(part: &Part, start: usize, dtype: DType, out: &mut [u8]) {
    let (bytes, stored) = part.float();
    let from = &bytes[start * stored.size()..];
    if stored == dtype {
        return out.copy_from_slice(&from[..out.len()]);
    }
    with_float!(stored, S => with_float!(dtype, T => {
        for (to, from) in out.chunks_exact_mut(dtype.size()).zip(from.chunks_exact(stored.size())) {
            let x = bytemuck::pod_read_unaligned::<S>(from).to_f32();
            to.copy_from_slice(bytemuck::bytes_of(&T::from_f32(x)));
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TensorData;
    use crate::quant::Values;
    use half::bf16;

    /// Row `r`, column `c` holds `100 r + c`, which bf16 has exactly below 256 only; f32 stays exact.
    fn weight(rows: &[usize], k: usize) -> Weight {
        let mut first = 0;
        let parts = rows
            .iter()
            .map(|&n| {
                let values: Vec<f32> = (first * k..(first + n) * k).map(|i| (i / k * 100 + i % k) as f32).collect();
                first += n;
                let data = TensorData::from_bytes(bytemuck::cast_slice(&values).to_vec());
                Part { values: Values::Float(data, DType::F32), n, k }
            })
            .collect();
        Weight { name: "w".into(), parts }
    }

    fn packed(weight: &Weight, layout: Layout) -> Vec<u8> {
        let p = Packing::new(weight, layout);
        let mut out = vec![0xAA; p.total()];
        let mut at = 0;
        for piece in 0..p.pieces() {
            let len = p.bytes(piece..piece + 1);
            p.write(piece, &mut out[at..at + len]);
            at += len;
        }
        assert_eq!(at, out.len());
        out
    }

    /// The element of a tiled weight by the operand's definition (PTX ISA, m16n8k16, A): lane `4 g + t` has registers 0 to 3 for rows `g`, `g + 8`,
    /// `g`, `g + 8` and columns `2 t..`, `2 t..`, `2 t + 8..`, `2 t + 8..` of a step; column `8 t + 4 s + 2 i + e` of a tile is `2 t + 8 i + e` of step `s`.
    fn element(packed: &[u8], k: usize, strip: usize, row: usize, col: usize) -> f32 {
        let tiles = k.div_ceil(COLS);
        let tile = strip * tiles + col / COLS;
        let (t, step, i, e) = (col % COLS / 8, col / 4 % 2, col / 2 % 2, col % 2);
        let (lane, register) = (row % 8 * 4 + t, 2 * i + row / 8);
        let at = tile * ROWS * COLS + step * 32 * 8 + lane * 8 + register * 2 + e;
        bytemuck::pod_read_unaligned(&packed[4 * at..][..4])
    }

    #[test]
    fn every_element_of_a_tiled_weight_is_where_the_layout_says() {
        let (w, k) = (weight(&[20, 15], 40), 40);
        let out = packed(&w, Layout::Tiled { dtype: DType::F32, half: None });
        assert_eq!(out.len(), 48 * 64 * 4);
        for row in 0..48 {
            for col in 0..64 {
                let want = if row < 35 && col < k { (100 * row + col) as f32 } else { 0.0 };
                assert_eq!(element(&out, k, row / 16, row % 16, col), want, "row {row}, column {col}");
            }
        }
    }

    #[test]
    fn pairs_lie_eight_rows_apart_in_a_tile() {
        // Two segments of 48: strips of 8 + 8 rows whose halves are 24 apart.
        let w = weight(&[48, 48], 32);
        let out = packed(&w, Layout::Tiled { dtype: DType::F32, half: Some(24) });
        for (strip, first) in [0, 8, 16, 48, 56, 64].into_iter().enumerate() {
            for g in 0..8 {
                assert_eq!(element(&out, 32, strip, g, 5), (100 * (first + g) + 5) as f32);
                assert_eq!(element(&out, 32, strip, g + 8, 5), (100 * (first + g + 24) + 5) as f32);
            }
        }
    }

    #[test]
    fn vectors_are_joined_in_f32_and_matrices_rounded() {
        let w = weight(&[3, 2], 1);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&packed(&w, Layout::Vector));
        assert_eq!(values, [0.0, 100.0, 200.0, 300.0, 400.0]);
        let out = packed(&weight(&[16], 32), Layout::Tiled { dtype: DType::Bf16, half: None });
        let last: bf16 = bytemuck::pod_read_unaligned(&out[2 * 511..]);
        assert_eq!(last, bf16::from_f32(1531.0));
    }
}
