//! Strips of quantized weights: codes, then scales, then zero points if there are any.
//!
//! Columns come in turns of 128, padded with codes that are zero points. A turn of 4-bit codes is two pieces of 512 bytes, of 8-bit codes four: 16
//! bytes for each lane, which are its registers of the A operands of two tiles, or of one. A word of 4-bit codes is one operand, register `r` at bits
//! `4 r` (even column) and `16 + 4 r`; a word of 8-bit codes is two registers, the first in its even bytes. Scales are f32 `[group][8][2]` and zero
//! points u8 `[group][8][2]`, padded to 32 bytes, of rows `g` and `g + 8` side by side.

use super::ROWS;
use crate::quant::{Codes, Format, Quantized};

/// Columns that a loop of a kernel takes at a time.
const TURN: usize = 128;
/// Bytes that a warp loads at a time, and a lane.
const LOAD: usize = 512;
const LANE: usize = 16;

/// How a strip of 16 rows and `k` columns lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Strip {
    bits: usize,
    k: usize,
    groups: usize,
    zero_bytes: usize,
}

impl Strip {
    /// Of a quantized format whose activations are not.
    pub fn new(format: Format, k: usize) -> Strip {
        let Some(groups) = format.groups() else { unreachable!("{format} weights have a layout of their own") };
        Strip { bits: groups.bits, k, groups: k / groups.group, zero_bytes: groups.zero_bytes(k) }
    }

    /// Bytes of all three.
    pub fn bytes(&self) -> usize {
        self.code_bytes() + 4 * self.groups * ROWS + self.zero_bytes
    }

    fn code_bytes(&self) -> usize {
        ROWS * self.k.next_multiple_of(TURN) * self.bits / 8
    }

    /// Writes a strip whose row `r` is row `n` of a matrix, `rows[r] = (matrix, n)`; what is not there has scales of zero.
    pub fn write(&self, rows: &[Option<(&Quantized, usize)>; ROWS], out: &mut [u8]) {
        let (codes, rest) = out.split_at_mut(self.code_bytes());
        let (scales, zeros) = rest.split_at_mut(self.groups * ROWS * 4);
        codes.fill(0);
        zeros.fill(0);
        let mut line = vec![0; self.k.next_multiple_of(TURN)];
        for (row, source) in rows.iter().enumerate() {
            // Rows g and g + 8 of a group are neighbours.
            let slot = |group: usize| group * ROWS + row % 8 * 2 + row / 8;
            for group in 0..self.groups {
                let scale = source.map_or(0.0, |(q, n)| q.scales[n * self.groups + group]);
                scales[4 * slot(group)..][..4].copy_from_slice(&scale.to_le_bytes());
                if self.zero_bytes > 0 {
                    zeros[slot(group)] = source.map_or(0, |(q, n)| q.zero(n, group) as u8);
                }
            }
            match source {
                Some((q, n)) => spell(q, *n, &mut line),
                None => line.fill(0),
            }
            self.scatter(row, &line, codes);
        }
    }

    /// Puts a row of codes where its lanes want them.
    fn scatter(&self, row: usize, line: &[u8], codes: &mut [u8]) {
        // A lane has eight neighbours of a tile, for two operands; its pieces follow each other in a load.
        let per_tile = self.bits * 2;
        for (i, eight) in line.as_chunks::<8>().0.iter().enumerate() {
            let (tile, lane) = (i / 4, row % 8 * 4 + i % 4);
            let (load, part) = (tile * per_tile / LANE, tile * per_tile % LANE);
            let at = &mut codes[load * LOAD + lane * LANE + part..][..per_tile];
            for (four, words) in eight.as_chunks::<4>().0.iter().zip(at.chunks_exact_mut(per_tile / 2)) {
                for (j, code) in four.iter().enumerate() {
                    let (pair, odd) = (j / 2, j % 2);
                    match self.bits {
                        4 => words[pair + 2 * odd] |= code << (row / 8 * 4),
                        _ => words[4 * pair + row / 8 + 2 * odd] = *code,
                    }
                }
            }
        }
    }
}

/// A row's codes, unsigned, then zero points.
fn spell(q: &Quantized, n: usize, line: &mut [u8]) {
    let from = q.row(n);
    let (codes, padding) = line.split_at_mut(q.k);
    match &q.codes {
        Codes::U4(_) => {
            let pairs = codes.chunks_mut(2).zip(from);
            pairs.for_each(|(to, byte)| to.iter_mut().zip([byte & 15, byte >> 4]).for_each(|(to, code)| *to = code));
        }
        Codes::U8(_) => codes.copy_from_slice(from),
        Codes::I8(_) => codes.iter_mut().zip(from).for_each(|(to, code)| *to = code ^ 0x80),
    }
    let signed = matches!(q.codes, Codes::I8(_));
    padding.fill(if signed { 0x80 } else { q.zero(n, q.groups() - 1) as u8 });
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::data::TensorData;
    use crate::launch::Layout;
    use crate::pack::{COLS, Packing};
    use crate::quant::{Activations, Values};
    use crate::weights::{Part, Weight};
    use std::sync::Arc;

    /// Codes, scales and zero points that name their row and column, as far as they can.
    fn part(four: bool, zeros: bool, first: usize, n: usize, k: usize, group: usize) -> Part {
        let code = |i: usize| ((first + i / k) * 37 + i % k * 11 + i % k / 16) as u8;
        let data = |per: usize| {
            let bytes =
                (0..n * k).step_by(per).map(|i| if per == 2 { code(i) & 15 | code(i + 1) << 4 } else { code(i) });
            TensorData::from_bytes(bytes.collect::<Vec<_>>())
        };
        let codes = if four {
            Codes::U4(data(2))
        } else if zeros {
            Codes::U8(data(1))
        } else {
            Codes::I8(data(1))
        };
        let all = n * (k / group);
        let scales = (0..all).map(|i| (1000 * first + i) as f32).collect();
        let zeros = zeros.then(|| (0..all).map(|i| (first + i) as u8 & 15).collect());
        let q = Quantized { n, k, codes, group, scales, zeros, order: None, activations: Activations::Float };
        q.check().unwrap();
        Part { values: Values::Quantized(Arc::new(q)), n, k }
    }

    /// The code of a packed strip by the operand's definition (PTX ISA, m16n8k16, A): column `8 t + 4 s + 2 i + e` of a tile is element `e` of register
    /// `2 i + row / 8` of lane `4 (row % 8) + t` in step `s`.
    fn code(strip: &[u8], bits: usize, row: usize, col: usize) -> u8 {
        let (tile, t, step, i, e) = (col / COLS, col % COLS / 8, col / 4 % 2, col / 2 % 2, col % 2);
        let (lane, register) = (row % 8 * 4 + t, 2 * i + row / 8);
        let word = |load: usize, word: usize| {
            u32::from_le_bytes(strip[load * 512 + lane * 16 + word * 4..][..4].try_into().unwrap())
        };
        match bits {
            4 => (word(tile / 2, tile % 2 * 2 + step) >> (4 * register + 16 * e) & 15) as u8,
            _ => (word(tile, step * 2 + register / 2) >> (8 * (register % 2) + 16 * e)) as u8,
        }
    }

    fn check(
        four: bool,
        zeros: bool,
        k: usize,
        group: usize,
        half: Option<usize>,
        source: impl Fn(usize) -> Option<usize>,
    ) {
        // Two matrices, so that strips cross from one to the other.
        let parts: Vec<Part> = [(0, 24), (24, 24)].map(|(first, n)| part(four, zeros, first, n, k, group)).into();
        let of = |row: usize| {
            let Values::Quantized(q) = &parts[row / 24].values else { unreachable!() };
            (q.clone(), row % 24)
        };
        let weight = Weight { name: "w".into(), parts: parts.clone() };
        let format = weight.format();
        let packing = Packing::new(&weight, Layout::Codes { format, half });
        let (bits, groups) = (if four { 4 } else { 8 }, k / group);
        let codes = k.next_multiple_of(128) * 16 * bits / 8;
        for piece in 0..packing.pieces() {
            let mut strip = vec![0xAA; packing.bytes(piece..piece + 1)];
            let zero_points = if zeros { (groups * 16).next_multiple_of(32) } else { 0 };
            assert_eq!(strip.len(), codes + groups * 64 + zero_points);
            packing.write(piece, &mut strip);
            let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&strip[codes..][..groups * 64]);
            for row in 0..16 {
                let Some((q, n)) = source(piece * 16 + row).map(&of) else { continue };
                let unsigned = if matches!(q.codes, Codes::I8(_)) { 128 } else { 0 };
                for col in 0..k.next_multiple_of(128) {
                    let want = if col < k { q.code(n, col) } else { q.zero(n, groups - 1) } + unsigned;
                    assert_eq!(code(&strip, bits, row, col) as i32, want, "strip {piece}, row {row}, column {col}");
                }
                for group in 0..groups {
                    let slot = group * 16 + row % 8 * 2 + row / 8;
                    assert_eq!(scales[slot], q.scales[n * groups + group]);
                    assert!(!zeros || strip[codes + groups * 64 + slot] as i32 == q.zero(n, group));
                }
            }
        }
    }

    #[test]
    fn every_code_scale_and_zero_point_is_where_the_layout_says() {
        for four in [true, false] {
            for zeros in [true, false] {
                for (k, group) in [(256, 128), (192, 64), (160, 32), (72, 72)] {
                    check(four, zeros, k, group, None, |row| (row < 48).then_some(row));
                    // Strips of 8 + 8 rows whose halves are 24 apart.
                    check(four, zeros, k, group, Some(24), |row| Some(row / 16 * 8 + row % 8 + row % 16 / 8 * 24));
                }
            }
        }
    }

    #[test]
    fn rows_that_are_not_there_count_nothing() {
        let weight = Weight { name: "w".into(), parts: vec![part(true, true, 0, 5, 64, 32)] };
        let packing = Packing::new(&weight, Layout::Codes { format: weight.format(), half: None });
        let mut strip = vec![0xAA; packing.total()];
        packing.write(0, &mut strip);
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&strip[1024..][..128]);
        for row in 0..16 {
            assert!((0..2).all(|group| row < 5 || scales[group * 16 + row % 8 * 2 + row / 8] == 0.0), "row {row}");
        }
    }
}
