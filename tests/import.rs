//! Quantized checkpoints: layers of every layout against the values of an independent reader, bit for bit, and whole small models against
//! transformers with those values. The goldens and how they were made: `tests/golden/README.md`.

mod traces;

#[path = "import/folder.rs"]
mod folder;
#[path = "import/lies.rs"]
mod lies;

use std::collections::BTreeMap;

use folder::{golden_tensors, layer, model_folder};
use osprey::checkpoint::{ModelFiles, Summary};
use osprey::quant::{Format, Values};
use traces::{F32_MEAN, distance, regret, trace_folder};

const MODELS: [&str; 6] = ["awq4", "ct4", "ct8", "gptq4", "gptq8", "w8a8"];

#[test]
fn every_value_is_that_of_the_tools_formula() {
    let (cases, tensors) = golden_tensors("layers");
    for (name, case) in cases.as_object().unwrap() {
        let want: Vec<f32> = tensors.get(&format!("{name}.values")).1;
        let weights = layer(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (values, n, k) = weights.values("model.layers.0.mlp.down_proj.weight").unwrap();
        assert_eq!((n as u64, k as u64), (case["n"].as_u64().unwrap(), case["k"].as_u64().unwrap()), "{name}");
        let Values::Quantized(q) = values else { panic!("{name} is not quantized") };
        assert_eq!(q.order.is_some(), name.ends_with("_order"), "{name}");
        for (row, want) in want.chunks_exact(k).enumerate() {
            for j in 0..k {
                let column = q.order.as_ref().map_or(j, |order| order[j] as usize);
                let (got, want) = (q.value(row, j), want[column]);
                assert_eq!(got.to_bits(), want.to_bits(), "{name} [{row}, {column}]: {got}, not {want}");
            }
        }
    }
    assert_eq!(cases.as_object().unwrap().len(), 18);
}

#[test]
fn formats_follow_from_the_tensors() {
    let format = |name: &str| layer(name).unwrap().values("model.layers.0.mlp.down_proj.weight").unwrap().0.format();
    let w4 = |group, zeros| Format::W4A16 { group, zeros };
    let w8 = |group, zeros| Format::W8A16 { group, zeros };
    for (name, want) in [
        ("gptq4", w4(16, true)),
        ("gptq4_sym", w4(16, false)),
        ("gptq4_row", w4(48, true)),
        ("gptq8_sym_v2", w8(32, false)),
        ("awq4_row", w4(48, true)),
        ("ct4", w4(16, false)),
        ("ct4_row", w4(44, true)),
        ("ct8", w8(16, false)),
        ("ct_int8", w8(33, false)),
    ] {
        assert_eq!(format(name), want, "{name}");
    }
}

/// Rows that the file has as they are needed stay in its mapping.
#[test]
fn compressed_tensors_are_not_copied() {
    let codes = |model: &str| {
        let dir = model_folder(model);
        let files = ModelFiles::open(dir.path()).unwrap();
        let (values, ..) = files.weights.values("model.layers.0.mlp.up_proj.weight").unwrap();
        let Values::Quantized(q) = values else { panic!("{model} is not quantized") };
        (q.unmapped(), q.bytes(), q.codes.bytes().len())
    };
    for (model, mapped) in [("ct4", true), ("ct8", true), ("gptq4", false), ("awq4", false)] {
        let (unmapped, all, codes) = codes(model);
        assert_eq!(all - unmapped, if mapped { codes } else { 0 }, "{model}");
    }
}

#[test]
fn whole_models_equal_transformers() {
    for model in MODELS {
        let (dir, (_, golden)) = (model_folder(model), golden_tensors(model));
        let got = trace_folder(dir.path(), "image_one", "f32", &[]);
        let want_ids = golden.get::<i64>("golden_ids");
        assert_eq!(got.get::<i64>("generated_ids"), want_ids, "{model}");
        let (shape, all) = got.get::<f32>("logits");
        let rows = golden.get::<i64>("golden_logits_rows").1;
        let ours: Vec<f32> = rows.iter().flat_map(|&r| &all[r as usize * shape[1]..][..shape[1]]).copied().collect();
        let theirs = golden.get::<f32>("golden_logits").1;
        let (d, regret) = (distance(&ours, &theirs), regret(&ours, &theirs, shape[1]));
        println!("{model}: logits mean {:.1e} p99 {:.1e} regret {regret:.1e}", d.mean, d.p99);
        assert!(d.mean <= F32_MEAN && regret == 0.0, "{model}: {d:?}, regret {regret}");
    }
}

#[test]
fn the_summary_counts_formats_by_part() {
    let dir = model_folder("ct4");
    let summary = Summary::new(&ModelFiles::open(dir.path()).unwrap());
    let counts: BTreeMap<(&str, &str), usize> = summary
        .by_part
        .iter()
        .flat_map(|(part, formats)| formats.iter().map(|(f, t)| ((part.name(), f.as_str()), t.tensors)))
        .collect();
    let want = [
        (("embed", "bf16"), 1),
        (("head", "bf16"), 1),
        (("text", "bf16"), 11),
        (("text", "w4a16"), 14),
        (("vision", "bf16"), 17),
        (("vision", "w4a16"), 2),
    ];
    assert_eq!(counts, want.into());
}
