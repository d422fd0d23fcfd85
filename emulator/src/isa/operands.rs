//! The register operands of an instruction, with their roles and widths, and its class.
//!
//! The one list of what every `Op` reads and writes: register allocation renames through it, analyses look through it.
//! Reads come before writes. It does not know which registers are constants: callers that care skip them.

use crate::isa::{
    Address, Alu, BarrierKind, Bulk, BulkPlace, CarryOp, FloatOp, IntOp, MBarrierOp, MatTy, Op, Pred, Reg, Ty,
    VoteDest, Wgmma, WgmmaA, WgmmaSync,
};

/// One register operand. Numbers are the rows of the register; a write is of the lanes that execute.
#[derive(Debug)]
pub enum Operand<'a> {
    Read(&'a mut Reg, u32),
    Write(&'a mut Reg, u32),
    ReadPred(&'a mut Pred),
    WritePred(&'a mut u16),
}

/// What the operands are shown to.
struct Visitor<'v>(&'v mut dyn FnMut(Operand<'_>));

impl Visitor<'_> {
    fn read(&mut self, reg: &mut Reg, rows: u32) {
        (self.0)(Operand::Read(reg, rows));
    }

    fn write(&mut self, reg: &mut Reg, rows: u32) {
        (self.0)(Operand::Write(reg, rows));
    }

    fn reads<'r>(&mut self, regs: impl IntoIterator<Item = &'r mut Reg>, rows: u32) {
        regs.into_iter().for_each(|r| self.read(r, rows));
    }

    fn writes<'r>(&mut self, regs: impl IntoIterator<Item = &'r mut Reg>, rows: u32) {
        regs.into_iter().for_each(|r| self.write(r, rows));
    }

    fn pred(&mut self, pred: &mut Pred) {
        (self.0)(Operand::ReadPred(pred));
    }

    fn write_pred<'p>(&mut self, preds: impl IntoIterator<Item = &'p mut u16>) {
        preds.into_iter().for_each(|p| (self.0)(Operand::WritePred(p)));
    }

    fn address(&mut self, at: &mut Address) {
        self.read(&mut at.base, if at.wide { 2 } else { 1 });
    }
}

impl Op {
    /// Shows every register operand to `visit`, which may replace it.
    pub fn registers(&mut self, visit: &mut dyn FnMut(Operand<'_>)) {
        let v = &mut Visitor(visit);
        match self {
            Op::Alu(alu) => alu_registers(alu, v),
            Op::Load(load) => {
                v.address(&mut load.at);
                v.writes(load.d.as_mut_slice().iter_mut().flatten(), load.reg.rows());
            }
            Op::Store(store) => {
                v.address(&mut store.at);
                v.reads(store.a.as_mut_slice(), store.reg.rows());
            }
            Op::Atom(atom) => {
                v.address(&mut atom.at);
                v.reads([&mut atom.b, &mut atom.c], atom.ty.rows());
                v.writes(&mut atom.d, atom.ty.rows());
            }
            Op::CpAsync(copy) => {
                v.address(&mut copy.to);
                v.address(&mut copy.from);
                v.reads(&mut copy.src_size, 1);
                copy.ignore.iter_mut().for_each(|p| v.pred(p));
            }
            Op::MBarrier(barrier) => {
                v.address(&mut barrier.at);
                mbarrier_registers(&mut barrier.op, v);
            }
            Op::Mma(mma) => {
                v.reads(&mut mma.a, element_rows(mma.a_ty));
                v.reads(&mut mma.b, element_rows(mma.b_ty));
                v.reads(&mut mma.c, element_rows(mma.c_ty));
                v.writes(&mut mma.d, element_rows(mma.d_ty));
            }
            Op::Wgmma(wgmma) => wgmma_registers(wgmma, v),
            Op::Bulk(bulk) => bulk_registers(bulk, v),
            Op::LdMatrix(access) => {
                v.address(&mut access.at);
                v.writes(&mut access.registers, 1);
            }
            Op::StMatrix(access) => {
                v.address(&mut access.at);
                v.reads(&mut access.registers, 1);
            }
            Op::MovMatrix { d, a } => {
                v.read(a, 1);
                v.write(d, 1);
            }
            Op::IsSpace { space: _, p, a } => {
                v.read(a, 2);
                v.write_pred([p]);
            }
            Op::Clock { ty, d } => v.write(d, ty.rows()),
            _ => other_registers(self, v),
        }
    }

    /// The instruction class that the profiler's counters go by.
    pub fn class(&self) -> &'static str {
        match self {
            Op::Alu(alu) => alu_class(alu),
            Op::IsSpace { .. } => "integer",
            Op::Load(_) | Op::Store(_) | Op::Atom(_) | Op::Fence { .. } | Op::ProxyFence => "memory",
            Op::CpAsync(_) | Op::CpAsyncCommit | Op::CpAsyncWait { .. } | Op::MBarrier(_) | Op::Bulk(_) => "async",
            Op::WarpSync { .. } | Op::Shfl(_) | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => "warp",
            Op::Elect { .. } | Op::ActiveMask { .. } => "warp",
            Op::Mma(_) | Op::LdMatrix(_) | Op::StMatrix(_) | Op::MovMatrix { .. } => "matrix",
            Op::Wgmma(_) | Op::WgmmaSync(_) => "matrix",
            Op::Clock { .. } => "move",
            Op::Barrier(_) | Op::ClusterArrive { .. } | Op::ClusterWait => "control",
            Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Call { .. } => "control",
            Op::Return { .. } | Op::Exit | Op::Trap | Op::Yield | Op::Nop => "control",
            Op::Print { .. } | Op::AssertFail { .. } => "control",
        }
    }
}

/// Between warps and threads, and control.
fn other_registers(op: &mut Op, v: &mut Visitor<'_>) {
    match op {
        Op::Barrier(barrier) => {
            v.read(&mut barrier.id, 1);
            v.reads(&mut barrier.threads, 1);
            match &mut barrier.kind {
                BarrierKind::Sync | BarrierKind::Arrive => {}
                BarrierKind::RedPopc { d, a } => {
                    v.pred(a);
                    v.write(d, 1);
                }
                BarrierKind::RedAnd { d, a } | BarrierKind::RedOr { d, a } => {
                    v.pred(a);
                    v.write_pred([d]);
                }
            }
        }
        Op::WarpSync { members } => v.read(members, 1),
        Op::Shfl(shfl) => {
            v.reads([&mut shfl.a, &mut shfl.b, &mut shfl.c, &mut shfl.members], 1);
            v.write(&mut shfl.d, 1);
            v.write_pred(&mut shfl.p);
        }
        Op::Vote { kind: _, d, a, members } => {
            v.pred(a);
            v.read(members, 1);
            match d {
                VoteDest::Pred(p) => v.write_pred([p]),
                VoteDest::Ballot(d) => v.write(d, 1),
            }
        }
        Op::Match { all: _, ty, d, p, a, members } => {
            v.read(a, ty.rows());
            v.read(members, 1);
            v.write(d, 1);
            v.write_pred(p);
        }
        Op::Redux { kind: _, ty: _, d, a, members } => {
            v.reads([a, members], 1);
            v.write(d, 1);
        }
        Op::Elect { d, p, members } => {
            v.read(members, 1);
            v.writes(d, 1);
            v.write_pred([p]);
        }
        Op::ActiveMask { d } => v.write(d, 1),
        Op::WgmmaSync(WgmmaSync::Wait { pending: _, held }) => v.reads(held, 1),
        Op::BranchIndexed { index, targets: _ } => v.read(index, 1),
        // The machine writes the return row at a call and reads it at the return.
        Op::Call { target: _, link } => v.write(link, 1),
        Op::Return { link } => v.read(link, 1),
        Op::Print { d, format, arguments } => {
            v.reads([format, arguments], 2);
            v.writes(d, 1);
        }
        Op::AssertFail { message, file, line, function } => {
            v.reads([message, file, function], 2);
            v.read(line, 1);
        }
        _ => {}
    }
}

fn alu_registers(alu: &mut Alu, v: &mut Visitor<'_>) {
    match alu {
        Alu::Mov { ty, d, a } => {
            v.read(a, ty.rows());
            v.write(d, ty.rows());
        }
        Alu::MovPred { d, a } | Alu::NotPred { d, a } => {
            v.pred(a);
            v.write_pred([d]);
        }
        Alu::PredLogic { op: _, d, a, b } => {
            v.pred(a);
            v.pred(b);
            v.write_pred([d]);
        }
        Alu::Pack { ty, d, parts } => {
            let rows = (ty.bits() / parts.len() as u32).div_ceil(32);
            v.reads(parts, rows);
            v.write(d, ty.rows());
        }
        Alu::Unpack { ty, parts, a } => {
            v.read(a, ty.rows());
            let rows = (ty.bits() / parts.len() as u32).div_ceil(32);
            v.writes(parts.iter_mut().flatten(), rows);
        }
        Alu::Int { op, ty, d, a } => int_registers(*op, *ty, d, a, v),
        Alu::Bfi { ty, d, a, b, pos, len } => {
            v.reads([a, b], ty.rows());
            v.reads([pos, len], 1);
            v.write(d, ty.rows());
        }
        Alu::Carry { op, ty, d, a, .. } => {
            let used = if matches!(op, CarryOp::Add | CarryOp::Sub) { 2 } else { 3 };
            v.reads(&mut a[..used], ty.rows());
            v.write(d, ty.rows());
        }
        Alu::Float { op, ty, how: _, d, a } => {
            v.reads(&mut a[..float_sources(*op)], ty.rows());
            v.write(d, ty.rows());
        }
        Alu::Lop3 { d, a, table: _, p } => {
            v.reads(a, 1);
            p.iter_mut().for_each(|p| v.pred(&mut p.q));
            v.write(d, 1);
            v.write_pred(p.iter_mut().map(|p| &mut p.p));
        }
        Alu::Prmt { mode: _, d, a } | Alu::Shf { left: _, clamp: _, d, a } => {
            v.reads(a, 1);
            v.write(d, 1);
        }
        Alu::SetP { compare, p, q, a, b } => {
            v.reads([a, b], compare.ty.rows());
            compare.combine.iter_mut().for_each(|(_, c)| v.pred(c));
            v.write_pred(p.iter_mut().chain(q));
        }
        Alu::Set { compare, dty, d, a, b } => {
            v.reads([a, b], compare.ty.rows());
            compare.combine.iter_mut().for_each(|(_, c)| v.pred(c));
            v.write(d, dty.rows());
        }
        Alu::SelP { ty, d, a, b, p } => {
            v.reads([a, b], ty.rows());
            v.pred(p);
            v.write(d, ty.rows());
        }
        Alu::Slct { ty, cty, ftz: _, d, a, b, c } => {
            v.reads([a, b], ty.rows());
            v.read(c, cty.rows());
            v.write(d, ty.rows());
        }
        Alu::TestP { test: _, ty, d, a } => {
            v.read(a, ty.rows());
            v.write_pred([d]);
        }
        Alu::Cvt { to, from, how: _, d, a, b } => {
            v.read(a, from.rows());
            v.reads(b, from.rows());
            v.write(d, to.rows());
        }
        Alu::CvtPack { to: _, d, a, b, c } => {
            v.reads([a, b], 1);
            v.reads(c, 1);
            v.write(d, 1);
        }
    }
}

/// Sources that an operation has: the others are filled with a constant that nothing reads.
fn float_sources(op: FloatOp) -> usize {
    match op {
        FloatOp::Fma => 3,
        FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Div | FloatOp::DivFull => 2,
        FloatOp::Min | FloatOp::Max | FloatOp::Copysign => 2,
        FloatOp::Abs | FloatOp::Neg | FloatOp::Rcp | FloatOp::Sqrt | FloatOp::Rsqrt => 1,
        FloatOp::Sin | FloatOp::Cos | FloatOp::Lg2 | FloatOp::Ex2 | FloatOp::Tanh => 1,
    }
}

fn int_registers(op: IntOp, ty: Ty, d: &mut Reg, a: &mut [Reg; 3], v: &mut Visitor<'_>) {
    let (one, wide) = (ty.rows(), (2 * ty.bits()).div_ceil(32));
    let (to, from): (u32, &[u32]) = match op {
        IntOp::MulWide => (wide, &[one, one]),
        IntOp::MadWide => (wide, &[one, one, wide]),
        IntOp::Popc | IntOp::Clz | IntOp::Bfind | IntOp::BfindShift => (1, &[one]),
        IntOp::Abs | IntOp::Neg | IntOp::Not | IntOp::Cnot | IntOp::Brev => (one, &[one]),
        IntOp::Shl | IntOp::Shr => (one, &[one, 1]),
        IntOp::Bfe => (one, &[one, 1, 1]),
        IntOp::MadLo | IntOp::MadHi | IntOp::MadHiSat | IntOp::Sad => (one, &[one; 3]),
        IntOp::Mad24Lo | IntOp::Mad24Hi | IntOp::Mad24HiSat | IntOp::Fns => (1, &[1; 3]),
        IntOp::AbsDiff4 | IntOp::AbsDiff4Add | IntOp::Dp4a { .. } | IntOp::Dp2a { .. } => (1, &[1; 3]),
        _ => (one, &[one; 2]),
    };
    a.iter_mut().zip(from).for_each(|(a, &rows)| v.read(a, rows));
    v.write(d, to);
}

fn mbarrier_registers(op: &mut MBarrierOp, v: &mut Visitor<'_>) {
    match op {
        MBarrierOp::Inval | MBarrierOp::CpAsyncArrive { .. } => {}
        MBarrierOp::Init { count } => v.read(count, 1),
        MBarrierOp::ExpectTx { bytes } | MBarrierOp::CompleteTx { bytes } => v.read(bytes, 1),
        MBarrierOp::Arrive { state, count, expect_tx, drop: _ } => {
            v.reads(count.iter_mut().chain(expect_tx), 1);
            v.writes(state, 2);
        }
        MBarrierOp::TestWait { p, state, may_block: _ } => {
            v.read(state, 2);
            v.write_pred([p]);
        }
        MBarrierOp::TestWaitParity { p, parity, may_block: _ } => {
            v.read(parity, 1);
            v.write_pred([p]);
        }
        MBarrierOp::PendingCount { d, state } => {
            v.read(state, 2);
            v.write(d, 1);
        }
    }
}

fn wgmma_registers(wgmma: &mut Wgmma, v: &mut Visitor<'_>) {
    match &mut wgmma.a {
        WgmmaA::Registers(a) => v.reads(a, 1),
        WgmmaA::Shared { descriptor, transposed: _ } => v.read(descriptor, 2),
    }
    v.read(&mut wgmma.b, 2);
    v.pred(&mut wgmma.scale_d);
    v.reads(&mut wgmma.c, 1);
    v.writes(&mut wgmma.d, 1);
}

fn bulk_registers(bulk: &mut Bulk, v: &mut Visitor<'_>) {
    let place = |place: &mut BulkPlace, v: &mut Visitor<'_>| match place {
        BulkPlace::Run { at, shared: _, bytes } => {
            v.address(at);
            v.read(bytes, 1);
        }
        BulkPlace::Tensor { map, at } => {
            v.address(map);
            v.reads(at, 1);
        }
    };
    match bulk {
        Bulk::Load { to, from, mbarrier } => {
            v.address(to);
            place(from, v);
            v.address(mbarrier);
        }
        Bulk::Store { to, from } => {
            place(to, v);
            v.address(from);
        }
        Bulk::Commit | Bulk::Wait { .. } => {}
    }
}

/// Rows of a register of a matrix fragment.
fn element_rows(ty: MatTy) -> u32 {
    if ty == MatTy::F64 { 2 } else { 1 }
}

fn alu_class(alu: &Alu) -> &'static str {
    let of_type = |ty: Ty| if is_float(ty) { "float" } else { "integer" };
    match alu {
        Alu::Mov { .. } | Alu::MovPred { .. } | Alu::Pack { .. } | Alu::Unpack { .. } => "move",
        Alu::SelP { .. } | Alu::Slct { .. } | Alu::Prmt { .. } => "move",
        Alu::Int { .. } | Alu::Bfi { .. } | Alu::Carry { .. } | Alu::Lop3 { .. } | Alu::Shf { .. } => "integer",
        Alu::PredLogic { .. } | Alu::NotPred { .. } => "integer",
        Alu::Float { .. } | Alu::TestP { .. } => "float",
        Alu::SetP { compare, .. } | Alu::Set { compare, .. } => of_type(compare.ty),
        Alu::Cvt { .. } | Alu::CvtPack { .. } => "convert",
    }
}

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::F64)
}
