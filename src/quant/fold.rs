//! Scales of channels that move from a product's inputs into its weights, and out of whatever computes those inputs.
//!
//! The surprise: the vector that gives up the scale (a norm's weight, a bias) is stored in 16 bits. It is rounded first, and the scale becomes what that
//! rounding really divided by, so that the pair computes what it did before.

use crate::dtype::{DType, Float};
use half::{bf16, f16};

/// `v / scales` as `dtype` stores it; `scales` become what `v` was really divided by, 1 where that would be no number.
pub fn divide(v: &mut [f32], scales: &mut [f32], dtype: DType) {
    for (v, s) in v.iter_mut().zip(scales) {
        let stored = rounded(*v / *s, dtype);
        if *v == 0.0 {
            continue;
        }
        let real = *v / stored;
        if real.is_normal() && real > 0.0 {
            (*v, *s) = (stored, real);
        } else {
            *s = 1.0;
        }
    }
}

/// A number as `dtype` stores it.
pub fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => <bf16 as Float>::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Multiplies column `j` of `w` by `scales[j]`.
pub fn multiply_columns(w: &mut [f32], scales: &[f32]) {
    w.chunks_exact_mut(scales.len()).for_each(|row| row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s));
}

/// Divides row `i` of `w` by `scales[i]`.
pub fn divide_rows(w: &mut [f32], scales: &[f32]) {
    let k = w.len() / scales.len();
    w.chunks_exact_mut(k).zip(scales).for_each(|(row, s)| row.iter_mut().for_each(|w| *w /= s));
}

/// The largest of `values` by source: `sources[j]` says which source column `j` comes from.
pub fn largest(values: &[f32], sources: &[usize]) -> Vec<f32> {
    let mut out = vec![0.0f32; sources.iter().max().map_or(0, |m| m + 1)];
    sources.iter().zip(values).for_each(|(&s, v)| out[s] = out[s].max(*v));
    out
}

/// The scale of every column, from those of the sources.
pub fn spread(scales: &[f32], sources: &[usize]) -> Vec<f32> {
    sources.iter().map(|&s| scales[s]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::sample::gaussian;

    #[test]
    fn what_is_divided_and_multiplied_computes_the_same() {
        let (n, k) = (7, 24);
        let x = gaussian(1, k);
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            let mut norm: Vec<f32> = gaussian(2, k).iter().map(|&v| rounded(v, dtype)).collect();
            norm[3] = 0.0;
            let mut w = gaussian(3, n * k);
            let output = |norm: &[f32], w: &[f32]| -> Vec<f64> {
                let y = |w: &[f32]| (0..k).map(|j| x[j] as f64 * norm[j] as f64 * w[j] as f64).sum();
                w.chunks_exact(k).map(y).collect()
            };
            let before = output(&norm, &w);
            let mut scales: Vec<f32> = gaussian(4, k).iter().map(|s| s.exp()).collect();
            scales[5] = 1e38;
            divide(&mut norm, &mut scales, dtype);
            multiply_columns(&mut w, &scales);
            assert!(norm.iter().all(|&v| v == rounded(v, dtype)), "{dtype}");
            let size: f64 = before.iter().map(|y| y.abs()).sum();
            for (a, b) in before.iter().zip(output(&norm, &w)) {
                // The scale and the weight are rounded to f32, each once.
                assert!((a - b).abs() <= 4.0 * f32::EPSILON as f64 * size, "{dtype}: {a} {b}");
            }
        }
    }

    #[test]
    fn rows_give_up_what_columns_take() {
        let mut rows = vec![2.0, 4.0, 9.0, 3.0];
        divide_rows(&mut rows, &[2.0, 3.0]);
        assert_eq!(rows, [1.0, 2.0, 3.0, 1.0]);
        let mut columns = vec![1.0, 2.0, 3.0, 1.0];
        multiply_columns(&mut columns, &[2.0, 3.0]);
        assert_eq!(columns, [2.0, 6.0, 6.0, 3.0]);
        assert_eq!(largest(&[1.0, 5.0, 3.0, 2.0], &[0, 1, 0, 1]), [3.0, 5.0]);
        assert_eq!(spread(&[7.0, 8.0], &[0, 1, 0, 1]), [7.0, 8.0, 7.0, 8.0]);
    }
}
