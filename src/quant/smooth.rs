//! SmoothQuant (Xiao et al. 2022): sizes move from the activations' channels to the weights', until both are equally hard to round.

use super::fold::largest;

/// How much of the sizes moves; the paper's choice.
const ALPHA: f32 = 0.5;
/// The least size that counts.
const TINY: f32 = 1e-5;

/// What to divide each source's channels by: `max|x|^α / max|w|^(1-α)` (equation 4). `inputs` are the largest of each column, `w` is `[N, K]`; `sources`,
/// `[K]`, says which columns share a scale.
pub fn scales(inputs: &[f32], w: &[f32], sources: &[usize]) -> Vec<f32> {
    let mut weights = vec![0.0f32; sources.len()];
    for row in w.chunks_exact(sources.len()) {
        weights.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(w.abs()));
    }
    let (x, w) = (largest(inputs, sources), largest(&weights, sources));
    let scale = |(x, w): (&f32, &f32)| match (x.max(TINY), w.max(TINY)) {
        // What never occurs needs no help.
        (x, _) if x == TINY => 1.0,
        (x, w) => x.powf(ALPHA) / w.powf(1.0 - ALPHA),
    };
    x.iter().zip(&w).map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::fold::{multiply_columns, spread};
    use crate::quant::sample::gaussian;

    #[test]
    fn afterwards_inputs_and_weights_have_equal_sizes() {
        let (n, k) = (6, 8);
        let sources: Vec<usize> = (0..k).map(|j| j % 4).collect();
        let mut w = gaussian(1, n * k);
        let mut inputs: Vec<f32> = gaussian(2, k).iter().map(|x| x.abs() * 9.0).collect();
        let s = spread(&scales(&inputs, &w, &sources), &sources);
        multiply_columns(&mut w, &s);
        inputs.iter_mut().zip(&s).for_each(|(x, s)| *x /= s);
        let columns: Vec<f32> =
            (0..k).map(|j| w.iter().skip(j).step_by(k).fold(0.0, |m: f32, w| m.max(w.abs()))).collect();
        for (x, w) in largest(&inputs, &sources).iter().zip(largest(&columns, &sources)) {
            // Each has gone through a root and a quotient.
            assert!((x / w - 1.0).abs() < 1e-5, "{x} {w}");
        }
        assert_eq!(scales(&[0.0], &[3.0], &[0]), [1.0]);
    }
}
