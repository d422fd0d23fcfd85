//! The rows of a bench, and how they are printed.

use super::Output;
use crate::cli::stats::ms;
use crate::plan::Cost;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// What the machine can do at most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Probe {
    /// f32, a fused multiply-add counted as two.
    pub gflops: f64,
    pub gbytes_per_s: f64,
}

impl Probe {
    /// The better of both, each way.
    pub fn best(&self, other: &Probe) -> Probe {
        Probe { gflops: self.gflops.max(other.gflops), gbytes_per_s: self.gbytes_per_s.max(other.gbytes_per_s) }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub ms: f64,
    pub tokens: usize,
    pub tokens_per_s: Option<f64>,
    pub gflops: Option<f64>,
    pub gbytes_per_s: Option<f64>,
    /// Of the measured multiply-add rate.
    pub of_fma: Option<f64>,
    /// Of the measured read bandwidth.
    pub of_bandwidth: Option<f64>,
    /// Of the speed of the first weights, where several were measured.
    pub times_first: Option<f64>,
}

impl Row {
    /// A duration; 0 tokens where none are counted.
    pub fn timed(name: String, time: Duration, tokens: usize) -> Row {
        let tokens_per_s = (tokens > 0).then(|| tokens as f64 / time.as_secs_f64());
        let (gflops, gbytes_per_s, of_fma, of_bandwidth, times_first) = (None, None, None, None, None);
        Row { name, ms: ms(time), tokens, tokens_per_s, gflops, gbytes_per_s, of_fma, of_bandwidth, times_first }
    }

    /// The same with the work that was done in that time.
    pub fn with_cost(self, time: Duration, cost: Cost) -> Row {
        let rate = |n: u64| Some(n as f64 / 1e9 / time.as_secs_f64());
        Row { gflops: rate(cost.flops), gbytes_per_s: rate(cost.bytes), ..self }
    }

    /// Fills in the fractions of what the machine can do.
    pub fn compare(&mut self, probe: &Probe) {
        self.of_fma = self.gflops.map(|g| g / probe.gflops);
        self.of_bandwidth = self.gbytes_per_s.map(|g| g / probe.gbytes_per_s);
    }
}

/// The table for people.
pub(super) fn text(o: &Output) -> String {
    let mut s = String::new();
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let sizes: Vec<String> = o.weight_bytes.iter().map(|&bytes| format!("{:.2} GiB", gib(bytes))).collect();
    let _ = writeln!(s, "{}, {}, random weights of {}", o.shape, o.dtype, sizes.join(" and "));
    let _ = writeln!(s, "{} threads, {}", o.threads, o.isa);
    for (when, p) in [("before", &o.probe_before), ("after", &o.probe_after)] {
        let _ = writeln!(s, "probe {when:<7}{:>8.1} GFLOP/s f32{:>8.1} GB/s read", p.gflops, p.gbytes_per_s);
    }
    let head = ["ms", "tok/s", "GFLOP/s", "of FMA", "GB/s", "of read", "speedup"];
    let _ = write!(s, "\n{:<28}", "");
    head.iter().for_each(|h| s.push_str(&format!("{h:>10}")));
    s.push('\n');
    for row in &o.rows {
        let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        let percent = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.1} %", x * 100.0));
        let _ = writeln!(
            s,
            "{:<28}{:>10.1}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            row.name,
            row.ms,
            number(row.tokens_per_s),
            number(row.gflops),
            percent(row.of_fma),
            number(row.gbytes_per_s),
            percent(row.of_bandwidth),
            row.times_first.map_or("-".into(), |x| format!("{x:.2}"))
        );
    }
    let _ = writeln!(s, "\nwork and bytes are {}", o.work_from);
    if let Some(bytes) = o.peak_memory_bytes {
        let _ = writeln!(s, "peak memory {:.2} GiB", gib(bytes));
    }
    s
}
