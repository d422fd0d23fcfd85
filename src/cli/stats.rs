//! What a run was and where its time went: one structure for `--stats` (text, stderr) and `--json`.

use super::args::Device;
use super::device;
use super::load::Loaded;
use super::memory::field_kib;
use super::sampling::Choice;
use super::terminal::note;
use crate::cpu::Isa;
use crate::engine::Timing;
use crate::intake::prepare::Prepared;
use serde::Serialize;
use std::time::Duration;

/// Where and on what an answer was computed.
#[derive(Debug, Clone, Serialize)]
pub struct Setup {
    pub model: String,
    pub device: &'static str,
    /// Why `--device auto` took it.
    pub device_reason: Option<&'static str>,
    pub dtype: &'static str,
    pub kv_cache_dtype: &'static str,
    pub threads: usize,
    pub isa: &'static str,
}

impl Setup {
    /// An opened model on an executor.
    pub fn new(model: &Loaded, device: &'static str) -> Setup {
        let p = &model.placement;
        Setup {
            model: model.name.clone(),
            device,
            device_reason: (p.device == Device::Auto).then(|| device::reason(device)),
            dtype: p.precision.activations.name(),
            kv_cache_dtype: p.precision.cache.name(),
            threads: p.threads,
            isa: Isa::detect().name(),
        }
    }
}

/// Milliseconds and rates of one answer.
#[derive(Debug, Clone, Serialize)]
pub struct Times {
    /// Opening the model.
    pub load_ms: f64,
    /// Reading, decoding and resizing pictures.
    pub media_ms: f64,
    /// The vision tower.
    pub vision_ms: f64,
    /// Media that the tower encoded; the others were in the cache.
    pub encoded: usize,
    pub prefill_ms: f64,
    pub prefill_tokens: usize,
    pub prefill_tokens_per_s: Option<f64>,
    /// Prompt tokens found in the cache.
    pub reused_tokens: usize,
    pub decode_ms: f64,
    /// All tokens but the first, which prefill gives.
    pub decode_tokens: usize,
    pub decode_tokens_per_s: Option<f64>,
    /// The most memory that the process held, pages of mapped weights included.
    pub peak_memory_bytes: Option<u64>,
}

impl Times {
    /// Those of one answer.
    pub fn new(model: &Loaded, prepared: &Prepared, t: &Timing) -> Times {
        Times {
            load_ms: ms(model.elapsed),
            media_ms: ms(prepared.elapsed),
            vision_ms: ms(t.vision),
            encoded: t.encoded,
            prefill_ms: ms(t.prefill),
            prefill_tokens: t.prefilled,
            prefill_tokens_per_s: rate(t.prefilled, t.prefill),
            reused_tokens: t.reused,
            decode_ms: ms(t.decode),
            decode_tokens: t.decoded,
            decode_tokens_per_s: rate(t.decoded, t.decode),
            peak_memory_bytes: peak_memory(),
        }
    }
}

/// Bytes that the process held at most, where the system says so.
pub fn peak_memory() -> Option<u64> {
    field_kib("/proc/self/status", "VmHWM:")
}

/// A duration in milliseconds, to the microsecond.
pub fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Tokens per second, to a thousandth.
fn rate(tokens: usize, d: Duration) -> Option<f64> {
    let rate = tokens as f64 / d.as_secs_f64();
    (tokens > 0 && rate.is_finite()).then(|| (rate * 1e3).round() / 1e3)
}

/// Prints everything to stderr.
pub fn print(setup: &Setup, choice: &Choice, t: &Times) {
    let per_second = |r: Option<f64>| r.map_or(String::new(), |r| format!(", {r:.1} tokens/s"));
    let reason = setup.device_reason.map_or(String::new(), |why| format!(" (auto: {why})"));
    let Setup { model, dtype, kv_cache_dtype, device, .. } = setup;
    note(&format!("model     {model}, {dtype} on {device}{reason}, keys and values in {kv_cache_dtype}"));
    note(&format!("cpu       {} threads, {}", setup.threads, setup.isa));
    note(&format!("sampling  {choice}"));
    note(&format!("load      {:.1} ms", t.load_ms));
    note(&format!("pictures  {:.1} ms to read and resize", t.media_ms));
    note(&format!("vision    {:.1} ms, {} encoded", t.vision_ms, t.encoded));
    let reused = t.reused_tokens;
    let speed = per_second(t.prefill_tokens_per_s);
    note(&format!("prefill   {:.1} ms, {} tokens{speed}, {reused} reused", t.prefill_ms, t.prefill_tokens));
    let speed = per_second(t.decode_tokens_per_s);
    note(&format!("decode    {:.1} ms, {} tokens{speed}", t.decode_ms, t.decode_tokens));
    if let Some(bytes) = t.peak_memory_bytes {
        note(&format!("memory    {:.1} MiB at most", bytes as f64 / 1048576.0));
    }
}
