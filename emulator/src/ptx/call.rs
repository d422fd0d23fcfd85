//! `call`: arguments are copied into the callee's local memory, results out of it. The driver's own functions take
//! theirs in registers.

use super::ast::{Instruction, Operand, Variable};
use super::frames::{ASSERT, Call, Frames, PRINT};
use super::names::{Names, Register};
use super::scope::{Frame, Placed};
use crate::isa::{Address, Load, Op, Order, Reg, Space, Store, Ty, Vector};

/// Stands for the row of the return position until the callee's frame has one: no virtual register.
pub(super) const LINK: Reg = Reg(u32::MAX >> 2);

/// A call as operations. `target` of `Op::Call` is the callee's index in `frames`.
pub(super) fn call(inst: &Instruction, frames: &Frames, callee: usize, frame: &mut Frame) -> Result<Vec<Op>, String> {
    let call = Call::of(inst)?;
    let placing = &frames.functions[callee];
    let (returns, params) = (&placing.function.returns, &placing.function.params);
    if call.returns.len() != returns.len() || call.arguments.len() != params.len() {
        return Err(format!(
            "`{}` takes {} arguments and gives {} results, not {} and {}",
            call.callee,
            params.len(),
            returns.len(),
            call.arguments.len(),
            call.returns.len()
        ));
    }
    let mut ops = Vec::new();
    for ((actual, formal), &place) in call.arguments.iter().zip(params).zip(&placing.params) {
        pass(&mut ops, actual, formal, place, frame)?;
    }
    ops.push(Op::Call { target: callee as u32, link: LINK });
    for ((actual, formal), &place) in call.returns.iter().zip(returns).zip(&placing.returns) {
        take(&mut ops, actual, formal, place, frame)?;
    }
    Ok(ops)
}

/// A call of a function that the driver provides; None if it is not one.
pub(super) fn provided(inst: &Instruction, frame: &mut Frame) -> Result<Option<Vec<Op>>, String> {
    let call = Call::of(inst)?;
    let mut ops = Vec::new();
    let mut value = |operand, ty, frame: &mut Frame| fetch(&mut ops, operand, ty, frame);
    match (call.callee, call.arguments) {
        (PRINT, [format, arguments]) => {
            let (format, arguments) = (value(format, Ty::B64, frame)?, value(arguments, Ty::B64, frame)?);
            let d = frame.temporary(Ty::B32);
            ops.push(Op::Print { d: Some(d), format, arguments });
            match call.returns {
                [Operand::Name(name)] => put(&mut ops, d, name, frame)?,
                [] => {}
                _ => return Err(format!("`{PRINT}` gives one result")),
            }
        }
        (ASSERT, [message, file, line, function, _size]) => {
            let [message, file, function] =
                [value(message, Ty::B64, frame)?, value(file, Ty::B64, frame)?, value(function, Ty::B64, frame)?];
            let line = value(line, Ty::B32, frame)?;
            ops.push(Op::AssertFail { message, file, line, function });
        }
        (PRINT | ASSERT, _) => return Err(format!("`{}` takes other arguments", call.callee)),
        _ => return Ok(None),
    }
    Ok(Some(ops))
}

/// An actual argument to a formal one.
fn pass(ops: &mut Vec<Op>, actual: &Operand, formal: &Variable, to: Placed, frame: &mut Frame) -> Result<(), String> {
    if let Some(from) = local(actual, frame) {
        if from.bytes != to.bytes {
            return Err(format!("`{}` has {} bytes, not {}", formal.name, to.bytes, from.bytes));
        }
        copy(ops, from, to, frame);
        return Ok(());
    }
    let Some(ty) = scalar(to.bytes) else {
        return Err(format!("`{}` has {} bytes: its argument must be a `.param` variable", formal.name, to.bytes));
    };
    let value = fetch(ops, actual, ty, frame)?;
    ops.push(store(ty, to.address, value, frame));
    Ok(())
}

/// A result to where the caller wants it.
fn take(ops: &mut Vec<Op>, actual: &Operand, formal: &Variable, from: Placed, frame: &mut Frame) -> Result<(), String> {
    match actual {
        Operand::Sink => return Ok(()),
        Operand::Name(name) => {
            if let Some(Register::Value { reg, ty }) = frame.register(name)
                && u64::from(ty.bytes()) == from.bytes
            {
                ops.push(load(ty, reg, from.address, frame));
                return Ok(());
            }
        }
        _ => {}
    }
    match local(actual, frame).filter(|to| to.bytes == from.bytes) {
        Some(to) => copy(ops, from, to, frame),
        None => {
            return Err(format!("`{}` has {} bytes: its result needs a variable as large", formal.name, from.bytes));
        }
    }
    Ok(())
}

/// The `.param` or `.local` variable that an operand is.
fn local(operand: &Operand, frame: &Frame) -> Option<Placed> {
    match operand {
        Operand::Name(name) => frame.placed(name).filter(|p| p.space == Space::Local),
        _ => None,
    }
}

/// The register that holds an argument: itself, or one filled from its `.param` variable.
fn fetch(ops: &mut Vec<Op>, operand: &Operand, ty: Ty, frame: &mut Frame) -> Result<Reg, String> {
    if let Some(from) = local(operand, frame) {
        if from.bytes < ty.bytes().into() {
            return Err(format!("this argument has {} bytes, not {}", from.bytes, ty.bytes()));
        }
        let d = frame.temporary(ty);
        ops.push(load(ty, d, from.address, frame));
        return Ok(d);
    }
    match operand {
        Operand::Integer(i) => Ok(frame.constant(ty, *i as u128)),
        Operand::Single(bits) => Ok(frame.constant(ty, (*bits).into())),
        Operand::Double(bits) => Ok(frame.constant(ty, (*bits).into())),
        Operand::Name(name) => match frame.register(name) {
            Some(Register::Value { reg, ty: declared }) if declared.rows() == ty.rows() => Ok(reg),
            Some(_) => Err(format!("the argument `{name}` is not of {} bits", ty.bits())),
            None => Err(format!("`{name}` is not declared here")),
        },
        _ => Err("an argument is a register, a number or a `.param` variable".into()),
    }
}

fn put(ops: &mut Vec<Op>, value: Reg, name: &str, frame: &mut Frame) -> Result<(), String> {
    match (frame.placed(name), frame.register(name)) {
        (Some(to), _) if to.space == Space::Local && to.bytes >= 4 => {
            ops.push(store(Ty::B32, to.address, value, frame));
            Ok(())
        }
        (_, Some(Register::Value { reg, ty })) if ty.rows() == 1 => {
            ops.push(Op::Alu(crate::isa::Alu::Mov { ty: Ty::B32, d: reg, a: value }));
            Ok(())
        }
        _ => Err(format!("`{name}` cannot take a 32-bit result")),
    }
}

/// Copies between places of equal size, in the widest pieces that both are aligned to.
fn copy(ops: &mut Vec<Op>, from: Placed, to: Placed, frame: &mut Frame) {
    let mut at = 0;
    while at < from.bytes {
        let aligned = (from.address + at) | (to.address + at) | 8;
        let widest = 1u64 << aligned.trailing_zeros();
        let left = from.bytes - at;
        let bytes = if left < widest { 1 << left.ilog2() } else { widest };
        let ty = scalar(bytes).unwrap_or(Ty::B8);
        let value = frame.temporary(ty);
        ops.push(load(ty, value, from.address + at, frame));
        ops.push(store(ty, to.address + at, value, frame));
        at += u64::from(ty.bytes());
    }
}

fn scalar(bytes: u64) -> Option<Ty> {
    [Ty::B8, Ty::B16, Ty::B32, Ty::B64].into_iter().find(|ty| u64::from(ty.bytes()) == bytes)
}

fn address(at: u64, frame: &mut Frame) -> Address {
    Address { base: frame.constant(Ty::B64, at.into()), wide: true, offset: 0 }
}

fn load(ty: Ty, d: Reg, at: u64, frame: &mut Frame) -> Op {
    let at = address(at, frame);
    Op::Load(Load { space: Space::Local, order: Order::Weak, nc: false, ty, reg: ty, d: Vector::new(&[Some(d)]), at })
}

fn store(ty: Ty, at: u64, a: Reg, frame: &mut Frame) -> Op {
    let at = address(at, frame);
    Op::Store(Store { space: Space::Local, order: Order::Weak, ty, reg: ty, a: Vector::new(&[a]), at })
}
