//! Tensor maps: what `cuTensorMapEncodeTiled` checks and writes, and what tensor copies read.
//!
//! The 128 bytes are opaque to programs; the layout is this module's own (little endian):
//!
//! ```text
//!   0  magic                     8  address               16  dimensions less 1, 5 x u32
//!  36  strides / 16, 4 x u32    52  box less 1, 5 x u8    57  bytes of an element
//!  58  rank                     59  swizzle (0 to 3)      60  strides / 2^36, 4 x u8
//! ```

use crate::machine::matrix::Swizzle;

/// Bytes of a map.
pub const BYTES: usize = 128;
/// Marks bytes as a map.
const MAGIC: u64 = 0x7061_6d5f_7273_6e74;

/// A tensor in global memory and the box that one copy moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub address: u64,
    /// Elements of each dimension, innermost first.
    pub dimensions: Vec<u64>,
    /// Bytes between elements of the second and later dimensions.
    pub strides: Vec<u64>,
    /// Elements of the box.
    pub extents: Vec<u32>,
    /// Bytes of an element.
    pub element: u32,
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// Whether the interface takes it.
    pub fn valid(&self) -> bool {
        let rank = self.dimensions.len();
        let inner = u64::from(self.extents.first().copied().unwrap_or(0)) * u64::from(self.element);
        let span = u64::from(self.swizzle.span());
        (1..=5).contains(&rank)
            && self.strides.len() == rank - 1
            && self.extents.len() == rank
            && self.address != 0
            && self.address.is_multiple_of(16)
            && self.dimensions.iter().all(|d| (1..=1 << 32).contains(d))
            && self.strides.iter().all(|s| *s > 0 && s.is_multiple_of(16) && *s < 1 << 40)
            && self.extents.iter().all(|b| (1..=256).contains(b))
            && inner.is_multiple_of(16)
            && (self.swizzle == Swizzle::None || inner <= span)
    }

    /// Bytes that one copy moves, those outside the tensor included.
    pub fn box_bytes(&self) -> u64 {
        self.extents.iter().map(|b| u64::from(*b)).product::<u64>() * u64::from(self.element)
    }

    /// The bytes of a valid map.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, from: &[u8]| bytes[at..at + from.len()].copy_from_slice(from);
        put(0, &MAGIC.to_le_bytes());
        put(8, &self.address.to_le_bytes());
        for (i, (d, b)) in self.dimensions.iter().zip(&self.extents).enumerate() {
            put(16 + 4 * i, &((d - 1) as u32).to_le_bytes());
            put(52 + i, &[(b - 1) as u8]);
        }
        for (i, s) in self.strides.iter().enumerate() {
            put(36 + 4 * i, &((s / 16) as u32).to_le_bytes());
            put(60 + i, &[(s >> 36) as u8]);
        }
        put(57, &[self.element as u8, self.dimensions.len() as u8, self.swizzle as u8]);
        bytes
    }

    /// The map in these bytes, if they are one.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<TensorMap> {
        let long = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        let word = |at: usize| bytes[at..at + 4].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        let rank = usize::from(bytes[58]);
        if long(0) != MAGIC || !(1..=5).contains(&rank) {
            return None;
        }
        let map = TensorMap {
            address: long(8),
            dimensions: (0..rank).map(|i| word(16 + 4 * i) + 1).collect(),
            strides: (0..rank - 1).map(|i| (word(36 + 4 * i) << 4) + (u64::from(bytes[60 + i]) << 36)).collect(),
            extents: (0..rank).map(|i| u32::from(bytes[52 + i]) + 1).collect(),
            element: bytes[57].into(),
            swizzle: *[Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128].get(usize::from(bytes[59]))?,
        };
        map.valid().then_some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: 0x7f00_1234_5670,
            dimensions: vec![1 << 32, 3, 1, 70_000, 9],
            strides: vec![(1 << 40) - 16, 16, 1 << 36, 48],
            extents: vec![64, 256, 1, 2, 3],
            element: 2,
            swizzle: Swizzle::B128,
        }
    }

    #[test]
    fn bytes_say_everything() {
        for rank in 1..=5 {
            let mut map = map();
            map.dimensions.truncate(rank);
            map.strides.truncate(rank - 1);
            map.extents.truncate(rank);
            assert_eq!(TensorMap::decode(&map.encode()), Some(map));
        }
        assert_eq!(TensorMap::decode(&[0; BYTES]), None);
    }

    #[test]
    fn rules_of_the_interface() {
        let breaks: [fn(&mut TensorMap); 12] = [
            |m| m.address += 8,
            |m| m.address = 0,
            |m| m.dimensions[1] = 0,
            |m| m.dimensions[0] += 1,
            |m| m.strides[0] += 16,
            |m| m.strides[1] = 24,
            |m| m.strides[2] = 0,
            |m| m.extents[1] = 257,
            |m| m.extents[3] = 0,
            |m| m.extents[0] = 65,
            |m| m.extents[0] = 72,
            |m| m.swizzle = Swizzle::B64,
        ];
        assert!(map().valid());
        for (i, change) in breaks.into_iter().enumerate() {
            let mut map = map();
            change(&mut map);
            assert!(!map.valid(), "{i}");
        }
    }
}
