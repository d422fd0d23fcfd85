//! What the emulator adds to the API: declared operands, counters and fault reports. `include/cuemu.h` documents it.

use super::abi::{get, list, put_text};
use super::error::{Error, R};
use super::state::context::{bound, declare};
use crate::machine::{Access, Operand};
use std::ffi::c_char;

/// `CuEmuOperand`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CuEmuOperand {
    address: u64,
    bytes: u64,
    rows: u64,
    stride: u64,
    access: u32,
}

impl CuEmuOperand {
    fn operand(&self) -> R<Operand> {
        let access = match self.access {
            0 => Access::Read,
            1 => Access::Write,
            2 => Access::WritePartial,
            3 => Access::ReadWrite,
            _ => return Err(Error::INVALID_VALUE),
        };
        let CuEmuOperand { address, bytes, rows, stride, .. } = *self;
        let operand = Operand { address, bytes, rows, stride, access };
        operand.span().map(|_| operand).ok_or(Error::INVALID_VALUE)
    }
}

/// Writes a text by the two-call rule: without a place, or too small a one, only the bytes that it needs.
unsafe fn give(text: Option<String>, to: *mut c_char, bytes: *mut usize) -> R {
    let text = text.ok_or(Error::NOT_FOUND)?;
    // SAFETY: the caller's pointers; `bytes` says how much room there is.
    unsafe {
        let room = get(bytes)?;
        bytes.write(text.len() + 1);
        match to.is_null() {
            true => Ok(()),
            false if room <= text.len() => Err(Error::INVALID_VALUE),
            false => put_text(to, room, &text).map(|_| ()),
        }
    }
}

api! {
    fn cuEmuOperands [] (operands: *const CuEmuOperand, count: u32) {
        let operands = list(operands, count as usize)?;
        declare(operands.iter().map(CuEmuOperand::operand).collect::<R<_>>()?);
        Ok(())
    }
    fn cuEmuCounters [] (json: *mut c_char, bytes: *mut usize) { give(bound()?.counters(), json, bytes) }
    fn cuEmuLastFault [] (text: *mut c_char, bytes: *mut usize) { give(bound()?.fault(), text, bytes) }
}
