//! `atom` and `red`: read-modify-write, atomic across the host threads that run blocks.
//!
//! Lanes of a warp go in order of their number. Adds of f32 flush subnormals in global memory and keep them in shared
//! memory, as the ISA says; f16 and bf16 keep them.

use super::access::{Target, Want};
use super::alu::scalar;
use super::global::How;
use super::report::Run;
use super::state::warp::{Cx, Warp};
use crate::isa::{Atom, AtomOp, FloatOp, Order, Ty};
use crate::registers::{Mask, WARP, lanes};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

impl<'g> Warp<'g> {
    pub(super) fn atom(&mut self, cx: &mut Cx, pc: u32, atom: &Atom, mask: Mask) -> Run {
        let bytes = u64::from(atom.ty.bytes());
        // Without a qualifier an atomic is relaxed, never weak.
        let order = if atom.order == Order::Weak { Order::Relaxed } else { atom.order };
        let want = Want { pc, space: atom.space, bytes, how: How::Update, order };
        let target = self.resolve(cx, want, self.addresses(&atom.at), mask)?;
        let old = self.update(cx, atom, &target);
        if let Some(d) = atom.d {
            match atom.ty.rows() {
                1 => self.regs.set_b32(d, mask, &old.map(|v| v as u32)),
                _ => self.regs.set_b64(d, mask, &old),
            }
        }
        Ok(())
    }

    fn update(&self, cx: &mut Cx, atom: &Atom, target: &Target) -> [u64; WARP] {
        let value = |reg, i: usize| match atom.ty.rows() {
            1 => u64::from(self.regs.b32(reg)[i]),
            _ => self.regs.b64(reg)[i],
        };
        let mut old = [0; WARP];
        for i in lanes(target.mask) {
            let flush = target.shared >> i & 1 == 0;
            let (b, c) = (value(atom.b, i), value(atom.c, i));
            let (before, after) =
                exchange(target.at[i], atom.ty.bytes(), |v| combine(atom.op, atom.ty, v, b, c, flush));
            old[i] = before;
            cx.work.progress |= before != after;
        }
        old
    }
}

/// Replaces an integer of 2, 4 or 8 bytes by a function of itself; what it was and what it became.
fn exchange(address: u64, bytes: u32, f: impl Fn(u64) -> u64) -> (u64, u64) {
    macro_rules! on {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: the address was resolved for this access: mapped, aligned, and only ever used as atomics.
            let cell = unsafe { &*(address as *const $atomic) };
            let mut now = cell.load(Ordering::Relaxed);
            loop {
                let new = f(now.into()) as $int;
                match cell.compare_exchange_weak(now, new, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => return (now.into(), new.into()),
                    Err(other) => now = other,
                }
            }
        }};
    }
    match bytes {
        2 => on!(AtomicU16, u16),
        4 => on!(AtomicU32, u32),
        _ => on!(AtomicU64, u64),
    }
}

fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64, flush: bool) -> u64 {
    let bits = ty.bits();
    let ones = u64::MAX >> (64 - bits);
    match op {
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b & ones,
        AtomOp::Cas => {
            if old == b & ones {
                c & ones
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::Add => add(ty, old, b, flush) & ones,
        AtomOp::Min | AtomOp::Max => extreme(ty, old, b, op == AtomOp::Max) & ones,
    }
}

/// An operation of the 16-bit formats, alone or on both halves.
fn halves(op: FloatOp, ty: Ty, a: u64, b: u64) -> u64 {
    let part = |shift: u32| u64::from(scalar(op, ty, (a >> shift) as u16, (b >> shift) as u16)) << shift;
    if ty.bits() == 16 { part(0) } else { part(0) | part(16) }
}

fn add(ty: Ty, a: u64, b: u64, flush: bool) -> u64 {
    match ty {
        Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2 => halves(FloatOp::Add, ty, a, b),
        Ty::F32 => {
            let zeroed = |x: f32| if flush && x.is_subnormal() { 0f32.copysign(x) } else { x };
            let sum = zeroed(f32::from_bits(a as u32)) + zeroed(f32::from_bits(b as u32));
            let sum = if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { zeroed(sum) };
            sum.to_bits().into()
        }
        Ty::F64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        _ => a.wrapping_add(b),
    }
}

fn extreme(ty: Ty, a: u64, b: u64, max: bool) -> u64 {
    let second = match ty {
        Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2 => {
            return halves(if max { FloatOp::Max } else { FloatOp::Min }, ty, a, b);
        }
        Ty::S32 => (b as i32 > a as i32) == max,
        Ty::S64 => (b as i64 > a as i64) == max,
        _ => (b > a) == max,
    };
    if second { b } else { a }
}
