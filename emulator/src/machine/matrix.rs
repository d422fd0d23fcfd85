//! Stand-in: matrix instructions.

use crate::isa::Mma;
use crate::registers::{Lanes, Registers};

/// An 8x8 matrix of 16-bit elements as memory holds it: eight rows of four words.
pub type Rows = [[u32; 4]; 8];

pub fn mma(_mma: &Mma, _regs: &mut Registers) {
    unimplemented!()
}

pub fn movmatrix(_a: &Lanes<u32>) -> Lanes<u32> {
    unimplemented!()
}

/// What every lane gets of a matrix (`ldmatrix`).
pub fn from_rows(rows: &Rows, transposed: bool) -> Lanes<u32> {
    let half = |r: usize, c: usize| rows[r][c / 2] >> (16 * (c % 2)) & 0xffff;
    std::array::from_fn(|t| match transposed {
        false => rows[t / 4][t % 4],
        true => half(2 * (t % 4), t / 4) | half(2 * (t % 4) + 1, t / 4) << 16,
    })
}

/// The rows that the lanes hold together (`stmatrix`): the inverse of `from_rows`.
pub fn to_rows(lanes: &Lanes<u32>, transposed: bool) -> Rows {
    let half = |r: usize, c: usize| match transposed {
        false => lanes[r * 4 + c / 2] >> (16 * (c % 2)) & 0xffff,
        true => lanes[c * 4 + r / 2] >> (16 * (r % 2)) & 0xffff,
    };
    std::array::from_fn(|r| std::array::from_fn(|w| half(r, 2 * w) | half(r, 2 * w + 1) << 16))
}
