//! Qwen2-VL: which parts it is made of.

use super::text::Decoder;
use super::vision::VisionTower;
use super::{KvLayout, Precision, WeightLoader};
use crate::checkpoint::{Config, Weights};
use crate::error::Result;
use crate::weights::WeightSet;
use std::sync::Arc;

/// A Qwen2-VL model: verified weights with identities, and the two recorders.
#[derive(Debug)]
pub struct Qwen2Vl {
    pub config: Config,
    pub weights: Arc<WeightSet>,
    pub precision: Precision,
    pub tower: VisionTower,
    pub decoder: Decoder,
}

impl Qwen2Vl {
    /// Gives the tensors of a verified checkpoint their identities; nothing is copied.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::error::Error::Checkpoint) naming a tensor that is missing.
    pub fn load(config: &Config, tensors: &Weights, precision: Precision) -> Result<Self> {
        let mut loader = WeightLoader { tensors, set: WeightSet::default() };
        let tower = VisionTower::load(&mut loader, &config.vision)?;
        let decoder = Decoder::load(&mut loader, &config.text, config.tie_word_embeddings)?;
        Ok(Qwen2Vl { config: config.clone(), weights: Arc::new(loader.set), precision, tower, decoder })
    }

    /// The cache for a number of blocks.
    pub fn kv_layout(&self, blocks: usize, block_size: usize) -> KvLayout {
        let t = &self.config.text;
        KvLayout {
            layers: t.num_hidden_layers,
            blocks,
            kv_heads: t.num_key_value_heads,
            block_size,
            head_dim: t.head_dim,
            dtype: self.precision.cache,
        }
    }
}
