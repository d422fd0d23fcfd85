//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::json::{self, shown};
use crate::error::{Error, Result};

/// The name of the index in a model folder.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The largest number of shards that is opened.
const MAX_SHARDS: usize = 1024;

/// Tensor name to shard, a plain file name.
pub(crate) struct Index {
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads and checks the index file.
    pub fn open(file: &Path) -> Result<Index> {
        let text = json::read_text(file)?;
        let raw: Raw =
            serde_json::from_str(&text).map_err(|e| Error::checkpoint(file, "weight_map", shown(&e.to_string())))?;
        let index = Index { weight_map: raw.weight_map.0 };
        for (tensor, shard) in &index.weight_map {
            if !is_plain(shard) {
                let why = format!(
                    "{}: shard \"{}\" must be the name of a .safetensors file in this folder",
                    shown(tensor),
                    shown(shard)
                );
                return Err(Error::checkpoint(file, "weight_map", why));
            }
        }
        match index.shards().len() {
            0 => Err(Error::checkpoint(file, "weight_map", "is empty")),
            n if n > MAX_SHARDS => {
                Err(Error::checkpoint(file, "weight_map", format!("{n} shards are more than {MAX_SHARDS}")))
            }
            _ => Ok(index),
        }
    }

    /// The shards, each once, in order.
    pub fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// True for a name that cannot leave its folder. (The file itself may be a symlink: the hub's cache is made of them.)
fn is_plain(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    name.ends_with(".safetensors") && !name.starts_with('.') && name.len() <= 255 && !name.contains(bad)
}

#[derive(Deserialize)]
struct Raw {
    weight_map: UniqueMap,
}

/// A map of strings that refuses a key that occurs twice.
struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = UniqueMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueMap, A::Error> {
        let mut out = BTreeMap::new();
        while let Some((name, shard)) = map.next_entry::<String, String>()? {
            if out.contains_key(&name) {
                return Err(de::Error::custom(format!("{} occurs twice", shown(&name))));
            }
            out.insert(name, shard);
        }
        Ok(UniqueMap(out))
    }
}
