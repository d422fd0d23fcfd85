//! Matrix products and the moves of their operands.

use super::{Address, Reg, Space};

/// Element types of matrix operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatTy {
    F16,
    BF16,
    TF32,
    F64,
    S8,
    U8,
    S4,
    U4,
    /// One bit, with the operation that joins the operands.
    B1Xor,
    B1And,
    E4M3,
    E5M2,
    F32,
    S32,
}

/// `mma.sync.aligned.mMnNkK.row.col`: D = A B + C. Registers in the order of the ISA's fragments.
#[derive(Clone, Debug)]
pub struct Mma {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a_ty: MatTy,
    pub b_ty: MatTy,
    pub c_ty: MatTy,
    pub d_ty: MatTy,
    /// Integer results clamp instead of wrapping.
    pub satfinite: bool,
    pub d: Box<[Reg]>,
    pub a: Box<[Reg]>,
    pub b: Box<[Reg]>,
    pub c: Box<[Reg]>,
}

/// `ldmatrix`, `stmatrix`: 1, 2 or 4 matrices of 8x8 16-bit elements.
#[derive(Clone, Debug)]
pub struct MatrixAccess {
    pub transposed: bool,
    pub registers: Box<[Reg]>,
    /// Shared or generic.
    pub space: Space,
    pub at: Address,
}
