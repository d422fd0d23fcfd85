//! Stand-in: the few lane-wise instructions that the machine's own tests use.

use crate::isa::{Alu, Cmp, FloatOp, IntOp, Ty};
use crate::registers::{Mask, Registers, WARP};

/// Runs a lane-wise instruction in the lanes of `mask`.
pub fn run(alu: &Alu, regs: &mut Registers, mask: Mask) {
    match alu {
        Alu::Mov { ty, d, a } if ty.bits() == 64 => {
            let v = *regs.b64(*a);
            regs.set_b64(*d, mask, &v);
        }
        Alu::Mov { d, a, .. } => {
            let v = *regs.b32(*a);
            regs.set_b32(*d, mask, &v);
        }
        Alu::Int { op: IntOp::MadWide, d, a, .. } => {
            let (x, y, z) = (*regs.b32(a[0]), *regs.b32(a[1]), *regs.b64(a[2]));
            let v = std::array::from_fn(|i| (u64::from(x[i]) * u64::from(y[i])).wrapping_add(z[i]));
            regs.set_b64(*d, mask, &v);
        }
        Alu::Int { op, ty, d, a } if ty.bits() == 64 => {
            let (x, y) = (*regs.b64(a[0]), *regs.b64(a[1]));
            let v = std::array::from_fn(|i| match op {
                IntOp::Add => x[i].wrapping_add(y[i]),
                _ => unimplemented!("{op:?}"),
            });
            regs.set_b64(*d, mask, &v);
        }
        Alu::Int { op, d, a, .. } => {
            let (x, y, z) = (*regs.b32(a[0]), *regs.b32(a[1]), *regs.b32(a[2]));
            let v: [u32; WARP] = match op {
                IntOp::Add => std::array::from_fn(|i| x[i].wrapping_add(y[i])),
                IntOp::And => std::array::from_fn(|i| x[i] & y[i]),
                IntOp::Xor => std::array::from_fn(|i| x[i] ^ y[i]),
                IntOp::Shl => std::array::from_fn(|i| x[i].checked_shl(y[i]).unwrap_or(0)),
                IntOp::MadLo => std::array::from_fn(|i| x[i].wrapping_mul(y[i]).wrapping_add(z[i])),
                _ => unimplemented!("{op:?}"),
            };
            regs.set_b32(*d, mask, &v);
        }
        Alu::Float { op: FloatOp::Add, ty: Ty::F32, d, a, .. } => {
            let (x, y) = (*regs.b32(a[0]), *regs.b32(a[1]));
            let v = std::array::from_fn(|i| (f32::from_bits(x[i]) + f32::from_bits(y[i])).to_bits());
            regs.set_b32(*d, mask, &v);
        }
        Alu::SetP { compare, p, a, b, .. } => {
            let (x, y) = (*regs.b32(*a), *regs.b32(*b));
            let holds = |i: usize| match compare.cmp {
                Cmp::Eq => x[i] == y[i],
                Cmp::Ne => x[i] != y[i],
                Cmp::Lt => x[i] < y[i],
                Cmp::Ge => x[i] >= y[i],
                _ => unimplemented!("{compare:?}"),
            };
            let v = (0..WARP).fold(0, |m, i| m | Mask::from(holds(i)) << i);
            if let Some(p) = p {
                regs.set_pred(*p, mask, v);
            }
        }
        _ => unimplemented!("{alu:?}"),
    }
}
