//! Quantizes a model: layer by layer, each from the inputs that the layers before it, already quantized, give it.
//!
//! Owns the order of the work and what is in memory: the rows of all samples, one layer in f32, and the statistics of its inputs. Refuses to know
//! where samples come from. The surprise: a layer runs as a model of one layer, so that the engine and its plans serve as they are.

mod folder;
mod layer;
mod progress;
mod report;
pub mod single;

pub use report::{Line, Report};

use crate::checkpoint::inventory::expected;
use crate::checkpoint::lora::Merged;
use crate::checkpoint::{Config, StoredMatrix, StoredTensor, Weights};
use crate::cpu::{Cpu, Isa};
use crate::dtype::DType;
use crate::engine::{Engine, Limits, Request};
use crate::error::{Error, Result};
use crate::exec::cpu::CpuExecutor;
use crate::model::Precision;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::quant::grid::{Grid, scale_dtype};
use crate::quant::inputs::Inputs;
use crate::quant::{Activations, Quantized};
use folder::Folder;
use layer::{Changed, PRODUCTS};
use progress::State;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What weights and activations become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    W8A8,
    W8A16,
    W4A16,
}

impl Scheme {
    /// How flags and files call it.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::W8A8 => "w8a8",
            Scheme::W8A16 => "w8a16",
            Scheme::W4A16 => "w4a16",
        }
    }

    const fn bits(self) -> u32 {
        if matches!(self, Scheme::W4A16) { 4 } else { 8 }
    }

    const fn activations(self) -> Activations {
        if matches!(self, Scheme::W8A8) { Activations::Int8 } else { Activations::Float }
    }
}

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Rtn,
    Gptq,
    Awq,
}

impl Method {
    /// How flags call it.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Rtn => "rtn",
            Method::Gptq => "gptq",
            Method::Awq => "awq",
        }
    }
}

/// What a model is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    pub scheme: Scheme,
    /// Columns that share a scale; none: all of a row.
    pub group: Option<usize>,
    pub method: Method,
    /// Groups have zero points.
    pub zeros: bool,
    /// The head becomes int8 with a scale for each row.
    pub head: bool,
}

impl Recipe {
    /// The codes of a matrix that is stored as `dtype`.
    fn grid(&self, dtype: DType) -> Grid {
        Grid { bits: self.scheme.bits(), zeros: self.zeros, scales: scale_dtype(dtype) }
    }

    /// True if samples are needed.
    pub fn calibrates(&self) -> bool {
        self.method != Method::Rtn || self.scheme == Scheme::W8A8
    }

    /// Refuses matrices that groups do not divide, or whose rows do not fill the words that codes are stored in.
    fn check(&self, merged: &Merged) -> Result<()> {
        for name in PRODUCTS.iter().flat_map(|p| p.linears) {
            let name = format!("model.layers.0.{name}.weight");
            let k = merged.declared(&name)?.shape[1];
            let words = 32 / self.scheme.bits() as usize;
            match self.group {
                Some(group) if !k.is_multiple_of(group) => {
                    return Err(Error::request(
                        "--group-size",
                        format!("{group} does not divide the {k} columns of {name}"),
                    ));
                }
                _ if !k.is_multiple_of(words) => {
                    let why = format!("the {k} columns of {name} do not fill 32-bit words");
                    return Err(Error::unsupported(format!("--format {}", self.scheme.name()), why));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A model, samples, and where to write.
pub struct Job<'a> {
    pub merged: &'a Merged,
    /// The model's folder.
    pub source: &'a Path,
    pub out: &'a Path,
    pub recipe: Recipe,
    /// Texts with their pictures; none if nothing is calibrated.
    pub samples: Vec<Request>,
    /// Files that samples come from, pictures too.
    pub inputs: Vec<PathBuf>,
    /// Least and largest area of a picture.
    pub pixels: [u64; 2],
    pub threads: usize,
}

impl Job<'_> {
    /// Of all samples.
    fn tokens(&self) -> usize {
        self.samples.iter().map(|s| s.prompt.ids.len()).sum()
    }
}

/// Does the job, or what an earlier run has left of it. `progress` learns how much of how much is done.
///
/// # Errors
/// Naming the flag, the file or the tensor.
pub fn run(mut job: Job, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    job.recipe.check(job.merged)?;
    let text = &job.merged.config().text;
    let (layers, width) = (text.num_hidden_layers, text.hidden_size);
    let mut folder = Folder::open(&job)?;
    let lengths: Vec<usize> = job.samples.iter().map(|s| s.prompt.ids.len() * width).collect();
    let State { mut rows, mut report, first } = match State::load(job.out, folder.found(), &lengths)? {
        Some(state) => state,
        None => State { rows: embedded(&job)?, report: Report::new(&job), first: 0 },
    };
    // Their rows are all that is read from here on.
    job.samples.iter_mut().for_each(|sample| (sample.media, sample.prompt.spans) = Default::default());
    let job = &job;
    folder.write_before_layers(job.merged)?;
    for layer in first..layers {
        let mut inputs = collect(job, layer, &rows)?;
        let (changed, lines) = layer::quantize(job.merged, layer, &job.recipe, &mut inputs)?;
        drop(inputs);
        report.lines.extend(lines);
        folder.write_layer(job.merged, layer, &changed)?;
        advance(job, layer, &changed, &mut rows)?;
        State::save(job.out, &rows, &report, layer + 1)?;
        progress(layer as u64 + 1, layers as u64);
    }
    report.lines.extend(folder.write_after_layers(job.merged)?);
    State::remove(job.out)?;
    report.write(job.out)?;
    folder.finish()?;
    Ok(report)
}

/// The rows of all samples before the first layer.
fn embedded(job: &Job) -> Result<Vec<Vec<f32>>> {
    let depth = job.merged.config().vision.depth;
    let patches = job.samples.iter().flat_map(|s| &s.media).map(|m| m.grid_thw.iter().product()).max().unwrap_or(0);
    let mut engine = engine(job, 0, depth, patches, &Changed::default())?;
    job.samples.iter().map(|sample| engine.embedded(sample)).collect()
}

/// Statistics of the inputs of a layer's products, by the product's first linear.
fn collect(job: &Job, layer: usize, rows: &[Vec<f32>]) -> Result<BTreeMap<&'static str, Inputs>> {
    let gram = job.recipe.method == Method::Gptq;
    let mut all = BTreeMap::new();
    for product in &PRODUCTS {
        let k = job.merged.declared(&format!("model.layers.{layer}.{}.weight", product.linears[0]))?.shape[1];
        all.insert(product.linears[0], Inputs::new(k, job.tokens(), gram));
    }
    if job.samples.is_empty() {
        return Ok(all);
    }
    let mut engine = engine(job, layer, 0, 0, &Changed::default())?;
    for (sample, rows) in job.samples.iter().zip(rows) {
        let mut tap = |name: &str, x: &[f32]| {
            let of = |first: &str| name.starts_with(&format!("model.layers.0.{first}.weight"));
            all.iter_mut().filter(|(first, _)| of(first)).for_each(|(_, inputs)| inputs.add(x));
        };
        engine.through_layers(sample, &mut rows.clone(), Some(&mut tap))?;
    }
    Ok(all)
}

/// Takes the rows of all samples through the quantized layer.
fn advance(job: &Job, layer: usize, changed: &Changed, rows: &mut [Vec<f32>]) -> Result<()> {
    if job.samples.is_empty() {
        return Ok(());
    }
    let mut engine = engine(job, layer, 0, 0, changed)?;
    job.samples.iter().zip(rows).try_for_each(|(sample, rows)| engine.through_layers(sample, rows, None))
}

/// An engine for one decoder layer, changed or not, and the first `depth` blocks of the tower.
fn engine(job: &Job, layer: usize, depth: usize, patches: usize, changed: &Changed) -> Result<Engine> {
    let longest = job.samples.iter().map(|s| s.prompt.ids.len()).max().unwrap_or(1);
    let model = part_of(job.merged, layer, depth, changed)?;
    let limits = Limits::single(longest, longest, patches, 1);
    Engine::new(model, limits, |needs, weights| {
        Ok(Box::new(CpuExecutor::new(needs.regions, weights, Cpu::new(Isa::detect(), job.threads))?))
    })
}

/// A model whose only decoder layer is layer `layer`, with what `changed` replaces.
fn part_of(merged: &Merged, layer: usize, depth: usize, changed: &Changed) -> Result<Qwen2Vl> {
    let mut config = merged.config().clone();
    (config.text.num_hidden_layers, config.vision.depth, config.tie_word_embeddings) = (1, depth, true);
    let here = format!("model.layers.{layer}.");
    let weights = weights(merged, &config, changed, |name| name.replacen("model.layers.0.", &here, 1))?;
    Qwen2Vl::load(&config, &weights, Precision::new(DType::F32))
}

/// The weights of a model of that config, with what `changed` replaces; `name_of` says what each is called in `merged`.
fn weights(merged: &Merged, config: &Config, changed: &Changed, name_of: impl Fn(&str) -> String) -> Result<Weights> {
    let (mut tensors, mut matrices): (Vec<StoredTensor>, Vec<StoredMatrix>) = Default::default();
    for want in expected(config) {
        let name = name_of(&want.name);
        match (changed.matrices.get(&name), changed.tensors.get(&name)) {
            (Some(codes), _) => matrices.push(StoredMatrix::new(&want.name, Arc::<Quantized>::clone(codes))?),
            (None, Some(tensor)) => tensors.push(tensor.renamed(&want.name)),
            (None, None) => tensors.push(merged.get(&name)?.renamed(&want.name)),
        }
    }
    Weights::from_tensors(config, &tensors, &matrices)
}
