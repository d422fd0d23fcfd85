//! Products of a few rows: weights are turned in registers and used at once, never stored.
//!
//! Owns the decode loop, which is bound by memory. Refuses to know units and epilogues. The surprise: it yields the bits of the outer-product
//! kernel, since its lanes are outputs too and it folds at the same k.

use super::BLOCK;
use super::panel::{Rows16, STEP, Sink, Storage, Store};
use super::simd::{Kernel, LANES, Lane16, Simd};
use std::marker::PhantomData;

/// The most rows that are multiplied at a time. 8 rows are bound by arithmetic, no longer by memory.
pub const MAX_ROWS: usize = 8;

/// The number of rows that `rows` are computed as: few kernels are compiled, each for its number of accumulators.
pub fn padded(rows: usize) -> usize {
    if rows == 1 { 1 } else { rows.next_multiple_of(2) }
}

/// Steps in a block.
const STEPS: usize = BLOCK / STEP;

/// How many steps ahead weights are asked for, across the end of a row into the next group: at 24 steps two cores read 40 GB/s where
/// the hardware's own prefetch reaches 27; it sees 16 streams that end after 3 KiB.
const AHEAD: usize = 24;

/// Multiplies `t` rows, [`padded`], by the weight `rows`; `c` has one vector for each 16 weight rows in each row.
pub struct Gemv<'a, D: Storage> {
    /// `[k, t]`: were it `[t, k]`, the compiler would order the work of a step by rows, and keep all 32 vectors for the next row.
    pub a: &'a [f32],
    pub t: usize,
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
        match self.t {
            _ if !S::TURNS => unreachable!("no registers for it"),
            1 => self.few::<S, 1>(s),
            2 => self.few::<S, 2>(s),
            4 => self.few::<S, 4>(s),
            6 => self.few::<S, 6>(s),
            8 => self.few::<S, 8>(s),
            t => unreachable!("{t} rows are not padded"),
        }
    }
}

impl<D: Storage> Gemv<'_, D> {
    #[inline(always)]
    fn few<S: Simd, const T: usize>(self, s: S) {
        let (a, vectors) = (self.a.as_chunks::<T>().0, self.rows.len().div_ceil(LANES));
        let mut rows = Rows16::<D>::new(self.rows, 0);
        for i in 0..vectors {
            let next = match i + 1 < vectors {
                true => Rows16::new(self.rows, (i + 1) * LANES),
                false if !self.next.is_empty() => Rows16::new(self.next, 0),
                false => Rows16::new(self.rows, 0),
            };
            let sums = sixteen_columns(s, a, &rows, &next);
            for (sum, c) in sums.into_iter().zip(self.c[i..].iter_mut().step_by(vectors)) {
                s.store(sum, &mut c.0);
            }
            rows = next;
        }
    }
}

/// The products of `T` rows with 16 weight rows.
#[inline(always)]
fn sixteen_columns<S: Simd, D: Storage, const T: usize>(
    s: S,
    a: &[[f32; T]],
    rows: &Rows16<D>,
    next: &Rows16<D>,
) -> [S::V; T] {
    let (chunks, rest) = a.as_chunks::<STEP>();
    let steps = chunks.len();
    let ahead = AHEAD.min(steps);
    let mut sums = [s.splat(0.0); T];
    for from in (0..a.len().div_ceil(STEP)).step_by(STEPS) {
        let mut acc = [s.splat(0.0); T];
        for (step, a) in chunks.iter().enumerate().take(from + STEPS).skip(from) {
            match step + ahead < steps {
                true => rows.prefetch(step + ahead),
                false => next.prefetch(step + ahead - steps),
            }
            rows.turn(s, step, &mut Multiply { a, acc: &mut acc });
        }
        if steps < from + STEPS && !rest.is_empty() {
            let mut last = [Lane16::ZERO; STEP];
            rows.turn_rest(s, &mut Store(&mut last));
            for (a, column) in rest.iter().zip(last) {
                multiply(s, a, s.load(&column.0), &mut acc);
            }
        }
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = if from == 0 { acc } else { s.add(*sum, acc) };
        }
    }
    sums
}

#[inline(always)]
fn multiply<S: Simd, const T: usize>(s: S, a: &[f32; T], column: S::V, acc: &mut [S::V; T]) {
    for (acc, a) in acc.iter_mut().zip(a) {
        *acc = s.fma(s.splat(*a), column, *acc);
    }
}

/// Multiplies the vectors of a step with the values of `T` rows.
struct Multiply<'a, V, const T: usize> {
    a: &'a [[f32; T]; STEP],
    acc: &'a mut [V; T],
}

impl<S: Simd, const T: usize> Sink<S> for Multiply<'_, S::V, T> {
    #[inline(always)]
    fn put(&mut self, s: S, k: usize, v: S::V) {
        multiply(s, &self.a[k], v, self.acc);
    }
}
