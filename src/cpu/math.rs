//! exp and the activations made of it, on vectors.
//!
//! Owns the polynomials. Refuses to know what an activation is for. The surprise: no call into a math library, so the bits are the same
//! on every machine.

use super::simd::{Isa, Kernel, LANES, Simd};

/// A function of one lane, applied to vectors.
trait Lanewise {
    fn apply<S: Simd>(s: S, x: S::V) -> S::V;
}

/// `e^x` to 1 ulp. 0 below -87.3 (where the result would soon be denormal), infinity above 88.7228.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LOW: f32 = -87.3;
    const HIGH: f32 = 88.7228;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let n = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let whole = s.sub(n, s.splat(ROUND));
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    let r = s.fma(whole, s.splat(-0.693_359_4), x);
    let r = s.fma(whole, s.splat(2.121_944_4e-4), r);
    // Cephes expf: e^r = 1 + r + r^2 p(r) for |r| <= ln 2 / 2.
    let mut p = s.splat(1.987_569_2e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    let above = s.mul(x, s.splat(f32::INFINITY));
    let result = s.if_less(x, s.splat(HIGH), s.scale_bits(p, n), above);
    s.if_less(x, s.splat(LOW), s.splat(0.0), result)
}

struct Exp;
impl Lanewise for Exp {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        exp(s, x)
    }
}

/// `x / (1 + e^-(beta x))`
#[inline(always)]
fn swish<S: Simd>(s: S, x: S::V, beta: f32) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, s.splat(-beta)))))
}

struct Silu;
impl Lanewise for Silu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        swish(s, x, 1.0)
    }
}

struct QuickGelu;
impl Lanewise for QuickGelu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        swish(s, x, 1.702)
    }
}

struct Gelu;
impl Lanewise for Gelu {
    /// `max(x, 0) - |x| tail(|x|)` with the normal tail `erfc(u / sqrt 2) / 2 = e^(-u^2 / 2) q(1 / (1 + u / 4))`. The polynomial q is a
    /// minimax fit to 1.2e-8 for u up to 13.3, where the tail ends in zeros.
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        const Q: [f32; 9] = [
            -0.200_206_63,
            0.404_447_26,
            -0.346_049_82,
            0.314_961_58,
            -0.026_029_993,
            0.123_535_54,
            0.094_393_16,
            0.100_281_36,
            -2.436_193_4e-5,
        ];
        let zero = s.splat(0.0);
        let u = s.max(x, s.sub(zero, x));
        let t = s.div(s.splat(1.0), s.fma(u, s.splat(0.25), s.splat(1.0)));
        let mut q = s.splat(0.034_691_89);
        for c in Q {
            q = s.fma(q, t, s.splat(c));
        }
        // What rounding u^2 drops would cost many ulp in the exponent: e^-(h + l) = e^-h (1 - l).
        let square = s.mul(u, u);
        let low = s.fma(u, u, s.sub(zero, square));
        let e = exp(s, s.mul(square, s.splat(-0.5)));
        let e = s.fma(e, s.mul(low, s.splat(-0.5)), e);
        s.sub(s.max(x, zero), s.mul(u, s.mul(e, q)))
    }
}

struct Map<'a, F> {
    x: &'a mut [f32],
    f: std::marker::PhantomData<F>,
}

impl<F: Lanewise> Kernel for Map<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (whole, rest) = self.x.as_chunks_mut::<LANES>();
        for x in whole {
            s.store(F::apply(s, s.load(x)), x);
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        s.store(F::apply(s, s.load(&last)), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

fn map<F: Lanewise>(isa: Isa, x: &mut [f32], _: F) {
    isa.run(Map { x, f: std::marker::PhantomData::<F> });
}

/// `e^x`, in place, to 1 ulp. Results below `e^-87.3` are 0.
pub fn exp_in_place(isa: Isa, x: &mut [f32]) {
    map(isa, x, Exp);
}

/// `x * sigmoid(x)`, in place, to 4 ulp; 0 below -88.7.
pub fn silu(isa: Isa, x: &mut [f32]) {
    map(isa, x, Silu);
}

/// `x * sigmoid(1.702 x)`, in place, to 9 ulp for |x| < 8, most of it from rounding `1.702 x`; 0 below -52.
pub fn quick_gelu(isa: Isa, x: &mut [f32]) {
    map(isa, x, QuickGelu);
}

/// The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in place, to 9 ulp; 0 below -13.2.
pub fn gelu(isa: Isa, x: &mut [f32]) {
    map(isa, x, Gelu);
}

/// `gate = silu(gate) * up`.
pub fn swiglu(isa: Isa, gate: &mut [f32], up: &[f32]) {
    silu(isa, gate);
    assert_eq!(gate.len(), up.len(), "gate and up differ");
    gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
}
