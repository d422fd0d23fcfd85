//! Rows between their storage and f32.
//!
//! Owns the conversions. Refuses to know shapes. The surprise: storage is bytes, since weights and caches are not always aligned.

use super::panel::{Rounded, Storage, with_storage};
use super::simd::{Isa, Kernel, LANES, Simd};
use crate::dtype::DType;
use bytemuck::{Zeroable, bytes_of, bytes_of_mut, cast_slice, cast_slice_mut};
use std::marker::PhantomData;

/// Widens `bytes` of `dtype` (f32, bf16 or f16) to f32.
pub fn widen(isa: Isa, bytes: &[u8], dtype: DType, to: &mut [f32]) {
    assert_eq!(bytes.len(), to.len() * dtype.size(), "rows differ");
    with_storage!(dtype, D => isa.run(Widen { bytes, to, storage: PhantomData::<D> }));
}

/// Rounds f32 to `dtype` (f32, bf16 or f16), to nearest even. NaN stays NaN.
pub fn narrow(isa: Isa, from: &[f32], dtype: DType, bytes: &mut [u8]) {
    assert_eq!(bytes.len(), from.len() * dtype.size(), "rows differ");
    with_storage!(dtype, D => isa.run(Narrow { from, bytes, storage: PhantomData::<D> }));
}

struct Widen<'a, D> {
    bytes: &'a [u8],
    to: &'a mut [f32],
    storage: PhantomData<D>,
}

impl<D: Storage> Kernel for Widen<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        let (from, from_rest) = self.bytes.split_at(to.len() * size_of::<D::Vector>());
        for (to, from) in to.iter_mut().zip(cast_slice(from)) {
            s.store(D::load(s, from), to);
        }
        if !to_rest.is_empty() {
            let (mut from, mut to) = (D::Vector::zeroed(), [0.0; LANES]);
            bytes_of_mut(&mut from)[..from_rest.len()].copy_from_slice(from_rest);
            s.store(D::load(s, &from), &mut to);
            to_rest.copy_from_slice(&to[..to_rest.len()]);
        }
    }
}

struct Narrow<'a, D> {
    from: &'a [f32],
    bytes: &'a mut [u8],
    storage: PhantomData<D>,
}

impl<D: Rounded> Kernel for Narrow<'_, D> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.bytes.split_at_mut(from.len() * size_of::<D::Vector>());
        for (to, from) in cast_slice_mut(to).iter_mut().zip(from) {
            D::store(s, s.load(from), to);
        }
        if !from_rest.is_empty() {
            let (mut from, mut to) = ([0.0; LANES], D::Vector::zeroed());
            from[..from_rest.len()].copy_from_slice(from_rest);
            D::store(s, s.load(&from), &mut to);
            to_rest.copy_from_slice(&bytes_of(&to)[..to_rest.len()]);
        }
    }
}
