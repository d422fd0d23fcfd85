//! Between the lanes of a warp, and barriers of a block.

use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Barrier, BarrierKind, Op, ReduxKind, Shfl, ShflMode, VoteDest, VoteKind};

type Result<T = ()> = std::result::Result<T, String>;

pub(super) static FORMS: &[Form] = &[
    form("bar{.cta}.sync a:u32{, b:u32}", |o| barrier(o, true, BarrierKind::Sync)),
    form("bar{.cta}.arrive a:u32, b:u32", |o| barrier(o, true, BarrierKind::Arrive)),
    form("bar{.cta}.red.popc.u32 d, a{, b}, !c:pred", |o| reduce(o, true)),
    form("bar{.cta}.red.(and|or).pred p:pred, a:u32{, b:u32}, !c:pred", |o| reduce(o, true)),
    form("barrier{.cta}.sync{.aligned} a:u32{, b:u32}", |o| barrier(o, o.has("aligned"), BarrierKind::Sync)),
    form("barrier{.cta}.arrive{.aligned} a:u32, b:u32", |o| barrier(o, o.has("aligned"), BarrierKind::Arrive)),
    form("barrier{.cta}.red.popc{.aligned}.u32 d, a{, b}, !c:pred", |o| reduce(o, o.has("aligned"))),
    form("barrier{.cta}.red.(and|or){.aligned}.pred p:pred, a:u32{, b:u32}, !c:pred", |o| reduce(o, o.has("aligned"))),
    form("bar.warp.sync m:b32", |o| {
        let members = o.source("m")?;
        o.emit(Op::WarpSync { members })
    }),
    form("shfl.sync.(up|down|bfly|idx).b32 d{|p:pred}, a, b:u32, c:u32, m:b32", shfl),
    form("vote.sync.(all|any|uni).pred p:pred, !a:pred, m:b32", vote),
    form("vote.sync.ballot.b32 d, !a:pred, m:b32", vote),
    form("match.any.sync.(b32|b64) d:b32, a, m:b32", matches),
    form("match.all.sync.(b32|b64) d:b32{|p:pred}, a, m:b32", matches),
    form("redux.sync.(add|min|max).(u32|s32) d, a, m:b32", redux),
    form("redux.sync.(and|or|xor).b32 d, a, m:b32", redux),
    form("elect.sync d:b32|p:pred, m:b32", |o| {
        let (members, d, p) = (o.source("m")?, o.dest_some("d")?, o.dest_pred("p")?);
        o.emit(Op::Elect { d, p, members })
    })
    .since(8, 0, 90),
    form("activemask.b32 d", |o| {
        let d = o.dest("d")?;
        o.emit(Op::ActiveMask { d })
    }),
];

fn barrier(o: &mut Operands<'_>, aligned: bool, kind: BarrierKind) -> Result {
    let (id, threads) = (o.source("a")?, o.source_some("b")?);
    o.emit(Op::Barrier(Barrier { aligned, id, threads, kind }))
}

fn reduce(o: &mut Operands<'_>, aligned: bool) -> Result {
    let a = o.pred("c")?;
    let kind = if o.has("popc") {
        BarrierKind::RedPopc { d: o.dest("d")?, a }
    } else if o.has("and") {
        BarrierKind::RedAnd { d: o.dest_pred("p")?, a }
    } else {
        BarrierKind::RedOr { d: o.dest_pred("p")?, a }
    };
    barrier(o, aligned, kind)
}

fn shfl(o: &mut Operands<'_>) -> Result {
    let mode = |w: &str| {
        Some(match w {
            "up" => ShflMode::Up,
            "down" => ShflMode::Down,
            "bfly" => ShflMode::Bfly,
            "idx" => ShflMode::Idx,
            _ => return None,
        })
    };
    let mode = o.pick(mode).ok_or("a mode is missing")?;
    let (a, b, c, members) = (o.source("a")?, o.source("b")?, o.source("c")?, o.source("m")?);
    let (d, p) = (o.dest("d")?, o.dest_pred_some("p")?);
    o.emit(Op::Shfl(Shfl { mode, d, p, a, b, c, members }))
}

fn vote(o: &mut Operands<'_>) -> Result {
    let kind = |w: &str| {
        Some(match w {
            "all" => VoteKind::All,
            "any" => VoteKind::Any,
            "uni" => VoteKind::Uni,
            "ballot" => VoteKind::Ballot,
            _ => return None,
        })
    };
    let kind = o.pick(kind).ok_or("a kind is missing")?;
    let (a, members) = (o.pred("a")?, o.source("m")?);
    let d = if kind == VoteKind::Ballot { VoteDest::Ballot(o.dest("d")?) } else { VoteDest::Pred(o.dest_pred("p")?) };
    o.emit(Op::Vote { kind, d, a, members })
}

fn matches(o: &mut Operands<'_>) -> Result {
    let (all, ty, a, members) = (o.has("all"), o.ty(), o.source("a")?, o.source("m")?);
    let (d, p) = (o.dest("d")?, o.dest_pred_some("p")?);
    o.emit(Op::Match { all, ty, d, p, a, members })
}

fn redux(o: &mut Operands<'_>) -> Result {
    let kind = |w: &str| {
        Some(match w {
            "add" => ReduxKind::Add,
            "min" => ReduxKind::Min,
            "max" => ReduxKind::Max,
            "and" => ReduxKind::And,
            "or" => ReduxKind::Or,
            "xor" => ReduxKind::Xor,
            _ => return None,
        })
    };
    let kind = o.pick(kind).ok_or("an operation is missing")?;
    let (ty, a, members, d) = (o.ty(), o.source("a")?, o.source("m")?, o.dest("d")?);
    o.emit(Op::Redux { kind, ty, d, a, members })
}
