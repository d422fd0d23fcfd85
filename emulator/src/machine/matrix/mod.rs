//! Matrix instructions: `mma`, a warp's share of `wgmma`, and the lane-to-element maps of `ldmatrix`, `stmatrix` and `movmatrix`.
//!
//! The model of `mma` on floats: products are exact, and each element is one chain of fused multiply-adds in order of k,
//! starting from C, in f32 (in f64 for f64). An f16 accumulator is rounded once, at the end. Hardware adds groups of
//! products in an order that is not specified, with truncation: results differ in the last bits. Integer products and
//! sums are exact.

mod descriptor;
mod fragments;
mod multiply;
mod wgmma;

use crate::isa::{MatTy, Mma};
use crate::registers::{Lanes, Registers, WARP};
use std::array::from_fn;

pub use descriptor::{CHUNK, Descriptor, Line, Swizzle};
pub use fragments::{a_place, b_place, c_place};
pub use wgmma::{depth, product, rows};

/// Says why an instruction is none of the dense shapes that the machine knows (those of compute capability 8.0 to 9.0).
///
/// # Errors
/// In words, for the line that the front end adds.
pub fn check(op: &Mma) -> Result<(), String> {
    let shape = (op.m, op.n, op.k);
    let shapes: &[(u32, u32, u32)] = match op.a_ty {
        MatTy::F16 | MatTy::BF16 => &[(16, 8, 8), (16, 8, 16)],
        MatTy::TF32 => &[(16, 8, 4), (16, 8, 8)],
        MatTy::F64 => &[(8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)],
        MatTy::S8 | MatTy::U8 => &[(8, 8, 16), (16, 8, 16), (16, 8, 32)],
        MatTy::S4 | MatTy::U4 => &[(8, 8, 32), (16, 8, 32), (16, 8, 64)],
        MatTy::B1Xor | MatTy::B1And => &[(8, 8, 128), (16, 8, 128), (16, 8, 256)],
        MatTy::E4M3 | MatTy::E5M2 => &[(16, 8, 16), (16, 8, 32)],
        MatTy::F32 | MatTy::S32 => &[],
    };
    if !shapes.contains(&shape) {
        return Err(format!("mma.m{}n{}k{} of {:?} is not supported", op.m, op.n, op.k, op.a_ty));
    }
    let pair = match op.a_ty {
        MatTy::S8 | MatTy::U8 => matches!(op.b_ty, MatTy::S8 | MatTy::U8),
        MatTy::S4 | MatTy::U4 => matches!(op.b_ty, MatTy::S4 | MatTy::U4),
        MatTy::E4M3 | MatTy::E5M2 => matches!(op.b_ty, MatTy::E4M3 | MatTy::E5M2),
        _ => op.a_ty == op.b_ty,
    };
    if !pair {
        return Err(format!("mma cannot multiply {:?} with {:?}", op.a_ty, op.b_ty));
    }
    let sums = match op.a_ty {
        MatTy::F16 | MatTy::E4M3 | MatTy::E5M2 => matches!(op.c_ty, MatTy::F16 | MatTy::F32),
        MatTy::BF16 | MatTy::TF32 => op.c_ty == MatTy::F32,
        MatTy::F64 => op.c_ty == MatTy::F64,
        _ => op.c_ty == MatTy::S32,
    };
    if !sums || op.c_ty != op.d_ty {
        return Err(format!("mma of {:?} cannot accumulate from {:?} to {:?}", op.a_ty, op.c_ty, op.d_ty));
    }
    check_counts(op)
}

fn check_counts(op: &Mma) -> Result<(), String> {
    let registers = |elements: u32, ty: MatTy| (elements / WARP as u32).div_ceil(per_register(ty) as u32) as usize;
    let sources = [
        ("A", op.a.len(), registers(op.m * op.k, op.a_ty)),
        ("B", op.b.len(), registers(op.k * op.n, op.b_ty)),
        ("C", op.c.len(), registers(op.m * op.n, op.c_ty)),
        ("D", op.d.len(), registers(op.m * op.n, op.d_ty)),
    ];
    match sources.iter().find(|(_, has, needs)| has != needs) {
        Some((name, has, needs)) => Err(format!("{name} of this mma has {needs} registers, not {has}")),
        None => Ok(()),
    }
}

/// Elements that one register holds.
fn per_register(ty: MatTy) -> usize {
    match ty {
        MatTy::F16 | MatTy::BF16 => 2,
        MatTy::TF32 | MatTy::F32 | MatTy::S32 | MatTy::F64 => 1,
        MatTy::S8 | MatTy::U8 | MatTy::E4M3 | MatTy::E5M2 => 4,
        MatTy::S4 | MatTy::U4 => 8,
        MatTy::B1Xor | MatTy::B1And => 32,
    }
}

/// Multiplies. The instruction has passed [`check`]; all lanes take part.
pub fn mma(op: &Mma, registers: &mut Registers) {
    match op.a_ty {
        MatTy::F64 => multiply::doubles(op, registers),
        MatTy::S8 | MatTy::U8 | MatTy::S4 | MatTy::U4 => multiply::integers(op, registers),
        MatTy::B1Xor | MatTy::B1And => multiply::bits(op, registers),
        _ => multiply::floats(op, registers),
    }
}

/// A matrix of 8 rows of 8 16-bit elements, as it lies in shared memory.
pub type Tile = [[u8; 16]; 8];

/// What `ldmatrix` leaves in a register: lane 4r + c has elements 2c and 2c + 1 of row r (transposed: of column r).
pub fn ldmatrix(tile: &Tile, transposed: bool) -> Lanes<u32> {
    let element = |row: usize, column: usize| {
        let at = 2 * column;
        u16::from_le_bytes([tile[row][at], tile[row][at + 1]]) as u32
    };
    from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        if transposed {
            element(column, row) | element(column + 1, row) << 16
        } else {
            element(row, column) | element(row, column + 1) << 16
        }
    })
}

/// What `stmatrix` writes of a register: the inverse of [`ldmatrix`].
pub fn stmatrix(register: &Lanes<u32>, transposed: bool) -> Tile {
    let mut tile = Tile::default();
    for (lane, value) in register.iter().enumerate() {
        for half in 0..2 {
            let (row, column) = (lane / 4, lane % 4 * 2 + half);
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            let bytes = ((value >> (16 * half)) as u16).to_le_bytes();
            tile[row][2 * column..][..2].copy_from_slice(&bytes);
        }
    }
    tile
}

/// `movmatrix`: the transpose of a matrix that the warp holds.
pub fn movmatrix(a: &Lanes<u32>) -> Lanes<u32> {
    ldmatrix(&stmatrix(a, false), true)
}
