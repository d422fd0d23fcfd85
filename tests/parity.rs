//! Every registered op on every executor against its scalar reference: outputs within the derived bound, nothing else touched, same bits twice,
//! and for any number of rows. The kernels run on the emulator, with all its checks.

mod ops;

use osprey::dtype::DType;
use osprey::exec::cuda::driver::Driver;
use osprey::ops::REGISTRY;
use osprey::ops::case::{Case, CaseBuilder, Tolerance};
use osprey::ops::gate_up::GateUp;
use osprey::ops::input::Input;
use osprey::ops::linear::{Activation, Linear, Store};
use osprey::ops::lm_head::LmHead;
use osprey::ops::norm::NormKind;
use osprey::ops::qkv_mrope::QkvMrope;
use osprey::ops::qkv_rope_2d::QkvRope2d;
use osprey::ops::rope::{Mrope, Rope2d, inv_freq};
use osprey::quant::Format;

#[test]
fn cpu_bodies_match_their_references() {
    ops::check_cpu();
}

#[test]
fn kernels_match_their_references_on_the_emulator() {
    ops::check_device(Driver::Emulator);
}

/// Fewer rows than a tile of an mma, full ones, both shapes of a block, one and two blocks of rows.
const ROWS: [usize; 7] = [1, 5, 8, 17, 32, 33, 200];
const ANY: Tolerance = Tolerance::Anything;

fn check_rows(make: impl Fn(usize) -> Case) {
    ops::check_rows(Driver::Emulator, make, &ROWS);
}

#[test]
fn a_row_of_a_linear_has_the_same_bits_among_any_number() {
    let linear = |format, dtype, stream, activation, norm: Option<NormKind>, n, k| {
        check_rows(move |m| {
            let mut b = CaseBuilder::new(format!("{format} {dtype} {activation:?} {norm:?} N={n} K={k}"));
            let weight = b.operand(format, dtype, &[(n, k)], 0.1);
            let bias = Some(b.weight(dtype, &[(n, 1)], 0.5));
            let y = b.output(stream, &[m, n], ANY);
            let normed = norm.map(|kind| b.normed(kind, dtype, format, &y, ANY));
            let x = b.input(format, dtype, &[m, k], 1.0);
            b.finish(Linear { x, weight, bias, activation, store: Store::Set, y, normed })
        });
    };
    let (float, int8) = (Format::Float, Format::W8A8);
    linear(float, DType::Bf16, DType::Bf16, None, Some(NormKind::Rms), 264, 1176);
    linear(float, DType::F16, DType::F32, None, Some(NormKind::Layer), 136, 1544);
    linear(float, DType::Bf16, DType::Bf16, Some(Activation::QuickGelu), None, 136, 80);
    linear(float, DType::F16, DType::F16, Some(Activation::Gelu), None, 40, 6200);
    linear(int8, DType::Bf16, DType::Bf16, None, Some(NormKind::Rms), 264, 1552);
    linear(int8, DType::F16, DType::F32, None, Some(NormKind::Layer), 136, 784);
    linear(int8, DType::F16, DType::F16, Some(Activation::Gelu), None, 40, 6208);
}

#[test]
fn a_row_of_a_product_with_codes_has_the_same_bits_among_any_number() {
    let coded = |dtype, format, n, k| {
        check_rows(move |m| {
            let mut b = CaseBuilder::new(format!("{dtype} {format:?} N={n} K={k}"));
            let weight = b.quantized(format, &[(n, k)], 0.1);
            let y = b.output(DType::F32, &[m, n], ANY);
            let bests = b.zeros(DType::I64, &[m], ANY);
            let rows = b.indices(&(0..m as i32).collect::<Vec<_>>());
            let x = b.random(dtype, &[m, k], 1.0);
            b.finish(LmHead { x, rows, weight, logits: y, bests: Some(bests) })
        });
        check_rows(move |m| {
            let mut b = CaseBuilder::new(format!("{dtype} {format:?} F={n} D={k}"));
            let weight = b.quantized(format, &[(n, k), (n, k)], 0.1);
            let y = b.output(dtype, &[m, n], ANY);
            let x = b.random(dtype, &[m, k], 1.0);
            b.finish(GateUp { x: x.into(), weight, y })
        });
    };
    coded(DType::Bf16, Format::W8A16 { group: 1672, zeros: false }, 272, 1672);
    coded(DType::F16, Format::W8A16 { group: 32, zeros: true }, 144, 416);
    let added = |dtype, stream, format, n, k| {
        check_rows(move |m| {
            let mut b = CaseBuilder::new(format!("{dtype} {format:?} N={n} K={k}"));
            let weight = b.quantized(format, &[(n, k)], 0.1);
            // Zeros: what is added to is the same for every number of rows.
            let y = b.zeros(stream, &[m, n], ANY);
            let normed = Some(b.normed(NormKind::Rms, dtype, Format::Float, &y, ANY));
            let x = b.random(dtype, &[m, k], 1.0).into();
            b.finish(Linear { x, weight, bias: None, activation: None, store: Store::Add, y, normed })
        });
    };
    added(DType::F16, DType::F32, Format::W4A16 { group: 128, zeros: false }, 264, 6272);
    added(DType::F16, DType::F32, Format::W4A16 { group: 64, zeros: true }, 40, 3136);
    added(DType::Bf16, DType::Bf16, Format::W4A16 { group: 32, zeros: true }, 136, 1568);
    added(DType::F16, DType::F32, Format::W4A16 { group: 200, zeros: false }, 72, 200);
}

#[test]
fn a_row_of_what_follows_a_product_has_the_same_bits_among_any_number() {
    let (float, int8) = (Format::Float, Format::W8A8);
    let kinds =
        [(float, DType::Bf16, 264), (float, DType::F16, 776), (int8, DType::Bf16, 272), (int8, DType::F16, 784)];
    for (format, dtype, k) in kinds {
        let hidden = k;
        check_rows(|m| {
            let mut b = CaseBuilder::new(format!("gate_up {format} {dtype}"));
            let weight = b.operand(format, dtype, &[(72, k), (72, k)], 0.1);
            let y = b.output(dtype, &[m, 72], ANY);
            let x = b.input(format, dtype, &[m, k], 1.0);
            b.finish(GateUp { x, weight, y })
        });
        [false, true].into_iter().for_each(|int8_cache| {
            check_rows(|m| {
                let mut b = CaseBuilder::new(format!("qkv_mrope {format} {dtype} int8_cache={int8_cache}"));
                let parts = [2 * 128, 128, 128];
                let weight = b.operand(format, dtype, &parts.map(|n| (n, hidden)), 0.1);
                let bias = Some(b.weight(dtype, &parts.map(|n| (n, 1)), 0.5));
                let rope = Mrope { inv_freq: b.table(&inv_freq(1e6, 128)), section: [16, 24, 24] };
                let q = b.output(dtype, &[m, 2 * 128], ANY);
                // A block of one slot each: what a row keeps is then a row of the cache.
                let kept = if int8_cache { DType::I8 } else { dtype };
                let [k, v] = [(); 2].map(|()| Input {
                    x: b.zeros(kept, &[m, 1, 1, 128], ANY),
                    scales: int8_cache.then(|| b.zeros(DType::F32, &[m, 1, 1], ANY)),
                });
                let meeting = QkvMrope::meets(&k, m).then(|| b.meeting(dtype, m, 1, 128));
                let positions = (0..3).flat_map(|a| (0..m as i32).map(move |i| i * 37 % 4001 + 50 * a));
                let positions = b.indices(&positions.collect::<Vec<i32>>());
                let slots = b.indices(&(0..m as i32).collect::<Vec<_>>());
                let x = b.input(format, dtype, &[m, hidden], 1.0);
                let mut case = b.finish(QkvMrope { x, weight, bias, rope, positions, slots, q, k, v, meeting });
                // Scratch has as many rows.
                case.outputs.retain(|(t, _)| meeting.is_none_or(|m| *t != m.rows));
                case
            })
        });
        check_rows(|m| {
            let mut b = CaseBuilder::new(format!("qkv_rope_2d {format} {dtype}"));
            let weight = b.operand(format, dtype, &[(3 * 160, k)], 0.1);
            let bias = b.weight(dtype, &[(3 * 160, 1)], 0.5);
            let rope = Rope2d { inv_freq: b.table(&inv_freq(1e4, 40)) };
            let qkv = b.output(dtype, &[m, 3 * 160], ANY);
            let positions = b.indices(&(0..2 * m as i32).map(|i| i * 7 % 74).collect::<Vec<_>>());
            let x = b.input(format, dtype, &[m, k], 1.0);
            b.finish(QkvRope2d { x, weight, bias, rope, positions, head_dim: 80, qkv })
        });
    }
}

#[test]
fn a_row_of_logits_has_the_same_bits_among_any_number() {
    for (dtype, k) in [(DType::Bf16, 264), (DType::F16, 776)] {
        check_rows(|m| {
            let mut b = CaseBuilder::new(format!("lm_head {dtype}"));
            let weight = b.matrix(dtype, &[(136, k)], 0.1);
            let x = b.random(dtype, &[m, k], 1.0);
            let rows = b.indices(&(0..m as i32).collect::<Vec<_>>());
            let logits = b.output(DType::F32, &[m, 136], ANY);
            b.finish(LmHead { x, rows, weight, logits, bests: None })
        });
    }
}

#[test]
fn every_op_file_is_registered() {
    let unlisted = ["mod", "body", "case", "input", "norm", "product", "reference", "rope", "workload"];
    let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops"))
        .unwrap()
        .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|f| !unlisted.contains(&f.as_str()))
        .collect();
    files.sort();
    let mut names: Vec<String> = REGISTRY.iter().map(|e| e.name.to_string()).collect();
    names.sort();
    assert_eq!(files, names);
}
