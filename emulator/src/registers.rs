//! The register file of a warp: structure of arrays, one row of 32 lanes per 32-bit register.
//!
//! A 64-bit register is two rows read as `[u64; 32]`, a 128-bit one four read as `[u128; 32]`; 8- and 16-bit registers
//! live in a row each, zero-extended. Constants and lane numbers are rows of the program that all warps share, so an
//! instruction never asks where an operand comes from.

use crate::isa::{Pred, Reg};

/// Lanes of a warp.
pub const WARP: usize = 32;

/// One value per lane.
pub type Lanes<T> = [T; WARP];

/// A set of lanes, bit `i` for lane `i`.
pub type Mask = u32;

/// The lanes of a set, ascending.
#[inline]
pub fn lanes(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}

/// One 32-bit register of every lane.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row(pub Lanes<u32>);

impl Row {
    /// All lanes 0.
    pub const ZERO: Row = Row([0; WARP]);
}

/// The registers of one warp.
pub struct Registers<'p> {
    rows: Vec<Row>,
    constants: &'p [Row],
    predicates: Vec<Mask>,
    /// The carry flag of every lane (`add.cc` and friends).
    pub carry: Mask,
}

impl<'p> Registers<'p> {
    /// A file of `rows` rows and `predicates` predicates, all zero, beside a program's constants.
    pub fn new(rows: usize, predicates: usize, constants: &'p [Row]) -> Self {
        Registers { rows: vec![Row::ZERO; rows], constants, predicates: vec![0; predicates], carry: 0 }
    }

    fn rows(&self, reg: Reg, count: usize) -> &[Row] {
        match reg.constant() {
            Some(i) => &self.constants[i..i + count],
            None => &self.rows[reg.0 as usize..][..count],
        }
    }

    /// A register of at most 32 bits.
    #[inline]
    pub fn b32(&self, reg: Reg) -> &Lanes<u32> {
        &self.rows(reg, 1)[0].0
    }

    /// A 64-bit register.
    #[inline]
    pub fn b64(&self, reg: Reg) -> &Lanes<u64> {
        let rows = self.rows(reg, 2);
        // SAFETY: two adjacent rows are 256 initialised bytes, aligned to 64; u64 has no invalid values.
        unsafe { &*rows.as_ptr().cast::<Lanes<u64>>() }
    }

    /// A 128-bit register.
    #[inline]
    pub fn b128(&self, reg: Reg) -> &Lanes<u128> {
        let rows = self.rows(reg, 4);
        // SAFETY: four adjacent rows are 512 initialised bytes, aligned to 64; u128 has no invalid values.
        unsafe { &*rows.as_ptr().cast::<Lanes<u128>>() }
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn set_b32(&mut self, reg: Reg, mask: Mask, values: &Lanes<u32>) {
        write(&mut self.rows[reg.0 as usize].0, mask, values);
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn set_b64(&mut self, reg: Reg, mask: Mask, values: &Lanes<u64>) {
        let rows = &mut self.rows[reg.0 as usize..][..2];
        // SAFETY: as in `b64`, and the borrow is unique.
        write(unsafe { &mut *rows.as_mut_ptr().cast::<Lanes<u64>>() }, mask, values);
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn set_b128(&mut self, reg: Reg, mask: Mask, values: &Lanes<u128>) {
        let rows = &mut self.rows[reg.0 as usize..][..4];
        // SAFETY: as in `b128`, and the borrow is unique.
        write(unsafe { &mut *rows.as_mut_ptr().cast::<Lanes<u128>>() }, mask, values);
    }

    /// The lanes in which a predicate (or its negation) holds.
    #[inline]
    pub fn pred(&self, pred: Pred) -> Mask {
        match pred {
            Pred::Always => Mask::MAX,
            Pred::If(i) => self.predicates[i as usize],
            Pred::Unless(i) => !self.predicates[i as usize],
        }
    }

    /// Writes the lanes of `mask` of predicate number `index`.
    #[inline]
    pub fn set_pred(&mut self, index: u16, mask: Mask, values: Mask) {
        let p = &mut self.predicates[index as usize];
        *p = (*p & !mask) | (values & mask);
    }
}

#[inline]
fn write<T: Copy>(to: &mut Lanes<T>, mask: Mask, values: &Lanes<T>) {
    if mask == Mask::MAX {
        *to = *values;
        return;
    }
    for lane in 0..WARP {
        if mask >> lane & 1 == 1 {
            to[lane] = values[lane];
        }
    }
}
