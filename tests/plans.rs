//! Plans as text against golden files, so that a change of a plan is seen in review; their sizes, and what packing may share.
//!
//! After a deliberate change, copy the file that the failure names over the golden one.

mod quantized;

use osprey::checkpoint::ModelFiles;
use osprey::dtype::DType;
use osprey::engine::{self, BLOCK_SIZE, Limits};
use osprey::launch::Access;
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::model::text::{Surroundings, Tail};
use osprey::plan::{HazardKind, Plan};
use osprey::quant::Format;
use osprey::step::StepShape;
use osprey::tensor::{Region, Tensor};
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn tiny(dtype: DType) -> Qwen2Vl {
    tiny_in(dtype, Format::Float)
}

fn tiny_in(dtype: DType, format: Format) -> Qwen2Vl {
    let files = ModelFiles::open(format!("{ROOT}/tests/golden/tiny_a")).unwrap();
    Qwen2Vl::load(&files.config, &quantized::weights(&files, format), Precision::new(dtype)).unwrap()
}

fn with_int8_cache(dtype: DType) -> Qwen2Vl {
    let model = tiny(dtype);
    Qwen2Vl { precision: model.precision.int8_cache(), ..model }
}

fn around(model: &Qwen2Vl) -> Surroundings {
    let text = &model.config.text;
    Surroundings {
        kv: model.kv_layout(4, BLOCK_SIZE),
        images: Tensor::at(Region::Embeds, 0, model.precision.activations, &[64, text.hidden_size]),
        counters: Tensor::at(Region::State, 0, DType::I32, &[64]),
        bests: Tensor::at(Region::State, 256, DType::I64, &[16, 1]),
        seen: Tensor::at(Region::State, 384, DType::U8, &[1, text.vocab_size]),
    }
}

fn text_plan(model: &Qwen2Vl, rows: usize, tail: Tail) -> Plan {
    let shape = StepShape { rows, seqs: 1, blocks: 4, samples: 1 };
    model.decoder.record(&model.weights, model.precision, shape, tail, &around(model)).unwrap().0
}

fn vision_plan(model: &Qwen2Vl, grid: [usize; 3]) -> Plan {
    let out = around(model).images.row_range(0, grid.iter().product::<usize>() / 4);
    model.tower.record(&model.weights, model.precision, grid, out, around(model).counters).unwrap().0
}

fn assert_golden(name: &str, plan: &Plan) {
    let golden = Path::new(ROOT).join("tests/plans").join(name);
    let text = plan.to_string();
    if std::fs::read_to_string(&golden).ok().as_deref() != Some(&text) {
        let got = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&got, text).unwrap();
        panic!("the plan changed: compare {} with {}", got.display(), golden.display());
    }
}

#[test]
fn plans_are_as_recorded() {
    let (bf16, f16) = (tiny(DType::Bf16), tiny(DType::F16));
    assert_golden("decode_bf16.txt", &text_plan(&bf16, 1, Tail::Sample));
    assert_golden("prefill_f16.txt", &text_plan(&f16, 7, Tail::None));
    assert_golden("vision_bf16.txt", &vision_plan(&bf16, [2, 4, 6]));
    let int8 = tiny_in(DType::Bf16, Format::W8A8);
    assert_golden("decode_w8a8.txt", &text_plan(&int8, 1, Tail::Sample));
    assert_golden("vision_w8a8.txt", &vision_plan(&int8, [2, 4, 6]));
    let cache = with_int8_cache(DType::Bf16);
    assert_golden("decode_kv8.txt", &text_plan(&cache, 1, Tail::Sample));
    assert_golden("prefill_kv8.txt", &text_plan(&cache, 40, Tail::None));
}

#[test]
fn a_layer_is_five_launches() {
    let model = tiny(DType::F32);
    let layers = model.config.text.num_hidden_layers;
    assert_eq!(text_plan(&model, 3, Tail::None).ops().len(), 1 + 5 * layers);
    assert_eq!(text_plan(&model, 1, Tail::Sample).ops().len(), 1 + 5 * layers + 2);
    assert_eq!(vision_plan(&model, [1, 4, 4]).ops().len(), 1 + 5 * model.config.vision.depth + 2);
}

#[test]
fn a_cache_of_int8_adds_no_launch() {
    for rows in [1, 3, 40] {
        let [float, int8] = [tiny(DType::F16), with_int8_cache(DType::F16)].map(|m| text_plan(&m, rows, Tail::None));
        assert_eq!(float.ops().len(), int8.ops().len());
    }
}

#[test]
fn int8_adds_two_launches_to_a_layer() {
    let model = tiny_in(DType::F16, Format::W8A8);
    let layers = model.config.text.num_hidden_layers;
    assert_eq!(text_plan(&model, 1, Tail::Sample).ops().len(), 1 + 7 * layers + 2);
    assert_eq!(vision_plan(&model, [1, 4, 4]).ops().len(), 1 + 7 * model.config.vision.depth + 4);
}

#[test]
fn a_weight_and_its_rows_must_both_be_int8() {
    use osprey::ops::case::CaseBuilder;
    use osprey::ops::gate_up::GateUp;
    let check = |weights: Format, rows: Format| {
        let mut b = CaseBuilder::new("contract");
        let x = b.input(rows, DType::F32, &[2, 16], 1.0);
        let weight = b.operand(weights, DType::F32, &[(8, 16), (8, 16)], 1.0);
        let y = b.random(DType::F32, &[2, 8], 1.0);
        let case = b.finish(GateUp { x, weight, y });
        case.op.check(&case.weights).map_err(|e| e.to_string())
    };
    let group = Format::W8A16 { group: 8, zeros: false };
    for (weights, rows, ok) in [
        (Format::Float, Format::Float, true),
        (Format::W8A8, Format::W8A8, true),
        (group, Format::Float, true),
        (Format::W8A8, Format::Float, false),
        (Format::Float, Format::W8A8, false),
        (group, Format::W8A8, false),
    ] {
        let got = check(weights, rows);
        assert_eq!(got.is_ok(), ok, "{weights} weights, {rows} rows: {got:?}");
        let said = got.err().is_none_or(|e| e.contains(&format!("{weights} weights do not multiply")));
        assert!(said, "{weights} weights, {rows} rows");
    }
}

/// A read of a temporary must come after the write that made the value, with no other write to the same bytes between the two.
#[test]
fn packing_never_overwrites_what_is_still_read() {
    for plan in [text_plan(&tiny(DType::Bf16), 5, Tail::Sample), vision_plan(&tiny(DType::F32), [1, 8, 8])] {
        let hazards = plan.hazards();
        for (later, launch) in plan.launches().iter().enumerate() {
            for (t, _) in launch
                .operands()
                .filter(|(t, access)| *access != Access::Write && matches!(t.place, osprey::tensor::Place::Temp { .. }))
            {
                let writer = (0..later).rev().find(|&i| {
                    let same = |(o, access): (&Tensor, Access)| access != Access::Read && overlaps(&plan, o, t);
                    plan.launches()[i].operands().any(same)
                });
                let Some(writer) = writer else { continue };
                let writes_it =
                    plan.launches()[writer].operands().any(|(o, access)| access != Access::Read && o.place == t.place);
                assert!(writes_it, "op {later} reads {t}, but op {writer} wrote another value there");
                let found = hazards
                    .iter()
                    .any(|h| h.later == later && h.earlier >= writer && h.kind == HazardKind::ReadAfterWrite);
                assert!(found, "no hazard from op {writer} to op {later}");
            }
        }
    }
}

fn overlaps(plan: &Plan, a: &Tensor, b: &Tensor) -> bool {
    let ((ra, sa), (rb, sb)) = (plan.locate(a), plan.locate(b));
    ra == rb && sa < sb + b.bytes() && sb < sa + a.bytes()
}

#[test]
fn memory_is_known_before_it_is_allocated() {
    let model = tiny(DType::Bf16);
    let limits = Limits::single(128, 16, 64, 1);
    let bytes = engine::needs(&model, &limits).unwrap().regions;
    let text = &model.config.text;
    // Keys and values of a token and head: d of 2 bytes, or d of 1 and a scale.
    let heads = 2 * text.num_hidden_layers * text.num_key_value_heads;
    assert_eq!(bytes.get(Region::Kv), 128 * heads * 2 * text.head_dim);
    let int8 = engine::needs(&with_int8_cache(DType::Bf16), &limits).unwrap().regions;
    assert_eq!(int8.get(Region::Kv), 128 * heads * (text.head_dim + 4));
    for model in [&model, &with_int8_cache(DType::Bf16)] {
        assert_eq!(model.kv_layout(4, BLOCK_SIZE).bytes(), 128 * model.kv_layout(4, BLOCK_SIZE).bytes_per_token());
    }
    for grid in [[1, 8, 8], [1, 2, 32], [16, 2, 2], [4, 4, 4]] {
        let need = vision_plan(&model, grid).regions().get(Region::VisionArena);
        assert!(need <= bytes.get(Region::VisionArena), "{grid:?} needs {need}");
    }
    for model in [&model, &with_int8_cache(DType::Bf16)] {
        let limits = Limits { chunk: 40, ..limits };
        let arena = engine::needs(model, &limits).unwrap().regions.get(Region::Arena);
        for rows in 1..=limits.chunk {
            let need = text_plan(model, rows, Tail::Sample).regions().get(Region::Arena);
            assert!(need <= arena, "{rows} rows need {need} of {arena}");
        }
    }
}
