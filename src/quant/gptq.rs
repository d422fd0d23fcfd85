//! GPTQ (Frantar et al. 2022): column after column is rounded, and what follows makes up for the error.
//!
//! The textbook form takes the Cholesky factor of H's inverse and updates all later columns. This is the same sequence without an inverse (Chee et al. 2023,
//! theorem 6: with `H = RRᵀ`, column k is rounded at `w_k + Σ_{i<k} (w_i - ŵ_i) R_ik / R_kk`), in blocks of columns. Scales of a group are
//! searched when it is reached, on weights that already make up for all columns before it.

use super::gram::{BLOCK, COLUMNS, Factor, add_tile};
use super::grid::{Coded, Grid, Step};
use rayon::prelude::*;

/// How much of the mean diagonal is added to H's diagonal, as in the paper.
pub const DAMPING: f64 = 0.01;
/// Rows of a task: R is read once for all of them.
const ROWS: usize = 64;

/// Chooses codes for `w`, `[N, K]`, in groups of `group` columns that divide K, under the factor of its inputs' second moments. `moments`, their diagonal, weigh the
/// search for scales.
pub fn quantize(w: &[f32], group: usize, grid: Grid, r: &Factor, moments: &[f32]) -> Coded {
    let k = r.k();
    let mut coded = Coded::new(w.len() / k, k, group, grid);
    let slabs = coded.codes.par_chunks_mut(ROWS * k).zip(coded.steps.par_chunks_mut(ROWS * (k / group)));
    slabs.zip(w.par_chunks(ROWS * k)).for_each(|((codes, steps), w)| {
        Slab { w, codes, steps, group, grid, r, moments, owed: w.iter().map(|_| 0.0).collect() }.quantize();
    });
    coded
}

/// Some rows of the matrix.
struct Slab<'a> {
    w: &'a [f32],
    codes: &'a mut [u8],
    steps: &'a mut [Step],
    group: usize,
    grid: Grid,
    r: &'a Factor,
    moments: &'a [f32],
    /// `Σ (w_i - ŵ_i) R_ik` over the columns i of finished blocks, `[rows, K]`.
    owed: Vec<f64>,
}

impl Slab<'_> {
    fn quantize(&mut self) {
        let (k, rows) = (self.r.k(), self.w.len() / self.r.k());
        for start in (0..k).step_by(BLOCK) {
            let end = (start + BLOCK).min(k);
            // Errors of the block by column, as the update takes them.
            let mut errors = vec![0.0; (end - start) * rows];
            for row in 0..rows {
                for column in start..end {
                    errors[(column - start) * rows + row] = self.round(row, column, start, &errors);
                }
            }
            self.owe(start, end, &errors);
        }
    }

    /// Rounds one weight and gives its error `w - ŵ`.
    fn round(&mut self, row: usize, column: usize, start: usize, errors: &[f64]) -> f64 {
        let k = self.r.k();
        if column.is_multiple_of(self.group) {
            self.fit(row, column, start, errors);
        }
        let step = self.steps[row * (k / self.group) + column / self.group];
        let w = self.w[row * k + column];
        let target = w as f64 + self.owed_by(row, column, start, errors) / self.r.column(column)[column];
        let code = self.grid.code(step, target as f32);
        self.codes[row * k + column] = code;
        (w - Grid::value(step, code)) as f64
    }

    /// `Σ_{i<column} (w_i - ŵ_i) R_ik`: finished blocks, then the columns of this one.
    fn owed_by(&self, row: usize, column: usize, start: usize, errors: &[f64]) -> f64 {
        let rows = self.w.len() / self.r.k();
        let r = &self.r.column(column)[start..column];
        let inside: f64 = r.iter().zip(errors[row..].iter().step_by(rows)).map(|(r, e)| r * e).sum();
        self.owed[row * self.r.k() + column] + inside
    }

    /// Searches the scale of the group that begins at `first`, on weights that make up best for the columns before it: `w + z` with `z R = owed` over the
    /// columns from `first` on.
    fn fit(&mut self, row: usize, first: usize, start: usize, errors: &[f64]) {
        let (k, group) = (self.r.k(), self.group);
        let rows = self.w.len() / k;
        let before = &errors[row..];
        let mut z = Vec::with_capacity(group);
        for column in first..first + group {
            let r = self.r.column(column);
            let inside = r[start..first].iter().zip(before.iter().step_by(rows)).map(|(r, e)| r * e).sum::<f64>();
            let solved = r[first..column].iter().zip(&z).map(|(r, z)| r * z).sum::<f64>();
            z.push((self.owed[row * k + column] + inside - solved) / r[column]);
        }
        let at = row * k + first;
        let target: Vec<f32> = self.w[at..at + group].iter().zip(z).map(|(&w, z)| (w as f64 + z) as f32).collect();
        let step = self.grid.fit(&target, &self.moments[first..first + group]);
        self.steps[row * (k / group) + first / group] = step;
    }

    /// Adds what a finished block owes to all columns after it.
    fn owe(&mut self, start: usize, end: usize, errors: &[f64]) {
        let (k, rows, depth) = (self.r.k(), self.w.len() / self.r.k(), end - start);
        for from in (end..k).step_by(COLUMNS) {
            let to = (from + COLUMNS).min(k);
            let mut packed = vec![0.0; depth * (to - from)];
            for column in from..to {
                let r = &self.r.column(column)[start..end];
                packed[column - from..].iter_mut().step_by(to - from).zip(r).for_each(|(p, r)| *p = *r);
            }
            add_tile(&mut self.owed[from..], k, errors, rows, &packed, to - from, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::quant::gram::Gram;
    use crate::quant::rtn;
    use crate::quant::sample::{correlated, gaussian};

    const GRID: Grid = Grid { bits: 4, zeros: false, scales: DType::F16 };

    /// Dense H with damping, f64.
    fn hessian(x: &[f32], k: usize) -> Vec<f64> {
        let mut h = vec![0.0; k * k];
        for x in x.chunks_exact(k) {
            (0..k * k).for_each(|i| h[i] += x[i / k] as f64 * x[i % k] as f64);
        }
        let mean = (0..k).map(|j| h[j * k + j]).sum::<f64>() / k as f64;
        (0..k).for_each(|j| h[j * k + j] += DAMPING * mean);
        h
    }

    /// The inverse by Gauss and Jordan.
    fn inverse(mut a: Vec<f64>, k: usize) -> Vec<f64> {
        let mut b: Vec<f64> = (0..k * k).map(|i| f64::from(i / k == i % k)).collect();
        for p in 0..k {
            let pivot = a[p * k + p];
            for j in 0..k {
                a[p * k + j] /= pivot;
                b[p * k + j] /= pivot;
            }
            for i in (0..k).filter(|&i| i != p) {
                let f = a[i * k + p];
                for j in 0..k {
                    a[i * k + j] -= f * a[p * k + j];
                    b[i * k + j] -= f * b[p * k + j];
                }
            }
        }
        b
    }

    /// U with `A = UᵀU`.
    fn upper_cholesky(a: &[f64], k: usize) -> Vec<f64> {
        let mut u = vec![0.0; k * k];
        for i in 0..k {
            for j in i..k {
                let sum: f64 = (0..i).map(|p| u[p * k + i] * u[p * k + j]).sum();
                u[i * k + j] = if i == j { (a[i * k + i] - sum).sqrt() } else { (a[i * k + j] - sum) / u[i * k + i] };
            }
        }
        u
    }

    /// Algorithm 1 of the paper, one column at a time: the error, divided by U's diagonal, is taken off all later columns.
    fn textbook(w: &[f32], k: usize, group: usize, h: &[f64], moments: &[f32]) -> Vec<u8> {
        let u = upper_cholesky(&inverse(h.to_vec(), k), k);
        let mut codes = Vec::new();
        for row in w.chunks_exact(k) {
            let mut w: Vec<f64> = row.iter().map(|&w| w as f64).collect();
            let mut step = Step { scale: 1.0, zero: 0 };
            for j in 0..k {
                if j % group == 0 {
                    let now: Vec<f32> = w[j..j + group].iter().map(|&w| w as f32).collect();
                    step = GRID.fit(&now, &moments[j..j + group]);
                }
                let code = GRID.code(step, w[j] as f32);
                codes.push(code);
                let error = (w[j] - Grid::value(step, code) as f64) / u[j * k + j];
                (j + 1..k).for_each(|i| w[i] -= error * u[j * k + i]);
            }
        }
        codes
    }

    /// `Σ (w - ŵ) H (w - ŵ)ᵀ` over rows.
    fn error(w: &[f32], coded: &Coded, h: &[f64], k: usize) -> f64 {
        let values = coded.values();
        let off: Vec<f64> = w.iter().zip(&values).map(|(w, v)| (w - v) as f64).collect();
        let row = |d: &[f64]| (0..k * k).map(|i| d[i / k] * h[i] * d[i % k]).sum::<f64>();
        off.chunks_exact(k).map(row).sum()
    }

    fn with(x: &[f32], k: usize) -> (Factor, Vec<f32>) {
        let mut gram = Gram::new(k);
        gram.add(x);
        let moments = gram.diagonal();
        (gram.factor(DAMPING).unwrap(), moments)
    }

    #[test]
    fn the_sequence_is_that_of_the_paper() {
        // Across blocks of 128 columns, groups inside a block and over its border, and rows over a task's border.
        for (n, k, group) in [(70, 64, 16), (5, 320, 32), (3, 384, 192), (2, 260, 260)] {
            let (w, x) = (gaussian(3, n * k), correlated(4, 2 * k, k));
            let (r, moments) = with(&x, k);
            let coded = quantize(&w, group, GRID, &r, &moments);
            let want = textbook(&w, k, group, &hessian(&x, k), &moments);
            let other = coded.codes.iter().zip(&want).filter(|(a, b)| a != b).count();
            // Rounding of f64 moves a weight over a border between two codes once in many millions; nothing else may differ.
            assert_eq!(other, 0, "[{n}, {k}] in groups of {group}: {other} codes differ");
        }
    }

    #[test]
    fn without_correlation_it_is_rounding_to_nearest() {
        let (n, k) = (9, 96);
        let w = gaussian(5, n * k);
        let identity: Vec<f32> = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k))).collect();
        let (r, moments) = with(&identity, k);
        let coded = quantize(&w, 32, GRID, &r, &moments);
        assert_eq!(coded, rtn::quantize(&w, k, 32, GRID, &moments));
    }

    #[test]
    fn outputs_are_nearer_than_with_rounding_to_nearest() {
        let (n, k) = (32, 256);
        let (w, x) = (gaussian(6, n * k), correlated(7, 3 * k, k));
        let h = hessian(&x, k);
        let (r, moments) = with(&x, k);
        for group in [32, 128] {
            let gptq = error(&w, &quantize(&w, group, GRID, &r, &moments), &h, k);
            let rtn = error(&w, &rtn::quantize(&w, k, group, GRID, &moments), &h, k);
            assert!(gptq < 0.8 * rtn, "group {group}: {gptq} against {rtn}");
        }
    }
}
