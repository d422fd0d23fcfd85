//! What one kernel launch takes: an entry, its operands and its scalars.
//!
//! Stated once per op. Hazards, liveness, the disjointness that makes host memory safe, and later the kernel's parameters all derive from this list.

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
}

/// One argument of a launch.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    Tensor(Tensor, Access),
    Weight(WeightId),
    I32(i32),
    F32(f32),
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The kernel's entry, `<op>_<dtypes>`.
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

    /// Adds a weight.
    pub fn weight(self, w: WeightId) -> Self {
        self.arg(Arg::Weight(w))
    }

    /// Adds a weight if there is one.
    pub fn maybe_weight(self, w: Option<WeightId>) -> Self {
        match w {
            Some(w) => self.weight(w),
            None => self,
        }
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

    /// The weights.
    pub fn weights(&self) -> impl Iterator<Item = WeightId> {
        self.args.iter().filter_map(|a| match a {
            Arg::Weight(w) => Some(*w),
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
                Arg::Weight(w) => write!(f, " w{}", w.0)?,
                Arg::I32(x) => write!(f, " {x}")?,
                Arg::F32(x) => write!(f, " {x:?}")?,
            }
        }
        Ok(())
    }
}
