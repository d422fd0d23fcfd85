//! `atom` and `red`.
//!
//! A vector form is atomic element by element, so it becomes one op per element.

use super::memory::{order, policy, scope};
use super::operands::Operands;
use super::{Form, form};
use crate::isa::{Address, Atom, AtomOp, Op, Order, Reg, Scope, Space};

type Result = std::result::Result<(), String>;

#[rustfmt::skip]
pub(super) static FORMS: &[Form] = &[
    form("atom<{.SEM}{.SCOPE}{.global}.(and|or|xor|exch)>{.L2::cache_hint}.(b32|b64) d, [a], b{, hint}", atom),
    form("atom<{.SEM}{.SCOPE}.SHARED.(and|or|xor|exch)>.(b32|b64) d, [a], b", atom),
    form("atom<{.SEM}{.SCOPE}{.global|.SHARED}.cas>.(b16|b32|b64) d, [a], b, c", atom),
    form("atom<{.SEM}{.SCOPE}{.global}.add>{.L2::cache_hint}.(u32|s32|u64|f32|f64) d, [a], b{, hint}", atom),
    form("atom<{.SEM}{.SCOPE}.SHARED.add>.(u32|s32|u64|f32|f64) d, [a], b", atom),
    form("atom<{.SEM}{.SCOPE}{.global}.(inc|dec)>{.L2::cache_hint}.u32 d, [a], b{, hint}", atom),
    form("atom<{.SEM}{.SCOPE}.SHARED.(inc|dec)>.u32 d, [a], b", atom),
    form("atom<{.SEM}{.SCOPE}{.global}.(min|max)>{.L2::cache_hint}.(u32|s32|u64|s64) d, [a], b{, hint}", atom),
    form("atom<{.SEM}{.SCOPE}.SHARED.(min|max)>.(u32|s32|u64|s64) d, [a], b", atom),
    form("atom<{.SEM}{.SCOPE}{.global}.add.noftz>{.L2::cache_hint}.(f16|f16x2) d, [a], b{, hint}", atom),
    form("atom<{.SEM}{.SCOPE}.SHARED.add.noftz>.(f16|f16x2) d, [a], b", atom),
    form("atom<{.SEM}{.SCOPE}{.global}.add.noftz>{.L2::cache_hint}.(bf16|bf16x2) d, [a], b{, hint}", atom).since(7, 8, 90),
    form("atom<{.SEM}{.SCOPE}.SHARED.add.noftz>.(bf16|bf16x2) d, [a], b", atom).since(7, 8, 90),
    form("atom<{.SEM}{.SCOPE}{.global}.add>{.L2::cache_hint}.(v2|v4).f32 d*V, [a], b*V{, hint}", atom).since(8, 1, 90),
    form("atom<{.SEM}{.SCOPE}{.global}.(add|min|max).noftz>{.L2::cache_hint}.(v2|v4|v8).(f16|bf16) d*V, [a], b*V{, hint}", atom).since(8, 1, 90),
    form("atom<{.SEM}{.SCOPE}{.global}.(add|min|max).noftz>{.L2::cache_hint}.(v2|v4).(f16x2|bf16x2) d*V, [a], b*V{, hint}", atom).since(8, 1, 90),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.(and|or|xor)>{.L2::cache_hint}.(b32|b64) [a], b{, hint}", atom),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.(and|or|xor)>.(b32|b64) [a], b", atom),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.add>{.L2::cache_hint}.(u32|s32|u64|f32|f64) [a], b{, hint}", atom),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.add>.(u32|s32|u64|f32|f64) [a], b", atom),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.(inc|dec)>{.L2::cache_hint}.u32 [a], b{, hint}", atom),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.(inc|dec)>.u32 [a], b", atom),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.(min|max)>{.L2::cache_hint}.(u32|s32|u64|s64) [a], b{, hint}", atom),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.(min|max)>.(u32|s32|u64|s64) [a], b", atom),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.add.noftz>{.L2::cache_hint}.(f16|f16x2) [a], b{, hint}", atom),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.add.noftz>.(f16|f16x2) [a], b", atom),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.add.noftz>{.L2::cache_hint}.(bf16|bf16x2) [a], b{, hint}", atom).since(7, 8, 90),
    form("red<{.relaxed|.release}{.SCOPE}.SHARED.add.noftz>.(bf16|bf16x2) [a], b", atom).since(7, 8, 90),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.add>{.L2::cache_hint}.(v2|v4).f32 [a], b*V{, hint}", atom).since(8, 1, 90),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.(add|min|max).noftz>{.L2::cache_hint}.(v2|v4|v8).(f16|bf16) [a], b*V{, hint}", atom).since(8, 1, 90),
    form("red<{.relaxed|.release}{.SCOPE}{.global}.(add|min|max).noftz>{.L2::cache_hint}.(v2|v4).(f16x2|bf16x2) [a], b*V{, hint}", atom).since(8, 1, 90),
];

fn atom(o: &mut Operands<'_>) -> Result {
    policy(o)?;
    let (space, at) = o.at("a")?;
    let b = o.source_all("b")?;
    let (d, width) = if o.given("d") { o.dest_vector("d")? } else { (vec![None; b.len()], o.ty()) };
    if width.bits() != o.ty().bits() {
        return Err(format!("the result has {} bits, its register {}", o.ty().bits(), width.bits()));
    }
    if (1..b.len()).any(|i| d[..i].contains(&Some(b[i]))) {
        return Err("an element of the result is a later source: use different registers".to_owned());
    }
    b.into_iter().zip(d).enumerate().try_for_each(|(i, (b, d))| element(o, space, at, i, b, d))
}

fn element(o: &mut Operands<'_>, space: Space, at: Address, index: usize, b: Reg, d: Option<Reg>) -> Result {
    let ty = o.ty();
    let at = Address { offset: at.offset.wrapping_add(index as i64 * i64::from(ty.bytes())), ..at };
    let c = o.source_some("c")?.unwrap_or_else(|| o.names.constant(ty, 0));
    let op = o.pick(operation).ok_or("an operation is missing")?;
    let (order, scope) = (order(o).unwrap_or(Order::Relaxed), scope(o).unwrap_or(Scope::Gpu));
    o.emit(Op::Atom(Atom { space, op, ty, order, scope, d, at, b, c }))
}

fn operation(word: &str) -> Option<AtomOp> {
    Some(match word {
        "and" => AtomOp::And,
        "or" => AtomOp::Or,
        "xor" => AtomOp::Xor,
        "cas" => AtomOp::Cas,
        "exch" => AtomOp::Exch,
        "add" => AtomOp::Add,
        "inc" => AtomOp::Inc,
        "dec" => AtomOp::Dec,
        "min" => AtomOp::Min,
        "max" => AtomOp::Max,
        _ => return None,
    })
}
