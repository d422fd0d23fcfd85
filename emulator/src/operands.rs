//! Stand-in: classes of instructions.

use crate::isa::{Alu, Op};

impl Op {
    /// The class that the counters file it under.
    pub fn class(&self) -> &'static str {
        match self {
            Op::Alu(Alu::Mov { .. }) => "move",
            Op::Alu(Alu::Float { .. }) => "float",
            Op::Alu(Alu::Cvt { .. } | Alu::CvtPack { .. }) => "convert",
            Op::Alu(_) => "integer",
            Op::Load(_) | Op::Store(_) | Op::Atom(_) | Op::IsSpace { .. } | Op::Fence { .. } => "memory",
            Op::CpAsync(_) | Op::CpAsyncCommit | Op::CpAsyncWait { .. } | Op::MBarrier(_) => "async",
            Op::WarpSync { .. } | Op::Shfl(_) | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => "warp",
            Op::Elect { .. } | Op::ActiveMask { .. } => "warp",
            Op::Mma(_) | Op::LdMatrix(_) | Op::StMatrix(_) | Op::MovMatrix { .. } => "matrix",
            _ => "control",
        }
    }
}
