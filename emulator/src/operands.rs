//! Every register operand of an operation, with its role. Stand-in.

use crate::isa::{Address, Alu, Op, Pred, Reg};

/// A register operand and how it is used; of a register also its rows.
pub enum Operand<'a> {
    Read(&'a mut Reg, u32),
    Write(&'a mut Reg, u32),
    ReadPred(&'a mut Pred),
    WritePred(&'a mut u16),
}

fn address(at: &mut Address, visit: &mut dyn FnMut(Operand<'_>)) {
    visit(Operand::Read(&mut at.base, if at.wide { 2 } else { 1 }));
}

impl Op {
    /// Visits every register operand.
    pub fn registers(&mut self, visit: &mut dyn FnMut(Operand<'_>)) {
        use Operand::{Read, ReadPred, Write, WritePred};
        match self {
            Op::Alu(Alu::Mov { ty, d, a }) => {
                visit(Read(a, ty.rows()));
                visit(Write(d, ty.rows()));
            }
            Op::Alu(Alu::MovPred { d, a }) => {
                visit(ReadPred(a));
                visit(WritePred(d));
            }
            Op::Alu(Alu::Int { ty, d, a, .. }) => {
                a.iter_mut().for_each(|a| visit(Read(a, ty.rows())));
                visit(Write(d, ty.rows()));
            }
            Op::Alu(Alu::SetP { compare, p, a, b, .. }) => {
                visit(Read(a, compare.ty.rows()));
                visit(Read(b, compare.ty.rows()));
                p.iter_mut().for_each(|p| visit(WritePred(p)));
            }
            Op::Load(l) => {
                address(&mut l.at, visit);
                let rows = l.reg.rows();
                l.d.as_mut_slice().iter_mut().flatten().for_each(|d| visit(Write(d, rows)));
            }
            Op::Store(s) => {
                address(&mut s.at, visit);
                let rows = s.reg.rows();
                s.a.as_mut_slice().iter_mut().for_each(|a| visit(Read(a, rows)));
            }
            Op::BranchIndexed { index, .. } => visit(Read(index, 1)),
            Op::Print { d, format, arguments } => {
                visit(Read(format, 2));
                visit(Read(arguments, 2));
                d.iter_mut().for_each(|d| visit(Write(d, 1)));
            }
            Op::AssertFail { message, file, line, function } => {
                [message, file, function].into_iter().for_each(|r| visit(Read(r, 2)));
                visit(Read(line, 1));
            }
            _ => {}
        }
    }
}
