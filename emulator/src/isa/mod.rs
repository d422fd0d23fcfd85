//! The instructions, decoded: what the machine runs and the PTX front end makes.
//!
//! A form of PTX becomes one `Op`. Sources and destinations are registers only: immediates and the special registers
//! that never change (`%tid`, `%ctaid`, ...) are rows prepared by the program. Addresses of variables are immediates
//! by the time a program is made. Names and meanings are those of the PTX ISA document.

mod alu;
mod hopper;
mod matrix;
mod memory;
mod operands;
mod sync;

pub use alu::*;
pub use hopper::*;
pub use matrix::*;
pub use memory::*;
pub use operands::Operand;
pub use sync::*;

/// A register: index of its first row in the warp's file, or (top bit set) in the program's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

impl Reg {
    const CONSTANT: u32 = 1 << 31;

    /// The constant whose first row is `row`.
    pub fn of_constant(row: usize) -> Reg {
        Reg(row as u32 | Self::CONSTANT)
    }

    /// The first row among the constants, if it is one.
    #[inline]
    pub fn constant(self) -> Option<usize> {
        (self.0 & Self::CONSTANT != 0).then_some((self.0 & !Self::CONSTANT) as usize)
    }
}

/// A predicate as a source or a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pred {
    Always,
    If(u16),
    Unless(u16),
}

/// Scalar types of the ISA, with those packed in one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    U16x2,
    S16x2,
    E4M3x2,
    E5M2x2,
}

impl Ty {
    /// Width in bits; of a predicate, 1.
    pub const fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 | Ty::E4M3x2 | Ty::E5M2x2 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F16x2 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::U16x2 | Ty::S16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
            Ty::B128 => 128,
        }
    }

    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub const fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S16x2)
    }

    /// Rows of the register file that a register of this type takes.
    pub const fn rows(self) -> u32 {
        self.bits().div_ceil(32)
    }
}

/// One instruction of a program.
#[derive(Clone, Debug)]
pub struct Inst {
    pub guard: Pred,
    pub op: Op,
}

/// Everything that the machine can do.
#[derive(Clone, Debug)]
pub enum Op {
    /// Registers to registers, lane by lane.
    Alu(Alu),
    Load(Load),
    Store(Store),
    Atom(Atom),
    /// `cvta` and `cvta.to` by a constant window base; `isspacep`.
    IsSpace {
        space: Space,
        p: u16,
        a: Reg,
    },
    CpAsync(CpAsync),
    CpAsyncCommit,
    /// Waits until at most `pending` of the lane's newest groups are under way; `None` is `wait_all`.
    CpAsyncWait {
        pending: Option<u32>,
    },
    Barrier(Barrier),
    /// `bar.warp.sync`.
    WarpSync {
        members: Reg,
    },
    Shfl(Shfl),
    Vote {
        kind: VoteKind,
        d: VoteDest,
        a: Pred,
        members: Reg,
    },
    Match {
        all: bool,
        ty: Ty,
        d: Reg,
        p: Option<u16>,
        a: Reg,
        members: Reg,
    },
    Redux {
        kind: ReduxKind,
        ty: Ty,
        d: Reg,
        a: Reg,
        members: Reg,
    },
    /// `elect.sync`: the lowest lane of the members; `d` gets its number.
    Elect {
        d: Option<Reg>,
        p: u16,
        members: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    Mma(Box<Mma>),
    LdMatrix(Box<MatrixAccess>),
    StMatrix(Box<MatrixAccess>),
    /// `movmatrix.sync.aligned.m8n8.trans.b16`.
    MovMatrix {
        d: Reg,
        a: Reg,
    },
    Wgmma(Box<Wgmma>),
    WgmmaSync(WgmmaSync),
    MBarrier(Box<MBarrier>),
    Bulk(Box<Bulk>),
    /// `barrier.cluster`: all threads of the cluster, which is one block.
    ClusterArrive {
        relaxed: bool,
    },
    ClusterWait,
    /// `fence.proxy.async`: what was written so far may be read by tensor cores and bulk copies.
    ProxyFence,
    /// A special register that changes: `%clock`, `%clock64`, `%globaltimer`.
    Clock {
        ty: Ty,
        d: Reg,
    },
    Branch {
        target: u32,
    },
    /// `brx.idx`.
    BranchIndexed {
        index: Reg,
        targets: Box<[u32]>,
    },
    /// Jumps to a function. Its frame is static (no recursion), so a call only notes where to go back to, in the
    /// callee's own return row; arguments are local memory by then.
    Call {
        target: u32,
        link: Reg,
    },
    Return {
        link: Reg,
    },
    /// `vprintf`: the format's generic address and that of the arguments, in local memory.
    Print {
        d: Option<Reg>,
        format: Reg,
        arguments: Reg,
    },
    /// `__assertfail(message, file, line, function, char size)`: generic addresses in registers.
    AssertFail {
        message: Reg,
        file: Reg,
        line: Reg,
        function: Reg,
    },
    Exit,
    Trap,
    /// `membar`, `fence`: orders memory. `scope` is what else must see it.
    Fence {
        scope: Scope,
        order: Order,
    },
    /// Lets others run: `nanosleep`.
    Yield,
    /// Hints without an effect here: `prefetch`, `griddepcontrol`, `setmaxnreg`, ...
    Nop,
}
