//! Root-mean-square norm and layer norm of one row.
//!
//! Owns the order of their sums: four vectors of partial sums, folded as binary trees, f32. Refuses to know dtypes. The surprise: the
//! variance of a layer norm is taken about the mean in a second pass, since the one-pass formula cancels.

use super::simd::{Isa, Kernel, LANES, Simd};

/// `y = x / sqrt(mean(x^2) + eps) * weight`
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let mean = isa.run(SumSquares { x, about: 0.0 }) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
pub fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let mean = isa.run(Sum { x }) / x.len() as f32;
    let variance = isa.run(SumSquares { x, about: mean }) / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = (x - mean) * scale * w + b;
    }
}

struct Sum<'a> {
    x: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 4];
        let (whole, rest) = self.x.as_chunks::<LANES>();
        for four in whole.chunks(4) {
            for (sum, x) in sums.iter_mut().zip(four) {
                *sum = s.add(*sum, s.load(x));
            }
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        sums[0] = s.add(sums[0], s.load(&last));
        fold(s, sums)
    }
}

/// The sum of `(x - about)^2`.
struct SumSquares<'a> {
    x: &'a [f32],
    about: f32,
}

impl Kernel for SumSquares<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 4];
        let about = s.splat(self.about);
        let (whole, rest) = self.x.as_chunks::<LANES>();
        for four in whole.chunks(4) {
            for (sum, x) in sums.iter_mut().zip(four) {
                let x = s.sub(s.load(x), about);
                *sum = s.fma(x, x, *sum);
            }
        }
        let mut last = [self.about; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let x = s.sub(s.load(&last), about);
        sums[0] = s.fma(x, x, sums[0]);
        fold(s, sums)
    }
}

#[inline(always)]
fn fold<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> f32 {
    s.sum(s.add(s.add(a, b), s.add(c, d)))
}
