//! A model's weights with an adapter merged in, one at a time, when asked for.
//!
//! `W' = W + scale * (B A)`, all in f32: each element of B A is one chain over the rank from its first index up, then the scale, then W; the result is rounded once
//! to the type of W. What surprises: a model with a tied head gets a head of its own if the adapter touches the embedding or the head, because
//! PEFT's adapters on one do not act on the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::adapter::{Adapter, Delta};
use crate::checkpoint::config::Config;
use crate::checkpoint::inventory::{Part, expected};
use crate::checkpoint::json::{self, shown};
use crate::checkpoint::storage::StoredTensor;
use crate::checkpoint::weights::{ModelFiles, Weights};
use crate::checkpoint::writer::Declared;
use crate::data::TensorData;
use crate::dtype::{DType, Float, widened, with_float};
use crate::error::{Error, Result};

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The weights of a model, changed by an adapter if there is one.
#[derive(Debug)]
pub struct Merged {
    base: Weights,
    adapter: Option<Adapter>,
    config: Config,
    /// The folder of the model.
    dir: PathBuf,
    untied: bool,
}

impl Merged {
    /// Checks an adapter against a model. Fails with the adapter's tensor that the model does not have, or has in another shape.
    /// A model whose weights are quantized is refused.
    pub fn new(files: &ModelFiles, adapter: Option<Adapter>) -> Result<Merged> {
        if let Some(matrix) = files.weights.matrices().next() {
            let what = format!("{}: {}: a change of quantized weights", matrix.file().display(), matrix.name());
            return Err(Error::unsupported(what, "take the bf16 or f16 original"));
        }
        let mut config = files.config.clone();
        let untied = config.tie_word_embeddings && adapter.as_ref().is_some_and(touches_vocabulary);
        if let Some(adapter) = adapter.as_ref().filter(|a| untied && a.ensure_weight_tying) {
            let what = format!("{}: ensure_weight_tying", adapter.config_file.display());
            return Err(Error::unsupported(what, "merge this adapter with PEFT's merge_and_unload"));
        }
        config.tie_word_embeddings &= !untied;
        let merged = Merged { base: files.weights.clone(), adapter, config, dir: files.dir.clone(), untied };
        merged.check()?;
        Ok(merged)
    }

    /// The same with a head of its own where it is tied: a copy of the embedding, for whoever will change only one of them.
    pub fn with_own_head(mut self) -> Merged {
        self.untied |= self.config.tie_word_embeddings;
        self.config.tie_word_embeddings = false;
        self
    }

    /// The configuration of the result.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// True if the model had a tied head and the result has not.
    pub fn is_untied(&self) -> bool {
        self.untied
    }

    /// The text of the result's `config.json`, if it is another than the model's.
    pub fn config_text(&self) -> Result<Option<String>> {
        if self.untied { untied_config(&self.dir).map(Some) } else { Ok(None) }
    }

    /// The files that the weights come from.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.base.tensors().map(|t| t.file().to_path_buf()).collect();
        files.sort();
        files.dedup();
        files.extend(self.adapter.iter().flat_map(Adapter::files));
        files.push(self.dir.join("config.json"));
        files
    }

    /// The tensors of the result, in the order of a forward pass.
    pub fn tensors(&self) -> Result<Vec<Declared>> {
        expected(&self.config).iter().map(|e| self.declared(&e.name)).collect()
    }

    /// Name, type and shape of the tensor of that canonical name; nothing is computed.
    pub fn declared(&self, name: &str) -> Result<Declared> {
        let base = self.base(name)?;
        Ok(Declared { name: name.into(), dtype: base.dtype(), shape: base.shape().to_vec() })
    }

    /// The tensor of that canonical name: in place if the adapter leaves it alone, computed otherwise. Fails if a value is NaN or too large for its type.
    pub fn get(&self, name: &str) -> Result<StoredTensor> {
        let base = self.base(name)?;
        let Some(adapter) = &self.adapter else { return Ok(base.renamed(name)) };
        let (full, delta) = (adapter.full.get(name), adapter.deltas.get(name));
        if full.is_none() && delta.is_none() {
            return Ok(base.renamed(name));
        }
        match changed(full.unwrap_or(base), base.dtype(), delta) {
            Some(data) => StoredTensor::new(name, base.dtype(), base.shape(), data),
            None => {
                let why = format!("with this adapter it has values that are NaN or too large for {}", base.dtype());
                Err(Error::checkpoint(&adapter.file, name, why))
            }
        }
    }

    /// The model's own tensor; that of the embedding for the head of an untied model.
    fn base(&self, name: &str) -> Result<&StoredTensor> {
        self.base.get(if self.untied && name == HEAD { EMBED } else { name })
    }

    fn check(&self) -> Result<()> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let base = |name: &str, tensor: &StoredTensor| {
            let why = || format!("the model has no {}, which it changes", shown(name));
            self.base(name).map_err(|_| Error::checkpoint(tensor.file(), shown(tensor.name()), why()))
        };
        for (name, tensor) in &adapter.full {
            check_shape(tensor, base(name, tensor)?.shape())?;
        }
        for (name, delta) in &adapter.deltas {
            let weight = base(name, &delta.a)?;
            let [a, b] = half_shapes(weight.shape(), delta).ok_or_else(|| {
                let why = format!("{} of shape {:?} takes no such change", shown(name), weight.shape());
                Error::checkpoint(delta.a.file(), shown(delta.a.name()), why)
            })?;
            check_shape(&delta.a, &a)?;
            check_shape(&delta.b, &b)?;
        }
        Ok(())
    }
}

fn touches_vocabulary(adapter: &Adapter) -> bool {
    let names = adapter.deltas.keys().chain(adapter.full.keys());
    names.into_iter().any(|name| matches!(Part::of(name), Part::Embed | Part::Head))
}

fn check_shape(tensor: &StoredTensor, want: &[usize]) -> Result<()> {
    if tensor.shape() == want {
        return Ok(());
    }
    let why =
        format!("shape {:?}, but the model makes it {want:?}: is it an adapter of another model?", tensor.shape());
    Err(Error::checkpoint(tensor.file(), shown(tensor.name()), why))
}

/// The shapes of A and B for a weight; `None` if it is a vector, or an embedding where none is expected.
fn half_shapes(weight: &[usize], delta: &Delta) -> Option<[Vec<usize>; 2]> {
    let (&n, rest) = weight.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let r = delta.rank;
    if delta.embedding {
        let [d] = *rest else { return None };
        return Some([vec![r, n], vec![d, r]]);
    }
    let ones = vec![1; rest.len() - 1];
    Some([[&[r], rest].concat(), [&[n, r], &ones[..]].concat()])
}

/// The result's `config.json`: the model's, with the head untied wherever readers look.
fn untied_config(dir: &Path) -> Result<String> {
    let mut map = json::read_object(&dir.join("config.json"))?;
    map.insert("tie_word_embeddings".into(), json!(false));
    if let Some(Value::Object(text)) = map.get_mut("text_config") {
        text.insert("tie_word_embeddings".into(), json!(false));
    }
    Ok(format!("{:#}\n", Value::Object(map)))
}

/// The bytes of `weight + delta` as `dtype`; `None` if a value is not finite.
fn changed(weight: &StoredTensor, dtype: DType, delta: Option<&Delta>) -> Option<TensorData> {
    let rows = if let [n, _, ..] = *weight.shape() { n } else { 1 };
    let cols = weight.elements() / rows.max(1);
    let update = delta.map(|d| Update::new(d, rows, cols));
    let mut out: Arc<[u8]> = std::iter::repeat_n(0, weight.elements() * dtype.size()).collect();
    let bytes = Arc::get_mut(&mut out)?;
    let finite = AtomicBool::new(true);
    let (from, to) = (cols * weight.dtype().size(), cols * dtype.size());
    bytes.par_chunks_mut(to.max(1)).enumerate().for_each(|(row, to)| {
        let mut w = widened(weight.dtype(), &weight.bytes()[row * from..][..from]);
        if let Some(update) = &update {
            update.add(row, &mut w);
        }
        if !narrow(dtype, &w, to) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner().then(|| TensorData::from_bytes(out))
}

/// A change as rows to combine: row n of it is the sum of `b[n][r]` times row r of `a`.
struct Update {
    /// `[r, K]`.
    a: Vec<f32>,
    /// `[N, r]`.
    b: Vec<f32>,
    rank: usize,
    scale: f32,
}

impl Update {
    fn new(delta: &Delta, rows: usize, cols: usize) -> Update {
        let [a, b] = [&delta.a, &delta.b].map(|t| widened(t.dtype(), t.bytes()));
        let Delta { rank, scale, .. } = *delta;
        match delta.embedding {
            false => Update { a, b, rank, scale },
            true => Update { a: transposed(&b, cols, rank), b: transposed(&a, rank, rows), rank, scale },
        }
    }

    /// Adds row `n` to a row of the weight.
    fn add(&self, n: usize, weight: &mut [f32]) {
        let cols = weight.len();
        let mut product = vec![0f32; cols];
        for (r, &b) in self.b[n * self.rank..][..self.rank].iter().enumerate() {
            for (p, a) in product.iter_mut().zip(&self.a[r * cols..][..cols]) {
                *p += b * a;
            }
        }
        weight.iter_mut().zip(product).for_each(|(w, p)| *w += self.scale * p);
    }
}

/// `[rows, cols]` as `[cols, rows]`.
fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| x[r * cols + c])).collect()
}

/// Rounds values to the nearest of `dtype`, ties to even; true if all are finite.
fn narrow(dtype: DType, values: &[f32], to: &mut [u8]) -> bool {
    fn of<T: Float>(values: &[f32], to: &mut [u8]) -> bool {
        let mut finite = true;
        for (to, &x) in to.chunks_exact_mut(size_of::<T>()).zip(values) {
            let x = T::from_f32(x);
            to.copy_from_slice(bytemuck::bytes_of(&x));
            finite &= x.to_f32().is_finite();
        }
        finite
    }
    with_float!(dtype, T => of::<T>(values, to))
}
