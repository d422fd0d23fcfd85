//! The check that a checkpoint has exactly the tensors of its model, each under its canonical name.
//!
//! What a model has says the inventory; how codes of a linear layer lie says `quantized`. The surprise: what loaders recompute, a tied head's copy and
//! the zero biases that quantizers add are dropped, and everything else that is left over is an error.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::config::Config;
use super::inventory::{Expected, Kind, expected};
use super::json::shown;
use super::names::canonical;
use super::quantized;
use super::storage::{StoredMatrix, StoredTensor, rows};
use crate::error::{Error, Result};

/// What a checkpoint has of a model, by canonical name.
pub(crate) struct Verified {
    pub tensors: BTreeMap<String, StoredTensor>,
    pub matrices: BTreeMap<String, StoredMatrix>,
}

/// Brings `tensors` to canonical names and checks them and `matrices` against `config`: none missing, none left over, floats or the codes of linear
/// layers, equal shapes.
///
/// Buffers that loaders recompute and the copy of a tied head are dropped. `source` is the file that messages about missing tensors name.
pub(crate) fn verify<'a>(
    config: &Config,
    source: &Path,
    tensors: impl Iterator<Item = &'a StoredTensor>,
    matrices: &[StoredMatrix],
) -> Result<Verified> {
    let expected = expected(config);
    let mut found = by_name(config, tensors)?;
    let imported = quantized::import(config, &expected, &mut found)?;
    let mut codes: BTreeMap<&str, &StoredMatrix> = imported.iter().chain(matrices).map(|m| (m.name(), m)).collect();
    drop_absent_biases(&expected, &mut found)?;
    let mut verified = Verified { tensors: BTreeMap::new(), matrices: BTreeMap::new() };
    let mut missing = Vec::new();
    for want in expected {
        if let Some(matrix) = codes.remove(want.name.as_str()) {
            check_codes(&want, matrix)?;
            verified.matrices.insert(want.name, matrix.clone());
        } else if let Some(tensor) = found.remove(&want.name) {
            check(&want, tensor)?;
            verified.tensors.insert(want.name.clone(), tensor.renamed(&want.name));
        } else {
            missing.push(want.name);
        }
    }
    refuse_missing(source, &missing)?;
    let left = found.values().map(|t| (t.file(), t.name())).chain(codes.values().map(|m| (m.file(), m.name())));
    refuse_unexpected(left.collect())?;
    Ok(verified)
}

fn by_name<'a>(
    config: &Config,
    tensors: impl Iterator<Item = &'a StoredTensor>,
) -> Result<BTreeMap<String, &'a StoredTensor>> {
    let mut found: BTreeMap<String, &StoredTensor> = BTreeMap::new();
    for tensor in tensors {
        let name = canonical(tensor.name());
        if ignorable(config, &name) {
            continue;
        }
        if let Some(first) = found.insert(name.clone(), tensor) {
            let why = format!("is the same tensor as {}: both are {}", shown(first.name()), shown(&name));
            return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
        }
    }
    Ok(found)
}

/// Drops biases of linear layers that have none in this model, as quantizers store them, if they are zero.
fn drop_absent_biases(expected: &[Expected], found: &mut BTreeMap<String, &StoredTensor>) -> Result<()> {
    let names: HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
    for linear in expected.iter().filter(|e| e.kind == Kind::Linear) {
        let Some(layer) = linear.name.strip_suffix(".weight") else { continue };
        let bias = format!("{layer}.bias");
        if names.contains(bias.as_str()) {
            continue;
        }
        if let Some(tensor) = found.remove(&bias)
            && tensor.bytes().iter().any(|&byte| byte != 0)
        {
            let why = "is not zero, but this layer has no bias in the model";
            return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
        }
    }
    Ok(())
}

fn check_codes(want: &Expected, matrix: &StoredMatrix) -> Result<()> {
    let (have, shape) = ((matrix.codes().n, matrix.codes().k), rows(&want.shape));
    let why = if want.kind != Kind::Linear {
        "is quantized, but only linear layers may be".into()
    } else if have != shape {
        format!("codes of {have:?}, but config.json makes it {:?}", want.shape)
    } else {
        return Ok(());
    };
    Err(Error::checkpoint(matrix.file(), matrix.name(), why))
}

fn ignorable(config: &Config, name: &str) -> bool {
    name.ends_with(".inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

fn check(want: &Expected, tensor: &StoredTensor) -> Result<()> {
    if tensor.shape() != want.shape {
        let why = format!("shape {:?}, but config.json makes it {:?}", tensor.shape(), want.shape);
        return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
    }
    if !tensor.dtype().is_float() {
        let why = format!("dtype {}, but weights must be f32, bf16 or f16", tensor.dtype());
        return Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why));
    }
    Ok(())
}

fn refuse_missing(source: &Path, missing: &[String]) -> Result<()> {
    let Some(first) = missing.first() else { return Ok(()) };
    let why = format!("is missing{}", others(missing.iter().map(String::as_str)));
    Err(Error::checkpoint(source, first, why))
}

fn refuse_unexpected(mut left: Vec<(&Path, &str)>) -> Result<()> {
    left.sort_by_key(|(_, name)| *name);
    let Some((file, first)) = left.first() else { return Ok(()) };
    let why = format!("is no tensor of this model{}", others(left.iter().map(|(_, name)| *name)));
    Err(Error::checkpoint(file, shown(first), why))
}

/// ", and so are 7 more: a, b, ..." for all but the first name; nothing if there is only one.
fn others<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len() - 1;
    if more == 0 {
        return String::new();
    }
    let few: Vec<String> = names.skip(1).take(3).map(shown).collect();
    let dots = if more > few.len() { ", ..." } else { "" };
    format!(", and so are {more} more: {}{dots}", few.join(", "))
}
