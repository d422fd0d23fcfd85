//! Writes tiny checkpoints, true and false ones. The tensor list is spelled out here and not taken from the code under test.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// One tensor to write.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
}

impl Tensor {
    pub fn new(name: &str, dtype: &'static str, shape: &[u64]) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec() }
    }

    fn bytes(&self) -> u64 {
        let size = match self.dtype {
            "I64" => 8,
            "F32" | "I32" => 4,
            "I8" | "U8" => 1,
            _ => 2,
        };
        self.shape.iter().product::<u64>() * size
    }
}

/// A flat config as it is published, of one layer and one block.
pub fn config() -> Value {
    json!({
        "model_type": "qwen2_vl", "hidden_act": "silu", "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 20, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 1,
        "bos_token_id": 1, "eos_token_id": 2,
        "vision_start_token_id": 10, "vision_end_token_id": 11, "vision_token_id": 12, "image_token_id": 13, "video_token_id": 14,
        "vision_config": {"depth": 1, "embed_dim": 8, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3, "hidden_size": 16, "patch_size": 2,
            "spatial_merge_size": 2, "spatial_patch_size": 2, "temporal_patch_size": 2}
    })
}

/// The same as transformers 4.57 saves it: text fields in `text_config`, rope type "default".
pub fn nested_config() -> Value {
    let Value::Object(flat) = config() else { unreachable!() };
    let top = ["model_type", "vision_config", "torch_dtype"];
    let (mut outer, mut text) = (Map::new(), Map::new());
    for (key, value) in flat {
        let goes_up = top.contains(&key.as_str()) || (key.ends_with("_token_id") && key.starts_with(['v', 'i']));
        if goes_up { &mut outer } else { &mut text }.insert(key, value);
    }
    text.insert("model_type".into(), json!("qwen2_vl_text"));
    text.insert("rope_scaling".into(), json!({"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}));
    text.insert("sliding_window".into(), Value::Null);
    text.insert("layer_types".into(), json!(["full_attention"]));
    outer.insert("text_config".into(), Value::Object(text));
    let dtype = outer.remove("torch_dtype").unwrap();
    outer.insert("dtype".into(), dtype);
    Value::Object(outer)
}

/// All tensors of [`config`] under their published names.
pub fn tensors() -> Vec<Tensor> {
    let list: [(&str, &[u64]); 34] = [
        ("lm_head.weight", &[20, 16]),
        ("model.embed_tokens.weight", &[20, 16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 12]),
        ("model.layers.0.mlp.gate_proj.weight", &[12, 16]),
        ("model.layers.0.mlp.up_proj.weight", &[12, 16]),
        ("model.layers.0.post_attention_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.k_proj.bias", &[8]),
        ("model.layers.0.self_attn.k_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.o_proj.weight", &[16, 16]),
        ("model.layers.0.self_attn.q_proj.bias", &[16]),
        ("model.layers.0.self_attn.q_proj.weight", &[16, 16]),
        ("model.layers.0.self_attn.v_proj.bias", &[8]),
        ("model.layers.0.self_attn.v_proj.weight", &[8, 16]),
        ("model.norm.weight", &[16]),
        ("visual.blocks.0.attn.proj.bias", &[8]),
        ("visual.blocks.0.attn.proj.weight", &[8, 8]),
        ("visual.blocks.0.attn.qkv.bias", &[24]),
        ("visual.blocks.0.attn.qkv.weight", &[24, 8]),
        ("visual.blocks.0.mlp.fc1.bias", &[16]),
        ("visual.blocks.0.mlp.fc1.weight", &[16, 8]),
        ("visual.blocks.0.mlp.fc2.bias", &[8]),
        ("visual.blocks.0.mlp.fc2.weight", &[8, 16]),
        ("visual.blocks.0.norm1.bias", &[8]),
        ("visual.blocks.0.norm1.weight", &[8]),
        ("visual.blocks.0.norm2.bias", &[8]),
        ("visual.blocks.0.norm2.weight", &[8]),
        ("visual.merger.ln_q.bias", &[8]),
        ("visual.merger.ln_q.weight", &[8]),
        ("visual.merger.mlp.0.bias", &[32]),
        ("visual.merger.mlp.0.weight", &[32, 32]),
        ("visual.merger.mlp.2.bias", &[16]),
        ("visual.merger.mlp.2.weight", &[16, 32]),
        ("visual.patch_embed.proj.weight", &[8, 3, 2, 2, 2]),
    ];
    list.iter().map(|(name, shape)| Tensor::new(name, "BF16", shape)).collect()
}

/// The header and the data of a safetensors file; byte i of the data is `i % 251`.
pub fn safetensors(tensors: &[Tensor]) -> (Map<String, Value>, Vec<u8>) {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for t in tensors {
        let end = at + t.bytes();
        header.insert(t.name.clone(), json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, end]}));
        at = end;
    }
    (header, (0..at).map(|i| (i % 251) as u8).collect())
}

/// Header text and data as one file.
pub fn join(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A whole valid file.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let (header, data) = safetensors(tensors);
    join(&Value::Object(header).to_string(), &data)
}

/// Writes config and one safetensors file.
pub fn write_single(dir: &Path, config: &Value, tensors: &[Tensor]) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("model.safetensors"), file(tensors)).unwrap();
}

/// Writes config and two shards with their index; returns the index's text.
pub fn write_shards(dir: &Path, config: &Value, tensors: &[Tensor]) -> String {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut map = Map::new();
    for (n, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let shard = format!("model-{:05}-of-00002.safetensors", n + 1);
        fs::write(dir.join(&shard), file(part)).unwrap();
        map.extend(part.iter().map(|t| (t.name.clone(), json!(shard))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    fs::write(dir.join("model.safetensors.index.json"), &index).unwrap();
    index
}
