//! Strips of int8 weights: tiles of 16 rows x 64 columns, padded with zeros, then f32 scales of the 16 rows.
//!
//! Four neighbours of a row have the place that a pair has in a tile of 16-bit elements: the operands of `mma.m16n8k32` are those of `m16n8k16` in
//! words.

use super::{ROWS, scatter};
use crate::quant::Quantized;

/// Columns of a tile.
const COLS: usize = 64;

/// Bytes of a strip of `k` columns.
pub fn strip_bytes(k: usize) -> usize {
    ROWS * k.next_multiple_of(COLS) + ROWS * 4
}

/// Writes a strip whose row `r` is row `n` of a matrix, `rows[r] = (matrix, n)`; what is not there is zero.
pub fn write_strip(rows: &[Option<(&Quantized, usize)>; ROWS], out: &mut [u8]) {
    let (tiles, scales) = out.split_at_mut(out.len() - ROWS * 4);
    let mut line = vec![0; tiles.len() / ROWS];
    for (row, (source, scale)) in rows.iter().zip(scales.as_chunks_mut::<4>().0).enumerate() {
        line.fill(0);
        *scale = source.map_or(0.0, |(q, n)| q.scales[n]).to_le_bytes();
        source.iter().for_each(|(q, n)| line[..q.k].copy_from_slice(q.row(*n)));
        let tiles = tiles.chunks_exact_mut(ROWS * COLS).zip(line.chunks_exact(COLS));
        tiles.for_each(|(tile, from)| scatter::<4>(row, from, tile));
    }
}

#[cfg(test)]
mod tests {
    use crate::data::TensorData;
    use crate::dtype::DType;
    use crate::launch::Layout;
    use crate::pack::Packing;
    use crate::quant::{Activations, Codes, Quantized, Values};
    use crate::weights::{Part, Weight};
    use std::sync::Arc;

    fn code(row: usize, col: usize) -> i8 {
        (row * 37 + col * 11 + col / 64) as i8
    }

    /// Codes that differ between neighbours; row `r` has the scale `r + 1`.
    fn part(first: usize, n: usize, k: usize) -> Part {
        let codes: Vec<u8> = (0..n * k).map(|i| code(first + i / k, i % k) as u8).collect();
        let codes = Codes::I8(TensorData::from_bytes(codes));
        let scales = (0..n).map(|r| (first + r + 1) as f32).collect();
        let activations = Activations::Int8;
        let q = Quantized { n, k, codes, group: k, scales, zeros: None, order: None, activations };
        q.check().unwrap();
        Part { values: Values::Quantized(Arc::new(q)), n, k }
    }

    /// Code and scale of a packed weight by the operand's definition (PTX ISA, m16n8k32, A): lane `4 g + t` has registers 0 to 3 for rows `g`,
    /// `g + 8`, `g`, `g + 8` and columns `4 t..`, `4 t..`, `4 t + 16..`, `4 t + 16..` of a step. Column `16 t + 8 s + 4 i + e` of a tile is
    /// `4 t + 16 i + e` of step `s`.
    fn element(packed: &[u8], k: usize, strip: usize, row: usize, col: usize) -> (i8, f32) {
        let tiles = k.div_ceil(64);
        let strip = &packed[strip * (tiles * 1024 + 64)..][..tiles * 1024 + 64];
        let (t, step, i, e) = (col % 64 / 16, col / 8 % 2, col / 4 % 2, col % 4);
        let (lane, register) = (row % 8 * 4 + t, 2 * i + row / 8);
        let at = col / 64 * 1024 + step * 512 + lane * 16 + register * 4 + e;
        (strip[at] as i8, bytemuck::pod_read_unaligned(&strip[tiles * 1024 + 4 * row..][..4]))
    }

    fn packed(weight: &Weight, layout: Layout) -> Vec<u8> {
        let p = Packing::new(weight, layout);
        let mut out = vec![0xAA; p.total()];
        let bytes = p.bytes(0..1);
        out.chunks_exact_mut(bytes).enumerate().for_each(|(piece, out)| p.write(piece, out));
        out
    }

    #[test]
    fn every_code_and_scale_is_where_the_layout_says() {
        let k = 80;
        let weight = Weight { name: "w".into(), parts: vec![part(0, 20, k), part(20, 15, k)] };
        let out = packed(&weight, Layout::Tiled { dtype: DType::I8, half: None });
        assert_eq!(out.len(), 3 * (2 * 1024 + 64));
        for row in 0..48 {
            for col in 0..128 {
                let inside = if row < 35 && col < k { code(row, col) } else { 0 };
                let scale = if row < 35 { (row + 1) as f32 } else { 0.0 };
                assert_eq!(element(&out, k, row / 16, row % 16, col), (inside, scale), "row {row}, column {col}");
            }
        }
    }

    #[test]
    fn pairs_of_rows_lie_eight_rows_apart() {
        let weight = Weight { name: "w".into(), parts: vec![part(0, 24, 64), part(24, 24, 64)] };
        let out = packed(&weight, Layout::Tiled { dtype: DType::I8, half: Some(24) });
        for (strip, first) in [0, 8, 16].into_iter().enumerate() {
            for g in 0..8 {
                let want = |row: usize| (code(row, 21), (row + 1) as f32);
                assert_eq!(element(&out, 64, strip, g, 21), want(first + g));
                assert_eq!(element(&out, 64, strip, g + 8, 21), want(first + g + 24));
            }
        }
    }
}
