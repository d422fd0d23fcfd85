//! A model folder, opened: config, verified tensors under canonical names, and where the tokenizer's and processor's files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::generation::GenerationConfig;
use super::safetensors::Checkpoint;
use super::storage::{StoredMatrix, StoredTensor, rows};
use super::verify::{Verified, verify};
use crate::error::{Error, Result};
use crate::quant::Values;

/// Exactly what a config asks for, by canonical name, shapes and dtypes checked: floats as stored, and matrices in codes.
#[derive(Debug, Clone)]
pub struct Weights {
    source: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    matrices: BTreeMap<String, StoredMatrix>,
}

impl Weights {
    /// Checks a checkpoint against `config`. Fails with file and tensor if one is missing, left over, ambiguous, or of another shape.
    pub fn from_checkpoint(config: &Config, checkpoint: &Checkpoint) -> Result<Weights> {
        Weights::verified(config, checkpoint.source(), checkpoint.tensors(), &[])
    }

    /// The same check for tensors and matrices in memory (random weights, tests).
    pub fn from_tensors(config: &Config, tensors: &[StoredTensor], matrices: &[StoredMatrix]) -> Result<Weights> {
        Weights::verified(config, Path::new("memory"), tensors.iter(), matrices)
    }

    fn verified<'a>(
        config: &Config,
        source: &Path,
        tensors: impl Iterator<Item = &'a StoredTensor>,
        matrices: &[StoredMatrix],
    ) -> Result<Weights> {
        let Verified { tensors, matrices } = verify(config, source, tensors, matrices)?;
        Ok(Weights { source: source.to_path_buf(), tensors, matrices })
    }

    /// The floats of that canonical name; an error that names it if the model has none.
    pub fn get(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| self.unknown(name))
    }

    /// The values of a matrix `[n, k]`, floats or codes. A convolution's trailing dimensions are its columns; a vector has one.
    ///
    /// # Errors
    /// Naming the tensor if the model has none of that canonical name.
    pub fn values(&self, name: &str) -> Result<(Values, usize, usize)> {
        if let Some(matrix) = self.matrices.get(name) {
            let codes = matrix.codes();
            return Ok((Values::Quantized(codes.clone()), codes.n, codes.k));
        }
        let tensor = self.get(name)?;
        let (n, k) = rows(tensor.shape());
        Ok((Values::Float(tensor.data().clone(), tensor.dtype()), n, k))
    }

    /// The file that holds what has that canonical name.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn file(&self, name: &str) -> Result<&Path> {
        self.matrices.get(name).map_or_else(|| Ok(self.get(name)?.file()), |m| Ok(m.file()))
    }

    fn unknown(&self, name: &str) -> Error {
        Error::checkpoint(&self.source, name, "is no tensor of this model")
    }

    /// All that are floats, ordered by canonical name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// All that are codes, ordered by canonical name.
    pub fn matrices(&self) -> impl ExactSizeIterator<Item = &StoredMatrix> {
        self.matrices.values()
    }

    /// Bytes of all tensors and matrices.
    pub fn bytes(&self) -> u64 {
        let floats = self.tensors().map(|t| t.data().len()).sum::<usize>();
        (floats + self.matrices().map(|m| m.codes().bytes()).sum::<usize>()) as u64
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
    /// Reads and checks config and weights of a model folder. Nothing of the weights is read but their headers, and codes that
    /// must be unpacked.
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
