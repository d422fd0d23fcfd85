//! `cp.async` and `mbarrier`.

use super::memory::policy;
use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Address, CpAsync, MBarrier, MBarrierOp, Op, Space, Ty};

type Result<T = ()> = std::result::Result<T, String>;

#[rustfmt::skip]
pub(super) static FORMS: &[Form] = &[
    form("cp.async.ca.OWN.global{.L2::cache_hint}{.PREFETCH} [d], [a], n:imm{, size:u32}{, hint}", cp_async),
    form("cp.async.cg.OWN.global{.L2::cache_hint}{.PREFETCH} [d], [a], n:imm{, size:u32}{, hint}", cp_async),
    form("cp.async.ca.OWN.global{.L2::cache_hint}{.PREFETCH} [d], [a], n:imm, !ignore:pred{, hint}", cp_async).since(7, 5, 80),
    form("cp.async.cg.OWN.global{.L2::cache_hint}{.PREFETCH} [d], [a], n:imm, !ignore:pred{, hint}", cp_async).since(7, 5, 80),
    form("cp.async.commit_group", |o| o.emit(Op::CpAsyncCommit)),
    form("cp.async.wait_group n:imm", |o| {
        let pending = Some(o.number("n", 0..=i128::from(u32::MAX))? as u32);
        o.emit(Op::CpAsyncWait { pending })
    }),
    form("cp.async.wait_all", |o| o.emit(Op::CpAsyncWait { pending: None })),
    form("cp.async.mbarrier.arrive{.noinc}{.OWN}.b64 [a]", |o| {
        let op = MBarrierOp::CpAsyncArrive { noinc: o.has("noinc") };
        mbarrier(o, op)
    }),
    form("mbarrier.init{.OWN}.b64 [a], n:u32", |o| {
        let op = MBarrierOp::Init { count: o.source("n")? };
        mbarrier(o, op)
    }),
    form("mbarrier.inval{.OWN}.b64 [a]", |o| mbarrier(o, MBarrierOp::Inval)),
    form("mbarrier.(arrive|arrive_drop){.release.(cta|cluster)}{.OWN}.b64 d, [a]", arrive),
    form("mbarrier.(arrive|arrive_drop){.release.(cta|cluster)}{.OWN}.b64 d, [a], n:u32", arrive).since(7, 8, 90),
    form("mbarrier.(arrive|arrive_drop).noComplete{.release.cta}{.OWN}.b64 d, [a], n:u32", arrive),
    form("mbarrier.(arrive|arrive_drop).expect_tx{.release.(cta|cluster)}{.OWN}.b64 d, [a], tx:u32", arrive)
        .since(8, 0, 90),
    form("mbarrier.(arrive|arrive_drop){.release.(cta|cluster)}.shared::cluster.b64 _, [a]{, n:u32}", arrive).since(8, 0, 90),
    form("mbarrier.(arrive|arrive_drop).expect_tx{.release.(cta|cluster)}.shared::cluster.b64 _, [a], tx:u32", arrive).since(8, 0, 90),
    form("mbarrier.expect_tx{.relaxed.(cta|cluster)}{.SHARED}.b64 [a], tx:u32", |o| {
        let op = MBarrierOp::ExpectTx { bytes: o.source("tx")? };
        mbarrier(o, op)
    })
    .since(8, 0, 90),
    form("mbarrier.complete_tx{.relaxed.(cta|cluster)}{.SHARED}.b64 [a], tx:u32", |o| {
        let op = MBarrierOp::CompleteTx { bytes: o.source("tx")? };
        mbarrier(o, op)
    })
    .since(8, 0, 90),
    form("mbarrier.test_wait{.acquire.(cta|cluster)}{.OWN}.b64 p:pred, [a], state:b64", wait),
    form("mbarrier.test_wait.parity{.acquire.(cta|cluster)}{.OWN}.b64 p:pred, [a], parity:u32", wait)
        .since(7, 1, 80),
    form("mbarrier.try_wait{.acquire.(cta|cluster)}{.OWN}.b64 p:pred, [a], state:b64{, ns:u32}", wait)
        .since(7, 8, 90),
    form("mbarrier.try_wait.parity{.acquire.(cta|cluster)}{.OWN}.b64 p:pred, [a], parity:u32{, ns:u32}", wait)
        .since(7, 8, 90),
    form("mbarrier.pending_count.b64 d:u32, state:b64", |o| {
        let (state, d) = (o.source("state")?, o.dest("d")?);
        // It reads the token alone; the address of no barrier stands where the others have theirs.
        let at = Address { base: o.names.constant(Ty::U64, 0), wide: true, offset: 0 };
        o.emit(Op::MBarrier(Box::new(MBarrier { at, space: Space::Shared, op: MBarrierOp::PendingCount { d, state } })))
    }),
];

fn cp_async(o: &mut Operands<'_>) -> Result {
    policy(o)?;
    let bytes = o.number("n", 4..=16)? as u32;
    if !(bytes == 16 || o.has("ca") && matches!(bytes, 4 | 8)) {
        return Err(format!("cp.async copies 4, 8 or 16 bytes, with .cg 16 only; here {bytes}"));
    }
    let (_, to) = o.at_space("d", Space::Shared)?;
    let (_, from) = o.at_space("a", Space::Global)?;
    let (src_size, ignore) = (o.source_some("size")?, o.pred_some("ignore")?);
    o.emit(Op::CpAsync(CpAsync { to, from, bytes, src_size, ignore }))
}

fn mbarrier(o: &mut Operands<'_>, op: MBarrierOp) -> Result {
    let (space, at) = o.at("a")?;
    o.emit(Op::MBarrier(Box::new(MBarrier { at, space, op })))
}

fn arrive(o: &mut Operands<'_>) -> Result {
    let (count, expect_tx) = (o.source_some("n")?, o.source_some("tx")?);
    let (state, drop) = (o.dest_some("d")?, o.has("arrive_drop"));
    mbarrier(o, MBarrierOp::Arrive { state, count, expect_tx, drop })
}

/// `try_wait` may wait for a while, for as long as it likes.
fn wait(o: &mut Operands<'_>) -> Result {
    let (p, may_block) = (o.dest_pred("p")?, o.has("try_wait"));
    o.source_some("ns")?;
    let op = match o.source_some("parity")? {
        Some(parity) => MBarrierOp::TestWaitParity { p, parity, may_block },
        None => MBarrierOp::TestWait { p, state: o.source("state")?, may_block },
    };
    mbarrier(o, op)
}
