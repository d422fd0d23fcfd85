//! What a checkpoint's `generation_config.json` asks for, where a request does not say how tokens are drawn.

use crate::checkpoint::GenerationConfig;
use crate::engine::Sampling;

/// The checkpoint's sampling. A wanted `temperature` above 0 samples even where the checkpoint is greedy.
pub fn base(config: &GenerationConfig, temperature: Option<f32>) -> Sampling {
    let sample = samples(temperature) || config.do_sample.unwrap_or(false);
    Sampling::from_config(&GenerationConfig { do_sample: Some(sample), ..config.clone() })
}

/// Whether a wanted temperature draws.
pub fn samples(temperature: Option<f32>) -> bool {
    temperature.is_some_and(|t| t > 0.0)
}
