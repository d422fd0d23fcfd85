//! What quantizing did to every linear, as JSON and as a table.

use super::{Job, Scheme};
use crate::checkpoint::writer::put;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The report's file in the written folder.
const FILE: &str = "quantization_report.json";

/// One linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    /// How far outputs are off, as a part of their norm, if every weight is rounded to nearest and nothing else is done; none without samples.
    pub error_before: Option<f64>,
    /// The same for what was written.
    pub error: Option<f64>,
    pub bytes_before: usize,
    pub bytes: usize,
    pub seconds: f64,
}

/// All linears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: String,
    pub method: String,
    /// -1: a scale for each row.
    pub group_size: i64,
    pub zero_points: bool,
    /// Calibration texts and their tokens.
    pub samples: usize,
    pub tokens: usize,
    pub lines: Vec<Line>,
}

impl Report {
    pub(super) fn new(job: &Job) -> Report {
        let recipe = &job.recipe;
        let smooth = if recipe.scheme == Scheme::W8A8 { "smoothquant+" } else { "" };
        Report {
            format: recipe.scheme.name().into(),
            method: format!("{smooth}{}", recipe.method.name()),
            group_size: recipe.group.map_or(-1, |g| g as i64),
            zero_points: recipe.zeros,
            samples: job.samples.len(),
            tokens: job.tokens(),
            lines: Vec::new(),
        }
    }

    /// Writes it into the folder.
    pub(super) fn write(&self, out: &Path) -> Result<()> {
        let path = out.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io(&path, e.into()))?;
        put(&path, text.as_bytes())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|l| l.name.len()).max().unwrap_or(0);
        let error = |e: Option<f64>| e.map_or_else(|| "-".into(), |e| format!("{:.3} %", 100.0 * e));
        writeln!(
            f,
            "{:<width$}  {:>10}  {:>10}  {:>13}  {:>13}  {:>8}",
            "", "plain", "written", "bytes before", "bytes", "seconds"
        )?;
        for l in &self.lines {
            let (before, after) = (error(l.error_before), error(l.error));
            let Line { name, bytes_before, bytes, seconds, .. } = l;
            writeln!(f, "{name:<width$}  {before:>10}  {after:>10}  {bytes_before:>13}  {bytes:>13}  {seconds:>8.2}")?;
        }
        let sum = |of: fn(&Line) -> usize| self.lines.iter().map(of).sum::<usize>();
        let seconds: f64 = self.lines.iter().map(|l| l.seconds).sum();
        let (before, bytes) = (sum(|l| l.bytes_before), sum(|l| l.bytes));
        writeln!(f, "{:<width$}  {:>10}  {:>10}  {before:>13}  {bytes:>13}  {seconds:>8.2}", "total", "", "")
    }
}
