//! The names of an adapter's tensors: what each is, and which tensor of the model it changes.
//!
//! PEFT saves `base_model.model.PATH.lora_A.weight`; a raw state dict of it has the adapter's name too, `PATH.lora_A.default.weight`. What surprises: patterns
//! of the configuration are matched against PATH as PEFT saw it, which differs between versions of transformers.

use crate::checkpoint::names::canonical;

/// What a tensor of an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `[r, K]`, or `[r, ...]` in place of the first dimension of a convolution's weight.
    A,
    /// `[N, r]`, or `[N, r, 1, ...]` for a convolution.
    B,
    /// `[r, V]` of an embedding.
    EmbeddingA,
    /// `[D, r]` of an embedding.
    EmbeddingB,
    /// Takes the place of the model's tensor.
    Full,
}

/// A tensor's name, understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    pub role: Role,
    /// The path of the module in the model that was trained.
    pub module: String,
    /// The canonical name of the model's tensor.
    pub target: String,
}

/// Takes a name apart; an error says why it is none of plain LoRA.
pub fn parse(name: &str) -> Result<Key, String> {
    let path = name.strip_prefix("base_model.model.").unwrap_or(name);
    let segments: Vec<&str> = path.split('.').collect();
    let Some(at) = segments.iter().position(|s| s.starts_with("lora_")) else { return full(segments) };
    let (role, rest) = match (segments[at], &segments[at + 1..]) {
        ("lora_magnitude_vector", _) => return Err("belongs to DoRA, which cannot be merged".into()),
        ("lora_A", ["weight"] | [_, "weight"]) => (Role::A, "weight"),
        ("lora_B", ["weight"] | [_, "weight"]) => (Role::B, "weight"),
        ("lora_embedding_A", [] | [_]) => (Role::EmbeddingA, "weight"),
        ("lora_embedding_B", [] | [_]) => (Role::EmbeddingB, "weight"),
        _ => return Err("is no tensor of plain LoRA".into()),
    };
    Ok(key(role, &segments[..at], rest))
}

/// A whole tensor: `PATH.weight`, `PATH.base_layer.bias` of a wrapped layer, `PATH.modules_to_save.default.weight`.
fn full(mut segments: Vec<&str>) -> Result<Key, String> {
    if let Some(at) = segments.iter().position(|s| *s == "modules_to_save") {
        segments.drain(at..segments.len().min(at + 2));
    }
    segments.retain(|s| *s != "base_layer");
    match segments.pop() {
        Some(last @ ("weight" | "bias")) if !segments.is_empty() => Ok(key(Role::Full, &segments, last)),
        _ => Err("is neither LoRA nor a weight or a bias".into()),
    }
}

fn key(role: Role, path: &[&str], tensor: &str) -> Key {
    let module = path.join(".");
    Key { role, target: canonical(&format!("{module}.{tensor}")), module }
}
