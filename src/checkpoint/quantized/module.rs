//! The tensors of one quantized layer, looked up with their shapes: every error names the tensor.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::json::shown;
use crate::checkpoint::storage::StoredTensor;
use crate::dtype::{DType, widened};
use crate::error::{Error, Result};

/// A linear layer `[n, k]`.
pub(super) struct Module<'a> {
    /// Canonical, without `.weight`.
    pub name: String,
    pub n: usize,
    pub k: usize,
    /// By what follows the name and a dot; at least one.
    pub tensors: BTreeMap<String, &'a StoredTensor>,
}

impl<'a> Module<'a> {
    /// One of its tensors.
    pub fn get(&self, suffix: &str) -> Option<&'a StoredTensor> {
        self.tensors.get(suffix).copied()
    }

    /// What follows the name in each of its tensors.
    pub fn suffixes(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The first of them.
    pub fn first(&self) -> &str {
        self.suffixes().next().unwrap_or_default()
    }

    /// The file of one of its tensors.
    pub fn file(&self) -> &'a Path {
        self.tensors.values().next().map_or(Path::new("memory"), |t| t.file())
    }

    /// An error about one of its tensors, there or not.
    pub fn error(&self, suffix: &str, why: impl Into<String>) -> Error {
        match self.get(suffix) {
            Some(t) => Error::checkpoint(t.file(), shown(t.name()), why),
            None => Error::checkpoint(self.file(), format!("{}.{suffix}", self.name), why),
        }
    }

    /// A tensor of one of these types and this shape; `says` names the fields that the shape follows from.
    pub fn tensor(&self, suffix: &str, dtypes: &[DType], shape: &[usize], says: &str) -> Result<&'a StoredTensor> {
        let Some(t) = self.get(suffix) else { return Err(self.error(suffix, "is missing")) };
        if !dtypes.contains(&t.dtype()) {
            let names: Vec<&str> = dtypes.iter().map(|d| d.name()).collect();
            return Err(self.error(suffix, format!("dtype {}, expected {}", t.dtype(), names.join(" or "))));
        }
        if t.shape() != shape {
            let (n, k) = (self.n, self.k);
            let why = format!("shape {:?}, but {says} and a layer of [{n}, {k}] make it {shape:?}", t.shape());
            return Err(self.error(suffix, why));
        }
        Ok(t)
    }

    /// Words of 32 bits, in place.
    pub fn words(&self, suffix: &str, shape: [usize; 2], says: &str) -> Result<&'a StoredTensor> {
        self.tensor(suffix, &[DType::I32], &shape, says)
    }

    /// Scales in f32, which has every 16-bit one exactly.
    pub fn scales(&self, suffix: &str, shape: [usize; 2], says: &str) -> Result<Vec<f32>> {
        let t = self.tensor(suffix, &[DType::F16, DType::Bf16, DType::F32], &shape, says)?;
        let scales = widened(t.dtype(), t.bytes());
        match scales.iter().position(|s| !s.is_finite()) {
            Some(i) => Err(self.error(suffix, format!("element {i} is {}, which is no scale", scales[i]))),
            None => Ok(scales),
        }
    }

    /// Groups of a row; `-1` (none) makes the row one group.
    pub fn group(&self, suffix: &str, size: Option<usize>) -> Result<usize> {
        let group = size.unwrap_or(self.k);
        if self.k.is_multiple_of(group) {
            return Ok(group);
        }
        let why = format!("its {} columns do not split into groups of {group} (quantization_config)", self.k);
        Err(self.error(suffix, why))
    }

    /// The columns sorted by group, those of a group in their order; none if they lie so. Every group must have `group` columns.
    pub fn order(&self, suffix: &str, group: usize) -> Result<Option<Arc<[u32]>>> {
        let of = self.tensor(suffix, &[DType::I32], &[self.k], "quantization_config")?;
        let of: Vec<i32> = bytemuck::pod_collect_to_vec(of.bytes());
        let mut sizes = vec![0; self.k / group];
        for (column, &g) in of.iter().enumerate() {
            let Some(size) = usize::try_from(g).ok().and_then(|g| sizes.get_mut(g)) else {
                let why = format!("column {column} is in group {g}, but there are {}", self.k / group);
                return Err(self.error(suffix, why));
            };
            *size += 1;
        }
        if let Some(g) = sizes.iter().position(|&size| size != group) {
            let why = format!("group {g} has {} columns, but quantization_config makes it {group}", sizes[g]);
            return Err(self.error(suffix, why));
        }
        let mut order: Vec<u32> = (0..self.k as u32).collect();
        order.sort_by_key(|&column| of[column as usize]);
        Ok((!order.is_sorted()).then(|| order.into()))
    }
}
