//! An adapter's folder, opened: every tensor of `adapter_model.safetensors` understood and paired. Nothing is read but the headers.
//!
//! What does not fit together within the adapter is refused here, what does not fit the model in `merged.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::{Biases, CONFIG, LoraConfig};
use super::keys::{self, Key, Role};
use crate::checkpoint::inventory::Part;
use crate::checkpoint::json::shown;
use crate::checkpoint::safetensors::Checkpoint;
use crate::checkpoint::storage::StoredTensor;
use crate::error::{Error, Result};

/// The tensors in an adapter's folder.
const TENSORS: &str = "adapter_model.safetensors";

/// A low-rank change of one weight: scale * B A.
#[derive(Debug)]
pub struct Delta {
    pub a: StoredTensor,
    pub b: StoredTensor,
    pub rank: usize,
    pub scale: f32,
    /// The weight is an embedding, `[V, D]`: its change is the transpose of B A.
    pub embedding: bool,
}

/// A LoRA adapter. Weights are named by the canonical names of the model's tensors.
#[derive(Debug)]
pub struct Adapter {
    pub(super) file: PathBuf,
    pub(super) config_file: PathBuf,
    pub(super) deltas: BTreeMap<String, Delta>,
    /// Tensors that take the place of the model's: `modules_to_save`, and trained biases.
    pub(super) full: BTreeMap<String, StoredTensor>,
    pub(super) ensure_weight_tying: bool,
}

impl Adapter {
    /// Opens the folder that PEFT's `save_pretrained` wrote. Fails with the field or the tensor that is missing, contradicts another one, or is not plain LoRA.
    pub fn open(dir: impl AsRef<Path>) -> Result<Adapter> {
        let dir = dir.as_ref();
        let (config, file) = (LoraConfig::open(dir)?, dir.join(TENSORS));
        if !file.exists() && dir.join("adapter_model.bin").exists() {
            let why =
                format!("{TENSORS} is not in this folder, only a pickled adapter_model.bin: save it as safetensors");
            return Err(Error::checkpoint(dir, "adapter", why));
        }
        let mut parts = Parts::new(&config);
        for tensor in Checkpoint::open_file(&file)?.tensors() {
            parts.add(tensor).map_err(|why| Error::checkpoint(&file, shown(tensor.name()), why))?;
        }
        parts.join(file, dir.join(CONFIG))
    }

    /// The files that it is made of.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.file.clone(), self.config_file.clone()]
    }

    /// Weights that get a low-rank change.
    pub fn changed(&self) -> usize {
        self.deltas.len()
    }

    /// Weights that are replaced.
    pub fn replaced(&self) -> usize {
        self.full.len()
    }
}

/// What the file holds, while it is read.
struct Parts<'a> {
    config: &'a LoraConfig,
    pairs: BTreeMap<String, Pair>,
    full: BTreeMap<String, StoredTensor>,
    /// By entry of `modules_to_save`: the file has a tensor of it.
    saved: Vec<bool>,
}

/// The two halves of a change.
#[derive(Default)]
struct Pair {
    module: String,
    a: Option<StoredTensor>,
    b: Option<StoredTensor>,
    embedding: bool,
}

impl<'a> Parts<'a> {
    fn new(config: &'a LoraConfig) -> Self {
        let saved = vec![false; config.modules_to_save.len()];
        Parts { config, pairs: BTreeMap::new(), full: BTreeMap::new(), saved }
    }

    /// Takes one tensor; an error says what is wrong with it.
    fn add(&mut self, tensor: &StoredTensor) -> Result<(), String> {
        let key = keys::parse(tensor.name())?;
        if !tensor.dtype().is_float() {
            return Err(format!("dtype {}, but adapters must be f32, bf16 or f16", tensor.dtype()));
        }
        let earlier = if key.role == Role::Full {
            self.check_allowed(&key)?;
            self.full.insert(key.target, tensor.clone())
        } else {
            self.add_half(key, tensor)
        };
        earlier.map_or(Ok(()), |t| Err(format!("changes the same tensor as {}", shown(t.name()))))
    }

    /// A whole tensor must be one that the configuration says was trained, or the embedding or head, which PEFT adds where LoRA is on them.
    fn check_allowed(&mut self, key: &Key) -> Result<(), String> {
        let mut listed = false;
        for (entry, saved) in self.config.modules_to_save.iter().zip(&mut self.saved) {
            if is_part_of(&key.module, entry) {
                (listed, *saved) = (true, true);
            }
        }
        let bias = key.target.ends_with(".bias") && self.config.biases == Biases::Trained;
        if listed || bias || matches!(Part::of(&key.target), Part::Embed | Part::Head) {
            return Ok(());
        }
        Err(format!("is a whole tensor, but {CONFIG} lists it neither in modules_to_save nor in bias"))
    }

    /// Notes half a change; gives the tensor that was there already.
    fn add_half(&mut self, key: Key, tensor: &StoredTensor) -> Option<StoredTensor> {
        let embedding = matches!(key.role, Role::EmbeddingA | Role::EmbeddingB);
        let new = || Pair { module: key.module, embedding, ..Pair::default() };
        let pair = self.pairs.entry(key.target).or_insert_with(new);
        if pair.embedding != embedding {
            return pair.a.take().or(pair.b.take());
        }
        let half = if matches!(key.role, Role::A | Role::EmbeddingA) { &mut pair.a } else { &mut pair.b };
        half.replace(tensor.clone())
    }

    fn join(self, file: PathBuf, config_file: PathBuf) -> Result<Adapter> {
        let config = self.config;
        if let Some(at) = self.saved.iter().position(|s| !s) {
            let why = format!("\"{}\" has no tensor in {TENSORS}", shown(&config.modules_to_save[at]));
            return Err(Error::checkpoint(config_file, "modules_to_save", why));
        }
        if self.pairs.is_empty() && self.full.is_empty() {
            return Err(Error::checkpoint(&file, "adapter", "holds no tensor at all"));
        }
        let delta = |(name, pair)| Ok((name, pair_up(config, pair)?));
        let deltas = self.pairs.into_iter().map(delta).collect::<Result<_>>()?;
        Ok(Adapter { file, config_file, deltas, full: self.full, ensure_weight_tying: config.ensure_weight_tying })
    }
}

/// True if the module's name, or that of one that it is part of, ends with an entry of `modules_to_save`, as in PEFT.
fn is_part_of(module: &str, entry: &str) -> bool {
    let mut ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
    ends.any(|end| module[..end].ends_with(entry))
}

fn pair_up(config: &LoraConfig, pair: Pair) -> Result<Delta> {
    let lacks = |t: &StoredTensor, other: &str| {
        Err(Error::checkpoint(t.file(), shown(t.name()), format!("has no lora_{other}")))
    };
    let Pair { module, a, b, embedding } = pair;
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) => return lacks(&a, "B"),
        (None, Some(b)) => return lacks(&b, "A"),
        (None, None) => unreachable!("a pair begins with one half"),
    };
    let rank = config.rank(&module);
    for (tensor, at) in [(&a, 0), (&b, 1)] {
        if tensor.shape().get(at) != Some(&rank) {
            let why =
                format!("shape {:?}, but {CONFIG} makes rank {rank}, which is dimension {at} of it", tensor.shape());
            return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
        }
    }
    Ok(Delta { rank, scale: config.scale(&module), a, b, embedding })
}
