//! Which tensors a Qwen2-VL of a given config has, and the check that a checkpoint has exactly those.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::config::{Config, TextConfig, VisionConfig};
use super::json::shown;
use super::names::canonical;
use super::quantized;
use super::storage::{StoredMatrix, StoredTensor};
use super::weights::rows;
use crate::error::{Error, Result};

/// The part of the model that a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Embed,
    Text,
    Head,
    Vision,
}

impl Part {
    /// The part of a canonical name.
    pub fn of(name: &str) -> Part {
        match name.split('.').next() {
            Some("visual") => Part::Vision,
            Some("lm_head") => Part::Head,
            _ if name.starts_with("model.embed_tokens.") => Part::Embed,
            _ => Part::Text,
        }
    }

    /// How tables and JSON call it.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Embed => "embed",
            Part::Text => "text",
            Part::Head => "head",
            Part::Vision => "vision",
        }
    }
}

/// What a tensor is to the op that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `[N, K]` of a linear layer: the output is `x W^T`. The patch embedding's `[N, C, t, h, w]` is one too.
    Linear,
    /// `[N]`, added to a linear layer's output.
    Bias,
    /// `[D]`, the scale of a norm.
    Norm,
    /// `[D]`, the shift of a layer norm.
    NormBias,
    /// `[V, D]`, rows looked up by token.
    Embedding,
}

/// One tensor that a model must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Canonical name.
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub part: Part,
}

/// Every tensor of a model of that config, in the order in which a forward pass meets them: vision, embedding, layers, norm, head.
pub fn expected(config: &Config) -> Vec<Expected> {
    let mut list = List(Vec::new());
    vision(&mut list, &config.vision);
    let t = &config.text;
    list.add(Kind::Embedding, "model.embed_tokens.weight", &[t.vocab_size, t.hidden_size]);
    for n in 0..t.num_hidden_layers {
        text_layer(&mut list, t, &format!("model.layers.{n}"));
    }
    list.add(Kind::Norm, "model.norm.weight", &[t.hidden_size]);
    if !config.tie_word_embeddings {
        list.add(Kind::Linear, "lm_head.weight", &[t.vocab_size, t.hidden_size]);
    }
    list.0
}

struct List(Vec<Expected>);

impl List {
    fn add(&mut self, kind: Kind, name: &str, shape: &[usize]) {
        self.0.push(Expected { name: name.to_string(), shape: shape.to_vec(), kind, part: Part::of(name) });
    }

    fn linear(&mut self, name: &str, n: usize, k: usize) {
        self.add(Kind::Linear, &format!("{name}.weight"), &[n, k]);
    }

    fn bias(&mut self, name: &str, n: usize) {
        self.add(Kind::Bias, &format!("{name}.bias"), &[n]);
    }

    fn layer_norm(&mut self, name: &str, d: usize) {
        self.add(Kind::Norm, &format!("{name}.weight"), &[d]);
        self.add(Kind::NormBias, &format!("{name}.bias"), &[d]);
    }

    fn vision_linear(&mut self, name: &str, n: usize, k: usize) {
        self.linear(name, n, k);
        self.bias(name, n);
    }
}

fn text_layer(list: &mut List, t: &TextConfig, at: &str) {
    let (d, ffn) = (t.hidden_size, t.intermediate_size);
    list.add(Kind::Norm, &format!("{at}.input_layernorm.weight"), &[d]);
    for (proj, width) in [("q_proj", t.q_dim()), ("k_proj", t.kv_dim()), ("v_proj", t.kv_dim())] {
        list.linear(&format!("{at}.self_attn.{proj}"), width, d);
        list.bias(&format!("{at}.self_attn.{proj}"), width);
    }
    list.linear(&format!("{at}.self_attn.o_proj"), d, t.q_dim());
    list.add(Kind::Norm, &format!("{at}.post_attention_layernorm.weight"), &[d]);
    list.linear(&format!("{at}.mlp.gate_proj"), ffn, d);
    list.linear(&format!("{at}.mlp.up_proj"), ffn, d);
    list.linear(&format!("{at}.mlp.down_proj"), d, ffn);
}

fn vision(list: &mut List, v: &VisionConfig) {
    let e = v.embed_dim;
    let patch = [e, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size];
    list.add(Kind::Linear, "visual.patch_embed.proj.weight", &patch);
    for n in 0..v.depth {
        let at = format!("visual.blocks.{n}");
        list.layer_norm(&format!("{at}.norm1"), e);
        list.vision_linear(&format!("{at}.attn.qkv"), 3 * e, e);
        list.vision_linear(&format!("{at}.attn.proj"), e, e);
        list.layer_norm(&format!("{at}.norm2"), e);
        list.vision_linear(&format!("{at}.mlp.fc1"), v.mlp_dim, e);
        list.vision_linear(&format!("{at}.mlp.fc2"), e, v.mlp_dim);
    }
    list.layer_norm("visual.merger.ln_q", e);
    list.vision_linear("visual.merger.mlp.0", v.merged_dim(), v.merged_dim());
    list.vision_linear("visual.merger.mlp.2", v.hidden_size, v.merged_dim());
}

/// What a checkpoint has of a model, by canonical name.
pub(crate) struct Inventory {
    pub tensors: BTreeMap<String, StoredTensor>,
    pub matrices: BTreeMap<String, StoredMatrix>,
}

/// Brings `tensors` to canonical names and checks them and `matrices` against `config`: none missing, none left over, floats or the codes of linear
/// layers, equal shapes.
///
/// Buffers that loaders recompute and the copy of a tied head are dropped. `source` is the file that messages about missing tensors name.
pub(crate) fn verify<'a>(
    config: &Config,
    source: &Path,
    tensors: impl Iterator<Item = &'a StoredTensor>,
    matrices: &[StoredMatrix],
) -> Result<Inventory> {
    let expected = expected(config);
    let mut found = by_name(config, tensors)?;
    let imported = quantized::import(config, &expected, &mut found)?;
    let mut codes: BTreeMap<&str, &StoredMatrix> = imported.iter().chain(matrices).map(|m| (m.name(), m)).collect();
    drop_absent_biases(&expected, &mut found)?;
    let mut verified = Inventory { tensors: BTreeMap::new(), matrices: BTreeMap::new() };
    let mut missing = Vec::new();
    for want in expected {
        if let Some(matrix) = codes.remove(want.name.as_str()) {
            check_codes(&want, matrix)?;
            verified.matrices.insert(want.name, matrix.clone());
        } else if let Some(tensor) = found.remove(&want.name) {
            check(&want, tensor)?;
            verified.tensors.insert(want.name.clone(), tensor.renamed(&want.name));
        } else {
            missing.push(want.name);
        }
    }
    refuse_missing(source, &missing)?;
    let left = found.values().map(|t| (t.file(), t.name())).chain(codes.values().map(|m| (m.file(), m.name())));
    refuse_unexpected(left.collect())?;
    Ok(verified)
}

fn by_name<'a>(
    config: &Config,
    tensors: impl Iterator<Item = &'a StoredTensor>,
) -> Result<BTreeMap<String, &'a StoredTensor>> {
    let mut found: BTreeMap<String, &StoredTensor> = BTreeMap::new();
    for tensor in tensors {
        let name = canonical(tensor.name());
        if ignorable(config, &name) {
            continue;
        }
        if let Some(first) = found.insert(name.clone(), tensor) {
            let why = format!("is the same tensor as {}: both are {}", shown(first.name()), shown(&name));
            return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
        }
    }
    Ok(found)
}

/// Drops biases of linear layers that have none in this model, as quantizers store them, if they are zero.
fn drop_absent_biases(expected: &[Expected], found: &mut BTreeMap<String, &StoredTensor>) -> Result<()> {
    let names: HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
    for linear in expected.iter().filter(|e| e.kind == Kind::Linear) {
        let Some(layer) = linear.name.strip_suffix(".weight") else { continue };
        let bias = format!("{layer}.bias");
        if names.contains(bias.as_str()) {
            continue;
        }
        if let Some(tensor) = found.remove(&bias)
            && tensor.bytes().iter().any(|&byte| byte != 0)
        {
            let why = "is not zero, but this layer has no bias in the model";
            return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
        }
    }
    Ok(())
}

fn check_codes(want: &Expected, matrix: &StoredMatrix) -> Result<()> {
    let (have, shape) = ((matrix.codes().n, matrix.codes().k), rows(&want.shape));
    let why = if want.kind != Kind::Linear {
        "is quantized, but only linear layers may be".into()
    } else if have != shape {
        format!("codes of {have:?}, but config.json makes it {:?}", want.shape)
    } else {
        return Ok(());
    };
    Err(Error::checkpoint(matrix.file(), matrix.name(), why))
}

fn ignorable(config: &Config, name: &str) -> bool {
    name.ends_with(".inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

fn check(want: &Expected, tensor: &StoredTensor) -> Result<()> {
    if tensor.shape() != want.shape {
        let why = format!("shape {:?}, but config.json makes it {:?}", tensor.shape(), want.shape);
        return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
    }
    if !tensor.dtype().is_float() {
        let why = format!("dtype {}, but weights must be f32, bf16 or f16", tensor.dtype());
        return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
    }
    Ok(())
}

fn refuse_missing(source: &Path, missing: &[String]) -> Result<()> {
    let Some(first) = missing.first() else { return Ok(()) };
    let why = format!("is missing{}", others(missing.iter().map(String::as_str)));
    Err(Error::checkpoint(source, first, why))
}

fn refuse_unexpected(mut left: Vec<(&Path, &str)>) -> Result<()> {
    left.sort_by_key(|(_, name)| *name);
    let Some((file, first)) = left.first() else { return Ok(()) };
    let why = format!("is no tensor of this model{}", others(left.iter().map(|(_, name)| *name)));
    Err(Error::checkpoint(file, shown(first), why))
}

/// ", and so are 7 more: a, b, ..." for all but the first name; nothing if there is only one.
fn others<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len() - 1;
    if more == 0 {
        return String::new();
    }
    let few: Vec<String> = names.skip(1).take(3).map(shown).collect();
    let dots = if more > few.len() { ", ..." } else { "" };
    format!(", and so are {more} more: {}{dots}", few.join(", "))
}
