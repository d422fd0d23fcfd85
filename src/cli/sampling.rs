//! How tokens are drawn, and who said so: a flag, the checkpoint's generation_config.json, or the default of transformers.

use super::args::SamplingArgs;
use crate::checkpoint::GenerationConfig;
use crate::engine::Sampling;
use crate::intake::sampling;
use serde::Serialize;
use std::fmt;

/// Answers end here unless `--max-new-tokens` says otherwise.
pub const MAX_NEW_TOKENS: usize = 512;

const FLAG: &str = "flag";
const CHECKPOINT: &str = "generation_config.json";
const DEFAULT: &str = "default";

/// Sampling parameters with their sources.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    #[serde(skip)]
    pub sampling: Sampling,
    temperature: Sourced<f32>,
    top_p: Sourced<f32>,
    top_k: Sourced<u32>,
    min_p: Sourced<f32>,
    repetition_penalty: Sourced<f32>,
    seed: Sourced<u64>,
}

/// A value and who said it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sourced<T> {
    value: T,
    source: &'static str,
}

impl<T> Sourced<T> {
    /// A flag wins over the checkpoint's value; `stated` says whether the checkpoint gave one.
    fn new(flag: Option<T>, value: T, stated: bool) -> Self {
        match flag {
            Some(value) => Sourced { value, source: FLAG },
            None => Sourced { value, source: if stated { CHECKPOINT } else { DEFAULT } },
        }
    }
}

impl Choice {
    /// The checkpoint's values, overridden by flags. A `--temperature` above 0 samples even where the checkpoint is greedy.
    pub fn new(config: &GenerationConfig, flags: &SamplingArgs) -> Choice {
        let asked = sampling::samples(flags.temperature);
        let do_sample = config.do_sample.unwrap_or(false);
        let base = sampling::base(config, flags.temperature);
        let stated = |given: bool| given && (asked || do_sample);
        let temperature = Sourced::new(flags.temperature, base.temperature, !do_sample || config.temperature.is_some());
        let top_p = Sourced::new(flags.top_p, base.top_p, stated(config.top_p.is_some()));
        let top_k = Sourced::new(flags.top_k, base.top_k, stated(config.top_k.is_some()));
        let min_p = Sourced::new(flags.min_p, base.min_p, stated(config.min_p.is_some()));
        let stated = config.repetition_penalty.is_some();
        let repetition_penalty = Sourced::new(flags.repetition_penalty, base.repetition_penalty, stated);
        let seed = Sourced::new(flags.seed, base.seed, false);
        let sampling = Sampling {
            temperature: temperature.value,
            top_k: top_k.value,
            top_p: top_p.value,
            min_p: min_p.value,
            repetition_penalty: repetition_penalty.value,
            seed: seed.value,
        };
        Choice { sampling, temperature, top_p, top_k, min_p, repetition_penalty, seed }
    }

    /// Why a `--temperature` above 0 changes nothing, if the checkpoint's other values see to that.
    pub fn without_effect(&self) -> Option<String> {
        let asked = self.temperature.source == FLAG && self.temperature.value > 0.0;
        let single = self.top_k.value == 1 && self.top_k.source == CHECKPOINT;
        (asked && single).then(|| {
            format!("note: top_k 1 of {CHECKPOINT} leaves one token whatever the temperature: pass --top-k and --top-p")
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "temperature {} ({})", self.temperature.value, self.temperature.source)?;
        write!(f, ", top_p {} ({})", self.top_p.value, self.top_p.source)?;
        write!(f, ", top_k {} ({})", self.top_k.value, self.top_k.source)?;
        write!(f, ", min_p {} ({})", self.min_p.value, self.min_p.source)?;
        write!(f, ", repetition_penalty {} ({})", self.repetition_penalty.value, self.repetition_penalty.source)?;
        write!(f, ", seed {} ({})", self.seed.value, self.seed.source)
    }
}
