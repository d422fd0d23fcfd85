//! A request's bits depend on the request alone: not on the chunks of its prompt, the threads, the instruction set, what the cache already
//! holds, or whether a token was decoded or recomputed.

use osprey::checkpoint::ModelFiles;
use osprey::cpu::{Cpu, Isa};
use osprey::dtype::DType;
use osprey::engine::trace::Detail;
use osprey::engine::{Cancel, Engine, Limits, Request, Sampling};
use osprey::exec::cpu::CpuExecutor;
use osprey::media::patches::Patches;
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::text::positions::positions;
use osprey::text::prompt::{MediaKind, MediaSpan, Prompt};
use std::ops::ControlFlow;
use std::sync::Arc;

#[derive(Clone, Copy)]
struct Setup {
    dtype: DType,
    chunk: usize,
    threads: usize,
    isa: Isa,
}

fn setup(dtype: DType) -> Setup {
    Setup { dtype, chunk: 512, threads: 2, isa: Isa::detect() }
}

fn engine(s: Setup) -> Engine {
    let files = ModelFiles::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny_b")).unwrap();
    let model = Qwen2Vl::load(&files.config, &files.weights, Precision::new(s.dtype)).unwrap();
    let limits = Limits { context: 160, chunk: s.chunk, patches: 64, samples: 48 };
    Engine::new(model, limits, |needs, weights| {
        Ok(Box::new(CpuExecutor::new(needs.regions, weights, Cpu::new(s.isa, s.threads))?))
    })
    .unwrap()
}

/// Text, an image of 4 x 6 patches, text. `seed` changes the ids, `shade` the pixels.
fn request(len: usize, seed: u32, shade: f32) -> Request {
    let grid = [1, 4, 6];
    let ids = (0..len as u32).map(|i| (i * 131 + seed * 7 + 3) % 1000).collect();
    let spans = vec![MediaSpan { start: 9, len: 6, kind: MediaKind::Image, grid_thw: grid, index: 0 }];
    let data = (0..24 * 1176).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0 + shade).collect();
    let media = vec![Arc::new(Patches { data, grid_thw: grid.map(|x| x as usize), resized: (56, 84) })];
    let positions = positions(len, &spans, 2).unwrap();
    let sampling = Sampling { temperature: 0.9, top_p: 0.95, seed: 11, repetition_penalty: 1.1, ..Sampling::GREEDY };
    Request { prompt: Prompt { ids, spans }, positions, media, sampling, max_new_tokens: 24, stop: vec![] }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Logits of all prompt positions and the sampled answer.
fn outcome(engine: &mut Engine, request: &Request) -> (Vec<u32>, Vec<u32>) {
    let trace = engine.trace(request, Detail::Basic).unwrap();
    (bits(&trace.logits), trace.generated)
}

fn generate(engine: &mut Engine, request: &Request) -> Vec<u32> {
    engine.generate(request, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap().ids
}

#[test]
fn chunks_do_not_change_a_bit() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let request = request(97, 1, 0.0);
        let want = outcome(&mut engine(setup(dtype)), &request);
        for chunk in [1, 2, 7, 33] {
            let got = outcome(&mut engine(Setup { chunk, ..setup(dtype) }), &request);
            assert!(got == want, "{dtype}: a chunk of {chunk} gives other bits");
        }
    }
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    let request = request(60, 2, 0.0);
    let want = outcome(&mut engine(setup(DType::Bf16)), &request);
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let got = outcome(&mut engine(Setup { isa, threads, ..setup(DType::Bf16) }), &request);
            assert!(got == want, "{} with {threads} threads gives other bits", isa.name());
        }
    }
}

#[test]
fn a_decoded_token_equals_a_recomputed_one() {
    let mut first = engine(setup(DType::Bf16));
    let mut request = request(40, 3, 0.0);
    request.sampling = Sampling::GREEDY;
    let answer = generate(&mut first, &request);
    let mut longer = request.clone();
    longer.prompt.ids.extend(&answer);
    longer.positions = positions(longer.prompt.ids.len(), &longer.prompt.spans, 2).unwrap();
    let logits = engine(setup(DType::Bf16)).trace(&longer, Detail::Basic).unwrap().logits;
    let vocab = logits.len() / longer.prompt.ids.len();
    for (i, token) in answer.iter().enumerate() {
        let row = &logits[(40 + i - 1) * vocab..][..vocab];
        let best = (0..vocab).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(best as u32, *token, "token {i} of the answer");
    }
}

#[test]
fn a_cached_prefix_gives_the_same_answer() {
    let mut warm = engine(setup(DType::Bf16));
    let first = request(50, 4, 0.0);
    generate(&mut warm, &first);
    let mut second = first.clone();
    second.prompt.ids[45] += 1;
    let got = warm.generate(&second, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((got.timing.reused, got.timing.encoded), (45, 0), "the prefix was not reused");
    assert_eq!(got.ids, generate(&mut engine(setup(DType::Bf16)), &second));
}

#[test]
fn another_picture_is_never_served_from_the_cache() {
    let mut warm = engine(setup(DType::F32));
    generate(&mut warm, &request(50, 5, 0.0));
    let other = request(50, 5, 0.25);
    let got = warm.generate(&other, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((got.timing.reused, got.timing.encoded), (9, 1));
    assert_eq!(got.ids, generate(&mut engine(setup(DType::F32)), &other));
}

#[test]
fn a_seed_decides_the_answer() {
    let mut e = engine(setup(DType::F32));
    let mut r = request(30, 6, 0.0);
    let first = generate(&mut e, &r);
    assert_eq!(first, generate(&mut e, &r));
    r.sampling.seed += 1;
    assert_ne!(first, generate(&mut e, &r));
}

#[test]
fn unusable_logits_name_the_step() {
    let mut e = engine(setup(DType::F32));
    let mut broken = request(20, 7, 0.0);
    Arc::get_mut(&mut broken.media[0]).unwrap().data[0] = f32::NAN;
    let error = e.generate(&broken, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("token 19") && error.contains("NaN"), "{error}");
}

#[test]
fn a_cancelled_request_leaves_a_usable_engine() {
    let mut e = engine(setup(DType::F32));
    let r = request(30, 8, 0.0);
    let cancel = Cancel::default();
    cancel.cancel();
    let none = e.generate(&r, &cancel, |_| ControlFlow::Continue(())).unwrap();
    assert!(none.ids.is_empty());
    assert_eq!(none.finish.name(), "cancelled");
    let three = e.generate(&r, &Cancel::default(), {
        let mut n = 0;
        move |_| {
            n += 1;
            if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    });
    assert_eq!(three.unwrap().ids, generate(&mut e, &r)[..3]);
}
