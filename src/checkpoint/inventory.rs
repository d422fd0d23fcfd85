//! Which tensors a Qwen2-VL of a given config has.

use serde::Serialize;

use super::config::{Config, TextConfig, VisionConfig};

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
