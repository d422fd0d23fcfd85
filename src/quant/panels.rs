//! Codes as a CPU multiplies them: panels of 16 rows, lanes are rows.
//!
//! It owns the layout and how rows are brought into it. It refuses to know instruction sets. The surprise: four neighbours of a row are four bytes, and
//! half bytes are brought into an order in which that is so without a shuffle.

use super::{Codes, Format, Quantized};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};

/// Rows of a panel.
pub const ROWS: usize = 16;
/// Columns are padded to a multiple of this with codes that nothing may count.
const COLUMNS: usize = 32;

/// Four bytes of each row, a cache line.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; ROWS]);

/// A [`Quantized`] matrix by panels, whose columns are in the order that they had. The codes are unsigned: without zero points 8 stands for zero in 4 bits, 128 in 8. Rows that a last panel lacks
/// are those of the last row again.
#[derive(Debug)]
pub struct Panels {
    pub n: usize,
    pub k: usize,
    /// Of a code: 4 or 8.
    pub bits: usize,
    /// Columns of a row that share a scale.
    pub group: usize,
    /// What the matrix was.
    pub format: Format,
    codes: Vec<Line>,
    scales: Vec<[f32; ROWS]>,
    zeros: Option<Vec<[u8; ROWS]>>,
}

impl Panels {
    /// Brings rows into panels.
    pub fn new(q: &Quantized) -> Panels {
        let bits = if matches!(q.codes, Codes::U4(_)) { 4 } else { 8 };
        let (panels, depth, groups) = (q.n.div_ceil(ROWS), q.k.next_multiple_of(COLUMNS) * bits / 32, q.groups());
        let mut codes = vec![Line::zeroed(); panels * depth];
        for (panel, to) in codes.chunks_exact_mut(depth).enumerate() {
            for (lane, row) in rows(q, panel).enumerate() {
                turn(q.row(row), lane, to);
            }
            arrange(&q.codes, cast_slice_mut(to));
        }
        // Group by group, 16 rows each.
        let places = (0..panels).flat_map(|panel| (0..groups).map(move |group| (panel, group)));
        let of = |(panel, group)| rows(q, panel).map(move |row| row * groups + group);
        let scales = places.clone().map(|place| gather(of(place).map(|i| q.scales[i]))).collect();
        let zeros = q.zeros.as_ref().map(|zeros| places.map(|place| gather(of(place).map(|i| zeros[i]))).collect());
        Panels { n: q.n, k: q.k, bits, group: q.group, format: q.format(), codes, scales, zeros }
    }

    /// `[panels][k / 8 or k / 4]`, with k up to a multiple of 32: byte `j` of lane `r` is the code of row `r` and column `4 i + j`, or the low half is that of `8 i + j` and the
    /// high half that of `8 i + 4 + j`.
    pub fn codes(&self) -> &[[u32; ROWS]] {
        cast_slice(&self.codes)
    }

    /// `[panels][k / group]`
    pub fn scales(&self) -> &[[f32; ROWS]] {
        &self.scales
    }

    /// `[panels][k / group]`
    pub fn zeros(&self) -> Option<&[[u8; ROWS]]> {
        self.zeros.as_deref()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.codes[..])
            + size_of_val(&self.scales[..])
            + self.zeros.as_ref().map_or(0, |z| size_of_val(&z[..]))
    }
}

/// The rows of a panel.
fn rows(q: &Quantized, panel: usize) -> impl Iterator<Item = usize> {
    let last = q.n - 1;
    (panel * ROWS..(panel + 1) * ROWS).map(move |row| row.min(last))
}

fn gather<T: Copy + Default>(values: impl Iterator<Item = T>) -> [T; ROWS] {
    let mut to = [T::default(); ROWS];
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    to
}

/// Puts a row into its lane; bytes that it lacks are zeros.
fn turn(row: &[u8], lane: usize, to: &mut [Line]) {
    let (dwords, rest) = row.as_chunks();
    for (to, dword) in to.iter_mut().zip(dwords) {
        to.0[lane] = u32::from_le_bytes(*dword);
    }
    if !rest.is_empty() {
        let mut dword = [0; 4];
        dword[..rest.len()].copy_from_slice(rest);
        to[dwords.len()].0[lane] = u32::from_le_bytes(dword);
    }
}

/// Brings the codes of dwords into the order of the bytes, unsigned.
fn arrange(kind: &Codes, dwords: &mut [u32]) {
    match kind {
        Codes::U4(_) => dwords.iter_mut().for_each(|x| *x = spread(*x & 0xffff) | spread(*x >> 16) << 4),
        Codes::U8(_) => {}
        Codes::I8(_) => dwords.iter_mut().for_each(|x| *x ^= 0x8080_8080),
    }
}

/// Four half bytes as the low halves of four bytes.
fn spread(x: u32) -> u32 {
    let x = (x | x << 8) & 0x00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TensorData;
    use crate::quant::Activations;

    #[test]
    fn every_code_scale_and_zero_point_is_where_the_layout_says() {
        for (bits, signed, zeros) in [(4, false, false), (4, false, true), (8, false, true), (8, true, false)] {
            for (n, k, group) in [(16, 64, 32), (37, 256, 128), (3, 30, 30), (17, 7, 7)] {
                let row = (k * bits as usize).div_ceil(8);
                let bytes: Vec<u8> = (0..n * row).map(|i| (i * 37 + i / row * 11) as u8).collect();
                let data = TensorData::from_bytes(bytes);
                let codes = match (bits, signed) {
                    (4, _) => Codes::U4(data),
                    (_, true) => Codes::I8(data),
                    _ => Codes::U8(data),
                };
                let groups = k / group;
                let scales = (0..n * groups).map(|i| i as f32).collect();
                let zeros = zeros.then(|| (0..n * groups).map(|i| (i % 16) as u8).collect());
                let activations = Activations::Float;
                let q = Quantized { n, k, codes, group, scales, zeros, order: None, activations };
                let p = Panels::new(&q);
                let depth = p.codes().len() / n.div_ceil(16);
                for i in 0..n.div_ceil(16) * 16 {
                    let (panel, lane, row) = (i / 16, i % 16, i.min(n - 1));
                    for col in 0..k {
                        let code = match bits {
                            4 => p.codes()[panel * depth + col / 8][lane] >> (col % 4 * 8 + col % 8 / 4 * 4) & 15,
                            _ => p.codes()[panel * depth + col / 4][lane] >> (col % 4 * 8) & 255,
                        };
                        assert_eq!(code as i32, q.code(row, col) + if signed { 128 } else { 0 }, "{row} {col}");
                    }
                    for group in 0..groups {
                        assert_eq!(p.scales()[panel * groups + group][lane], q.scales[row * groups + group]);
                        let zero = p.zeros().map(|zeros| zeros[panel * groups + group][lane] as i32);
                        assert!(zero.is_none_or(|zero| zero == q.zero(row, group)));
                    }
                }
            }
        }
    }
}
