//! A model folder, opened: config, verified tensors under canonical names, and where the tokenizer's and processor's files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::generation::GenerationConfig;
use super::inventory;
use super::safetensors::Checkpoint;
use super::storage::StoredTensor;
use crate::error::{Error, Result};

/// Exactly the tensors that a config asks for, by canonical name, shapes and dtypes checked.
#[derive(Debug, Clone)]
pub struct Weights {
    source: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Weights {
    /// Checks a checkpoint against `config`. Fails with file and tensor if one is missing, left over, ambiguous, or of another shape.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint) -> Result<Weights> {
        let tensors = inventory::verify(config, checkpoint.source(), checkpoint.tensors())?;
        Ok(Weights { source: checkpoint.source().to_path_buf(), tensors })
    }

    /// The same check for tensors in memory (random weights, tests).
    pub fn from_tensors(config: &Config, tensors: &[StoredTensor]) -> Result<Weights> {
        let source = PathBuf::from("memory");
        let tensors = inventory::verify(config, &source, tensors.iter())?;
        Ok(Weights { source, tensors })
    }

    /// The tensor of that canonical name; an error that names it if the model has none.
    pub fn get(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| Error::checkpoint(&self.source, name, "is no tensor of this model"))
    }

    /// All tensors, ordered by canonical name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|t| t.data().len() as u64).sum()
    }
}

/// An opened model folder. The paths are `None` where the folder lacks the file.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    pub dir: PathBuf,
    pub config: Config,
    pub generation: GenerationConfig,
    pub weights: Weights,
    pub tokenizer: Option<PathBuf>,
    pub tokenizer_config: Option<PathBuf>,
    pub preprocessor_config: Option<PathBuf>,
    pub video_preprocessor_config: Option<PathBuf>,
    pub chat_template_json: Option<PathBuf>,
    pub chat_template_jinja: Option<PathBuf>,
}

impl ModelFiles {
    /// Reads and checks config and weights of a model folder. Nothing of the weights is read but their headers.
    pub fn open(dir: impl AsRef<Path>) -> Result<ModelFiles> {
        let dir = dir.as_ref();
        let config = Config::open(dir)?;
        let generation = GenerationConfig::open(dir)?;
        let weights = Weights::from_checkpoint(&config, &Checkpoint::open(dir)?)?;
        let find = |name: &str| Some(dir.join(name)).filter(|p| p.is_file());
        Ok(ModelFiles {
            dir: dir.to_path_buf(),
            config,
            generation,
            weights,
            tokenizer: find("tokenizer.json"),
            tokenizer_config: find("tokenizer_config.json"),
            preprocessor_config: find("preprocessor_config.json"),
            video_preprocessor_config: find("video_preprocessor_config.json"),
            chat_template_json: find("chat_template.json"),
            chat_template_jinja: find("chat_template.jinja"),
        })
    }

    /// The tokens that end a text: those of `generation_config.json`, or else of `config.json`.
    pub fn eos_token_ids(&self) -> &[u32] {
        if self.generation.eos_token_ids.is_empty() {
            &self.config.eos_token_ids
        } else {
            &self.generation.eos_token_ids
        }
    }
}
