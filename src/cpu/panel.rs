//! Weight rows turned into columns: 16 rows by 32 k become 32 vectors, one per k, widened to f32.
//!
//! Owns the loop that reads weights of floats for many rows. Refuses to know what is multiplied with them. The surprise: rows are read in place, at any
//! alignment; the last, short piece of a row is copied, so that nothing past the end of a row is ever touched.

use super::simd::{Kernel, LANES, Lane16, Simd, prefetch};
use bytemuck::{Pod, Zeroable, bytes_of_mut, cast, cast_ref, cast_slice, from_bytes};
use std::marker::PhantomData;

/// Elements of a row that are turned at a time.
pub const STEP: usize = 32;

/// Takes the vectors of one step; `k` counts from its start.
pub trait Sink<S: Simd> {
    fn put(&mut self, s: S, k: usize, v: S::V);
}

/// A storage type of weights and caches.
pub trait Storage {
    /// Sixteen elements.
    type Vector: Pod;
    fn load<S: Simd>(s: S, from: &Self::Vector) -> S::V;

    /// [`STEP`] elements of a row.
    type Chunk: Pod;
    fn turn<S: Simd>(s: S, rows: [&Self::Chunk; LANES], sink: &mut impl Sink<S>);
}

/// A storage type that numbers are rounded to.
pub trait Rounded: Storage {
    fn store<S: Simd>(s: S, v: S::V, to: &mut Self::Vector);
}

/// Evaluates an expression with a [`Rounded`] type chosen by a run-time dtype.
macro_rules! with_storage {
    ($dtype:expr, $d:ident => $body:expr) => {{
        use $crate::cpu::panel::{Bf16, F16, F32};
        match $dtype {
            $crate::dtype::DType::Bf16 => {
                type $d = Bf16;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $d = F16;
                $body
            }
            $crate::dtype::DType::F32 => {
                type $d = F32;
                $body
            }
            other => panic!("{other} is no storage of weights"),
        }
    }};
}
pub(super) use with_storage;

/// The same for caches, whose codes may be int8.
macro_rules! with_cache {
    ($dtype:expr, $d:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::I8 => {
                type $d = $crate::cpu::panel::I8;
                $body
            }
            other => $crate::cpu::panel::with_storage!(other, $d => $body),
        }
    };
}
pub(super) use with_cache;

/// Unrolls by hand: left to the compiler, the vectors go through memory.
macro_rules! sixteen {
    ($j:ident => $body:expr) => { sixteen!(@ $j $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    (@ $j:ident $body:expr; $($n:literal)*) => { $({ const $j: usize = $n; $body; })* };
}

pub enum Bf16 {}
pub enum F16 {}
pub enum F32 {}
/// Codes; whoever reads them knows their scales.
pub enum I8 {}

impl Storage for Bf16 {
    type Vector = [u8; 32];
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8; 32]) -> S::V {
        s.load_bf16(from)
    }

    type Chunk = [u8; 64];
    #[inline(always)]
    fn turn<S: Simd>(s: S, rows: [&[u8; 64]; LANES], sink: &mut impl Sink<S>) {
        let pairs = s.transpose(rows);
        sixteen!(J => {
            sink.put(s, 2 * J, s.low_bf16(pairs[J]));
            sink.put(s, 2 * J + 1, s.high_bf16(pairs[J]))
        });
    }
}

impl Storage for F32 {
    type Vector = [u8; 64];
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8; 64]) -> S::V {
        s.load_f32(from)
    }

    type Chunk = [[u8; 64]; 2];
    #[inline(always)]
    fn turn<S: Simd>(s: S, rows: [&[[u8; 64]; 2]; LANES], sink: &mut impl Sink<S>) {
        let columns = s.transpose(rows.map(|row| &row[0]));
        sixteen!(J => sink.put(s, J, columns[J]));
        let columns = s.transpose(rows.map(|row| &row[1]));
        sixteen!(J => sink.put(s, 16 + J, columns[J]));
    }
}

impl Storage for F16 {
    type Vector = [u8; 32];
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8; 32]) -> S::V {
        s.load_f16(from)
    }

    type Chunk = [[u8; 32]; 2];
    #[inline(always)]
    fn turn<S: Simd>(s: S, rows: [&[[u8; 32]; 2]; LANES], sink: &mut impl Sink<S>) {
        // No instruction widens one half of each dword, so rows are widened before they are turned.
        turn_widened::<S, F16>(s, rows, sink);
    }
}

impl Storage for I8 {
    type Vector = [u8; 16];
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u8; 16]) -> S::V {
        s.load_i8(from)
    }

    type Chunk = [[u8; 16]; 2];
    #[inline(always)]
    fn turn<S: Simd>(s: S, rows: [&[[u8; 16]; 2]; LANES], sink: &mut impl Sink<S>) {
        turn_widened::<S, I8>(s, rows, sink);
    }
}

#[inline(always)]
fn turn_widened<S: Simd, D: Storage>(s: S, rows: [&[D::Vector; 2]; LANES], sink: &mut impl Sink<S>) {
    let mut wide = [[Lane16::ZERO; 2]; LANES];
    for (wide, row) in wide.iter_mut().zip(rows) {
        s.store(D::load(s, &row[0]), &mut wide[0].0);
        s.store(D::load(s, &row[1]), &mut wide[1].0);
    }
    F32::turn(s, wide.each_ref().map(cast_ref), sink);
}

impl Rounded for Bf16 {
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [u8; 32]) {
        s.store_bf16(v, to);
    }
}

impl Rounded for F16 {
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [u8; 32]) {
        s.store_f16(v, to);
    }
}

impl Rounded for F32 {
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [u8; 64]) {
        let mut lanes = [0.0; LANES];
        s.store(v, &mut lanes);
        *to = cast(lanes);
    }
}

/// Sixteen rows of equal length, read in place.
pub struct Rows16<'a, D: Storage> {
    rows: [&'a [u8]; LANES],
    chunks: [&'a [D::Chunk]; LANES],
    rest: [&'a [u8]; LANES],
}

impl<'a, D: Storage> Rows16<'a, D> {
    /// The rows `first..first + 16` of a list. Lanes past its end repeat the last row; what they yield is to be dropped.
    #[inline(always)]
    pub fn new(rows: &[&'a [u8]], first: usize) -> Self {
        let rows: [&[u8]; LANES] = std::array::from_fn(|i| rows[(first + i).min(rows.len() - 1)]);
        let whole = rows[0].len() / size_of::<D::Chunk>() * size_of::<D::Chunk>();
        Rows16 { rows, chunks: rows.map(|row| cast_slice(&row[..whole])), rest: rows.map(|row| &row[whole..]) }
    }

    /// Asks for a whole step in L2.
    #[inline(always)]
    pub fn prefetch(&self, step: usize) {
        for chunks in self.chunks {
            for line in 0..size_of::<D::Chunk>() / size_of::<Lane16>() {
                prefetch(chunks.as_ptr().wrapping_add(step).cast::<Lane16>().wrapping_add(line).cast());
            }
        }
    }

    /// Turns a whole step.
    #[inline(always)]
    pub fn turn<S: Simd>(&self, s: S, step: usize, sink: &mut impl Sink<S>) {
        D::turn(s, std::array::from_fn(|i| &self.chunks[i][step]), sink);
    }

    /// Turns the step that ends where the rows end: of some k once more, which costs less than to gather part of a step.
    #[inline(always)]
    pub fn turn_last<S: Simd>(&self, s: S, sink: &mut impl Sink<S>) {
        let size = size_of::<D::Chunk>();
        D::turn(s, self.rows.map(|row| from_bytes(&row[row.len() - size..])), sink);
    }

    /// Turns what follows the last whole step; k past the end of a row yields zeros.
    #[inline(always)]
    pub fn turn_rest<S: Simd>(&self, s: S, sink: &mut impl Sink<S>) {
        let mut chunks = [D::Chunk::zeroed(); LANES];
        for (chunk, rest) in chunks.iter_mut().zip(self.rest) {
            bytes_of_mut(chunk)[..rest.len()].copy_from_slice(rest);
        }
        D::turn(s, chunks.each_ref(), sink);
    }
}

/// Writes the vectors of a step to memory.
pub struct Store<'a>(pub &'a mut [Lane16; STEP]);

impl<S: Simd> Sink<S> for Store<'_> {
    #[inline(always)]
    fn put(&mut self, s: S, k: usize, v: S::V) {
        s.store(v, &mut self.0[k].0);
    }
}

/// Rows are asked for so far ahead.
const AHEAD: usize = 64;

/// Packs `k` (whole steps, but for the end of the rows) of all `rows` into panels of 16 columns, `depth` vectors each.
pub struct Pack<'a, D: Storage> {
    /// The rows to pack, and what comes after them as far as known.
    pub rows: &'a [&'a [u8]],
    pub first_step: usize,
    pub depth: usize,
    pub panels: &'a mut [Lane16],
    pub storage: PhantomData<D>,
}

impl<D: Storage> Kernel for Pack<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let size = size_of::<D::Chunk>() / STEP;
        let part = self.first_step * STEP * size..(self.first_step * STEP + self.depth) * size;
        for (i, panel) in self.panels.chunks_exact_mut(self.depth).enumerate() {
            for row in self.rows.iter().skip(i * LANES + AHEAD).take(LANES) {
                row[part.clone()].chunks(size_of::<Lane16>()).for_each(|line| prefetch(line.as_ptr()));
            }
            let rows = Rows16::<D>::new(self.rows, i * LANES);
            let (steps, rest) = panel.as_chunks_mut::<STEP>();
            for (j, to) in steps.iter_mut().enumerate() {
                rows.turn(s, self.first_step + j, &mut Store(to));
            }
            if rest.is_empty() {
                continue;
            }
            match panel.last_chunk_mut() {
                Some(last) => rows.turn_last(s, &mut Store(last)),
                None => {
                    let mut last = [Lane16::ZERO; STEP];
                    rows.turn_rest(s, &mut Store(&mut last));
                    panel.copy_from_slice(&last[..panel.len()]);
                }
            }
        }
    }
}

/// Widens rows into panels of 16 of their elements, one vector per row: the rows are k here. The last panel ends in zeros.
pub struct PackRows<'a, D: Storage> {
    /// The rows to pack, and what comes after them as far as known.
    pub rows: &'a [&'a [u8]],
    pub count: usize,
    /// Panels of `panel` vectors.
    pub panels: &'a mut [Lane16],
    pub panel: usize,
    pub storage: PhantomData<D>,
}

impl<D: Storage> Kernel for PackRows<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (k, row) in self.rows[..self.count].iter().enumerate() {
            if let Some(ahead) = self.rows.get(k + AHEAD) {
                ahead.chunks(size_of::<Lane16>()).for_each(|line| prefetch(line.as_ptr()));
            }
            let (whole, rest) = row.split_at(row.len() / size_of::<D::Vector>() * size_of::<D::Vector>());
            let whole: &[D::Vector] = cast_slice(whole);
            for (j, from) in whole.iter().enumerate() {
                s.store(D::load(s, from), &mut self.panels[j * self.panel + k].0);
            }
            if !rest.is_empty() {
                let mut last = D::Vector::zeroed();
                bytes_of_mut(&mut last)[..rest.len()].copy_from_slice(rest);
                s.store(D::load(s, &last), &mut self.panels[whole.len() * self.panel + k].0);
            }
        }
    }
}
