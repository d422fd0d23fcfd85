//! Loads, stores, fences; the hints about caches, which have no effect here.

use super::movement::zero;
use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Load, Op, Order, Scope, Store, Ty, Vector};

type Result = std::result::Result<(), String>;

#[rustfmt::skip]
pub(super) static FORMS: &[Form] = &[
    form("ld<{.weak}{.global}>{.ca|.cg|.cs|.lu|.cv|.L1EVICT}{.L2::cache_hint}{.PREFETCH}.ELEMENT d*V, [a]{, hint}", load),
    form("ld<.global.nc{.ca|.cg|.cs|.L1EVICT}>{.L2::cache_hint}{.PREFETCH}.ELEMENT d*V, [a]{, hint}", load),
    form("ld<{.weak}.(SHARED|local|const|param|param::entry|param::func)>{.ca|.cg|.cs|.lu|.cv}.ELEMENT d*V, [a]", load),
    form("ld<.volatile{.global}>{.PREFETCH}.ELEMENT d*V, [a]", load),
    form("ld<.volatile.SHARED>.ELEMENT d*V, [a]", load),
    form("ld<.(relaxed|acquire).SCOPE{.global}>{.L1EVICT}{.L2::cache_hint}{.PREFETCH}.ELEMENT d*V, [a]{, hint}", load),
    form("ld<.(relaxed|acquire).SCOPE.SHARED>.ELEMENT d*V, [a]", load),
    form("ldu{.global}.ELEMENT d*V, [a]", load),
    form("st<{.weak}{.global}>{.wb|.cg|.cs|.wt|.L1EVICT}{.L2::cache_hint}.ELEMENT [a], b*V{, hint}", store),
    form("st<{.weak}.(SHARED|local|param|param::func)>{.wb|.cg|.cs|.wt}.ELEMENT [a], b*V", store),
    form("st<.volatile{.global|.SHARED}>.ELEMENT [a], b*V", store),
    form("st<.(relaxed|release).SCOPE{.global}>{.L1EVICT}{.L2::cache_hint}.ELEMENT [a], b*V{, hint}", store),
    form("st<.(relaxed|release).SCOPE.SHARED>.ELEMENT [a], b*V", store),
    form("membar.(cta|gl|sys)", |o| fence(o, Order::SeqCst)),
    form("fence{.sc|.acq_rel}.SCOPE", |o| fence(o, Order::AcqRel)),
    form("fence.(acquire|release).SCOPE", |o| fence(o, Order::AcqRel)).since(8, 6, 90),
    form("fence.mbarrier_init.release.cluster", |o| fence(o, Order::Release)).since(8, 0, 90),
    form("fence.proxy.alias", |o| o.emit(Op::Nop)).since(7, 5, 80),
    form("fence.proxy.async{.shared::cta|.shared::cluster}", |o| o.emit(Op::ProxyFence)).since(8, 0, 90),
    // Global memory is one for all here.
    form("fence.proxy.async.global", |o| o.emit(Op::Nop)).since(8, 0, 90),
    form("prefetch{.global|.local}.(L1|L2) [a]", hint),
    form("prefetch.global.(L2::evict_last|L2::evict_normal) [a]", hint).since(7, 4, 80),
    form("prefetchu.L1 [a]", hint),
    form("applypriority{.global}.L2::evict_normal [a], n:imm", sized_hint).since(7, 4, 80),
    form("discard{.global}.L2 [a], n:imm", sized_hint).since(7, 4, 80),
    form("createpolicy.fractional.POLICY{.L2::evict_first|.L2::evict_unchanged}.b64 d{, f:f32}", |o| {
        o.source_some("f")?;
        zero(o, Ty::B64)
    })
    .since(7, 4, 80),
    form("createpolicy.range{.global}.POLICY{.L2::evict_first|.L2::evict_unchanged}.b64 d, [a], n:u32, m:u32", |o| {
        o.at("a")?;
        o.source("n")?;
        o.source("m")?;
        zero(o, Ty::B64)
    })
    .since(7, 4, 80),
    form("createpolicy.cvt.L2.b64 d, a", |o| {
        o.source("a")?;
        zero(o, Ty::B64)
    })
    .since(7, 4, 80),
];

/// The ordering among the modifiers.
pub(super) fn order(o: &Operands<'_>) -> Option<Order> {
    o.pick(|w| {
        Some(match w {
            "weak" => Order::Weak,
            "volatile" => Order::Volatile,
            "relaxed" => Order::Relaxed,
            "acquire" => Order::Acquire,
            "release" => Order::Release,
            "acq_rel" => Order::AcqRel,
            "sc" => Order::SeqCst,
            _ => return None,
        })
    })
}

/// The scope among the modifiers.
pub(super) fn scope(o: &Operands<'_>) -> Option<Scope> {
    o.pick(|w| {
        Some(match w {
            "cta" => Scope::Cta,
            "cluster" => Scope::Cluster,
            "gpu" | "gl" => Scope::Gpu,
            "sys" => Scope::Sys,
            _ => return None,
        })
    })
}

/// A cache policy must be a 64-bit register; what it says has no effect.
pub(super) fn policy(o: &mut Operands<'_>) -> Result {
    o.source_some("hint").map(|_| ())
}

fn load(o: &mut Operands<'_>) -> Result {
    policy(o)?;
    let (space, at) = o.at("a")?;
    let (d, reg) = o.dest_vector("d")?;
    let order = order(o).unwrap_or(Order::Weak);
    o.emit(Op::Load(Load { space, order, nc: o.has("nc"), ty: o.ty(), reg, d: Vector::new(&d), at }))
}

fn store(o: &mut Operands<'_>) -> Result {
    policy(o)?;
    let (space, at) = o.at("a")?;
    let (a, reg) = o.source_vector("b")?;
    let order = order(o).unwrap_or(Order::Weak);
    o.emit(Op::Store(Store { space, order, ty: o.ty(), reg, a: Vector::new(&a), at }))
}

/// A fence of the order that is said, or else of this one.
fn fence(o: &mut Operands<'_>, otherwise: Order) -> Result {
    o.emit(Op::Fence { scope: scope(o).unwrap_or(Scope::Gpu), order: order(o).unwrap_or(otherwise) })
}

/// An address that nothing is done with.
pub(super) fn hint(o: &mut Operands<'_>) -> Result {
    o.at("a")?;
    o.emit(Op::Nop)
}

/// Hints about a line of 128 bytes.
fn sized_hint(o: &mut Operands<'_>) -> Result {
    o.number("n", 128..=128)?;
    hint(o)
}
