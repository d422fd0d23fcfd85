//! Stand-in: matrix instructions.

use crate::isa::Mma;
use crate::registers::{Lanes, Registers};

/// An 8x8 matrix of 16-bit elements as memory holds it: eight rows of sixteen bytes.
pub type Tile = [[u8; 16]; 8];

pub fn mma(_mma: &Mma, _regs: &mut Registers) {
    unimplemented!()
}

pub fn movmatrix(_a: &Lanes<u32>) -> Lanes<u32> {
    unimplemented!()
}

/// What every lane gets of a matrix.
pub fn ldmatrix(tile: &Tile, transposed: bool) -> Lanes<u32> {
    let half = |r: usize, c: usize| u32::from(tile[r][2 * c]) | u32::from(tile[r][2 * c + 1]) << 8;
    std::array::from_fn(|t| match transposed {
        false => half(t / 4, 2 * (t % 4)) | half(t / 4, 2 * (t % 4) + 1) << 16,
        true => half(2 * (t % 4), t / 4) | half(2 * (t % 4) + 1, t / 4) << 16,
    })
}

/// The rows that the lanes hold together: the inverse of `ldmatrix`.
pub fn stmatrix(lanes: &Lanes<u32>, transposed: bool) -> Tile {
    let half = |r: usize, c: usize| match transposed {
        false => lanes[r * 4 + c / 2] >> (16 * (c % 2)),
        true => lanes[c * 4 + r / 2] >> (16 * (r % 2)),
    };
    std::array::from_fn(|r| std::array::from_fn(|i| (half(r, i / 2) >> (8 * (i % 2))) as u8))
}
