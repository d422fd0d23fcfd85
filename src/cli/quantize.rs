//! `osprey quantize`: a model folder with int8 or int4 weights, in the format of compressed-tensors. A run that was cut off goes on where it was.

use super::Exit;
use super::args::{CacheDtype, Device, Dtype, HeadFormat, ModelArgs, PixelArgs, WeightFormat, group, group_size};
use super::load::Loaded;
use super::terminal::{Bar, Unit, note, put_result};
use crate::checkpoint::lora::{Adapter, Merged};
use crate::engine::Request;
use crate::error::{Error, Result};
use crate::intake::media::{Budget, Library};
use crate::intake::prepare::{MODEL_LIMIT, prepare};
use crate::quantize::{self, Job, Method, Recipe, Scheme};
use crate::text::dataset;
use clap::{Args, ValueEnum};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Samples unless `--samples` says otherwise.
const SAMPLES: usize = 128;
/// Tokens of all samples together at most: their rows stay in memory, 400 MB for a 2B model.
const TOKENS: usize = 1 << 16;
/// What a model folder may hold for its own calibration, as the demo model's does.
const OWN_SAMPLES: &str = "calibration.jsonl";

/// Flags of `quantize`.
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// Model folder, or hub id `org/name[@revision]` [default: the bundled demo model]
    #[arg(long, value_name = "DIR|HF_ID")]
    model: Option<String>,
    /// Folder to write: a new one, or that of the same command, cut off
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Bits of weights and activations
    #[arg(long, value_enum)]
    format: WeightFormat,
    /// Columns that share a scale; -1 is all of a row [default: 128; -1 for w8a8]
    #[arg(long, value_name = "128|64|32|-1", value_parser = group_size, allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// How codes are chosen [default: gptq for w4a16, rtn for the others]
    #[arg(long, value_enum)]
    method: Option<MethodFlag>,
    /// Give each group a zero point
    #[arg(long)]
    zero_points: bool,
    /// Texts with pictures to calibrate on, a JSON object a line: query, response, images, history [default: the model folder's calibration.jsonl]
    #[arg(long, value_name = "FILE.jsonl")]
    calibration: Option<PathBuf>,
    /// Take this many of them at most [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    samples: Option<u64>,
    /// Quantize the output head too, a scale for each row
    #[arg(long, value_enum)]
    lm_head: Option<HeadFormat>,
    /// LoRA adapter to add to the weights first: a folder as PEFT saves it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    pixels: PixelArgs,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum MethodFlag {
    Rtn,
    Gptq,
    Awq,
}

/// Runs the command.
///
/// # Errors
/// Naming the flag, the file and its line, or the tensor.
pub fn run(args: &QuantizeArgs) -> anyhow::Result<Exit> {
    let recipe = recipe(args)?;
    let which = ModelArgs {
        model: args.model.clone(),
        device: Device::Cpu,
        lockstep: None,
        dtype: Dtype::F32,
        kv_cache_dtype: CacheDtype::Auto,
        threads: args.threads,
    };
    let model = Loaded::open(&which, &args.pixels)?;
    if let Some(matrix) = model.files.weights.matrices().next() {
        let why = format!("{} is quantized already ({}): take the bf16 or f16 original", model.name, matrix.name());
        return Err(Error::request("--model", why).into());
    }
    let mut merged = Merged::new(&model.files, args.adapter.as_ref().map(Adapter::open).transpose()?)?;
    if recipe.head {
        merged = merged.with_own_head();
    }
    let (samples, inputs) = match calibration(args, &recipe, &model.files.dir)? {
        Some(file) => samples(args, &model, file)?,
        None => Default::default(),
    };
    let job = Job {
        merged: &merged,
        source: &model.files.dir,
        out: &args.out,
        recipe,
        samples,
        inputs,
        pixels: [model.images.min_pixels, model.images.max_pixels],
        threads: model.placement.threads,
    };
    let mut bar = Bar::new("quantizing layers".into(), Unit::Items);
    let report = quantize::run(job, &mut |done, total| bar.set(done, total))?;
    drop(bar);
    put_result(&report, args.json, || report.to_string())?;
    note(&format!("wrote {} from {} samples of {} tokens", args.out.display(), report.samples, report.tokens));
    Ok(Exit::Success)
}

/// What the flags ask for.
fn recipe(args: &QuantizeArgs) -> Result<Recipe> {
    let scheme = args.format.scheme();
    let method = match args.method {
        Some(MethodFlag::Rtn) => Method::Rtn,
        Some(MethodFlag::Gptq) => Method::Gptq,
        Some(MethodFlag::Awq) => Method::Awq,
        None if scheme == Scheme::W4A16 => Method::Gptq,
        None => Method::Rtn,
    };
    let int8 = scheme == Scheme::W8A8;
    if int8 && args.zero_points {
        return Err(Error::request("--zero-points", "w8a8 has none: leave it out"));
    }
    if int8 && method == Method::Awq {
        return Err(Error::request(
            "--method",
            "awq leaves activations as they are: take rtn or gptq for w8a8, which smooth them",
        ));
    }
    let group = group(args.group_size, scheme)?;
    Ok(Recipe { scheme, group, method, zeros: args.zero_points, head: args.lm_head.is_some() })
}

/// The file of samples, if samples are wanted or there are any.
fn calibration(args: &QuantizeArgs, recipe: &Recipe, dir: &Path) -> Result<Option<PathBuf>> {
    let own = dir.join(OWN_SAMPLES);
    match &args.calibration {
        Some(file) => Ok(Some(file.clone())),
        None if own.is_file() => Ok(Some(own)),
        None if recipe.calibrates() => {
            let why = "is not given, and the model folder has no calibration.jsonl: pass questions with answers, or --method rtn with a format \
                       that ends in a16";
            Err(Error::request("--calibration", why))
        }
        None => Ok(None),
    }
}

/// The first samples of a file that fit, rendered as the engine renders questions, each with its answer; and the files that they are made of.
fn samples(args: &QuantizeArgs, model: &Loaded, file: PathBuf) -> Result<(Vec<Request>, Vec<PathBuf>)> {
    let most = args.samples.map_or(SAMPLES, |n| n as usize);
    let context = model.files.config.text.max_position_embeddings.min(TOKENS);
    let (mut samples, mut files, mut tokens) = (Vec::new(), BTreeSet::new(), 0);
    for item in dataset::load(&file)?.iter().take(most) {
        let budget = Budget::new(context, MODEL_LIMIT);
        let prepared = prepare(model, &mut Library::default(), &item.messages, false, budget);
        let prepared = prepared.map_err(|e| item.error(e))?;
        let (request, _) = prepared.with_answer(model, &item.response).map_err(|e| item.error(e))?;
        tokens += request.prompt.ids.len();
        if tokens > TOKENS {
            note(&format!("{}: samples from here on are left out: together they exceed {TOKENS} tokens", item.at));
            break;
        }
        samples.push(request);
        files.extend(prepared.infos.iter().flat_map(|info| &info.files).map(PathBuf::from));
    }
    if samples.is_empty() {
        return Err(Error::request(file.display().to_string(), format!("its first sample exceeds {TOKENS} tokens")));
    }
    Ok((samples, std::iter::once(file).chain(files).collect()))
}
