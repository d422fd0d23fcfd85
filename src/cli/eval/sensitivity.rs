//! `osprey eval --sensitivity`: how far a model moves when one linear of its decoder alone is rounded to nearest.
//!
//! The reference's logits of all answers are kept, everything else is made anew for each linear: an engine, and the pictures of each question.

use super::metrics::{Compared, Distance};
use super::{EvalArgs, Side, answer_compared};
use crate::checkpoint::lora::Merged;
use crate::cli::args::group;
use crate::cli::device::check_memory;
use crate::cli::page;
use crate::cli::terminal::{Bar, Unit, put_result};
use crate::error::{Error, Result};
use crate::intake::media::Library;
use crate::quantize::single::{rounded, units};
use crate::quantize::{Method, Recipe, Scheme};
use crate::text::dataset::Item;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The whole report.
#[derive(Debug, Serialize)]
struct Sensitivity {
    model: String,
    format: &'static str,
    /// -1: a scale for each row.
    group_size: i64,
    device: &'static str,
    dtype: &'static str,
    items: usize,
    /// The most sensitive first.
    linears: Vec<Linear>,
}

/// One linear, or in w8a8 those that read the same rows.
#[derive(Debug, Serialize)]
struct Linear {
    layer: usize,
    kind: String,
    distance: Distance,
}

/// Measures all linears and reports.
///
/// # Errors
/// Naming the flag, the tensor, or the file and its line.
pub(super) fn run(args: &EvalArgs, scheme: Scheme, data: &[(String, Vec<Item>)]) -> anyhow::Result<()> {
    let group = group(args.group_size, scheme)?;
    let recipe = Recipe { scheme, group, method: Method::Rtn, zeros: false, head: false };
    let items: Vec<&Item> = data.iter().flat_map(|(_, items)| items).collect();
    let mut side = Side::open(args, &args.model)?;
    let merged = Merged::new(&side.model.files, None)?;
    let units = units(&merged, &recipe)?;
    let (mut bar, total) = (Bar::new("scoring".into(), Unit::Items), (items.len() * (1 + units.len())) as u64);
    let mut done = 0;
    let mut step = || {
        done += 1;
        bar.set(done, total);
    };
    let mut reference = Vec::new();
    for item in &items {
        reference.push(kept(&mut side, item).map_err(|e| item.error(e))?);
        step();
    }
    let mut linears = Vec::new();
    for unit in &units {
        side = side.with(rounded(&merged, &recipe, unit)?)?;
        let mut tokens: Vec<Compared> = Vec::new();
        for (item, reference) in items.iter().zip(&reference) {
            let moved = moved(&mut side, item, reference);
            tokens.extend(moved.map_err(|e| item.error(e))?);
            step();
        }
        linears.push(Linear { layer: unit.layer, kind: unit.kind(), distance: Distance::of(&tokens) });
    }
    drop(bar);
    linears.sort_by(|a, b| b.distance.mean_kl.total_cmp(&a.distance.mean_kl));
    let report = Sensitivity {
        model: side.model.name.clone(),
        format: scheme.name(),
        group_size: group.map_or(-1, |n| n as i64),
        device: side.engine.device(),
        dtype: side.model.placement.precision.activations.name(),
        items: items.len(),
        linears,
    };
    if let Some(file) = &args.html {
        std::fs::write(file, html(&report)).map_err(|e| Error::io(file, e))?;
    }
    put_result(&report, args.json, || text(&report))
}

/// The logits of a question's answer, if there is memory to keep them.
fn kept(side: &mut Side, item: &Item) -> Result<Vec<f32>> {
    let (request, first) = side.prepare(item, &mut Library::default())?.with_answer(&side.model, &item.response)?;
    let values = (request.prompt.ids.len() - first) * side.model.files.config.text.vocab_size;
    check_memory((values * size_of::<f32>()) as u64, "the logits of the reference", "take fewer questions: --limit")?;
    side.engine.score(&request, first)
}

/// How the answer to a question is predicted now, against the logits from before.
fn moved(side: &mut Side, item: &Item, reference: &[f32]) -> Result<Vec<Compared>> {
    let (request, first) = side.prepare(item, &mut Library::default())?.with_answer(&side.model, &item.response)?;
    let logits = side.engine.score(&request, first)?;
    Ok(answer_compared(&request, first, reference, &logits))
}

/// The table, a line for each linear.
fn text(report: &Sensitivity) -> String {
    let Sensitivity { model, format, group_size, device, dtype, items, linears } = report;
    let width = linears.iter().map(|l| l.kind.len()).max().unwrap_or(0);
    let mut out = format!("{model} ({device}, {dtype}), one linear at a time in {format}");
    if *group_size > 0 {
        let _ = write!(out, " in groups of {group_size}");
    }
    let tokens = linears.first().map_or(0, |l| l.distance.tokens);
    let _ = writeln!(out, ": {tokens} tokens of {items} answers");
    let _ = writeln!(out, "layer  {:width$}    mean KL     p99 KL    top-1  perplexity (was)", "linear");
    for Linear { layer, kind, distance: d } in linears {
        let _ = writeln!(
            out,
            "{layer:5}  {kind:width$}  {:9.2e}  {:9.2e}  {:5.1} %  {:.4} ({:.4})",
            d.mean_kl, d.p99_kl, d.top1_agreement, d.perplexity, d.reference_perplexity
        );
    }
    out
}

/// The page: a plot over the layers for each kind of linear, all to one scale, and the table.
fn html(report: &Sensitivity) -> String {
    let most = report.linears.first().map(|l| l.distance.mean_kl);
    let mut kinds: BTreeMap<&str, BTreeMap<usize, f64>> = BTreeMap::new();
    for l in &report.linears {
        kinds.entry(&l.kind).or_default().insert(l.layer, l.distance.mean_kl);
    }
    let mut body = String::from(
        "<p>Mean KL divergence from the model as it is, nats a token. The line is the most sensitive linear of all.</p>\n",
    );
    for (kind, layers) in kinds {
        let class = if kind.starts_with("mlp") { "prefill" } else { "decode" };
        let bar = |(layer, &value): (&usize, &f64)| page::Bar { label: format!("layer {layer}"), class, value };
        body.push_str(&page::bars(kind, most, &layers.iter().map(bar).collect::<Vec<_>>()));
    }
    let _ = writeln!(body, "<pre>{}</pre>", page::escape(&text(report)));
    page::html(&format!("Osprey sensitivity: {}, {}", report.model, report.format), &body)
}
