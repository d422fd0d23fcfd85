//! The tensors of a model folder: one `model.safetensors`, or the shards that an index names, mapped and fully checked before use.
//!
//! Knows nothing of models: names are as stored, and what they should be is the inventory's business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{self, MAX_TENSORS};
use super::index::{INDEX, Index};
use super::json::shown;
use super::storage::{StoredTensor, map_file};
use crate::error::{Error, Result};

/// The name of an unsharded checkpoint in a model folder.
pub(crate) const SINGLE: &str = "model.safetensors";

/// The tensors of a model folder by their stored names, mapped read-only.
#[derive(Debug)]
pub struct Checkpoint {
    source: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Opens `model.safetensors` in `dir`, or else the shards of `model.safetensors.index.json`. Everything is checked: headers, shapes,
    /// sizes, overlaps, and that index and shards agree.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint> {
        let dir = dir.as_ref();
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.exists() {
            Checkpoint::open_file(&single)
        } else if index.exists() {
            open_shards(dir, index)
        } else {
            Err(no_weights(dir))
        }
    }

    /// Opens one safetensors file.
    pub fn open_file(file: impl AsRef<Path>) -> Result<Checkpoint> {
        let file = file.as_ref();
        let mut tensors = BTreeMap::new();
        add_file(file, &mut tensors)?;
        Ok(Checkpoint { source: file.to_path_buf(), tensors })
    }

    /// The file that lists the tensors: the single file or the index.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True if there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensor of that stored name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All tensors, ordered by stored name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values()
    }
}

fn no_weights(dir: &Path) -> Error {
    let why = if ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|f| dir.join(f).exists()) {
        "only pickled PyTorch weights here: convert them to safetensors first".to_string()
    } else {
        format!("neither {SINGLE} nor {INDEX} is in this folder")
    };
    Error::checkpoint(dir, "weights", why)
}

fn add_file(file: &Path, tensors: &mut BTreeMap<String, StoredTensor>) -> Result<()> {
    let map = map_file(file)?;
    let entries = header::parse(file, &map)?;
    if tensors.len() + entries.len() > MAX_TENSORS {
        return Err(Error::checkpoint(file, "header", format!("more than {MAX_TENSORS} tensors")));
    }
    let shared: Arc<Path> = file.into();
    for entry in entries {
        if let Some(first) = tensors.get(&entry.name) {
            let why = format!("is also in {}", first.file().display());
            return Err(Error::checkpoint(file, shown(&entry.name), why));
        }
        tensors.insert(entry.name.clone(), StoredTensor::in_file(&shared, &map, entry));
    }
    Ok(())
}

fn open_shards(dir: &Path, source: PathBuf) -> Result<Checkpoint> {
    let index = Index::open(&source)?;
    let mut tensors = BTreeMap::new();
    for shard in index.shards() {
        let file = dir.join(shard);
        if !file.exists() {
            return Err(Error::checkpoint(&source, "weight_map", format!("shard {shard} is not in this folder")));
        }
        add_file(&file, &mut tensors)?;
    }
    check_index(&source, &index, &tensors)?;
    Ok(Checkpoint { source, tensors })
}

/// Index and shards must list the same tensors in the same files.
fn check_index(source: &Path, index: &Index, tensors: &BTreeMap<String, StoredTensor>) -> Result<()> {
    for (name, shard) in &index.weight_map {
        let why = match tensors.get(name) {
            None => format!("the index puts it into {shard}, which does not hold it"),
            Some(t) if t.file().file_name() != Some(shard.as_ref()) => {
                format!("the index puts it into {shard}, but it is in {}", t.file().display())
            }
            Some(_) => continue,
        };
        return Err(Error::checkpoint(source, shown(name), why));
    }
    match tensors.values().find(|t| !index.weight_map.contains_key(t.name())) {
        Some(extra) => Err(Error::checkpoint(extra.file(), shown(extra.name()), format!("is not listed in {INDEX}"))),
        None => Ok(()),
    }
}
