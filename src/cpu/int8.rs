//! Products of int8 rows with int8 weights: the sums are exact, so any order gives the same bits.

use super::{Cpu, Epilogue, Tile, Unit};

/// Rows of a tile.
const ROWS: usize = 32;

/// A part of a weight, `[N, K]`, with a scale for each of its rows.
#[derive(Debug, Clone, Copy)]
pub struct IntRows<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
}

/// `y[m, n] = (x[m] . w[n]) * (scales[m] * w.scales[n])` for the weight rows that each unit names; tiles as [`matmul`](super::matmul) has them.
pub fn matmul(cpu: &Cpu, x: &[i8], scales: &[f32], parts: &[IntRows], units: &[Unit], epilogue: Epilogue) {
    let (t, k) = (scales.len(), parts[0].codes.len() / parts[0].scales.len());
    assert!(x.len() == t * k && k > 0, "{} int8 are not {t} rows of {k}", x.len());
    let tiles = t.div_ceil(ROWS);
    cpu.for_each(units.len() * tiles, |task| {
        let (unit, row0) = (task / tiles, task % tiles * ROWS);
        let (rows, cols) = (ROWS.min(t - row0), units[unit].columns());
        let mut data = Vec::with_capacity(rows * cols);
        for row in row0..row0 + rows {
            for (part, first, n) in units[unit].runs() {
                let IntRows { codes, scales: of } = parts[part];
                let columns = codes[first * k..(first + n) * k].chunks_exact(k).zip(&of[first..]);
                data.extend(columns.map(|(w, scale)| dot(&x[row * k..][..k], w) as f32 * (scales[row] * scale)));
            }
        }
        epilogue(unit, &mut Tile { row0, rows, cols, data: &mut data, ld: cols });
    });
}

/// Exact: K is far below 2^17, so that sums stay inside 32 bits.
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| *a as i32 * *b as i32).sum()
}
