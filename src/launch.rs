//! What one kernel launch takes: its operands and scalars, and how a device runs it.
//!
//! Operands are stated once per op. Hazards, liveness, the disjointness that makes host memory safe, and the kernel's parameters all derive from
//! this list: every tensor and weight is a pointer, every scalar four bytes, in order.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::quant::Format;
use crate::tensor::{Tensor, WeightId};
use std::fmt;

/// How a launch uses an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Writes every element without reading it.
    Write,
    /// Reads and writes, or writes only a part of it.
    Update,
    /// Workspace of a device kernel: what it holds before and after means nothing, and the host's bodies do not touch it.
    Scratch,
}

/// How a device stores a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Rows `[N, K]` of all parts in tiles of 16 rows x 32 columns; `N` and `K` are padded with zeros. int8 has 64 columns, and scales. With
    /// `half`, rows come in segments of `2 * half`, and a tile holds 8 rows of a segment's first half above the 8 of its second half that
    /// belong to them: the two rows that a rotation or a gate combines.
    Tiled { dtype: DType, half: Option<usize> },
    /// Codes of 4 or 8 bits with their scales and zero points, rows as in `Tiled`.
    Codes { format: Format, half: Option<usize> },
    /// All parts' elements in f32, one after the other.
    Vector,
}

/// One argument of a launch.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    Tensor(Tensor, Access),
    Weight(WeightId, Layout),
    /// An optional operand that is not there: a null pointer.
    Absent,
    I32(i32),
    F32(f32),
}

/// What one kernel launch touches.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The kernel's family, `<op>_<dtypes>`; a device may have several entries for it.
    pub entry: String,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch of `entry` without arguments yet.
    pub fn new(entry: impl Into<String>) -> Self {
        Launch { entry: entry.into(), args: Vec::new() }
    }

    /// Adds an operand that is only read.
    pub fn read(self, t: &Tensor) -> Self {
        self.arg(Arg::Tensor(*t, Access::Read))
    }

    /// Adds an operand of which every element is written and none is read.
    pub fn write(self, t: &Tensor) -> Self {
        self.arg(Arg::Tensor(*t, Access::Write))
    }

    /// Adds an operand that is read and written, or written in part.
    pub fn update(self, t: &Tensor) -> Self {
        self.arg(Arg::Tensor(*t, Access::Update))
    }

    /// Adds workspace.
    pub fn scratch(self, t: &Tensor) -> Self {
        self.arg(Arg::Tensor(*t, Access::Scratch))
    }

    /// Adds an operand that is not there.
    pub fn absent(self) -> Self {
        self.arg(Arg::Absent)
    }

    /// Adds a weight.
    pub fn weight(self, w: WeightId, layout: Layout) -> Self {
        self.arg(Arg::Weight(w, layout))
    }

    /// Adds a vector that a device keeps in f32.
    pub fn vector(self, w: WeightId) -> Self {
        self.weight(w, Layout::Vector)
    }

    /// Adds a vector, or says that it is not there.
    pub fn maybe_vector(self, w: Option<WeightId>) -> Self {
        w.map_or(self.clone().absent(), |w| self.vector(w))
    }

    /// Adds an integer.
    pub fn i32(self, x: usize) -> Self {
        self.arg(Arg::I32(i32::try_from(x).expect("kernel scalars fit 32 bits: shapes are bounded when recorded")))
    }

    /// Adds a real number.
    pub fn f32(self, x: f32) -> Self {
        self.arg(Arg::F32(x))
    }

    fn arg(mut self, arg: Arg) -> Self {
        self.args.push(arg);
        self
    }

    /// The tensors, with how they are used.
    pub fn operands(&self) -> impl Iterator<Item = (&Tensor, Access)> {
        self.args.iter().filter_map(|a| match a {
            Arg::Tensor(t, access) => Some((t, *access)),
            _ => None,
        })
    }

    /// The weights, with how a device stores them.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, Layout)> {
        self.args.iter().filter_map(|a| match a {
            Arg::Weight(w, layout) => Some((*w, *layout)),
            _ => None,
        })
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.entry)?;
        for arg in &self.args {
            match arg {
                Arg::Tensor(t, Access::Read) => write!(f, " {t}")?,
                Arg::Tensor(t, Access::Write) => write!(f, " ={t}")?,
                Arg::Tensor(t, Access::Update) => write!(f, " &{t}")?,
                Arg::Tensor(t, Access::Scratch) => write!(f, " ~{t}")?,
                Arg::Weight(w, _) => write!(f, " w{}", w.0)?,
                Arg::Absent => f.write_str(" -")?,
                Arg::I32(x) => write!(f, " {x}")?,
                Arg::F32(x) => write!(f, " {x:?}")?,
            }
        }
        Ok(())
    }
}

/// What a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Compute capability, 80 for 8.0.
    pub sm: u32,
    /// Multiprocessors.
    pub sms: usize,
    /// Shared memory that a block may ask for, in bytes.
    pub smem: usize,
}

/// How a device runs a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The `extern "C"` name in `kernels/`.
    pub entry: String,
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory in bytes.
    pub smem: u32,
}

/// The compute capability that the kernels are compiled for; later ones run them too.
const SM: u32 = 80;

impl Kernel {
    /// Checks that a device can run it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming what the device lacks.
    pub fn check(&self, on: &Target) -> Result<()> {
        let (major, minor) = (on.sm / 10, on.sm % 10);
        if on.sm < SM {
            let what = format!("a GPU of compute capability {major}.{minor}");
            return Err(Error::unsupported(what, "the kernels need 8.0 (Ampere) or later: use --device cpu"));
        }
        if self.smem as usize > on.smem {
            let what =
                format!("{} with {} bytes of shared memory on a GPU that has {}", self.entry, self.smem, on.smem);
            return Err(Error::unsupported(what, "use --device cpu"));
        }
        Ok(())
    }
}
