//! A tiny random model on any executor, and the checks that a request's bits depend on the request alone.
#![allow(dead_code)] // Every test uses a part of it.

pub mod batch;
#[path = "../quantized/mod.rs"]
mod quantized;

use osprey::checkpoint::ModelFiles;
use osprey::cpu::{Cpu, Isa};
use osprey::dtype::DType;
use osprey::engine::trace::Detail;
use osprey::engine::{Cancel, Controls, Engine, Limits, Picture, Request, Sampling};
use osprey::error::Result;
use osprey::exec::cpu::CpuExecutor;
use osprey::exec::cuda::CudaExecutor;
use osprey::exec::cuda::driver::{Device, Driver};
use osprey::exec::{Executor, Needs};
use osprey::media::patches::Patches;
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::quant::Format;
use osprey::text::positions::positions;
use osprey::text::prompt::{MediaKind, MediaSpan, Prompt};
use osprey::weights::WeightSet;
use std::ops::ControlFlow;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub struct Setup {
    /// The kernels under a driver, or else the CPU's own bodies.
    pub driver: Option<Driver>,
    pub dtype: DType,
    /// Of the layers' linear weights.
    pub format: Format,
    pub int8_cache: bool,
    pub chunk: usize,
    pub threads: usize,
    pub isa: Isa,
}

pub fn setup(dtype: DType) -> Setup {
    Setup { driver: None, dtype, format: Format::Float, int8_cache: false, chunk: 512, threads: 2, isa: Isa::detect() }
}

pub fn under(driver: Driver, dtype: DType) -> Setup {
    Setup { driver: Some(driver), ..setup(dtype) }
}

pub fn model(s: Setup) -> Qwen2Vl {
    // The one with odd sizes; the kernels take heads of 128 and 80 only.
    let name = if s.driver.is_some() { "tiny_a" } else { "tiny_b" };
    let files = ModelFiles::open(format!("tests/golden/{name}")).unwrap();
    let float = Precision::new(s.dtype);
    let precision = if s.int8_cache { float.int8_cache() } else { float };
    Qwen2Vl::load(&files.config, &quantized::weights(&files, s.format), precision).unwrap()
}

pub fn executor(s: Setup, needs: &Needs, weights: &mut Arc<WeightSet>) -> Result<Box<dyn Executor>> {
    Ok(match s.driver {
        None => Box::new(CpuExecutor::new(needs.regions, weights, Cpu::new(s.isa, s.threads))?),
        Some(driver) => Box::new(CudaExecutor::new(Device::open(driver, 0)?, needs, weights, &mut |_, _| ())?),
    })
}

pub fn engine(s: Setup) -> Engine {
    let limits = Limits::single(160, s.chunk, 64, 48);
    Engine::new(model(s), limits, |needs, weights| executor(s, &needs, weights)).unwrap()
}

/// Text, an image of 4 x 6 patches, text. `seed` changes the ids, `shade` the pixels.
pub fn request(len: usize, seed: u32, shade: f32) -> Request {
    let grid = [1, 4, 6];
    let ids = (0..len as u32).map(|i| (i * 131 + seed * 7 + 3) % 1000).collect();
    let spans = vec![MediaSpan { start: 9, len: 6, kind: MediaKind::Image, grid_thw: grid, index: 0 }];
    let data = (0..24 * 1176).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0 + shade).collect();
    let media = vec![Picture::new(Patches { data, grid_thw: grid.map(|x| x as usize), resized: (56, 84) })];
    let positions = positions(len, &spans, 2).unwrap();
    let sampling = Sampling { temperature: 0.9, top_p: 0.95, seed: 11, repetition_penalty: 1.1, ..Sampling::GREEDY };
    let (prompt, controls) = (Prompt { ids, spans }, Controls::default());
    Request { prompt, positions, media, sampling, controls, choices: 1, priority: 0, max_new_tokens: 24, stop: vec![] }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Logits of all prompt positions and the sampled answer.
pub fn outcome(engine: &mut Engine, request: &Request) -> (Vec<u32>, Vec<u32>) {
    let trace = engine.trace(request, Detail::Basic).unwrap();
    (bits(&trace.logits), trace.generated)
}

pub fn generate(engine: &mut Engine, request: &Request) -> Vec<u32> {
    engine.generate(request, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap().ids
}

/// The same bits for every chunk size.
pub fn check_chunks(s: Setup) {
    let request = request(97, 1, 0.0);
    let want = outcome(&mut engine(s), &request);
    for chunk in [1, 2, 7, 33] {
        let got = outcome(&mut engine(Setup { chunk, ..s }), &request);
        assert!(got == want, "{:?}, {} weights, {}: a chunk of {chunk} gives other bits", s.driver, s.format, s.dtype);
    }
}

/// An answer's tokens are what a prompt that contains them would give.
pub fn check_recomputed(s: Setup) {
    let mut first = engine(s);
    let mut request = request(40, 3, 0.0);
    request.sampling = Sampling::GREEDY;
    let answer = generate(&mut first, &request);
    let mut longer = request.clone();
    longer.prompt.ids.extend(&answer);
    longer.positions = positions(longer.prompt.ids.len(), &longer.prompt.spans, 2).unwrap();
    let logits = engine(s).trace(&longer, Detail::Basic).unwrap().logits;
    let vocab = logits.len() / longer.prompt.ids.len();
    for (i, token) in answer.iter().enumerate() {
        let row = &logits[(40 + i - 1) * vocab..][..vocab];
        let best = (0..vocab).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(best as u32, *token, "token {i} of the answer");
    }
}
