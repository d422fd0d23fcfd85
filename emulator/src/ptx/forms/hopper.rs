//! What sm_90a adds: products of warpgroups, bulk copies, clusters.

use super::matrix::element;
use super::memory::{hint, policy};
use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Bulk, BulkPlace, Op, Space, Wgmma, WgmmaA, WgmmaSync};

type Result<T = ()> = std::result::Result<T, String>;

#[rustfmt::skip]
pub(super) static WGMMA: &[Form] = &[
    form("wgmma.mma_async.sync.aligned.M64K16.f32.(f16.f16|bf16.bf16) acc*n/2:f32, a:b64, b:b64, scale:pred, na:imm, nb:imm, ta:imm, tb:imm", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K16.f16.f16.f16 acc*n/4:b32, a:b64, b:b64, scale:pred, na:imm, nb:imm, ta:imm, tb:imm", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K8.f32.tf32.tf32 acc*n/2:f32, a:b64, b:b64, scale:pred, na:imm, nb:imm", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32.f32.(e4m3|e5m2).(e4m3|e5m2) acc*n/2:f32, a:b64, b:b64, scale:pred, na:imm, nb:imm", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32.f16.(e4m3|e5m2).(e4m3|e5m2) acc*n/4:b32, a:b64, b:b64, scale:pred, na:imm, nb:imm", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32INT{.satfinite}.s32.(s8|u8).(s8|u8) acc*n/2:b32, a:b64, b:b64, scale:pred", from_shared).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K16.f32.(f16.f16|bf16.bf16) acc*n/2:f32, a*4:b32, b:b64, scale:pred, na:imm, nb:imm, tb:imm", from_registers).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K16.f16.f16.f16 acc*n/4:b32, a*4:b32, b:b64, scale:pred, na:imm, nb:imm, tb:imm", from_registers).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K8.f32.tf32.tf32 acc*n/2:f32, a*4:b32, b:b64, scale:pred, na:imm, nb:imm", from_registers).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32.f32.(e4m3|e5m2).(e4m3|e5m2) acc*n/2:f32, a*4:b32, b:b64, scale:pred, na:imm, nb:imm", from_registers).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32.f16.(e4m3|e5m2).(e4m3|e5m2) acc*n/4:b32, a*4:b32, b:b64, scale:pred, na:imm, nb:imm", from_registers).since(8, 0, 90),
    form("wgmma.mma_async.sync.aligned.M64K32INT{.satfinite}.s32.(s8|u8).(s8|u8) acc*n/2:b32, a*4:b32, b:b64, scale:pred", from_registers).since(8, 0, 90),
    form("wgmma.fence.sync.aligned", |o| o.emit(Op::WgmmaSync(WgmmaSync::Fence))).since(8, 0, 90),
    form("wgmma.commit_group.sync.aligned", |o| o.emit(Op::WgmmaSync(WgmmaSync::Commit))).since(8, 0, 90),
    form("wgmma.wait_group.sync.aligned n:imm", |o| {
        let pending = o.number("n", 0..=7)? as u32;
        o.emit(Op::WgmmaSync(WgmmaSync::Wait { pending, held: Box::default() }))
    }).since(8, 0, 90),
];

fn from_shared(o: &mut Operands<'_>) -> Result {
    let a = WgmmaA::Shared { descriptor: o.source("a")?, transposed: flag(o, "ta")? };
    wgmma(o, a)
}

fn from_registers(o: &mut Operands<'_>) -> Result {
    let a = o.source_all("a")?;
    let a = <[_; 4]>::try_from(&*a).map_err(|_| "A has four registers")?;
    wgmma(o, WgmmaA::Registers(a))
}

fn wgmma(o: &mut Operands<'_>, a: WgmmaA) -> Result {
    let [d_ty, a_ty, b_ty] = o.all(|w| element(w, false))[..] else {
        return Err("three types are needed: of d, a and b".to_owned());
    };
    let (b, b_transposed, scale_d, d) = (o.source("b")?, flag(o, "tb")?, o.pred("scale")?, o.dest_all("acc")?);
    let (negate_a, negate_b, satfinite) = (negated(o, "na")?, negated(o, "nb")?, o.has("satfinite"));
    let n = o.columns().ok_or("a shape is missing")? as u32;
    let op = Wgmma { n, a_ty, b_ty, d_ty, satfinite, negate_a, negate_b, scale_d, a, b, b_transposed, c: d.clone(), d };
    o.emit(Op::Wgmma(Box::new(op)))
}

/// 1, or 0 or nothing.
fn flag(o: &Operands<'_>, name: &str) -> Result<bool> {
    Ok(o.given(name) && o.number(name, 0..=1)? == 1)
}

/// -1, or 1 or nothing.
fn negated(o: &Operands<'_>, name: &str) -> Result<bool> {
    match if o.given(name) { o.number(name, -1..=1)? } else { 1 } {
        0 => Err(format!("operand `{name}` is 0, it must be 1 or -1")),
        factor => Ok(factor < 0),
    }
}

#[rustfmt::skip]
pub(super) static BULK: &[Form] = &[
    form("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes{.L2::cache_hint} [d], [a], n:u32, [mbar]{, hint}", load_run).since(8, 0, 90),
    form("cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes{.L2::cache_hint} [d], [a], n:u32, [mbar]{, hint}", load_run).since(8, 6, 90),
    form("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [d], [a], n:u32, [mbar]", load_run).since(8, 0, 90),
    form("cp.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint} [d], [a], n:u32{, hint}", store_run).since(8, 0, 90),
    form("cp.async.bulk.commit_group", |o| bulk(o, Bulk::Commit)).since(8, 0, 90),
    form("cp.async.bulk.wait_group{.read} n:imm", |o| {
        let (pending, read) = (o.number("n", 0..=i128::from(u32::MAX))? as u32, o.has("read"));
        bulk(o, Bulk::Wait { pending, read })
    }).since(8, 0, 90),
    form("cp.async.bulk.tensor.(1d|2d|3d|4d|5d).shared::cluster.global{.tile}.mbarrier::complete_tx::bytes{.L2::cache_hint} [d], [m,c], [mbar]{, hint}", load_box).since(8, 0, 90),
    form("cp.async.bulk.tensor.(1d|2d|3d|4d|5d).shared::cta.global{.tile}.mbarrier::complete_tx::bytes{.L2::cache_hint} [d], [m,c], [mbar]{, hint}", load_box).since(8, 6, 90),
    form("cp.async.bulk.tensor.(1d|2d|3d|4d|5d).global.shared::cta{.tile}.bulk_group{.L2::cache_hint} [m,c], [a]{, hint}", store_box).since(8, 0, 90),
    form("cp.async.bulk.prefetch.L2.global{.L2::cache_hint} [a], n:u32{, hint}", |o| {
        policy(o)?;
        o.source("n")?;
        hint(o)
    }).since(8, 0, 90),
    form("cp.async.bulk.prefetch.tensor.(1d|2d|3d|4d|5d).L2.global{.tile}{.L2::cache_hint} [m,c]{, hint}", |o| {
        policy(o)?;
        o.tensor("m")?;
        o.emit(Op::Nop)
    }).since(8, 0, 90),
    form("prefetch{.param|.const}.tensormap [a]", hint).since(8, 0, 90),
    form("barrier.cluster.arrive{.release|.relaxed}{.aligned}", |o| {
        let relaxed = o.has("relaxed");
        o.emit(Op::ClusterArrive { relaxed })
    }).since(7, 8, 90),
    form("barrier.cluster.wait{.acquire}{.aligned}", |o| o.emit(Op::ClusterWait)).since(7, 8, 90),
];

fn bulk(o: &mut Operands<'_>, bulk: Bulk) -> Result {
    policy(o)?;
    o.emit(Op::Bulk(Box::new(bulk)))
}

/// Bytes in a row of a space.
fn run(o: &mut Operands<'_>, name: &str, space: Space) -> Result<BulkPlace> {
    let (_, at) = o.at_space(name, space)?;
    Ok(BulkPlace::Run { at, shared: space == Space::Shared, bytes: o.source("n")? })
}

fn load(o: &mut Operands<'_>, from: BulkPlace) -> Result {
    let ((_, to), (_, mbarrier)) = (o.at_space("d", Space::Shared)?, o.at_space("mbar", Space::Shared)?);
    bulk(o, Bulk::Load { to, from, mbarrier })
}

fn load_run(o: &mut Operands<'_>) -> Result {
    let space = if o.has("global") { Space::Global } else { Space::Shared };
    let from = run(o, "a", space)?;
    load(o, from)
}

fn load_box(o: &mut Operands<'_>) -> Result {
    let (map, at) = o.tensor("m")?;
    load(o, BulkPlace::Tensor { map, at })
}

fn store_run(o: &mut Operands<'_>) -> Result {
    let to = run(o, "d", Space::Global)?;
    let (_, from) = o.at_space("a", Space::Shared)?;
    bulk(o, Bulk::Store { to, from })
}

fn store_box(o: &mut Operands<'_>) -> Result {
    let (map, at) = o.tensor("m")?;
    let (_, from) = o.at_space("a", Space::Shared)?;
    bulk(o, Bulk::Store { to: BulkPlace::Tensor { map, at }, from })
}
