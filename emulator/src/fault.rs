//! What a check reports: which rule was broken, where, by whom.

use std::fmt;
use std::sync::Arc;

/// A place in the source: of the PTX text, and of the `.cu` file where `.loc` names one. Texts are shared: there is a
/// place for every instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line of the PTX text, from 1.
    pub ptx: u32,
    /// The instruction as it was written.
    pub text: Arc<str>,
    /// File and line of the source.
    pub source: Option<(Arc<str>, u32)>,
    /// Where the function that `source` belongs to was inlined, the nearest place first.
    pub callers: Arc<[(Arc<str>, u32)]>,
}

/// The thread that broke the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    pub block: [u32; 3],
    pub thread: [u32; 3],
}

/// What happened. The message of a variant names address, size, allocation and the other party, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfBounds,
    Misaligned,
    UseAfterFree,
    UninitialisedRegister,
    UninitialisedShared,
    UninitialisedGlobal,
    SharedRace,
    /// A register of a `wgmma` is used while that is under way.
    RegisterRace,
    ReadOnlyWritten,
    DivergentBarrier,
    ImpossibleBarrier,
    MissingLanes,
    Deadlock,
    /// An access outside the declared operands, against their permission, or an output left unwritten.
    Operand,
    /// `trap`, or a failed `assert`.
    Trap,
    Assert,
    /// A shape that no device has: more threads in a block than there can be, or none.
    ImpossibleLaunch,
    /// An instruction that cannot do what its operands ask (a shared address in a global instruction, a bad barrier
    /// number, a matrix row out of place).
    IllegalInstruction,
}

/// One report. The first of a launch ends it and the context gets the error a GPU would give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// None where no thread is at fault (an output that nobody wrote).
    pub thread: Option<Thread>,
    pub place: Place,
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.kernel)?;
        if let Some(Thread { block: [bx, by, bz], thread: [x, y, z] }) = self.thread {
            write!(f, ", block ({bx},{by},{bz}) thread ({x},{y},{z})")?;
        }
        if let Some((file, line)) = &self.place.source {
            write!(f, ", {file}:{line}")?;
        }
        for (file, line) in &*self.place.callers {
            write!(f, ", inlined at {file}:{line}")?;
        }
        if self.place.ptx > 0 {
            write!(f, ", PTX line {}: {}", self.place.ptx, self.place.text)?;
        }
        write!(f, ": {}", self.why)
    }
}
