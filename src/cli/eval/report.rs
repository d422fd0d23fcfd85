//! What was found, as a table, as JSON and as one page.

use super::metrics::{Accuracy, Distance};
use super::{Answered, Compared, Side};
use crate::cli::page;
use serde::Serialize;
use std::fmt::Write;

/// Answers to the questions of one file.
pub(super) struct Set {
    name: String,
    pub answers: Vec<Answered>,
    /// Of the reference.
    pub reference: Vec<Answered>,
    pub tokens: Vec<Compared>,
}

impl Set {
    pub fn new(name: &str) -> Set {
        Set { name: name.into(), answers: Vec::new(), reference: Vec::new(), tokens: Vec::new() }
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    reference: Option<String>,
    device: &'static str,
    dtype: &'static str,
    kv_cache_dtype: &'static str,
    /// One for each file, then all together.
    sets: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    accuracy: Accuracy,
    reference: Option<Accuracy>,
    distance: Option<Distance>,
}

impl Row {
    fn new(set: &Set, compared: bool) -> Row {
        Row {
            name: set.name.clone(),
            accuracy: Accuracy::of(&set.answers),
            reference: compared.then(|| Accuracy::of(&set.reference)),
            distance: compared.then(|| Distance::of(&set.tokens)),
        }
    }
}

impl Report {
    pub fn new(model: &Side, reference: Option<&Side>, sets: &[Set]) -> Report {
        let mut all = Set::new("all");
        for set in sets {
            all.answers.extend(&set.answers);
            all.reference.extend(&set.reference);
            all.tokens.extend(&set.tokens);
        }
        Report {
            model: model.model.name.clone(),
            reference: reference.map(|r| r.model.name.clone()),
            device: model.engine.device(),
            dtype: model.model.placement.precision.activations.name(),
            kv_cache_dtype: model.model.placement.precision.cache.name(),
            sets: sets.iter().chain([&all]).map(|set| Row::new(set, reference.is_some())).collect(),
        }
    }
}

/// The table, a line for each file.
pub(super) fn text(report: &Report) -> String {
    let width = report.sets.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
    let mut out = format!("{} ({}, {}, cache {})", report.model, report.device, report.dtype, report.kv_cache_dtype);
    out.push_str(&report.reference.as_ref().map_or_else(String::new, |r| format!(" against {r}")));
    let _ = write!(out, "\n{:width$}  items   right   exact   ANLS    IoU", "");
    if report.reference.is_some() {
        out.push_str("   was right    mean KL     p99 KL   top-1  perplexity (was)");
    }
    out.push('\n');
    for row in &report.sets {
        let a = &row.accuracy;
        let iou = a.iou.map_or_else(|| "-".into(), |iou| format!("{iou:.3}"));
        let _ = write!(
            out,
            "{:width$}  {:5}  {:5.1} %  {:5.1} %  {:.3}  {iou:>5}",
            row.name, a.items, a.right, a.exact, a.anls
        );
        if let (Some(r), Some(d)) = (&row.reference, &row.distance) {
            let _ = write!(
                out,
                "   {:7.1} %  {:9.2e}  {:9.2e}  {:5.1} %  {:.4} ({:.4})",
                r.right, d.mean_kl, d.p99_kl, d.top1_agreement, d.perplexity, d.reference_perplexity
            );
        }
        out.push('\n');
    }
    out
}

/// The page: the table, and the distance of each file.
pub(super) fn html(report: &Report) -> String {
    let bars: Vec<page::Bar> = report
        .sets
        .iter()
        .filter_map(|row| Some(page::Bar { label: row.name.clone(), class: "decode", value: row.distance?.mean_kl }))
        .collect();
    let mut body = format!("<pre>{}</pre>\n", page::escape(&text(report)));
    body.push_str(&page::bars("Mean KL divergence from the reference, nats a token", None, &bars));
    page::html(&format!("Osprey evaluation: {}", report.model), &body)
}
