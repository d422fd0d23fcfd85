//! `osprey bench`: how fast this machine runs a model's shape, whole or op by op, next to what the machine can do at most; and a server under load.
//!
//! Owns its random weights: no checkpoint is needed. Work and bytes are the ops' own cost formulas (the plan's cost), which count the least that
//! must be done; rates are held against probes taken before and after, since on a shared machine they change meanwhile.

mod kernels;
mod measure;
mod picture;
mod serve;
mod shapes;
mod table;
mod weights;

use super::Exit;
use super::args::{HeadFormat, WeightFormat};
use super::device::Placement;
use super::load::{self, use_threads};
use super::stats::peak_memory;
use super::terminal::{Progress, put_result};
use crate::checkpoint::{Config, Weights};
use crate::cpu::{Cpu, Isa, probe};
use crate::dtype::DType;
use crate::engine::Limits;
use crate::media::patches::ImageProcessor;
use crate::model::Precision;
use crate::model::qwen2_vl::Qwen2Vl;
use clap::{Args, Subcommand, ValueEnum};
use measure::{Subject, Work, measure};
use serde::Serialize;
use table::{Probe, Row};

/// Bytes that the bandwidth probe reads: beyond any cache.
const PROBE_BYTES: usize = 256 << 20;

/// What to bench.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// Pictures, prefill and decode of a whole model with random weights
    Generate(GenerateArgs),
    /// Every kernel at a model's real sizes, on the CPU, on the emulator or on a GPU
    Kernels(kernels::KernelsArgs),
    /// A running server under load, as its clients feel it
    Serve(Box<serve::ServeArgs>),
}

/// Flags of `bench generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The model whose shape to take
    #[arg(long, value_enum)]
    shape: shapes::Shape,
    /// Storage type of weights and activations
    #[arg(long, value_enum, default_value_t = BenchDtype::Bf16)]
    dtype: BenchDtype,
    /// Measure the decoder with linear layers of random codes too, and compare
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<WeightFormat>,
    /// With a quantized head of its own for that decoder
    #[arg(long, value_enum, requires = "quantize")]
    lm_head: Option<HeadFormat>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Pictures to encode
    #[arg(long, value_name = "WxH", num_args = 1.., value_parser = size, default_values = ["448x448", "1024x683"])]
    image_size: Vec<(usize, usize)>,
    /// Length of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=32768))]
    prompt_tokens: u64,
    /// Tokens to decode after the first
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=32768))]
    new_tokens: u64,
    /// Times to do everything; the best counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    runs: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum BenchDtype {
    F32,
    Bf16,
}

/// A picture's size as people write it.
fn size(text: &str) -> Result<(usize, usize), String> {
    let side = |s: &str| s.parse::<usize>().ok().filter(|n| (1..=8192).contains(n));
    let parsed = text.split_once('x').and_then(|(w, h)| Some((side(w)?, side(h)?)));
    parsed.ok_or_else(|| "must be WIDTHxHEIGHT, each 1 to 8192".into())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    shape: &'static str,
    dtype: &'static str,
    threads: usize,
    isa: &'static str,
    weight_bytes: Vec<u64>,
    work_from: &'static str,
    probe_before: Probe,
    probe_after: Probe,
    rows: Vec<Row>,
    peak_memory_bytes: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// What the benches report.
pub fn run(command: &BenchCommand) -> anyhow::Result<Exit> {
    match command {
        BenchCommand::Generate(args) => generate(args),
        BenchCommand::Kernels(args) => kernels::run(args),
        BenchCommand::Serve(args) => serve::run(args),
    }
}

/// # Errors
/// If the model does not fit, or a size makes no picture.
fn generate(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let dtype = if args.dtype == BenchDtype::F32 { DType::F32 } else { DType::Bf16 };
    let threads = use_threads(args.threads);
    let cpu = Cpu::new(Isa::detect(), threads);
    let probe_before = take_probe(&cpu);
    let (mut subjects, weight_bytes): (Vec<Subject>, Vec<u64>) = build(args, dtype, threads)?.into_iter().unzip();
    let work = Work {
        sizes: args.image_size.clone(),
        prompt_tokens: args.prompt_tokens as usize,
        new_tokens: args.new_tokens as usize,
        runs: args.runs,
    };
    let mut rows = measure(&mut subjects, &work)?;
    let probe_after = take_probe(&cpu);
    rows.iter_mut().for_each(|row| row.compare(&probe_before.best(&probe_after)));
    rows.extend(picture::preprocessing(&ImageProcessor::default(), args.runs)?);
    let output = Output {
        shape: args.shape.name(),
        dtype: dtype.name(),
        threads,
        isa: cpu.isa().name(),
        weight_bytes,
        work_from: "the ops' cost formulas, summed over the plan",
        probe_before,
        probe_after,
        rows,
        peak_memory_bytes: peak_memory(),
    };
    put_result(&output, args.json, || table::text(&output))?;
    Ok(Exit::Success)
}

/// What the machine can do now.
fn take_probe(cpu: &Cpu) -> Probe {
    let _progress = Progress::start("probing the machine".into());
    Probe { gflops: probe::fma_rate(cpu, 10) / 1e9, gbytes_per_s: probe::read_bandwidth(cpu, PROBE_BYTES, 5) / 1e9 }
}

/// Engines with random weights and room for the work, and the weights' bytes: floats, and codes if they are asked for.
fn build(args: &GenerateArgs, dtype: DType, threads: usize) -> anyhow::Result<Vec<(Subject, u64)>> {
    let _progress = Progress::start("making random weights".into());
    let mut config = args.shape.config()?;
    let tensors = weights::random(&config, dtype)?;
    let floats = Weights::from_tensors(&config, &tensors, &[])?;
    let mut all = vec![subject(args, (dtype, threads), dtype.name(), &config, &floats)?];
    if let Some(format) = args.quantize.map(WeightFormat::scheme) {
        config.tie_word_embeddings &= args.lm_head.is_none();
        let codes = weights::codes(&config, format, args.lm_head.is_some())?;
        let others = tensors.iter().filter(|t| codes.iter().all(|c| c.name() != t.name())).cloned().collect::<Vec<_>>();
        let quantized = Weights::from_tensors(&config, &others, &codes)?;
        all.push(subject(args, (dtype, threads), format.name(), &config, &quantized)?);
    }
    Ok(all)
}

fn subject(
    args: &GenerateArgs,
    (dtype, threads): (DType, usize),
    name: &'static str,
    config: &Config,
    weights: &Weights,
) -> anyhow::Result<(Subject, u64)> {
    let precision = Precision::new(dtype);
    let model = Qwen2Vl::load(config, weights, precision)?;
    let grids = args.image_size.iter().map(|&size| measure::grid(size)).collect::<crate::error::Result<Vec<_>>>()?;
    let patches = grids.iter().map(|g| g.iter().product::<usize>()).max().unwrap_or(0);
    let tokens = (args.prompt_tokens + args.new_tokens + 1) as usize;
    let limits = Limits::single(tokens.max(patches / 4 + 3), load::CHUNK, patches, 1);
    let placement = Placement { device: super::args::Device::Cpu, lockstep: None, precision, threads };
    let engine = super::device::engine(model, limits, &placement)?;
    Ok((Subject { weights: name, engine }, weights.bytes()))
}
