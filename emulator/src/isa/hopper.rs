//! What sm_90a adds: products of a warpgroup, bulk copies, the fence between the proxies.

use super::{Address, MatTy, Pred, Reg};

/// `wgmma.mma_async`: D = A B (+ D), 64 rows of which each warp of the warpgroup has 16. A row of A and a column of B
/// are 32 bytes whatever the type.
#[derive(Clone, Debug)]
pub struct Wgmma {
    pub n: u32,
    pub a_ty: MatTy,
    pub b_ty: MatTy,
    pub d_ty: MatTy,
    /// Integer results clamp instead of wrapping.
    pub satfinite: bool,
    pub negate_a: bool,
    pub negate_b: bool,
    /// Where it does not hold, D is not read.
    pub scale_d: Pred,
    pub a: WgmmaA,
    /// Matrix descriptor, 64 bits.
    pub b: Reg,
    /// B lies row by row (its columns' elements are not neighbours). 16-bit types only.
    pub b_transposed: bool,
    /// The same registers twice: read and written.
    pub c: Box<[Reg]>,
    pub d: Box<[Reg]>,
}

/// Where A is.
#[derive(Clone, Debug)]
pub enum WgmmaA {
    /// A fragment as that of `mma.m16n8k*`.
    Registers([Reg; 4]),
    /// A matrix descriptor; `transposed` if A lies column by column.
    Shared { descriptor: Reg, transposed: bool },
}

/// The instructions around `wgmma.mma_async`.
#[derive(Clone, Debug)]
pub enum WgmmaSync {
    /// Orders earlier accesses to registers before the products that come.
    Fence,
    Commit,
    /// Waits until at most `pending` of the newest groups are under way. `held` are the registers that the function's
    /// products use: they may not serve anyone else before.
    Wait {
        pending: u32,
        held: Box<[Reg]>,
    },
}

/// `cp.async.bulk`, also of tensors.
#[derive(Clone, Debug)]
pub enum Bulk {
    /// To shared memory; the bytes complete on the mbarrier.
    Load {
        to: Address,
        from: BulkPlace,
        mbarrier: Address,
    },
    /// From shared memory, in a bulk group.
    Store {
        to: BulkPlace,
        from: Address,
    },
    Commit,
    /// Waits until at most `pending` of the lane's newest groups are under way; with `read` only until they have read
    /// their sources.
    Wait {
        pending: u32,
        read: bool,
    },
}

/// The other side of a bulk copy.
#[derive(Clone, Debug)]
pub enum BulkPlace {
    /// Bytes in a row, in global memory or (loads) in the block's own shared memory.
    Run { at: Address, shared: bool, bytes: Reg },
    /// A box of a tensor: the map's generic address, and as many coordinates as dimensions.
    Tensor { map: Address, at: Box<[Reg]> },
}
