//! The shapes of published models, so that they can be benched without their weights.

use crate::checkpoint::{Config, TextConfig, VisionConfig};
use crate::error::Result;
use clap::ValueEnum;

/// A model's shape.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    #[value(name = "qwen2-vl-2b")]
    Qwen2Vl2b,
    #[value(name = "qwen2-vl-7b")]
    Qwen2Vl7b,
    Demo,
}

/// What differs between the published decoders.
struct Decoder {
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    tied: bool,
}

impl Shape {
    /// As the flag spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Qwen2Vl2b => "qwen2-vl-2b",
            Shape::Qwen2Vl7b => "qwen2-vl-7b",
            Shape::Demo => "demo",
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// If the demo model's is broken.
    pub fn config(self) -> Result<Config> {
        match self {
            Shape::Qwen2Vl2b => {
                Ok(published(&Decoder { hidden: 1536, ffn: 8960, heads: 12, kv_heads: 2, vocab: 151_936, tied: true }))
            }
            Shape::Qwen2Vl7b => Ok(published(&Decoder {
                hidden: 3584,
                ffn: 18944,
                heads: 28,
                kv_heads: 4,
                vocab: 152_064,
                tied: false,
            })),
            Shape::Demo => {
                Config::from_json("models/demo/config.json", include_str!("../../../models/demo/config.json"))
            }
        }
    }
}

/// The tower is the same in all sizes.
fn published(d: &Decoder) -> Config {
    let text = TextConfig {
        hidden_size: d.hidden,
        intermediate_size: d.ffn,
        num_hidden_layers: 28,
        num_attention_heads: d.heads,
        num_key_value_heads: d.kv_heads,
        head_dim: 128,
        vocab_size: d.vocab,
        max_position_embeddings: 32768,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        mrope_section: [16, 24, 24],
    };
    let vision = VisionConfig {
        depth: 32,
        embed_dim: 1280,
        num_heads: 16,
        head_dim: 80,
        mlp_dim: 5120,
        hidden_size: d.hidden,
        in_channels: 3,
        patch_size: 14,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
    };
    Config {
        model_type: "qwen2_vl".into(),
        text,
        vision,
        image_token_id: 151_655,
        video_token_id: 151_656,
        vision_start_token_id: 151_652,
        vision_end_token_id: 151_653,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        pad_token_id: None,
        tie_word_embeddings: d.tied,
        torch_dtype: None,
        quantization: None,
    }
}
