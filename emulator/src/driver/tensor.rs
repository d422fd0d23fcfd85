//! Tensor maps of tiled tensors; those of images (`im2col`) there are none.

use super::abi::{get, list, put};
use super::error::{Error, R};
use super::platform::platform;
use crate::machine::matrix::Swizzle;
use crate::tensor_map::{BYTES, TensorMap};

/// `CUtensorMap`.
type Map = [u8; BYTES];

/// Bytes of an element by `CUtensorMapDataType`: integers of 8 to 64 bits, f16, f32, f64, bf16.
const ELEMENTS: [u32; 10] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2];
/// The data types of the header: with those that convert (flushing f32, tf32) or unpack.
const TYPES: u32 = 16;
const FLOATS: [u32; 7] = [6, 7, 8, 9, 10, 11, 12];

/// A value among `all` of the header, of which the first `known` are supported.
fn choice(value: u32, known: u32, all: u32) -> R<u32> {
    match value {
        v if v < known => Ok(v),
        v if v < all => Err(Error::NOT_SUPPORTED),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn swizzle(value: u32) -> R<Swizzle> {
    Ok(match choice(value, 4, 7)? {
        0 => Swizzle::None,
        1 => Swizzle::B32,
        2 => Swizzle::B64,
        _ => Swizzle::B128,
    })
}

/// Whether a map may be written there.
fn place(to: *mut Map) -> R<*mut Map> {
    if (to as usize).is_multiple_of(64) { Ok(to) } else { Err(Error::INVALID_VALUE) }
}

api! {
    fn cuTensorMapEncodeTiled []
        (to: *mut Map, ty: u32, rank: u32, address: u64, dimensions: *const u64, strides: *const u64,
         extents: *const u32, steps: *const u32, interleave: u32, swizzled: u32, promotion: u32, fill: u32)
    {
        platform()?;
        let rank = rank as usize;
        if !(1..=5).contains(&rank) {
            return Err(Error::INVALID_VALUE);
        }
        let steps = list(steps, rank)?;
        if steps.iter().any(|step| !(1..=8).contains(step)) || fill == 1 && !FLOATS.contains(&ty) {
            return Err(Error::INVALID_VALUE);
        }
        let map = TensorMap {
            address,
            dimensions: list(dimensions, rank)?.to_vec(),
            strides: list(strides, rank - 1)?.to_vec(),
            extents: list(extents, rank)?.to_vec(),
            element: *ELEMENTS.get(choice(ty, ELEMENTS.len() as u32, TYPES)? as usize).ok_or(Error::INVALID_VALUE)?,
            swizzle: swizzle(swizzled)?,
        };
        choice(promotion, 4, 4)?;
        if !map.valid() {
            return Err(Error::INVALID_VALUE);
        }
        choice(interleave, 1, 3)?;
        choice(fill, 1, 2)?;
        if steps.iter().any(|step| *step != 1) {
            return Err(Error::NOT_SUPPORTED);
        }
        put(place(to)?, map.encode())
    }
    fn cuTensorMapReplaceAddress [] (to: *mut Map, address: u64) {
        platform()?;
        let map = TensorMap::decode(&get(place(to)?)?).ok_or(Error::INVALID_VALUE)?;
        let map = TensorMap { address, ..map };
        if !map.valid() {
            return Err(Error::INVALID_VALUE);
        }
        put(to, map.encode())
    }
}
