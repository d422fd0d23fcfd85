//! A kernel, ready to run: one flat list of instructions (the kernel and every function that it calls), with registers
//! assigned to rows, variables to addresses, labels to positions.

use crate::fault::Place;
use crate::isa::{Inst, Reg};
use crate::registers::Row;

/// Special registers whose value is fixed for a thread during a launch; the machine fills their rows when a warp starts.
/// (`%laneid`, the `%lanemask_*` and `WARP_SZ` are constants of the program.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// `%tid`, `%ntid`, `%ctaid`, `%nctaid` of dimension 0, 1, 2.
    Tid(u8),
    NTid(u8),
    CtaId(u8),
    NCtaId(u8),
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    /// 64-bit.
    GridId,
    DynamicSharedSize,
    TotalSharedSize,
    /// `%clusterid`, `%nclusterid`, `%cluster_ctaid`, `%cluster_nctaid` of a dimension, and the ranks: clusters are of one block.
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaId(u8),
    ClusterNCtaId(u8),
    ClusterCtaRank,
    ClusterNCtaRank,
}

/// A parameter in the launch's parameter bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub bytes: u32,
    pub align: u32,
}

/// Limits that the kernel states, and what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of static shared memory; dynamic shared memory follows, aligned to `dynamic_align`.
    pub static_shared: u32,
    pub dynamic_align: u32,
    /// Bytes of local memory of a thread.
    pub local: u32,
    /// `.maxntid` and `.reqntid`, as one block shape each.
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    /// The narrowest shared or generic access, in bytes (1, 2, 4): how fine shared memory must be watched.
    pub shared_granule: u32,
    /// Registers of a thread that the kernel's widest point needs, in 32-bit units: an estimate from liveness, for
    /// `cuFuncGetAttribute`.
    pub registers: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub code: Vec<Inst>,
    /// Where every instruction was written, index for index.
    pub places: Vec<Place>,
    pub rows: u32,
    pub predicates: u32,
    pub constants: Vec<Row>,
    /// Rows to fill when a warp starts.
    pub specials: Vec<(Special, Reg)>,
    /// Registers that some path may read before writing: the machine tracks which lanes have written them.
    pub tracked: Tracked,
    pub params: Vec<Param>,
    pub needs: Needs,
}

/// What to watch for reads of registers that were never written. Everything else is proven by the front end.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// Number of tracked registers and predicates.
    pub count: u32,
    /// By instruction (ascending): the tracked predicate that guards it, which all lanes must have written.
    pub guards: Vec<(u32, Vec<(u32, String)>)>,
    /// By instruction (ascending): the tracked registers it must find written, and those that it writes.
    pub reads: Vec<(u32, Vec<(u32, String)>)>,
    pub writes: Vec<(u32, Vec<u32>)>,
    /// By instruction (ascending), of `Alu` and `Shfl`: the tracked registers among its sources, in the order of
    /// `Op::registers`. Its results count as written where those do.
    pub sources: Vec<(u32, Vec<Option<u32>>)>,
}
