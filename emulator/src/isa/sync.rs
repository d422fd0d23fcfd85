//! What threads do together: barriers, shuffles, votes, and barriers that live in memory.

use super::{Address, Pred, Reg, Space};

/// `bar`, `barrier`.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// `.aligned` (always so for `bar`): every thread of the warp must execute it.
    pub aligned: bool,
    /// Barrier number, 0 to 15.
    pub id: Reg,
    /// Participating threads; None is the whole block.
    pub threads: Option<Reg>,
    pub kind: BarrierKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    RedPopc { d: Reg, a: Pred },
    RedAnd { d: u16, a: Pred },
    RedOr { d: u16, a: Pred },
}

/// `shfl.sync`: `d` and `p` (source in range).
#[derive(Clone, Debug)]
pub struct Shfl {
    pub mode: ShflMode,
    pub d: Reg,
    pub p: Option<u16>,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub members: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteKind {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteDest {
    Pred(u16),
    Ballot(Reg),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduxKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// `mbarrier.*` on a 64-bit object in shared memory.
#[derive(Clone, Debug)]
pub struct MBarrier {
    pub at: Address,
    pub space: Space,
    pub op: MBarrierOp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MBarrierOp {
    Init {
        count: Reg,
    },
    Inval,
    /// `arrive`, with `.expect_tx` bytes; `drop` lowers the expected count for later phases too.
    Arrive {
        state: Option<Reg>,
        count: Option<Reg>,
        expect_tx: Option<Reg>,
        drop: bool,
    },
    ExpectTx {
        bytes: Reg,
    },
    CompleteTx {
        bytes: Reg,
    },
    TestWait {
        p: u16,
        state: Reg,
        may_block: bool,
    },
    TestWaitParity {
        p: u16,
        parity: Reg,
        may_block: bool,
    },
    PendingCount {
        d: Reg,
        state: Reg,
    },
    /// `cp.async.mbarrier.arrive{.noinc}`: arrives when the lane's earlier `cp.async` have landed.
    CpAsyncArrive {
        noinc: bool,
    },
}
