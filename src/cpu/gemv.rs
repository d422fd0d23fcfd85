//! Products of a few rows: weights are turned in registers and used at once, never stored.
//!
//! Owns the decode loop, which is bound by memory. Refuses to know units and epilogues. The surprise: it yields the bits of the outer-product
//! kernel, since its lanes are outputs too and it folds at the same k.

use super::BLOCK;
use super::panel::{Rows16, STEP, Sink, Storage, Store};
use super::simd::{Kernel, LANES, Lane16, Simd};
use std::marker::PhantomData;

/// The most rows that are multiplied this way.
pub const MAX_ROWS: usize = 8;

/// Steps in a block.
const STEPS: usize = BLOCK / STEP;

/// How many steps ahead weights are asked for, across the end of a row into the next group: at 24 steps two cores read 40 GB/s where
/// the hardware's own prefetch reaches 27; it sees 16 streams that end after 3 KiB.
const AHEAD: usize = 24;

/// Multiplies up to [`MAX_ROWS`] rows of `a` by the weight `rows`; `c` has one vector for each 16 weight rows in each row.
pub struct Gemv<'a, D: Storage> {
    /// `[T, k]`
    pub a: &'a [f32],
    pub k: usize,
    pub rows: &'a [&'a [u8]],
    /// The rows that the thread will be asked for next, as far as known.
    pub next: &'a [&'a [u8]],
    pub c: &'a mut [Lane16],
    pub storage: PhantomData<D>,
}

impl<D: Storage> Kernel for Gemv<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::TURNS {
            unreachable!("no registers for it");
        }
        match self.a.len() / self.k {
            1 => self.few::<S, 1>(s),
            2 => self.few::<S, 2>(s),
            3 => self.few::<S, 3>(s),
            4 => self.few::<S, 4>(s),
            5 => self.few::<S, 5>(s),
            6 => self.few::<S, 6>(s),
            7 => self.few::<S, 7>(s),
            8 => self.few::<S, 8>(s),
            t => unreachable!("{t} rows are not few"),
        }
    }
}

impl<D: Storage> Gemv<'_, D> {
    #[inline(always)]
    fn few<S: Simd, const T: usize>(self, s: S) {
        let a: [&[f32]; T] = std::array::from_fn(|t| &self.a[t * self.k..][..self.k]);
        let vectors = self.rows.len().div_ceil(LANES);
        let mut rows = Rows16::<D>::new(self.rows, 0);
        for i in 0..vectors {
            let next = match i + 1 < vectors {
                true => Rows16::new(self.rows, (i + 1) * LANES),
                false if !self.next.is_empty() => Rows16::new(self.next, 0),
                false => Rows16::new(self.rows, 0),
            };
            let sums = sixteen_columns(s, a, &rows, &next);
            for t in 0..T {
                s.store(sums[t], &mut self.c[t * vectors + i].0);
            }
            rows = next;
        }
    }
}

/// The products of `T` rows with 16 weight rows.
#[inline(always)]
fn sixteen_columns<S: Simd, D: Storage, const T: usize>(
    s: S,
    a: [&[f32]; T],
    rows: &Rows16<D>,
    next: &Rows16<D>,
) -> [S::V; T] {
    let steps = rows.steps();
    let ahead = AHEAD.min(steps);
    let chunks = a.map(|a| &a.as_chunks::<STEP>().0[..steps]);
    let rest = a.map(|a| a.as_chunks::<STEP>().1);
    let mut sums = [s.splat(0.0); T];
    for from in (0..a[0].len().div_ceil(STEP)).step_by(STEPS) {
        let mut acc = [s.splat(0.0); T];
        for step in from..steps.min(from + STEPS) {
            match step + ahead < steps {
                true => rows.prefetch(s, step + ahead),
                false => next.prefetch(s, step + ahead - steps),
            }
            rows.turn(s, step, &mut Multiply { a: chunks.map(|a| &a[step]), acc: &mut acc });
        }
        if steps < from + STEPS && !rest[0].is_empty() {
            let mut last = [Lane16::ZERO; STEP];
            rows.turn_rest(s, &mut Store(&mut last));
            for k in 0..rest[0].len() {
                for t in 0..T {
                    acc[t] = s.fma(s.splat(rest[t][k]), s.load(&last[k].0), acc[t]);
                }
            }
        }
        for t in 0..T {
            sums[t] = if from == 0 { acc[t] } else { s.add(sums[t], acc[t]) };
        }
    }
    sums
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
