//! The report for a terminal.

use super::{Report, Row};
use std::fmt::Write;

/// Writes a number that may be missing.
fn number(x: Option<f64>, decimals: usize) -> String {
    x.map_or("-".into(), |x| format!("{x:.decimals$}"))
}

/// One column: its title, its width, and what it shows of a row.
type Column = (&'static str, usize, fn(&Row) -> String);

const ERROR: [Column; 2] = [
    ("error", 8, |r| number(r.error.map(|e| e.of_bound), 3)),
    ("mean", 9, |r| r.error.map_or("-".into(), |e| format!("{:.1e}", e.mean))),
];

const COUNTED: [Column; 8] = [
    ("bytes", 8, |r| number(r.counted.as_ref().map(|c| c.distinct_bytes as f64 / r.bytes as f64), 3)),
    ("sectors", 8, |r| number(r.counted.as_ref().map(|c| c.sector_bytes as f64 / r.bytes as f64), 2)),
    ("sect/ld", 8, |r| number(r.counted.as_ref().and_then(|c| c.sectors_per_load), 1)),
    ("bank", 7, |r| number(r.counted.as_ref().and_then(|c| c.wavefronts_over_ideal), 3)),
    ("in/mma", 8, |r| number(r.counted.as_ref().and_then(|c| c.instructions_per_mma), 2)),
    ("in/B", 7, |r| number(r.counted.as_ref().and_then(|c| c.instructions_per_weight_byte), 3)),
    ("bar", 7, |r| number(r.counted.as_ref().map(|c| c.barriers), 1)),
    ("blocks", 7, |r| r.counted.as_ref().map_or("-".into(), |c| c.blocks.to_string())),
];

const CODE: [Column; 3] = [
    ("regs", 6, |r| r.code.map_or("-".into(), |c| c.registers.to_string())),
    ("spill", 6, |r| r.code.map_or("-".into(), |c| c.spills.to_string())),
    ("SASS/mma", 10, |r| number(r.code.and_then(|c| c.main_loop).map(|l| l.per_mma()), 2)),
];

const TIMED: [Column; 6] = [
    ("us", 11, |r| number(r.timed.as_ref().map(|t| t.microseconds), 1)),
    ("GB/s", 9, |r| number(r.timed.as_ref().map(|t| t.gbytes_per_s), 1)),
    ("of roof", 8, |r| percent(r.timed.as_ref().map(|t| t.of_bandwidth))),
    ("GFLOP/s", 11, |r| number(r.timed.as_ref().map(|t| t.gflops), 1)),
    ("of roof", 8, |r| percent(r.timed.as_ref().map(|t| t.of_flops))),
    ("cache", 7, |r| r.timed.as_ref().map_or("-".into(), |t| if t.cold { "cold".into() } else { "warm".into() })),
];

fn percent(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{:.1} %", 100.0 * x))
}

/// The columns that a kind of device fills.
fn columns(device: &str) -> Vec<Column> {
    match device {
        "cpu" => TIMED.to_vec(),
        "cuda" => [&ERROR[..], &TIMED, &CODE].concat(),
        _ => [&ERROR[..], &COUNTED, &CODE].concat(),
    }
}

/// The whole report.
pub(super) fn text(report: &Report) -> String {
    let found = &report.found;
    let mut s = format!(
        "{}, {}, {} weights, on {}: {}\n",
        report.shape, report.dtype, report.weights, found.device, found.name
    );
    let roof = &found.roof;
    let _ = writeln!(s, "roof {:.1} GB/s, {:.1} GFLOP/s ({})\n", roof.gbytes_per_s, roof.gflops, roof.source);
    let columns = columns(found.device);
    let _ = write!(s, "{:<42}{:>10}{:>10}", "", "least MB", "GFLOP");
    columns.iter().for_each(|(title, width, _)| s.push_str(&format!("{title:>width$}")));
    s.push('\n');
    for row in &found.rows {
        let _ = write!(s, "{:<42}{:>10.3}{:>10.3}", row.name(), row.bytes as f64 / 1e6, row.flops as f64 / 1e9);
        match &row.left_out {
            Some(why) => s.push_str(&format!("  left out: {why}")),
            None => columns.iter().for_each(|(_, width, show)| s.push_str(&format!("{:>width$}", show(row)))),
        }
        s.push('\n');
    }
    s.push('\n');
    for (what, launches) in passes(report) {
        let _ = writeln!(s, "{what}: {launches} launches");
    }
    found.notes.iter().for_each(|note| s.push_str(&format!("{note}\n")));
    s
}

/// The launches of each pass that the rows make up.
fn passes(report: &Report) -> Vec<(String, usize)> {
    let mut passes: Vec<(String, usize)> = Vec::new();
    for row in &report.found.rows {
        // The merger has fewer rows than the tower, and is of the same pass.
        let name =
            if row.phase == "vision" { row.phase.to_string() } else { format!("{} of {} rows", row.phase, row.rows) };
        match passes.iter_mut().find(|(pass, _)| *pass == name) {
            Some((_, launches)) => *launches += row.launches,
            None => passes.push((name, row.launches)),
        }
    }
    passes
}
