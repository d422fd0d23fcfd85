//! `osprey inspect`: what a model folder holds, and the memory that a run will take. Weights are not read, only their headers, but for codes that must be unpacked.

use super::Exit;
use super::args::{ContextArgs, ModelArgs, PixelArgs};
use super::load::{context, limits, open_files, place, processor};
use super::terminal::put_result;
use crate::checkpoint::Summary;
use crate::engine::{Limits, needs};
use crate::error::Result;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::tensor::Region;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Flags of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    pixels: PixelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    model: String,
    folder: String,
    #[serde(flatten)]
    summary: Summary,
    memory: Memory,
}

/// Bytes that a run takes.
#[derive(Serialize)]
struct Memory {
    dtype: &'static str,
    context: usize,
    chunk: usize,
    /// Patches of the largest picture.
    patches: usize,
    /// All of them. In the files' mapping, shared with other processes that use them, but for those unpacked.
    weights: u64,
    /// Codes that were brought to rows, and scales.
    unpacked: u64,
    /// Quantized weights once more, as the CPU multiplies them.
    panels: u64,
    /// By region.
    regions: BTreeMap<&'static str, u64>,
    kv_cache_dtype: &'static str,
    kv_bytes_per_token: u64,
    total: u64,
}

/// Runs the command.
///
/// # Errors
/// Naming the flag or the file.
pub fn run(args: &InspectArgs) -> anyhow::Result<Exit> {
    let (model, files) = open_files(&args.model)?;
    let placement = place(&args.model, &files);
    let images = processor(&files, files.preprocessor_config.as_deref(), &args.pixels)?;
    let context = context(args.context, &files)?;
    let limits = limits(context, &images, 1);
    let summary = Summary::new(&files);
    let loaded = Qwen2Vl::load(&files.config, &files.weights, placement.precision)?;
    let unpacked: usize = files.weights.matrices().map(|m| m.codes().unmapped()).sum();
    let memory = measure(&loaded, &limits, summary.total.bytes, unpacked as u64)?;
    let output = Output { model, folder: files.dir.display().to_string(), summary, memory };
    put_result(&output, args.json, || output.to_string())?;
    Ok(Exit::Success)
}

fn measure(model: &Qwen2Vl, limits: &Limits, weights: u64, unpacked: u64) -> Result<Memory> {
    let (bytes, panels) = (needs(model, limits)?.regions, model.weights.quantized_bytes() as u64);
    Ok(Memory {
        dtype: model.precision.activations.name(),
        context: limits.context,
        chunk: limits.chunk,
        patches: limits.patches,
        weights,
        unpacked,
        panels,
        regions: Region::ALL.into_iter().map(|r| (r.name(), bytes.get(r) as u64)).collect(),
        kv_cache_dtype: model.precision.cache.name(),
        kv_bytes_per_token: model.kv_layout(1, 1).bytes_per_token() as u64,
        total: weights + panels + bytes.total() as u64,
    })
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{}\n{:<12}{}\n{}\n{}", "model", self.model, "folder", self.folder, self.summary, self.memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { dtype, context, chunk, patches, .. } = self;
        let what = format!("{dtype}, {context} tokens, chunks of {chunk}, pictures of {patches} patches");
        writeln!(f, "memory of a run ({what}):")?;
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        writeln!(f, "{:<8}{:>12.2} MiB, mapped from the files", "weights", mib(self.weights - self.unpacked))?;
        if self.unpacked > 0 {
            writeln!(f, "{:<8}{:>12.2} MiB of weights, unpacked from the files", "", mib(self.unpacked))?;
        }
        if self.panels > 0 {
            writeln!(f, "{:<8}{:>12.2} MiB of codes, in panels for the CPU", "", mib(self.panels))?;
        }
        for (name, bytes) in &self.regions {
            writeln!(f, "{name:<8}{:>12.2} MiB", mib(*bytes))?;
        }
        writeln!(f, "{:<8}{:>12.2} MiB", "total", mib(self.total))?;
        writeln!(f, "{:<8}{:>12} bytes a token, {}", "kv", self.kv_bytes_per_token, self.kv_cache_dtype)
    }
}
