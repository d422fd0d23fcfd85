//! From flags to an opened model, and from limits to an engine. Opening maps the weights and reads only their headers, unless codes must be unpacked.

use super::args::{CacheDtype, ContextArgs, Dtype, ModelArgs, PixelArgs};
use super::device::{self, Placement};
use crate::checkpoint::{ModelFiles, hub};
use crate::dtype::DType;
use crate::engine::{Engine, Limits};
use crate::error::{Error, Result};
use crate::intake::Model;
use crate::media::patches::ImageProcessor;
use crate::model::Precision;
use crate::model::qwen2_vl::Qwen2Vl;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Prompt tokens per prefill step when generating.
pub const CHUNK: usize = 512;
/// Tokens of a conversation unless `--context` says otherwise.
const CONTEXT: usize = 8192;

/// An opened model, and where it runs. What is asked of the model goes through to it.
pub struct Loaded {
    pub model: Model,
    pub placement: Placement,
    /// Time that opening took.
    pub elapsed: Duration,
}

impl Deref for Loaded {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl Loaded {
    /// Opens the model that the flags name.
    ///
    /// # Errors
    /// Naming the flag or the file.
    pub fn open(args: &ModelArgs, pixels: &PixelArgs) -> Result<Loaded> {
        let start = Instant::now();
        let (name, files) = open_files(args)?;
        let placement = place(args, &files);
        let model = Model {
            name,
            tokenizer: Tokenizer::load(&files.dir)?,
            template: ChatTemplate::load(&files.dir)?,
            images: processor(&files, files.preprocessor_config.as_deref(), pixels)?,
            videos: processor(&files, video_config(&files), pixels)?,
            files,
        };
        Ok(Loaded { model, placement, elapsed: start.elapsed() })
    }

    /// An engine with room for `limits`.
    ///
    /// # Errors
    /// As [`device::engine`].
    pub fn engine(&self, limits: Limits) -> Result<Engine> {
        engine(&self.model, &self.placement, limits)
    }
}

/// An engine for a model, put where `placement` says, with room for `limits`.
///
/// # Errors
/// As [`device::engine`].
pub fn engine(model: &Model, placement: &Placement, limits: Limits) -> Result<Engine> {
    let model = Qwen2Vl::load(&model.files.config, &model.files.weights, placement.precision)?;
    device::engine(model, limits, placement)
}

/// The folder of `--model`, opened, and its name.
///
/// # Errors
/// Naming the flag or the file.
pub fn open_files(args: &ModelArgs) -> Result<(String, ModelFiles)> {
    let (name, dir) = match &args.model {
        Some(model) => (model.clone(), hub::resolve(model)?),
        None => ("demo".into(), demo()?),
    };
    // Opening unpacks codes on the threads that work later.
    use_threads(args.threads);
    Ok((name, ModelFiles::open(dir)?))
}

/// The bundled demo model: beside the executable, or in the source tree that it was built from.
fn demo() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models/demo")));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let found = beside.into_iter().chain([built]).find(|dir| dir.join("model.safetensors").is_file());
    found.ok_or_else(|| {
        let why = "is not given, and the demo model (models/demo beside the executable or in its source tree) is missing: \
                   pass a model folder or a hub id";
        Error::request("--model", why)
    })
}

/// Device, storage types and threads.
pub fn place(args: &ModelArgs, files: &ModelFiles) -> Placement {
    let dtype = match args.dtype {
        Dtype::Auto => files.config.torch_dtype.unwrap_or_else(|| most_bytes(files)),
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::Bf16,
        Dtype::F16 => DType::F16,
    };
    let threads = use_threads(args.threads);
    let precision = match args.kv_cache_dtype {
        CacheDtype::Auto => Precision::new(dtype),
        CacheDtype::Int8 => Precision::new(dtype).int8_cache(),
    };
    Placement { device: args.device, lockstep: args.lockstep, precision, threads }
}

/// Sets the number of threads for pictures too, and gives it.
pub fn use_threads(threads: Option<u64>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.map_or_else(cores, |n| n as usize);
    // Fails only if the pool exists already: then it has this size.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    threads
}

/// The type that most of the weights have.
fn most_bytes(files: &ModelFiles) -> DType {
    let bytes = |d: DType| files.weights.tensors().filter(|t| t.dtype() == d).map(|t| t.bytes().len()).sum::<usize>();
    [DType::F32, DType::F16, DType::Bf16].into_iter().max_by_key(|d| bytes(*d)).unwrap_or(DType::F32)
}

/// The file that rules videos; without one of their own, that of images.
fn video_config(files: &ModelFiles) -> Option<&Path> {
    files.video_preprocessor_config.as_deref().or(files.preprocessor_config.as_deref())
}

/// The processor of a file, with the limits of the flags.
///
/// # Errors
/// Naming the flag, or the field of the file that contradicts config.json.
pub fn processor(files: &ModelFiles, file: Option<&Path>, pixels: &PixelArgs) -> Result<ImageProcessor> {
    let vision = &files.config.vision;
    let read = match file {
        Some(file) => ImageProcessor::from_file(file)?,
        None => ImageProcessor::default(),
    };
    let sides = [
        ("patch_size", read.patch, vision.patch_size),
        ("temporal_patch_size", read.temporal_patch, vision.temporal_patch_size),
        ("merge_size", read.merge, vision.spatial_merge_size),
    ];
    if let Some((at, have, want)) = sides.into_iter().find(|(_, have, want)| have != want) {
        let file = file.map_or_else(|| files.dir.join("preprocessor_config.json"), Path::to_path_buf);
        return Err(Error::checkpoint(file, at, format!("{have}, but config.json makes it {want}")));
    }
    match (pixels.min_pixels, pixels.max_pixels) {
        (Some(min), Some(max)) if min > max => {
            Err(Error::request("--min-pixels", format!("{min} is above --max-pixels {max}")))
        }
        (min, max) => read.with_pixels(min, max),
    }
}

/// Tokens of a conversation: `--context` if given, else 8192 or what the model can.
///
/// # Errors
/// [`Error::Request`] above the model's limit.
pub fn context(args: ContextArgs, files: &ModelFiles) -> Result<usize> {
    let most = files.config.text.max_position_embeddings;
    let context = args.context.map_or(CONTEXT.min(most), |n| n as usize);
    if context > most {
        let why = format!("{context} is above {most}, max_position_embeddings of config.json");
        return Err(Error::request("--context", why));
    }
    Ok(context)
}

/// What an engine for conversations of so many tokens must have room for; `samples` rows of a step may have logits.
pub fn limits(context: usize, images: &ImageProcessor, samples: usize) -> Limits {
    let chunk = CHUNK.min(context);
    Limits::single(context, chunk, patches_within(images, context), samples.min(chunk))
}

/// Patches of the largest picture that a processor makes and a context of so many tokens has room for: one that does not fit into the
/// context needs no room in the tower either.
fn patches_within(p: &ImageProcessor, context: usize) -> usize {
    largest_patches(p).min(context.saturating_mul(p.merge.pow(2)))
}

/// Patches of the largest picture that a processor makes, a little more than `max_pixels` where a thin or a tiny one is enlarged.
fn largest_patches(p: &ImageProcessor) -> usize {
    // Sides differ at most 200-fold and are multiples of the factor.
    let (factor, ratio) = (p.factor() as f64, 200f64.sqrt());
    let thin = factor * (p.max_pixels as f64).sqrt() * ratio;
    let enlarged =
        p.min_pixels as f64 + factor * (p.min_pixels as f64).sqrt() * (ratio + 1.0 / ratio) + factor * factor;
    let pixels = (p.max_pixels as f64).max(thin).max(enlarged);
    (pixels / (p.patch * p.patch) as f64).ceil() as usize
}
