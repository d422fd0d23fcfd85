//! Loads, stores, atomics and asynchronous copies, and how they name places.

use super::{Pred, Reg, Ty};

/// State spaces as the machine sees them. Constant memory and kernel parameters are read-only bytes of the launch;
/// parameters of device functions are local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// `[base + offset]`. The base is a 64-bit register if `wide`, else a 32-bit one; addresses of variables are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Reg,
    pub wide: bool,
    pub offset: i64,
}

/// The threads that an operation synchronises with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

/// `ld`, `ldu`. Element type `ty` extends into registers of `reg` (wider integers by its sign).
#[derive(Clone, Debug)]
pub struct Load {
    pub space: Space,
    pub order: Order,
    /// `ld.global.nc`: the location must not be written during the kernel.
    pub nc: bool,
    pub ty: Ty,
    pub reg: Ty,
    /// One per element of a vector; `_` is None.
    pub d: Vector<Option<Reg>>,
    pub at: Address,
}

/// `st`: the low bits of every register of `reg`.
#[derive(Clone, Debug)]
pub struct Store {
    pub space: Space,
    pub order: Order,
    pub ty: Ty,
    pub reg: Ty,
    pub a: Vector<Reg>,
    pub at: Address,
}

/// One to eight operands of a vector access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector<T> {
    items: [T; 8],
    len: u8,
}

impl<T: Copy> Vector<T> {
    /// The items, at most eight and at least one.
    pub fn new(items: &[T]) -> Self {
        let mut all = [items[0]; 8];
        all[..items.len()].copy_from_slice(items);
        Vector { items: all, len: items.len() as u8 }
    }

    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.len as usize]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items[..self.len as usize]
    }
}

/// `atom` (with `d`) and `red` (without).
#[derive(Clone, Debug)]
pub struct Atom {
    pub space: Space,
    pub op: AtomOp,
    pub ty: Ty,
    pub order: Order,
    pub scope: Scope,
    /// `.noftz` is the only way of f16/bf16; f32 adds flush on shared and global as the ISA says.
    pub d: Option<Reg>,
    pub at: Address,
    pub b: Reg,
    /// The new value of `cas`.
    pub c: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomOp {
    And,
    Or,
    Xor,
    Cas,
    Exch,
    Add,
    Inc,
    Dec,
    Min,
    Max,
}

/// `cp.async.{ca,cg}.shared.global`: `bytes` (4, 8, 16) to shared memory, of which the first `src_size` are read and the rest are zero.
#[derive(Clone, Debug)]
pub struct CpAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u32,
    pub src_size: Option<Reg>,
    /// `ignore-src`: where it holds, all bytes are zero.
    pub ignore: Option<Pred>,
}
