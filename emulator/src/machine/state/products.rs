//! Products of warpgroups that are under way, and which rows no instruction may touch meanwhile.

use crate::isa::{Alu, Op, Operand, Reg};
use crate::program::Program;
use crate::registers::Lanes;
use std::collections::{HashMap, VecDeque};

/// Warps of a warpgroup.
pub const WARPS: usize = 4;

/// A register of a product that is under way.
#[derive(Clone, Copy)]
pub struct InFlight {
    /// Number of the product's group.
    pub group: u32,
    pub pc: u32,
    /// What will be there; of a register of A, nothing.
    pub value: Option<Lanes<u32>>,
    /// It was moved: the source need not stay, the copy need not be waited for.
    pub moved: bool,
}

/// A warp's products.
#[derive(Default)]
pub struct Products {
    pub fenced: bool,
    /// By row.
    pub in_flight: HashMap<u32, InFlight>,
}

impl Products {
    #[inline]
    pub fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }
}

/// What four warps must agree about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    pub pc: u32,
    pub operands: [u64; 2],
}

/// The progress of a warpgroup.
#[derive(Default)]
pub struct Warpgroup {
    /// By warp: groups committed, products issued.
    pub committed: [u32; WARPS],
    pub issued: [u32; WARPS],
    /// Products that not all warps have issued, from number `first` on.
    recent: VecDeque<Issued>,
    first: u32,
}

impl Warpgroup {
    /// Notes a product of a warp; what another warp issued instead.
    pub fn issue(&mut self, warp: usize, product: Issued) -> Result<(), Issued> {
        let index = (self.issued[warp] - self.first) as usize;
        self.issued[warp] += 1;
        match self.recent.get(index) {
            None => self.recent.push_back(product),
            Some(other) if *other != product => return Err(*other),
            Some(_) => {}
        }
        while self.issued.iter().all(|&issued| issued > self.first) {
            self.recent.pop_front();
            self.first += 1;
        }
        Ok(())
    }
}

/// The rows that an instruction may not touch while they are under way.
pub struct Touch {
    pub row: u32,
    pub write: bool,
}

/// By instruction; empty for a program without products.
pub fn touches(program: &Program) -> Vec<Box<[Touch]>> {
    if !program.code.iter().any(|inst| matches!(inst.op, Op::Wgmma(_))) {
        return Vec::new();
    }
    program.code.iter().map(|inst| touched(&inst.op)).collect()
}

fn touched(op: &Op) -> Box<[Touch]> {
    let mut all = Vec::new();
    let own: &[Reg] = if let Op::Wgmma(wgmma) = op { &wgmma.d } else { &[] };
    if matches!(op, Op::WgmmaSync(_)) || plain_move(op).is_some() {
        return Box::default();
    }
    op.clone().registers(&mut |operand| {
        let (reg, rows, write) = match operand {
            Operand::Read(reg, rows) => (*reg, rows, false),
            Operand::Write(reg, rows) => (*reg, rows, true),
            Operand::ReadPred(_) | Operand::WritePred(_) => return,
        };
        if reg.constant().is_none() && !own.contains(&reg) {
            all.extend((reg.0..reg.0 + rows).map(|row| Touch { row, write }));
        }
    });
    all.into()
}

/// Destination and source of a move of one row.
pub fn plain_move(op: &Op) -> Option<(Reg, Reg)> {
    match op {
        Op::Alu(Alu::Mov { ty, d, a }) if ty.rows() == 1 => Some((*d, *a)),
        _ => None,
    }
}
