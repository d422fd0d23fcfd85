//! Tensor names: whatever wrapper a tool put around them, they become the published on-disk names of Qwen2-VL.
//!
//! The canonical roots are `model.embed_tokens`, `model.layers.N`, `model.norm`, `lm_head` and `visual`. Newer transformers, quantisers, LoRA
//! tools and ColQwen2 exports save the same tensors under any nesting of the wrappers below.

/// Path segments that say where a module sits in a wrapper class, and nothing about the tensor.
const WRAPPERS: [&str; 4] = ["base_model", "vlm", "model", "language_model"];

/// The canonical name of a stored tensor; a name of no known root comes back unchanged.
pub fn canonical(name: &str) -> String {
    let mut rest = name;
    while let Some((head, tail)) = rest.split_once('.') {
        match head {
            "visual" | "lm_head" => return rest.to_string(),
            "embed_tokens" | "layers" | "norm" => return format!("model.{rest}"),
            _ if WRAPPERS.contains(&head) => rest = tail,
            _ => break,
        }
    }
    name.to_string()
}
