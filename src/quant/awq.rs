//! AWQ (Lin et al. 2023): columns that meet large inputs are scaled up before they are rounded, by the power of the inputs' size that leaves the least error.

use super::fold::{multiply_columns, spread};
use super::grid::Grid;
use super::inputs::Inputs;
use super::rtn;

/// Powers that are tried: 0, 1/20, ... 19/20, as the authors' code does.
const GRID: usize = 20;
/// Rows of the weight that the error is measured on at most.
const ROWS: usize = 1024;
/// The least size that counts.
const TINY: f32 = 1e-4;

/// What to divide each source's channels by: `mean|x|^α` (equation 5), with the α that gives the least squared error of the outputs. `w` is `[N, K]`; `sources`,
/// `[K]`, says which columns share a scale.
pub fn scales(w: &[f32], group: usize, grid: Grid, inputs: &Inputs, sources: &[usize]) -> Vec<f32> {
    let k = inputs.k();
    let every = (w.len() / k).div_ceil(ROWS);
    let w: Vec<f32> = w.chunks_exact(k).step_by(every).flatten().copied().collect();
    let sizes = mean(&inputs.mean_abs(), sources);
    let tried = (0..GRID).map(|i| {
        let scales = powers(&sizes, i as f32 / GRID as f32);
        let error = error(&w, group, grid, inputs, &spread(&scales, sources));
        (error, scales)
    });
    tried.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, scales)| scales).expect("the grid is not empty")
}

/// The squared error of the outputs where columns are multiplied, rounded, and divided again.
fn error(w: &[f32], group: usize, grid: Grid, inputs: &Inputs, scales: &[f32]) -> f64 {
    let k = scales.len();
    let mut scaled = w.to_vec();
    multiply_columns(&mut scaled, scales);
    let moments: Vec<f32> = inputs.moments().iter().zip(scales).map(|(m, s)| m / (s * s)).collect();
    let mut off = rtn::quantize(&scaled, k, group, grid, &moments).values();
    let back: Vec<f32> = scales.iter().map(|s| 1.0 / s).collect();
    multiply_columns(&mut off, &back);
    off.iter_mut().zip(w).for_each(|(off, w)| *off -= w);
    inputs.energy(&off)
}

/// `sizes^α`, brought around 1 as the authors' code does.
fn powers(sizes: &[f32], alpha: f32) -> Vec<f32> {
    let mut scales: Vec<f32> = sizes.iter().map(|x| x.powf(alpha).max(TINY)).collect();
    let (low, high) = scales.iter().fold((f32::MAX, 0.0f32), |(low, high), &s| (low.min(s), high.max(s)));
    scales.iter_mut().for_each(|s| *s /= (low * high).sqrt());
    scales
}

/// The mean of `values` by source.
fn mean(values: &[f32], sources: &[usize]) -> Vec<f32> {
    let mut sums = vec![(0.0, 0.0); sources.iter().max().map_or(0, |m| m + 1)];
    for (&s, v) in sources.iter().zip(values) {
        sums[s] = (sums[s].0 + v, sums[s].1 + 1.0);
    }
    sums.iter().map(|(sum, count)| sum / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::quant::sample::{correlated, gaussian};

    const CODES: Grid = Grid { bits: 4, zeros: true, scales: DType::F16 };

    fn inputs(x: &[f32], k: usize) -> Inputs {
        let mut inputs = Inputs::new(k, x.len() / k, false);
        inputs.add(x);
        inputs
    }

    #[test]
    fn scales_leave_less_error_where_few_channels_are_large() {
        let (n, k, group) = (24, 128, 32);
        let mut x = correlated(1, 200, k);
        x.chunks_exact_mut(k).for_each(|x| x.iter_mut().step_by(31).for_each(|x| *x *= 20.0));
        let (w, inputs) = (gaussian(2, n * k), inputs(&x, k));
        let sources: Vec<usize> = (0..k).collect();
        let scales = scales(&w, group, CODES, &inputs, &sources);
        let with = error(&w, group, CODES, &inputs, &scales);
        let without = error(&w, group, CODES, &inputs, &vec![1.0; k]);
        assert!(with < 0.7 * without, "{with} against {without}");
        let mean = |large: bool| {
            let of: Vec<f32> = (0..k).filter(|j| (j % 31 == 0) == large).map(|j| scales[j]).collect();
            of.iter().sum::<f32>() / of.len() as f32
        };
        assert!(mean(true) > 1.5 * mean(false));
    }

    #[test]
    fn the_least_error_of_the_grid_is_taken_and_shared_channels_have_one_scale() {
        let (n, k, group) = (8, 32, 16);
        let (w, inputs) = (gaussian(3, n * k), inputs(&correlated(4, 100, k), k));
        let sources: Vec<usize> = (0..k).map(|j| j % 16).collect();
        let scales = scales(&w, group, CODES, &inputs, &sources);
        assert_eq!(scales.len(), 16);
        let chosen = error(&w, group, CODES, &inputs, &spread(&scales, &sources));
        let sizes: Vec<f32> = (0..16).map(|s| (inputs.mean_abs()[s] + inputs.mean_abs()[s + 16]) / 2.0).collect();
        for i in 0..GRID {
            let tried = powers(&sizes, i as f32 / GRID as f32);
            assert!(chosen <= error(&w, group, CODES, &inputs, &spread(&tried, &sources)));
        }
    }
}
