//! `osprey bench kernels`: every op at a model's real sizes, checked and then counted or timed.
//!
//! Each op first runs on the CPU and, if a device was asked for, there too: the outputs are compared before anything is reported. The emulator is
//! asked for counts and never for times; the CPU and a GPU for times, next to what they can do at most, measured in the same run.

mod check;
mod code;
mod counted;
mod page;
mod table;
mod timed;

use super::shapes::Shape;
use crate::cli::Exit;
use crate::cli::load::use_threads;
use crate::cli::terminal::{Progress, put};
use crate::cpu::{Cpu, Isa};
use crate::dtype::DType;
use crate::error::Result;
use crate::exec::cuda::driver::{self, Driver};
use crate::ops::workload::{Phase, Workload, workloads};
use crate::ops::{Cost, REGISTRY};
use crate::quant::Format;
use check::Difference;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use code::{Assembler, Code};
use counted::Counted;
use serde::Serialize;
use std::path::{Path, PathBuf};
use timed::{Roof, Timed};

/// Flags of `bench kernels`.
#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// The model whose shape to take
    #[arg(long, value_enum, default_value_t = Shape::Qwen2Vl2b)]
    shape: Shape,
    /// Where to run: cpu and cuda are timed, the emulator counts
    #[arg(long, value_enum)]
    device: Device,
    /// Storage type of weights and activations
    #[arg(long, value_enum, default_value_t = Storage::Bf16)]
    dtype: Storage,
    /// Quantize the layers' weights, in groups of 128 where a group has a scale
    #[arg(long, value_enum)]
    quantize: Option<Quantize>,
    /// Only this op
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(REGISTRY.iter().map(|e| e.name)))]
    op: Option<String>,
    /// Only this part of a request
    #[arg(long, value_name = "PHASE", value_parser = PossibleValuesParser::new(Phase::ALL.map(Phase::name)))]
    phase: Option<String>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Write everything as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Cpu,
    Emulator,
    Cuda,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Bf16,
    F16,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Quantize {
    W4a16,
    W8a16,
    W8a8,
}

impl KernelsArgs {
    fn format(&self) -> Format {
        let (group, zeros) = (128, false);
        match self.quantize {
            None => Format::Float,
            Some(Quantize::W4a16) => Format::W4A16 { group, zeros },
            Some(Quantize::W8a16) => Format::W8A16 { group, zeros },
            Some(Quantize::W8a8) => Format::W8A8,
        }
    }
}

/// What was benched, and what came out.
#[derive(Serialize)]
struct Report {
    shape: &'static str,
    dtype: &'static str,
    /// The format of the layers' weights.
    weights: String,
    #[serde(flatten)]
    found: Found,
}

/// What a device gave.
#[derive(Serialize)]
struct Found {
    /// Its kind: `cpu`, `emulator` or `cuda`.
    device: &'static str,
    /// Its name.
    name: String,
    /// What rates are held against.
    roof: Roof,
    rows: Vec<Row>,
    /// What a reader must know.
    notes: Vec<String>,
}

/// One op at one size.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    role: &'static str,
    phase: &'static str,
    rows: usize,
    /// In one pass through the model.
    launches: usize,
    /// The least that must be moved and computed.
    bytes: u64,
    flops: u64,
    error: Option<Difference>,
    counted: Option<Counted>,
    timed: Option<Timed>,
    code: Option<Code>,
    /// Why there is nothing.
    left_out: Option<String>,
}

impl Row {
    /// A row without results yet.
    fn new(w: &Workload, cost: Cost) -> Row {
        Row {
            op: w.op,
            role: w.role,
            phase: w.phase.name(),
            rows: w.rows,
            launches: w.launches,
            bytes: cost.bytes,
            flops: cost.flops,
            error: None,
            counted: None,
            timed: None,
            code: None,
            left_out: None,
        }
    }

    /// Fills in the fractions of what the machine can do.
    fn compare(&mut self, roof: &Roof) {
        self.timed.iter_mut().for_each(|t| t.compare(roof));
    }

    fn name(&self) -> String {
        format!("{} {} {} ({})", self.phase, self.rows, self.op, self.role)
    }
}

/// Runs the command.
///
/// # Errors
/// If the device is missing or fails, an output is beyond its bound, or a file cannot be written.
pub fn run(args: &KernelsArgs) -> anyhow::Result<Exit> {
    let dtype = if args.dtype == Storage::F16 { DType::F16 } else { DType::Bf16 };
    let cpu = Cpu::new(Isa::detect(), use_threads(args.threads));
    let work = selected(args, dtype)?;
    let found = match args.device {
        Device::Cpu => on_cpu(&work, &cpu),
        Device::Emulator => on_emulator(&work, &cpu),
        Device::Cuda => on_gpu(&work, &cpu, dtype),
    }?;
    let report = Report { shape: args.shape.name(), dtype: dtype.name(), weights: args.format().to_string(), found };
    if let Some(path) = &args.json {
        save(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.html {
        save(path, &page::html(&report))?;
    }
    put(&table::text(&report))?;
    let wrong = report.found.rows.iter().filter(|r| r.error.is_some_and(|e| !e.within())).map(Row::name);
    let wrong: Vec<String> = wrong.collect();
    anyhow::ensure!(wrong.is_empty(), "differs from the CPU by more than rounding: {}", wrong.join(", "));
    Ok(Exit::Success)
}

fn selected(args: &KernelsArgs, dtype: DType) -> anyhow::Result<Vec<Workload>> {
    let mut work = workloads(&args.shape.config()?, dtype, args.format());
    work.retain(|w| args.op.as_ref().is_none_or(|op| op == w.op));
    work.retain(|w| args.phase.as_ref().is_none_or(|phase| phase == w.phase.name()));
    anyhow::ensure!(!work.is_empty(), "--op and --phase leave nothing: that phase has no such op");
    Ok(work)
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

fn on_cpu(work: &[Workload], cpu: &Cpu) -> Result<Found> {
    let before = timed::cpu_roof(cpu);
    let mut rows = each(work, |w| timed::on_cpu(w, cpu))?;
    let roof = before.best(&timed::cpu_roof(cpu));
    rows.iter_mut().for_each(|row| row.compare(&roof));
    let notes = vec![
        "the CPU's bodies are what kernels are checked against; tests/parity.rs holds them to the scalar reference"
            .into(),
        "the roof is the better of two probes, before and after: other programs may share this machine".into(),
    ];
    Ok(Found { device: "cpu", name: format!("{} threads, {}", cpu.threads(), cpu.isa().name()), roof, rows, notes })
}

fn on_gpu(work: &[Workload], cpu: &Cpu, dtype: DType) -> Result<Found> {
    let (name, roof) = timed::gpu_roof(Driver::Cuda, dtype)?;
    let mut code = Assembler::new(&driver::Device::open(Driver::Cuda, 0)?.target);
    let mut rows = each(work, |w| timed::on_device(Driver::Cuda, w, cpu, &mut code))?;
    rows.iter_mut().for_each(|row| row.compare(&roof));
    let notes = [check::HOW, timed::HOW].map(String::from).into_iter().chain(code.missing()).collect();
    Ok(Found { device: "cuda", name, roof, rows, notes })
}

fn on_emulator(work: &[Workload], cpu: &Cpu) -> Result<Found> {
    let device = driver::Device::open(Driver::Emulator, 0)?;
    let mut code = Assembler::new(&device.target);
    let rows = each(work, |w| counted::on_emulator(w, cpu, &mut code))?;
    let notes = [check::HOW, counted::HOW].map(String::from).into_iter().chain(code.missing()).collect();
    Ok(Found { device: "emulator", name: device.name, roof: Roof::A100, rows, notes })
}

/// Does the workloads one by one, and says on a terminal where it is.
fn each(work: &[Workload], mut one: impl FnMut(&Workload) -> Result<Row>) -> Result<Vec<Row>> {
    let row = |w: &Workload| {
        let _progress = Progress::start(format!("{} {} {} ({})", w.phase.name(), w.rows, w.op, w.role));
        one(w)
    };
    work.iter().map(row).collect()
}
