//! The second moments of a product's inputs, `H = XᵀX`, and their triangular factor.
//!
//! One kernel does all the work: a tile of `AᵀB`. f64 throughout, since damping alone keeps H apart from singular. Takes `8 K²` bytes and factors
//! in place. The surprise: H is factored from its last column as `H = RRᵀ` with R upper triangular, because that is what quantizing from the
//! first column on needs (see `gptq`).

use rayon::prelude::*;

/// Rows of R that are computed before the rest of H is updated, and tokens that are added at a time.
pub(super) const BLOCK: usize = 128;
/// Rows of a tile that a task computes.
const ROWS: usize = 64;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 64;
/// A register tile is 4 x 4.
const SIDE: usize = 4;

/// `H = XᵀX` over the rows seen so far, lower half, row-major.
#[derive(Debug, Clone)]
pub struct Gram {
    k: usize,
    lower: Vec<f64>,
}

impl Gram {
    /// Nothing seen yet.
    pub fn new(k: usize) -> Gram {
        Gram { k, lower: vec![0.0; k * k] }
    }

    /// Adds rows `[T, K]`.
    pub fn add(&mut self, x: &[f32]) {
        let k = self.k;
        for rows in x.chunks(BLOCK * k) {
            let rows: Vec<f64> = rows.iter().map(|&x| x as f64).collect();
            self.lower.par_chunks_mut(ROWS * k).enumerate().for_each(|(i, c)| {
                add_lower(c, k, i * ROWS, |from, to| pack(&rows, k, from..to), 1.0);
            });
        }
    }

    /// The second moment of each column, `[K]`.
    #[cfg(test)]
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.k).map(|j| self.lower[j * self.k + j] as f32).collect()
    }

    /// Of inputs divided by `scales[j]`.
    pub fn scaled(mut self, scales: &[f32]) -> Gram {
        for (row, s) in self.lower.chunks_exact_mut(self.k).zip(scales) {
            row.iter_mut().zip(scales).for_each(|(h, t)| *h /= *s as f64 * *t as f64);
        }
        self
    }

    /// `H + damping * mean(diag H) * I = RRᵀ`.
    ///
    /// # Errors
    /// One line if it is not positive definite: the inputs were not finite.
    pub fn factor(mut self, damping: f64) -> Result<Factor, String> {
        let k = self.k;
        let mean = (0..k).map(|j| self.lower[j * k + j]).sum::<f64>() / k as f64;
        // Without any input every column counts the same.
        let damp = if mean > 0.0 { damping * mean } else { 1.0 };
        (0..k).for_each(|j| self.lower[j * k + j] += damp);
        for end in (1..=k.div_ceil(BLOCK)).rev().map(|b| (b * BLOCK).min(k)) {
            let start = (end - 1) / BLOCK * BLOCK;
            let (before, block) = self.lower[..end * k].split_at_mut(start * k);
            factor_block(block, k, start)?;
            before.par_chunks_mut(ROWS * k).enumerate().for_each(|(i, c)| {
                add_lower(c, k, i * ROWS, |from, to| pack(block, k, from..to), -1.0);
            });
        }
        Ok(Factor { k, lower: self.lower })
    }
}

/// Turns the rows `start..` of H into rows of the factor.
fn factor_block(block: &mut [f64], k: usize, start: usize) -> Result<(), String> {
    for r in (0..block.len() / k).rev() {
        let (above, row) = block.split_at_mut(r * k);
        let row = &mut row[..=start + r];
        let pivot = row[start + r].sqrt();
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err("the inputs' second moments are not positive definite".into());
        }
        row.iter_mut().for_each(|x| *x /= pivot);
        for (i, other) in above.chunks_exact_mut(k).enumerate() {
            let factor = row[start + i];
            other[..=start + i].iter_mut().zip(&*row).for_each(|(c, x)| *c -= factor * x);
        }
    }
    Ok(())
}

/// Adds `sign * AᵀA` to rows `first..` of a lower half of `k` columns. `columns` packs columns of A, `[depth][columns]`.
fn add_lower(c: &mut [f64], k: usize, first: usize, columns: impl Fn(usize, usize) -> Vec<f64>, sign: f64) {
    let rows = c.len() / k;
    let a = columns(first, first + rows);
    for from in (0..first + rows).step_by(COLUMNS) {
        let to = (from + COLUMNS).min(first + rows);
        add_tile(&mut c[from..], k, &a, rows, &columns(from, to), to - from, sign);
    }
}

/// Columns of rows of `k`, one row after the other.
fn pack(rows: &[f64], k: usize, columns: std::ops::Range<usize>) -> Vec<f64> {
    rows.chunks_exact(k).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// `c += sign * AᵀB`: A is `[depth][m]`, B `[depth][n]`, rows of `c` lie `stride` apart.
pub(super) fn add_tile(c: &mut [f64], stride: usize, a: &[f64], m: usize, b: &[f64], n: usize, sign: f64) {
    for i in (0..m).step_by(SIDE) {
        for j in (0..n).step_by(SIDE) {
            if i + SIDE <= m && j + SIDE <= n {
                let mut sum = [[0.0; SIDE]; SIDE];
                for (a, b) in a.chunks_exact(m).zip(b.chunks_exact(n)) {
                    let (a, b): ([f64; SIDE], [f64; SIDE]) = (square(&a[i..]), square(&b[j..]));
                    for (sum, a) in sum.iter_mut().zip(a) {
                        sum.iter_mut().zip(b).for_each(|(s, b)| *s += a * b);
                    }
                }
                for (r, sum) in sum.iter().enumerate() {
                    c[(i + r) * stride + j..][..SIDE].iter_mut().zip(sum).for_each(|(c, s)| *c += sign * s);
                }
                continue;
            }
            for (i, j) in (i..m.min(i + SIDE)).flat_map(|i| (j..n.min(j + SIDE)).map(move |j| (i, j))) {
                let products = a.chunks_exact(m).zip(b.chunks_exact(n)).map(|(a, b)| a[i] * b[j]);
                c[i * stride + j] += sign * products.sum::<f64>();
            }
        }
    }
}

fn square(x: &[f64]) -> [f64; SIDE] {
    [x[0], x[1], x[2], x[3]]
}

/// R with `H = RRᵀ`, upper triangular, kept by its columns.
#[derive(Debug)]
pub struct Factor {
    k: usize,
    lower: Vec<f64>,
}

impl Factor {
    /// Its side.
    pub fn k(&self) -> usize {
        self.k
    }

    /// `R[0..=column, column]`.
    pub(super) fn column(&self, column: usize) -> &[f64] {
        &self.lower[column * self.k..][..=column]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::sample::correlated;

    /// Sizes around the blocks' borders.
    const SIZES: [usize; 4] = [1, 5, 128, 203];

    #[test]
    fn second_moments_are_sums_of_products() {
        for k in SIZES {
            let x = correlated(1, 150, k);
            let mut gram = Gram::new(k);
            gram.add(&x[..20 * k]);
            gram.add(&x[20 * k..]);
            for (i, j) in (0..k).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let want: f64 = x.chunks_exact(k).map(|x| x[i] as f64 * x[j] as f64).sum();
                let scale: f64 = x.chunks_exact(k).map(|x| (x[i] as f64 * x[j] as f64).abs()).sum();
                // 150 additions in f64.
                assert!((gram.lower[i * k + j] - want).abs() <= 150.0 * f64::EPSILON * scale, "K={k} {i},{j}");
            }
        }
    }

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for k in SIZES {
            let mut gram = Gram::new(k);
            gram.add(&correlated(2, 2 * k, k));
            let (h, mean) = (gram.clone(), gram.diagonal().iter().map(|&d| d as f64).sum::<f64>() / k as f64);
            let r = gram.factor(0.01).unwrap();
            for (i, j) in (0..k).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let got: f64 = (i..k).map(|c| r.column(c)[i] * r.column(c)[j]).sum();
                let want = h.lower[i * k + j] + if i == j { 0.01 * mean } else { 0.0 };
                // Higham 2002, theorem 10.3: within (K + 1) eps of the products' sizes, at most the diagonal's; `diagonal` is f32.
                let bound = h.lower[i * k + i].max(mean) * h.lower[j * k + j].max(mean);
                let slack = 2e-7 * 0.01 * mean;
                assert!(
                    (got - want).abs() <= (k + 1) as f64 * f64::EPSILON * bound.sqrt() * 2.0 + slack,
                    "K={k} {i},{j}"
                );
            }
        }
    }

    #[test]
    fn inputs_that_are_not_finite_are_an_error() {
        let mut gram = Gram::new(3);
        gram.add(&[1.0, f32::NAN, 2.0]);
        assert!(gram.factor(0.01).is_err());
    }
}
