//! `osprey merge-lora`: a model folder with a LoRA adapter in its weights. One tensor is in memory at a time, and a run that was cut off goes on where it was.

use super::Exit;
use super::terminal::{Bar, Unit, note, put_json};
use crate::checkpoint::lora::{Adapter, Merged};
use crate::checkpoint::writer::SHARD_BYTES;
use crate::checkpoint::{Declared, FolderWriter, Job, ModelFiles, hub};
use crate::error::Result;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `merge-lora`.
#[derive(Args, Debug)]
pub struct MergeLoraArgs {
    /// Model folder, or hub id `org/name[@revision]`
    #[arg(long, value_name = "DIR|HF_ID")]
    model: String,
    /// Folder with adapter_config.json and adapter_model.safetensors, as PEFT saves them
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder to write: a new one, or that of the same command, cut off
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    model: String,
    adapter: String,
    out: String,
    /// Weights with a low-rank change.
    merged: usize,
    /// Weights that the adapter holds as a whole.
    replaced: usize,
    /// The head was the embedding and is a matrix of its own now.
    untied: bool,
    tensors: usize,
    bytes: u64,
    /// Tensors that an earlier run had written.
    continued_from: usize,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// Naming the flag, the file and the tensor.
pub fn run(args: &MergeLoraArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let files = ModelFiles::open(hub::resolve(&args.model)?)?;
    let adapter = Adapter::open(&args.adapter)?;
    let (changed, replaced) = (adapter.changed(), adapter.replaced());
    let merged = Merged::new(&files, Some(adapter))?;
    let tensors = merged.tensors()?;
    let continued_from = write(&merged, &tensors, &files.dir, &args.out)?;
    let output = Output {
        model: args.model.clone(),
        adapter: args.adapter.display().to_string(),
        out: args.out.display().to_string(),
        merged: changed,
        replaced,
        untied: merged.is_untied(),
        tensors: tensors.len(),
        bytes: tensors.iter().map(Declared::bytes).sum(),
        continued_from,
        seconds: start.elapsed().as_secs_f64(),
    };
    say(&output, args.json)?;
    Ok(Exit::Success)
}

/// Writes the folder; gives how many tensors an earlier run had written.
fn write(merged: &Merged, tensors: &[Declared], source: &Path, out: &Path) -> Result<usize> {
    let mut writer = FolderWriter::open(Job {
        what: "merge-lora",
        source,
        out,
        inputs: &merged.files(),
        config: merged.config_text()?,
        tensors: tensors.to_vec(),
        shard_bytes: SHARD_BYTES,
    })?;
    let (earlier, rest) = tensors.split_at(writer.done());
    let total = tensors.iter().map(Declared::bytes).sum();
    let mut done: u64 = earlier.iter().map(Declared::bytes).sum();
    let mut bar = Bar::new("merging".into(), Unit::Bytes);
    for tensor in rest {
        writer.write(&tensor.name, merged.get(&tensor.name)?.bytes())?;
        done += tensor.bytes();
        bar.set(done, total);
    }
    writer.finish()?;
    Ok(earlier.len())
}

fn say(o: &Output, json: bool) -> anyhow::Result<()> {
    if json {
        return put_json(o);
    }
    if o.untied {
        note("the adapter changes the embedding or the head, which were one matrix: the model now has both");
    }
    let Output { merged, replaced, tensors, out, .. } = o;
    note(&format!("merged {merged} weights, replaced {replaced}; wrote {tensors} tensors to {out}"));
    Ok(())
}
