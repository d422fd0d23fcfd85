//! What names mean where an instruction stands: the interface between `lower`, which knows scopes and layouts, and
//! `forms`, which knows instructions. Registers are virtual here; rows are assigned afterwards.

use crate::isa::{Reg, Space, Ty};
use crate::program::Special;

/// A declared register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Its declared type gives the width only: `.f32` and `.b32` are alike.
    Value {
        reg: Reg,
        ty: Ty,
    },
    Predicate(u16),
}

/// Looks names up, and makes rows for constants.
pub trait Names {
    /// The text's `.version` and the number of its `.target`: older ones lack some instructions.
    fn target(&self) -> ((u32, u32), u32) {
        ((9, 0), 90)
    }

    fn register(&self, name: &str) -> Option<Register>;

    /// A variable's space and its address there; of a function, nothing.
    fn variable(&self, name: &str) -> Option<(Space, u64)>;

    /// A label as a branch target, resolved when the function is complete; `.branchtargets` lists by `branch_targets`.
    fn label(&mut self, name: &str) -> Option<u32>;
    fn branch_targets(&mut self, name: &str) -> Option<Vec<u32>>;

    /// A row (two for 64 bits, four for 128) that holds these bits in every lane.
    fn constant(&mut self, ty: Ty, bits: u128) -> Reg;

    /// A constant row with a value per lane (`%laneid`, `%lanemask_lt`, ...).
    fn lanes(&mut self, values: [u32; 32]) -> Reg;

    /// The row that the machine fills with a special register.
    fn special(&mut self, special: Special) -> Reg;

    /// A fresh virtual register, for forms that need two instructions.
    fn temporary(&mut self, ty: Ty) -> Reg;
}
