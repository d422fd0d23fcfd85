//! The written folder: Hugging Face's layout with the tensors and the `quantization_config` of compressed-tensors, as transformers and vLLM load it.
//!
//! int4 and int8 for float activations are "pack-quantized": codes above zero by rows, in 32-bit words. int8 for int8 activations is "int-quantized".

use super::layer::{Changed, quantize_head};
use super::{Job, Line, Recipe, Scheme};
use crate::checkpoint::lora::Merged;
use crate::checkpoint::writer::SHARD_BYTES;
use crate::checkpoint::{self, Declared, FolderWriter};
use crate::dtype::{DType, narrowed};
use crate::error::{Error, Result};
use crate::file;
use crate::quant::grid::scale_dtype;
use crate::quant::{Codes, Quantized};
use serde_json::{Map, Value, json};

const HEAD: &str = "lm_head.weight";
/// No config.json is larger.
const MAX_CONFIG: u64 = 64 << 20;

/// A folder that is being written. Tensors that an earlier run has written are passed over.
pub(super) struct Folder {
    writer: FolderWriter,
    recipe: Recipe,
    /// In order.
    plan: Vec<Entry>,
    /// How many of them were given so far.
    next: usize,
}

/// What one tensor becomes.
struct Entry {
    /// Its canonical name.
    name: String,
    /// The layer it belongs to, if it does.
    layer: Option<usize>,
    parts: Vec<Declared>,
    /// Tensors that are written before.
    first: usize,
}

impl Entry {
    fn end(&self) -> usize {
        self.first + self.parts.len()
    }
}

impl Folder {
    /// Begins or continues the folder of a job.
    pub fn open(job: &Job) -> Result<Folder> {
        let recipe = job.recipe;
        let plan = plan(job.merged, &recipe)?;
        let Recipe { scheme, group, method, zeros, head } = recipe;
        let [least, most] = job.pixels;
        let what = format!(
            "quantize {} group {group:?} {} zeros {zeros} head {head} samples {} of {} tokens, pictures of {least} to {most} pixels",
            scheme.name(),
            method.name(),
            job.samples.len(),
            job.tokens(),
        );
        let mut inputs = job.merged.files();
        inputs.extend(job.inputs.iter().cloned());
        let writer = FolderWriter::open(checkpoint::Job {
            what: &what,
            source: job.source,
            out: job.out,
            inputs: &inputs,
            config: Some(config(job, &recipe)?),
            tensors: plan.iter().flat_map(|entry| entry.parts.clone()).collect(),
            shard_bytes: SHARD_BYTES,
        })?;
        Ok(Folder { writer, recipe, plan, next: 0 })
    }

    /// How many layers an earlier run has written whole.
    pub fn found(&self) -> usize {
        let unfinished = self.plan.iter().find(|entry| entry.layer.is_some() && entry.end() > self.writer.done());
        let layers = || self.plan.iter().filter_map(|entry| entry.layer).max().map_or(0, |last| last + 1);
        unfinished.and_then(|entry| entry.layer).unwrap_or_else(layers)
    }

    /// Writes the tower and the embedding.
    pub fn write_before_layers(&mut self, merged: &Merged) -> Result<()> {
        while self.plan[self.next].layer.is_none() {
            self.copy(merged)?;
        }
        Ok(())
    }

    /// Writes a layer; those before it that an earlier run has written are passed over.
    pub fn write_layer(&mut self, merged: &Merged, layer: usize, changed: &Changed) -> Result<()> {
        while self.plan[self.next].layer.is_some_and(|l| l < layer) {
            self.next += 1;
        }
        while self.plan[self.next].layer == Some(layer) {
            let name = &self.plan[self.next].name;
            if let Some(codes) = changed.matrices.get(name) {
                let dtype = merged.declared(name)?.dtype;
                self.give(&parts(codes, dtype))?;
            } else if let Some(tensor) = changed.tensors.get(name) {
                self.give(&[tensor.bytes().to_vec()])?;
            } else {
                self.copy(merged)?;
            }
        }
        self.writer.commit()
    }

    /// Writes the norm and the head.
    pub fn write_after_layers(&mut self, merged: &Merged) -> Result<Option<Line>> {
        let mut line = None;
        while let Some(entry) = self.plan.get(self.next) {
            if entry.layer.is_some() {
                self.next += 1;
            } else if entry.name == HEAD && self.recipe.head {
                let head = merged.get(HEAD)?;
                let (codes, of_head) = quantize_head(&head, &self.recipe);
                line = Some(of_head);
                self.give(&parts(&codes, head.dtype()))?;
            } else {
                self.copy(merged)?;
            }
        }
        Ok(line)
    }

    /// Completes it.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()
    }

    fn copy(&mut self, merged: &Merged) -> Result<()> {
        let entry = &self.plan[self.next];
        if entry.end() <= self.writer.done() {
            self.next += 1;
            return Ok(());
        }
        self.give(&[merged.get(&entry.name)?.bytes().to_vec()])
    }

    /// Writes the tensors that the next one became.
    fn give(&mut self, parts: &[Vec<u8>]) -> Result<()> {
        let entry = &self.plan[self.next];
        for (i, (declared, bytes)) in entry.parts.iter().zip(parts).enumerate() {
            if entry.first + i == self.writer.done() {
                self.writer.write(&declared.name, bytes)?;
            }
        }
        self.next += 1;
        Ok(())
    }
}

/// The layer of a tensor's name.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// What becomes of every tensor, in the order of a forward pass.
fn plan(merged: &Merged, recipe: &Recipe) -> Result<Vec<Entry>> {
    let mut plan: Vec<Entry> = Vec::new();
    for t in merged.tensors()? {
        let layer = layer_of(&t.name);
        let of_layer = layer.is_some() && t.name.ends_with("_proj.weight");
        let parts = match (of_layer, t.name == HEAD && recipe.head) {
            (true, _) => {
                let packed = recipe.scheme != Scheme::W8A8;
                declared(&t, packed, recipe.scheme.bits() as usize, recipe.group, recipe.zeros)
            }
            (_, true) => declared(&t, true, 8, None, false),
            _ => vec![t.clone()],
        };
        plan.push(Entry { name: t.name, layer, parts, first: plan.last().map_or(0, Entry::end) });
    }
    Ok(plan)
}

/// The tensors of a linear in codes.
fn declared(t: &Declared, packed: bool, bits: usize, group: Option<usize>, zeros: bool) -> Vec<Declared> {
    let (n, k) = (t.shape[0], t.shape[1]);
    let groups = k / group.unwrap_or(k);
    let scales = scale_dtype(t.dtype);
    let part =
        |suffix: &str, dtype, shape: &[usize]| Declared { name: t.name.clone() + suffix, dtype, shape: shape.to_vec() };
    if !packed {
        return vec![part("", DType::I8, &[n, k]), part("_scale", scales, &[n, 1])];
    }
    let mut parts = vec![part("_packed", DType::I32, &[n, k * bits / 32]), part("_scale", scales, &[n, groups])];
    if zeros {
        parts.push(part("_zero_point", DType::I32, &[(n * bits).div_ceil(32), groups]));
    }
    parts.push(part("_shape", DType::I64, &[2]));
    parts
}

/// The bytes of the tensors of a linear in codes, in the order of [`declared`].
fn parts(q: &Quantized, dtype: DType) -> Vec<Vec<u8>> {
    let mut parts = vec![q.codes.bytes().to_vec(), narrowed(scale_dtype(dtype), &q.scales)];
    if let Codes::I8(_) = q.codes {
        return parts;
    }
    parts.extend(q.zeros.as_ref().map(|zeros| packed_zeros(zeros, q)));
    parts.push([q.n, q.k].iter().flat_map(|&n| (n as i64).to_le_bytes()).collect());
    parts
}

/// Zero points in 32-bit words down the rows: `[ceil(N / per word), groups]`.
fn packed_zeros(zeros: &[u8], q: &Quantized) -> Vec<u8> {
    let (bits, groups) = (if matches!(q.codes, Codes::U4(_)) { 4 } else { 8 }, q.groups());
    let per_word = 32 / bits;
    let word = |first: usize, group: usize| {
        let rows = (first..q.n.min(first + per_word)).enumerate();
        rows.fold(0u32, |word, (i, n)| word | (zeros[n * groups + group] as u32) << (bits * i))
    };
    let words = (0..q.n).step_by(per_word).flat_map(|first| (0..groups).map(move |group| word(first, group)));
    words.flat_map(u32::to_le_bytes).collect()
}

/// The model's config.json with how it was quantized.
fn config(job: &Job, recipe: &Recipe) -> Result<String> {
    let path = job.source.join("config.json");
    let text = match job.merged.config_text()? {
        Some(text) => text,
        None => file::read_text(&path, MAX_CONFIG)?,
    };
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, "JSON", e.to_string()))?;
    config.insert("quantization_config".into(), quantization_config(recipe));
    Ok(format!("{:#}\n", Value::Object(config)))
}

fn quantization_config(recipe: &Recipe) -> Value {
    let weights = |bits: u32, group: Option<usize>, symmetric: bool| {
        json!({
            "num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": false,
            "strategy": if group.is_some() { "group" } else { "channel" }, "group_size": group,
            "block_structure": null, "actorder": null, "observer": "minmax", "observer_kwargs": {},
        })
    };
    let int8 = recipe.scheme == Scheme::W8A8;
    let activations = json!({
        "num_bits": 8, "type": "int", "symmetric": true, "dynamic": true, "strategy": "token", "group_size": null,
        "block_structure": null, "actorder": null, "observer": null, "observer_kwargs": {},
    });
    let format = if int8 { "int-quantized" } else { "pack-quantized" };
    let mut groups = json!({ "group_0": {
        "targets": ["Linear"], "format": format,
        "weights": weights(recipe.scheme.bits(), recipe.group, !recipe.zeros),
        "input_activations": if int8 { activations } else { Value::Null }, "output_activations": null,
    }});
    let mut ignore = vec!["re:.*visual.*"];
    if recipe.head {
        groups["group_1"] = json!({
            "targets": ["re:.*lm_head"], "format": "pack-quantized", "weights": weights(8, None, true),
            "input_activations": null, "output_activations": null,
        });
    } else {
        ignore.push("lm_head");
    }
    json!({
        "quant_method": "compressed-tensors", "quantization_status": "compressed",
        "format": if recipe.head && int8 { "mixed-precision" } else { format },
        "config_groups": groups, "ignore": ignore, "kv_cache_scheme": null, "global_compression_ratio": null,
    })
}
