//! Boxes of tensors: which bytes of global memory go where in shared memory.
//!
//! A line of the box, its innermost dimension, lies in shared memory line after line, `swizzle` apart if the map swizzles;
//! what lies outside the tensor arrives as zeros and is not written back.

use super::access::Want;
use super::global::How;
use super::matrix::{CHUNK, Swizzle};
use super::raw::read_run;
use super::report::{Run, broken};
use super::state::warp::{Cx, Warp};
use crate::fault::FaultKind;
use crate::isa::{Address, Order, Space};
use crate::registers::WARP;
use crate::tensor_map::{BYTES, TensorMap};

/// Shared addresses of boxes are multiples of this.
const ALIGN: u64 = 128;

/// A run of bytes of a copy: the chunks of shared memory that hold it, and its part in global memory.
pub(super) struct Part {
    pub chunks: Vec<u64>,
    /// Address and the bytes of the part that exist.
    pub global: Option<(u64, std::ops::Range<usize>)>,
}

/// A box at coordinates and its place in shared memory.
pub(super) struct Boxed<'m> {
    pub map: &'m TensorMap,
    pub coordinates: Vec<i64>,
    pub at: u64,
}

impl Boxed<'_> {
    /// The lines of the box.
    pub fn parts(&self) -> Result<Vec<Part>, (FaultKind, String)> {
        let TensorMap { dimensions, extents, element, swizzle, .. } = self.map;
        if self.coordinates.len() != dimensions.len() {
            let why = format!("{} coordinates for a tensor of {}", self.coordinates.len(), dimensions.len());
            return Err((FaultKind::IllegalInstruction, why));
        }
        if !self.at.is_multiple_of(ALIGN) {
            let why = format!("a box of a tensor at shared offset {:#x}, which is not a multiple of {ALIGN}", self.at);
            return Err((FaultKind::Misaligned, why));
        }
        let bytes = u64::from(extents[0] * element);
        let pitch = if *swizzle == Swizzle::None { bytes } else { swizzle.span().into() };
        let lines: u64 = extents[1..].iter().map(|b| u64::from(*b)).product();
        let line = |number: u64| {
            let first = self.at + number * pitch;
            let chunks = (first..first + bytes).step_by(CHUNK);
            Part { chunks: chunks.map(|at| swizzle.place(at as u32, 0).into()).collect(), global: self.global(number) }
        };
        Ok((0..lines).map(line).collect())
    }

    /// The part of a line that is in the tensor: its address, and which bytes of the line it is.
    fn global(&self, mut number: u64) -> Option<(u64, std::ops::Range<usize>)> {
        let TensorMap { address, dimensions, strides, extents, element, .. } = self.map;
        let mut at = *address;
        for (i, stride) in strides.iter().enumerate() {
            let place = self.coordinates[i + 1] + (number % u64::from(extents[i + 1])) as i64;
            number /= u64::from(extents[i + 1]);
            let inside = u64::try_from(place).ok().filter(|p| *p < dimensions[i + 1])?;
            at = at.wrapping_add(inside.wrapping_mul(*stride));
        }
        let first = self.coordinates[0];
        let from = (-first).clamp(0, extents[0].into());
        let to = (dimensions[0] as i64 - first).clamp(from, extents[0].into());
        let size = i64::from(*element);
        let range = (from * size) as usize..(to * size) as usize;
        (from < to).then(|| (at.wrapping_add_signed((first + from) * size), range))
    }
}

impl<'g> Warp<'g> {
    /// The tensor map at a generic address.
    pub(super) fn tensor_map(&mut self, cx: &mut Cx, (pc, lane): (u32, usize), map: &Address) -> Run<TensorMap> {
        let at = self.addresses(map)[lane];
        if !at.is_multiple_of(64) {
            let why = format!("a tensor map at {at:#x}, which is not a multiple of 64");
            return broken(FaultKind::Misaligned, lane as u32, why);
        }
        let bytes = self.generic_bytes::<BYTES>(cx, (pc, lane), at)?;
        match TensorMap::decode(&bytes) {
            Some(map) => Ok(map),
            None => {
                let why = format!("at {at:#x} is no tensor map: cuTensorMapEncodeTiled makes them");
                broken(FaultKind::IllegalInstruction, lane as u32, why)
            }
        }
    }

    /// The bytes at a generic address of any space but shared memory.
    fn generic_bytes<const N: usize>(&mut self, cx: &mut Cx, (pc, lane): (u32, usize), at: u64) -> Run<[u8; N]> {
        let mut bytes = [0; N];
        for (i, part) in bytes.chunks_exact_mut(8).enumerate() {
            let want = Want { pc, space: Space::Generic, bytes: 8, how: How::Read, order: Order::Weak };
            let target = self.resolve(cx, want, [at + 8 * i as u64; WARP], 1 << lane)?;
            if target.mask != 0 {
                read_run(target.at[lane], part);
            }
        }
        Ok(bytes)
    }
}
