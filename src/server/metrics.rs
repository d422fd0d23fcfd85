//! Counters and histograms in Prometheus' text format. Names are vLLM's where the meaning is the same, so that its dashboards work.

use crate::engine::{Holding, Timing};
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bounds of the histograms, in seconds.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// Why answers end; an answer whose client is gone, or whose time is over, is `abort`, as in vLLM.
const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

/// What the server has done so far.
pub struct Metrics {
    model: String,
    /// All blocks of the KV cache, and all rows of the encoder cache.
    blocks: usize,
    rows: usize,
    holding: Mutex<Holding>,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    cache_queries: AtomicU64,
    cache_hits: AtomicU64,
    drafts: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    finished: [AtomicU64; REASONS.len()],
    refused: AtomicU64,
    queue: Histogram,
    first_token: Histogram,
    next_token: Histogram,
    encoder: Histogram,
    prefill: Histogram,
    decode: Histogram,
    whole: Histogram,
}

#[derive(Default)]
struct Histogram {
    /// One more than bounds: those above all.
    counts: [AtomicU64; SECONDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let bucket = SECONDS.partition_point(|bound| *bound < time.as_secs_f64());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(time.as_nanos() as u64, Relaxed);
    }
}

impl Metrics {
    /// Nothing done yet, for the model of that name and an engine with so many cache blocks and rows of pictures.
    pub fn new(model: &str, blocks: usize, rows: usize) -> Metrics {
        let (model, [a, b, c, d, e, f, g]) = (escaped(model), Default::default());
        Metrics {
            model,
            blocks,
            rows,
            holding: Mutex::default(),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            cache_queries: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            drafts: AtomicU64::new(0),
            draft_tokens: AtomicU64::new(0),
            accepted_tokens: AtomicU64::new(0),
            finished: Default::default(),
            refused: AtomicU64::new(0),
            queue: a,
            first_token: b,
            next_token: c,
            encoder: d,
            prefill: e,
            decode: f,
            whole: g,
        }
    }

    /// What the engine holds from now on.
    pub fn hold(&self, holding: Holding) {
        *self.holding.lock().unwrap_or_else(PoisonError::into_inner) = holding;
    }

    /// The first token of an answer was drawn, so long after the request.
    pub fn first_token(&self, time: Duration) {
        self.generation_tokens.fetch_add(1, Relaxed);
        self.first_token.add(time);
    }

    /// Another token was drawn, so long after the one before.
    pub fn next_token(&self, time: Duration) {
        self.generation_tokens.fetch_add(1, Relaxed);
        self.next_token.add(time);
    }

    /// The engine is done with a request, which had waited so long until the engine had it.
    pub fn computed(&self, waited: Duration, timing: &Timing) {
        self.queue.add(waited + timing.queued);
        self.prompt_tokens.fetch_add((timing.prefilled + timing.reused) as u64, Relaxed);
        self.cache_queries.fetch_add((timing.prefilled + timing.reused) as u64, Relaxed);
        self.cache_hits.fetch_add(timing.reused as u64, Relaxed);
        self.drafts.fetch_add(timing.drafts as u64, Relaxed);
        self.draft_tokens.fetch_add(timing.drafted as u64, Relaxed);
        self.accepted_tokens.fetch_add(timing.accepted as u64, Relaxed);
        if timing.encoded > 0 {
            self.encoder.add(timing.vision);
        }
        self.prefill.add(timing.prefill);
        self.decode.add(timing.decode);
    }

    /// An answer ended, for one of [`REASONS`], so long after its request.
    pub fn finished(&self, reason: &str, time: Duration) {
        if let Some(at) = REASONS.iter().position(|r| *r == reason) {
            self.finished[at].fetch_add(1, Relaxed);
        }
        self.whole.add(time);
    }

    /// A request was answered with a 4xx.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Everything, as Prometheus reads it; so many requests are in the server.
    pub fn text(&self, admitted: usize) -> String {
        let mut page = Page { text: String::new(), model: &self.model };
        let holding = *self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        page.single("vllm:num_requests_running", "gauge", "Requests that the engine works on.", holding.running);
        // The two are not read at one moment.
        let waiting = admitted.saturating_sub(holding.running);
        page.single("vllm:num_requests_waiting", "gauge", "Requests that are read, prepared or wait.", waiting);
        let shares = [
            (
                "vllm:kv_cache_usage_perc",
                "Share of the KV cache that requests hold; 1 is all.",
                holding.used_blocks,
                self.blocks,
            ),
            (
                "osprey:encoder_cache_usage_perc",
                "Share of the encoder cache that requests hold.",
                holding.pinned_rows,
                self.rows,
            ),
        ];
        for (name, help, part, whole) in shares {
            page.single(name, "gauge", help, part as f64 / whole as f64);
        }
        let help = "Requests that lost their blocks to older ones and began again.";
        page.single("vllm:num_preemptions_total", "counter", help, holding.preemptions);
        let counters = [
            ("vllm:prompt_tokens_total", "Tokens of prompts, computed or found in the cache.", &self.prompt_tokens),
            ("vllm:generation_tokens_total", "Tokens drawn.", &self.generation_tokens),
            ("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the cache.", &self.cache_queries),
            ("vllm:prefix_cache_hits_total", "Prompt tokens found in the cache.", &self.cache_hits),
            ("vllm:spec_decode_num_drafts_total", "Steps of answers that tried tokens ahead.", &self.drafts),
            ("vllm:spec_decode_num_draft_tokens_total", "Tokens tried ahead.", &self.draft_tokens),
            (
                "vllm:spec_decode_num_accepted_tokens_total",
                "Tokens tried ahead that were right.",
                &self.accepted_tokens,
            ),
            ("osprey:requests_refused_total", "Requests answered with a 4xx.", &self.refused),
        ];
        for (name, help, counter) in counters {
            page.single(name, "counter", help, counter.load(Relaxed));
        }
        page.head("vllm:request_success_total", "counter", "Answers that ended, by reason.");
        for (reason, count) in REASONS.iter().zip(&self.finished) {
            let labels = format!(",finished_reason=\"{reason}\"");
            page.line("vllm:request_success_total", &labels, count.load(Relaxed));
        }
        let histograms = [
            ("vllm:request_queue_time_seconds", "From request to its first step.", &self.queue),
            ("vllm:time_to_first_token_seconds", "From request to first token.", &self.first_token),
            ("vllm:inter_token_latency_seconds", "Between two tokens.", &self.next_token),
            ("osprey:encoder_time_seconds", "Encoding a request's pictures.", &self.encoder),
            ("vllm:request_prefill_time_seconds", "Computing a prompt.", &self.prefill),
            ("vllm:request_decode_time_seconds", "Drawing all but the first token.", &self.decode),
            ("vllm:e2e_request_latency_seconds", "From request to the end of its answer.", &self.whole),
        ];
        histograms.iter().for_each(|(name, help, histogram)| page.histogram(name, help, histogram));
        page.text
    }
}

struct Page<'m> {
    text: String,
    model: &'m str,
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name}{{model_name=\"{}\"{labels}}} {value}", self.model);
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let bounds = SECONDS.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        let mut total = 0;
        for (bound, count) in bounds.zip(&histogram.counts) {
            total += count.load(Relaxed);
            self.line(&format!("{name}_bucket"), &format!(",le=\"{bound}\""), total);
        }
        self.line(&format!("{name}_sum"), "", histogram.nanos.load(Relaxed) as f64 / 1e9);
        self.line(&format!("{name}_count"), "", total);
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_ahead_adds_up() {
        let metrics = Metrics::new("m", 1, 1);
        let timing = Timing { drafts: 2, drafted: 7, accepted: 5, ..Timing::default() };
        (0..2).for_each(|_| metrics.computed(Duration::ZERO, &timing));
        let text = metrics.text(0);
        for (name, value) in [("drafts", 4), ("draft_tokens", 14), ("accepted_tokens", 10)] {
            let line = format!("\nvllm:spec_decode_num_{name}_total{{model_name=\"m\"}} {value}\n");
            assert!(text.contains(&line), "{line} {text}");
        }
    }
}
