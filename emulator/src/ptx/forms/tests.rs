//! Every line of the table in every spelling, real compiler output, what exactly some instructions become, and what
//! each does in a kernel.

mod expand;
mod kernels;
mod model;
mod reader;
mod refusals;
mod spot;
mod values;

use super::operands::{many, types, width};
use super::pattern::{Kind, Pattern, Slot};
use super::{FORMS, Form, decode, document, find};
use crate::isa::{Op, Operand, Pred, Reg};
use expand::{Text, spellings};
use reader::{Scope, instruction};
use std::collections::BTreeSet;

fn forms() -> impl Iterator<Item = &'static Form> {
    FORMS.iter().flat_map(|(_, forms)| *forms)
}

/// Registers by role: written, index, rows (0 for a predicate).
type Roles = BTreeSet<(bool, u32, u32)>;

/// What `registers` says, without constants and temporaries.
fn visited(ops: &mut [Op]) -> Roles {
    let mut roles = Roles::new();
    let mut value = |write: bool, reg: Reg, rows: u32| {
        if reg.constant().is_none() && reg.0 < reader::TEMPORARIES {
            roles.insert((write, reg.0, rows));
        }
    };
    for op in ops {
        op.registers(&mut |operand| match operand {
            Operand::Read(reg, rows) => value(false, *reg, rows),
            Operand::Write(reg, rows) => value(true, *reg, rows),
            Operand::ReadPred(Pred::Always) => {}
            Operand::ReadPred(Pred::If(p) | Pred::Unless(p)) => value(false, Reg((*p).into()), 0),
            Operand::WritePred(p) => value(true, Reg((*p).into()), 0),
        });
    }
    roles
}

/// Instructions whose operands, or some of them, have no effect here.
const HINTS: &[&str] =
    &["prefetch", "prefetchu", "applypriority", "discard", "createpolicy", "nanosleep", "getctarank", "mapa"];

#[test]
fn every_spelling_of_every_form_is_decoded_by_it() {
    for form in forms() {
        let pattern = Pattern::compile(form.syntax);
        for Text { text, registers, .. } in spellings(&pattern) {
            let inst = instruction(&text);
            let mut scope = Scope::default();
            let found = find(&inst, &scope).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(found.0.syntax, form.syntax, "{text} is taken by another form");
            let mut ops = decode(&inst, &mut scope).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert!(!ops.is_empty(), "{text}");
            if !HINTS.contains(&pattern.opcode) && !form.syntax.contains(".prefetch.") {
                assert_eq!(visited(&mut ops), registers, "{text}: {ops:?}");
            }
        }
    }
}

#[test]
fn every_alternative_is_spelled() {
    for form in forms() {
        let pattern = Pattern::compile(form.syntax);
        let all: Vec<String> = spellings(&pattern).into_iter().map(|t| t.text).collect();
        for word in expand::words(&pattern.modifiers) {
            let dotted = format!(".{word}");
            let has = |t: &String| {
                t.split_whitespace().next().is_some_and(|head| {
                    head.match_indices(&dotted)
                        .any(|(i, _)| head[i + dotted.len()..].chars().next().is_none_or(|c| c == '.'))
                })
            };
            assert!(all.iter().any(has), "{}: no spelling has .{word}", form.syntax);
        }
    }
}

#[test]
fn an_unknown_modifier_is_refused_anywhere() {
    for form in forms() {
        let pattern = Pattern::compile(form.syntax);
        for (i, Text { text, .. }) in spellings(&pattern).into_iter().enumerate().step_by(7) {
            let mut inst = instruction(&text);
            inst.modifiers.insert(i % (inst.modifiers.len() + 1), "unknown".to_owned());
            assert!(decode(&inst, &mut Scope::default()).is_err(), "{text} with .unknown");
        }
    }
}

#[test]
fn operands_too_many_are_refused() {
    for form in forms() {
        let pattern = Pattern::compile(form.syntax);
        for Text { text, .. } in spellings(&pattern).into_iter().step_by(13) {
            let mut inst = instruction(&text);
            inst.operands.extend([const { crate::ptx::ast::Operand::Integer(0) }; 4]);
            let more = find(&inst, &Scope::default());
            assert!(more.is_err_and(|why| why.contains("do not fit")), "{text} and four operands");
        }
    }
}

/// The guard: a form that is new in the table fails here until a model knows it.
#[test]
fn every_form_runs_and_does_what_a_model_says() {
    let mut without = Vec::new();
    for (class, forms) in FORMS {
        for form in *forms {
            if !kernels::modelled(class, form) && !values::modelled(form) {
                without.push(form.syntax);
            }
        }
    }
    assert_eq!(without, Vec::<&str>::new(), "forms without a model");
}

#[test]
fn the_document_is_up_to_date() {
    let written = include_str!("../../../INSTRUCTIONS.md");
    assert!(
        written == document(),
        "INSTRUCTIONS.md is stale: cargo run -p cuda-emulator --example instructions > emulator/INSTRUCTIONS.md"
    );
}

#[test]
fn what_nvcc_and_triton_write_is_decoded() {
    let lines = include_str!("tests/nvcc.txt").lines().chain(include_str!("tests/triton.txt").lines());
    let refused =
        lines.filter_map(|line| Some(format!("{line} {}", decode(&instruction(line), &mut Scope::default()).err()?)));
    assert_eq!(refused.collect::<Vec<_>>(), Vec::<String>::new());
}
