//! The report as one page that needs nothing else: a roofline, bars for each op, and the table, as plain SVG and text.

use super::{Report, Row, table};
use crate::cli::page::{self, WIDTH, escape};
use std::fmt::Write;

/// The whole page.
pub(super) fn html(report: &Report) -> String {
    let found = &report.found;
    let title = format!("{} {} ({} weights) on {}", report.shape, report.dtype, report.weights, found.device);
    let mut s = format!("<p>{}</p>\n", escape(&found.name));
    found.notes.iter().for_each(|note| s.push_str(&format!("<p>{}</p>\n", escape(note))));
    let _ = writeln!(s, "<p><span class=\"key\">{}</span></p>", key());
    s.push_str(&roofline(report));
    for plot in BARS {
        s.push_str(&bars(plot, &found.rows));
    }
    let _ = write!(s, "<h2>All figures</h2>\n<pre>{}</pre>\n", escape(&table::text(report)));
    page::html(&format!("Osprey kernels: {title}"), &s)
}

fn key() -> String {
    let swatch = |phase: &str| {
        format!(
            "<svg style=\"width:12px;height:12px\" viewBox=\"0 0 12 12\"><circle class=\"{phase}\" cx=\"6\" cy=\"6\" r=\"5\"/></svg> {phase} "
        )
    };
    ["decode", "prefill", "vision"].map(swatch).concat()
}

/// A logarithmic axis from one power of ten to another, on pixels.
struct Axis {
    decades: (i32, i32),
    pixels: (f64, f64),
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let (low, high) = (self.decades.0 as f64, self.decades.1 as f64);
        let share = (value.log10().clamp(low, high) - low) / (high - low);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        (self.decades.0..=self.decades.1).map(|e| 10f64.powi(e)).map(|value| (value, self.at(value)))
    }
}

/// Where an op lies: operations for each byte, and GFLOP/s. Without times it is what the roof allows for the bytes that were counted.
fn point(row: &Row, report: &Report) -> Option<(f64, f64)> {
    let roof = &report.found.roof;
    let flops = (row.flops > 0).then_some(row.flops as f64)?;
    if let Some(t) = &row.timed {
        return Some((flops / row.bytes as f64, t.gflops));
    }
    let intensity = flops / row.counted.as_ref()?.distinct_bytes as f64;
    Some((intensity, roof.gflops.min(roof.gbytes_per_s * intensity)))
}

fn roofline(report: &Report) -> String {
    let (roof, points) = (&report.found.roof, |row| point(row, report));
    let what = if report.found.device == "emulator" {
        "what the roof allows for the bytes counted; not measured"
    } else {
        "measured"
    };
    let most = roof.gflops.log10().ceil() as i32;
    let x = Axis { decades: (-1, 4), pixels: (70.0, WIDTH - 20.0) };
    let y = Axis { decades: (most - 5, most), pixels: (400.0, 20.0) };
    let mut s =
        format!("<h2>Roofline</h2>\n<p>{what}; roof: {}</p>\n<svg viewBox=\"0 0 {WIDTH} 450\">\n", escape(roof.source));
    for (value, at) in x.ticks() {
        let _ = writeln!(
            s,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"20\" y2=\"400\"/><text x=\"{at:.1}\" y=\"418\" text-anchor=\"middle\">{value}</text>"
        );
    }
    for (value, at) in y.ticks() {
        let right = x.pixels.1;
        let _ = writeln!(
            s,
            "<line class=\"axis\" x1=\"70\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"64\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            at + 4.0
        );
    }
    let knee = roof.gflops / roof.gbytes_per_s;
    let left = 10f64.powi(x.decades.0);
    let line = [(left, left * roof.gbytes_per_s), (knee, roof.gflops), (1e4, roof.gflops)];
    let line: Vec<String> = line.iter().map(|&(a, b)| format!("{:.1},{:.1}", x.at(a), y.at(b))).collect();
    let _ = writeln!(s, "<polyline class=\"roof\" points=\"{}\"/>", line.join(" "));
    for row in &report.found.rows {
        let Some((intensity, gflops)) = points(row) else { continue };
        let name = escape(&row.name());
        let _ = writeln!(
            s,
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{name}: {intensity:.2} FLOP/B, {gflops:.1} GFLOP/s</title></circle>",
            row.phase,
            x.at(intensity),
            y.at(gflops)
        );
    }
    let _ = writeln!(
        s,
        "<text x=\"515\" y=\"442\" text-anchor=\"middle\">FLOP per byte</text><text x=\"75\" y=\"14\">GFLOP/s</text>\n</svg>"
    );
    s
}

/// One bar for each op that has the figure.
struct Bars {
    title: &'static str,
    /// A line to compare with.
    limit: Option<f64>,
    value: fn(&Row) -> Option<f64>,
}

const BARS: [Bars; 5] = [
    Bars {
        title: "Share of the roof that binds",
        limit: Some(1.0),
        value: |r| r.timed.as_ref().map(|t| t.of_bandwidth.max(t.of_flops)),
    },
    Bars {
        title: "Distinct bytes over the least",
        limit: Some(1.05),
        value: |r| r.counted.as_ref().map(|c| c.distinct_bytes as f64 / r.bytes as f64),
    },
    Bars {
        title: "Sector bytes over the least (re-reads come out of caches)",
        limit: None,
        value: |r| r.counted.as_ref().map(|c| c.sector_bytes as f64 / r.bytes as f64),
    },
    Bars {
        title: "Warp instructions (PTX) per mma",
        limit: None,
        value: |r| r.counted.as_ref().and_then(|c| c.instructions_per_mma),
    },
    Bars {
        title: "Machine instructions per mma in the main loop",
        limit: None,
        value: |r| r.code.and_then(|c| c.main_loop).map(|l| l.per_mma()),
    },
];

fn bars(plot: Bars, rows: &[Row]) -> String {
    let bar = |r: &Row| Some(page::Bar { label: r.name(), class: r.phase, value: (plot.value)(r)? });
    page::bars(plot.title, plot.limit, &rows.iter().filter_map(bar).collect::<Vec<_>>())
}
