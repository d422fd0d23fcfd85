//! Products of a few rows: weights are turned in registers and used at once, never stored.
//!
//! Owns the decode loop, which is bound by memory. Refuses to know units and epilogues. The surprise: it yields the bits of the outer-product
//! kernel, since its lanes are outputs too and it folds at the same k.

use super::BLOCK;
use super::panel::{Rows16, STEP, Sink, Storage, Store};
use super::simd::{Kernel, LANES, Lane16, Simd};

/// The most rows that are multiplied this way.
pub const MAX_ROWS: usize = 8;

const STEPS: usize = BLOCK / STEP;

/// Multiplies up to [`MAX_ROWS`] rows of `a` by the weight `rows`; `c` has one vector for each 16 weight rows in each row.
pub struct Gemv<'a, D: Storage> {
    /// `[T, k]`
    pub a: &'a [f32],
    pub k: usize,
    pub rows: &'a [&'a [u8]],
    pub c: &'a mut [Lane16],
    pub storage: D,
}

impl<D: Storage> Kernel for Gemv<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.a.len() / self.k {
            1 => few::<S, D, 1, 2>(s, self),
            2 => few::<S, D, 2, 2>(s, self),
            3 => few::<S, D, 3, 1>(s, self),
            4 => few::<S, D, 4, 1>(s, self),
            5 => few::<S, D, 5, 1>(s, self),
            6 => few::<S, D, 6, 1>(s, self),
            7 => few::<S, D, 7, 1>(s, self),
            8 => few::<S, D, 8, 1>(s, self),
            t => unreachable!("{t} rows are not few"),
        }
    }
}

/// `T` rows, `G` groups of 16 weight rows at a time: with few rows, one group's chains alone would wait for their latency.
#[inline(always)]
fn few<S: Simd, D: Storage, const T: usize, const G: usize>(s: S, job: Gemv<D>) {
    let vectors = job.rows.len().div_ceil(LANES);
    let a: [&[f32]; T] = std::array::from_fn(|t| &job.a[t * job.k..][..job.k]);
    for first in (0..vectors).step_by(G) {
        let sums = groups::<S, D, T, G>(s, a, std::array::from_fn(|g| Rows16::new(job.rows, (first + g) * LANES)));
        for t in 0..T {
            for g in 0..G.min(vectors - first) {
                s.store(sums[g][t], &mut job.c[t * vectors + first + g].0);
            }
        }
    }
}

#[inline(always)]
fn groups<S: Simd, D: Storage, const T: usize, const G: usize>(
    s: S,
    a: [&[f32]; T],
    rows: [Rows16<D>; G],
) -> [[S::V; T]; G] {
    let steps = rows[0].steps();
    let chunks = a.map(|a| &a.as_chunks::<STEP>().0[..steps]);
    let rest = a.map(|a| a.as_chunks::<STEP>().1);
    let mut sums = [[s.splat(0.0); T]; G];
    let mut from = 0;
    loop {
        let end = steps.min(from + STEPS);
        let mut acc = [[s.splat(0.0); T]; G];
        for step in from..end {
            for g in 0..G {
                rows[g].turn(s, step, &mut Multiply { a: chunks.map(|a| &a[step]), acc: &mut acc[g] });
            }
        }
        if end - from < STEPS && !rest[0].is_empty() {
            for g in 0..G {
                let mut last = [Lane16::ZERO; STEP];
                rows[g].turn_rest(s, &mut Store(&mut last));
                for k in 0..rest[0].len() {
                    for t in 0..T {
                        acc[g][t] = s.fma(s.splat(rest[t][k]), s.load(&last[k].0), acc[g][t]);
                    }
                }
            }
        }
        for g in 0..G {
            for t in 0..T {
                sums[g][t] = if from == 0 { acc[g][t] } else { s.add(sums[g][t], acc[g][t]) };
            }
        }
        from += STEPS;
        if from * STEP >= a[0].len() {
            return sums;
        }
    }
}

/// Multiplies the vectors of a step with the values of `T` rows.
struct Multiply<'a, V, const T: usize> {
    a: [&'a [f32; STEP]; T],
    acc: &'a mut [V; T],
}

impl<S: Simd, const T: usize> Sink<S> for Multiply<'_, S::V, T> {
    #[inline(always)]
    fn put(&mut self, s: S, k: usize, v: S::V) {
        for t in 0..T {
            self.acc[t] = s.fma(s.splat(self.a[t][k]), v, self.acc[t]);
        }
    }
}
