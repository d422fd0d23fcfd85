//! What is known of a product's inputs: sizes of the columns, a sample of the rows, and second moments where a method needs them.

use super::gram::Gram;
use rayon::prelude::*;

/// Rows that are kept at most, to measure outputs with.
pub const SAMPLE: usize = 256;
/// Rows of a weight that meet an input row while it is in the cache.
const ROWS: usize = 8;

/// Statistics of inputs `[T, K]`, collected run by run.
#[derive(Debug, Clone)]
pub struct Inputs {
    k: usize,
    /// Every so many rows one is kept.
    every: usize,
    seen: usize,
    sizes: Vec<f64>,
    squares: Vec<f64>,
    largest: Vec<f32>,
    sample: Vec<f32>,
    gram: Option<Gram>,
}

impl Inputs {
    /// Nothing seen yet of `rows` rows that will come.
    pub fn new(k: usize, rows: usize, gram: bool) -> Inputs {
        Inputs {
            k,
            every: rows.div_ceil(SAMPLE).max(1),
            seen: 0,
            sizes: vec![0.0; k],
            squares: vec![0.0; k],
            largest: vec![0.0; k],
            sample: Vec::new(),
            gram: gram.then(|| Gram::new(k)),
        }
    }

    /// Adds rows.
    pub fn add(&mut self, x: &[f32]) {
        for row in x.chunks_exact(self.k) {
            for (j, &x) in row.iter().enumerate() {
                self.sizes[j] += x.abs() as f64;
                self.squares[j] += x as f64 * x as f64;
                self.largest[j] = self.largest[j].max(x.abs());
            }
            if self.seen.is_multiple_of(self.every) {
                self.sample.extend_from_slice(row);
            }
            self.seen += 1;
        }
        self.gram.iter_mut().for_each(|g| g.add(x));
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Mean absolute value of each column.
    pub fn mean_abs(&self) -> Vec<f32> {
        self.sizes.iter().map(|s| (s / self.seen.max(1) as f64) as f32).collect()
    }

    /// Largest absolute value of each column.
    pub fn max_abs(&self) -> &[f32] {
        &self.largest
    }

    /// Mean square of each column; ones where nothing was seen.
    pub fn moments(&self) -> Vec<f32> {
        if self.seen == 0 {
            return vec![1.0; self.k];
        }
        self.squares.iter().map(|s| (s / self.seen as f64) as f32).collect()
    }

    /// The second moments, taken out, where they were collected.
    pub fn take_gram(&mut self) -> Option<Gram> {
        self.gram.take()
    }

    /// Of the same inputs with column `j` divided by `scales[j]`.
    pub fn scaled(mut self, scales: &[f32]) -> Inputs {
        for (j, &s) in scales.iter().enumerate() {
            self.sizes[j] /= s as f64;
            self.squares[j] /= (s * s) as f64;
            self.largest[j] /= s;
        }
        self.sample.chunks_exact_mut(self.k).for_each(|row| row.iter_mut().zip(scales).for_each(|(x, s)| *x /= s));
        self.gram = self.gram.map(|g| g.scaled(scales));
        self
    }

    /// How far outputs with `values` instead of `w`, `[N, K]`, are off, as a part of the outputs' norm; none where nothing was seen. With `int8` the inputs are
    /// rounded too, as W8A8 does.
    pub fn error(&self, w: &[f32], values: &[f32], int8: bool) -> Option<f64> {
        let k = self.k;
        let rounded: Vec<f32> =
            if int8 { self.sample.chunks_exact(k).flat_map(int8_row).collect() } else { Vec::new() };
        let read = if int8 { &rounded } else { &self.sample };
        let of = |(w, values): (&[f32], &[f32])| {
            let mut sums = (0.0, 0.0);
            for (x, read) in self.sample.chunks_exact(k).zip(read.chunks_exact(k)) {
                for (w, v) in w.chunks_exact(k).zip(values.chunks_exact(k)) {
                    let (y, off) = (dot(w, x) as f64, (dot(v, read) - dot(w, x)) as f64);
                    sums = (sums.0 + off * off, sums.1 + y * y);
                }
            }
            sums
        };
        let sums: Vec<(f64, f64)> = w.par_chunks(ROWS * k).zip(values.par_chunks(ROWS * k)).map(of).collect();
        let (off, size) = sums.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        (size > 0.0).then(|| (off / size).sqrt())
    }

    /// The sum of squares of the outputs of rows `w`, `[N, K]`, over the sampled inputs.
    pub fn energy(&self, w: &[f32]) -> f64 {
        let of = |w: &[f32]| {
            let outputs = self.sample.chunks_exact(self.k).flat_map(|x| w.chunks_exact(self.k).map(move |w| dot(w, x)));
            outputs.map(|y| y as f64 * y as f64).sum::<f64>()
        };
        // Collected in order: a sum of f64 over threads would depend on their number.
        w.par_chunks(ROWS * self.k).map(of).collect::<Vec<f64>>().iter().sum()
    }
}

/// A row as W8A8 reads it: multiples of a 127th of its largest element.
fn int8_row(x: &[f32]) -> Vec<f32> {
    let scale = x.iter().fold(0.0, |m: f32, x| m.max(x.abs())) / 127.0;
    let round = |x: &f32| if scale > 0.0 { scale * (x / scale).round_ties_even() } else { 0.0 };
    x.iter().map(round).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sum = [0.0f32; LANES];
    let (whole, rest) = (a.chunks_exact(LANES), a.len() / LANES * LANES);
    for (a, b) in whole.zip(b.chunks_exact(LANES)) {
        (0..LANES).for_each(|i| sum[i] += a[i] * b[i]);
    }
    sum.iter().sum::<f32>() + a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::sample::gaussian;

    #[test]
    fn columns_are_measured_over_all_rows_and_rows_are_sampled_evenly() {
        let (k, rows) = (5, 3 * SAMPLE);
        let x = gaussian(1, rows * k);
        let mut inputs = Inputs::new(k, rows, false);
        x.chunks(100 * k).for_each(|x| inputs.add(x));
        for j in 0..k {
            let column: Vec<f32> = x.iter().skip(j).step_by(k).copied().collect();
            let mean = |f: fn(f32) -> f32| column.iter().map(|&x| f(x) as f64).sum::<f64>() / rows as f64;
            assert!((inputs.mean_abs()[j] as f64 - mean(f32::abs)).abs() < 1e-6);
            assert!((inputs.moments()[j] as f64 - mean(|x| x * x)).abs() < 1e-6);
            assert_eq!(inputs.max_abs()[j], column.iter().fold(0.0, |m: f32, x| m.max(x.abs())));
        }
        let want: Vec<f32> = x.chunks_exact(k).step_by(3).flatten().copied().collect();
        assert_eq!(inputs.sample, want);
    }

    #[test]
    fn energy_is_the_squared_norm_of_the_outputs() {
        let (n, k, rows) = (11, 37, 9);
        let (w, x) = (gaussian(2, n * k), gaussian(3, rows * k));
        let mut inputs = Inputs::new(k, rows, false);
        inputs.add(&x);
        let y = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| *w as f64 * *x as f64).sum::<f64>();
        let want: f64 = w.chunks_exact(k).flat_map(|w| x.chunks_exact(k).map(move |x| y(w, x).powi(2))).sum();
        assert!((inputs.energy(&w) / want - 1.0).abs() < 1e-5);
        let doubled: Vec<f32> = w.iter().map(|w| 2.0 * w).collect();
        assert_eq!(inputs.error(&w, &w, false), Some(0.0));
        assert!((inputs.error(&w, &doubled, false).unwrap() - 1.0).abs() < 1e-6);
        // Rounding inputs to 8 bits: uniform errors of a step against inputs of about a third of the largest.
        assert!((1e-3..1e-2).contains(&inputs.error(&w, &w, true).unwrap()));
        assert_eq!(Inputs::new(k, 0, false).error(&w, &w, false), None);
        // With columns divided and weights multiplied the outputs are the same.
        let scales = [2.0; 37];
        assert_eq!(inputs.clone().scaled(&scales).energy(&doubled), inputs.energy(&w));
    }
}
