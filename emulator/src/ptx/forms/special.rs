//! Special registers as sources: constants of the program, rows that the machine fills, and clocks that it reads.

use crate::isa::{Alu, Op, Reg, Ty};
use crate::program::Special;
use crate::ptx::names::Names;

/// The register that holds a special register, if the name is one; reading a clock is an instruction of its own, added
/// to `ops`.
///
/// # Errors
/// A special register that is not offered.
pub(super) fn register(name: &str, names: &mut dyn Names, ops: &mut Vec<Op>) -> Result<Option<(Reg, Ty)>, String> {
    if name == "WARP_SZ" {
        return Ok(Some((names.constant(Ty::U32, 32), Ty::U32)));
    }
    let Some(name) = name.strip_prefix('%') else { return Ok(None) };
    if let Some(values) = lanes(name) {
        return Ok(Some((names.lanes(values), Ty::U32)));
    }
    if let Some(found) = clock(name, names, ops) {
        return Ok(Some(found));
    }
    let (base, dimension) = name.split_once('.').unwrap_or((name, ""));
    if dimension == "w" && vector(base, 0).is_some() {
        return Ok(Some((names.constant(Ty::U32, 0), Ty::U32)));
    }
    let special = match ["x", "y", "z"].iter().position(|d| *d == dimension) {
        Some(dimension) => vector(base, dimension as u8),
        None => scalar(name),
    };
    match special {
        Some(special) => {
            let ty = if special == Special::GridId { Ty::U64 } else { Ty::U32 };
            Ok(Some((names.special(special), ty)))
        }
        None => Err(format!("`%{name}` is neither a declared register nor a special register of the emulator")),
    }
}

/// Those that differ from lane to lane and never change.
fn lanes(name: &str) -> Option<[u32; 32]> {
    let value: fn(u32) -> u32 = match name {
        "laneid" => |i| i,
        "lanemask_eq" => |i| 1 << i,
        "lanemask_lt" => |i| (1 << i) - 1,
        "lanemask_le" => |i| u32::MAX >> (31 - i),
        "lanemask_gt" => |i| !(u32::MAX >> (31 - i)),
        "lanemask_ge" => |i| u32::MAX << i,
        _ => return None,
    };
    Some(std::array::from_fn(|i| value(i as u32)))
}

fn vector(name: &str, dimension: u8) -> Option<Special> {
    Some(match name {
        "tid" => Special::Tid(dimension),
        "ntid" => Special::NTid(dimension),
        "ctaid" => Special::CtaId(dimension),
        "nctaid" => Special::NCtaId(dimension),
        "clusterid" => Special::ClusterId(dimension),
        "nclusterid" => Special::NClusterId(dimension),
        "cluster_ctaid" => Special::ClusterCtaId(dimension),
        "cluster_nctaid" => Special::ClusterNCtaId(dimension),
        _ => return None,
    })
}

fn scalar(name: &str) -> Option<Special> {
    Some(match name {
        "warpid" => Special::WarpId,
        "nwarpid" => Special::NWarpId,
        "smid" => Special::SmId,
        "nsmid" => Special::NSmId,
        "gridid" => Special::GridId,
        "dynamic_smem_size" => Special::DynamicSharedSize,
        "total_smem_size" => Special::TotalSharedSize,
        "cluster_ctarank" => Special::ClusterCtaRank,
        "cluster_nctarank" => Special::ClusterNCtaRank,
        _ => return None,
    })
}

/// A clock, read into a temporary. The high halves are those of a 64-bit reading.
fn clock(name: &str, names: &mut dyn Names, ops: &mut Vec<Op>) -> Option<(Reg, Ty)> {
    let (ty, high) = match name {
        "clock" | "globaltimer_lo" => (Ty::U32, false),
        "clock64" | "globaltimer" => (Ty::U64, false),
        "clock_hi" | "globaltimer_hi" => (Ty::U64, true),
        _ => return None,
    };
    let d = names.temporary(ty);
    ops.push(Op::Clock { ty, d });
    if !high {
        return Some((d, ty));
    }
    let half = names.temporary(Ty::U32);
    ops.push(Op::Alu(Alu::Unpack { ty: Ty::B64, parts: Box::new([None, Some(half)]), a: d }));
    Some((half, Ty::U32))
}
