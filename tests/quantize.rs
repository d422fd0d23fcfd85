//! `osprey quantize` through the real binary, on the bundled model: what is written is what was chosen, a cut run goes on, bad input is named, and
//! held-out answers stay as right as they must.

use osprey::checkpoint::{ModelFiles, StoredTensor};
use osprey::dtype::DType;
use osprey::quant::grid::Grid;
use osprey::quant::{Activations, Values, rtn};
use safetensors::{serialize_to_file, tensor::TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};

mod command;
use command::{ROOT, call, copied, demo, good, osprey};

/// Quantizes into `dir/name`.
fn quantized(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let out = dir.join(name);
    good(&[&["quantize", "--out", out.to_str().unwrap()], flags].concat());
    out
}

/// The bundled model without samples of its own.
fn plain(dir: &Path) -> PathBuf {
    let to = copied(demo(), dir.join("plain"));
    std::fs::remove_file(to.join("calibration.jsonl")).unwrap();
    to
}

/// A bf16 tensor in f32.
fn floats(t: &StoredTensor) -> Vec<f32> {
    assert_eq!(t.dtype(), DType::Bf16);
    t.bytes().chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect()
}

#[test]
fn what_is_read_is_what_was_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let model = plain(dir.path());
    let model = model.to_str().unwrap();
    let original = ModelFiles::open(model).unwrap();
    for (bits, group, zeros) in [(4, 32, false), (4, 128, true), (8, 64, false), (8, 0, true)] {
        let size = if group == 0 { "-1".into() } else { group.to_string() };
        let mut flags = vec!["--model", model, "--method", "rtn", "--group-size", &size, "--lm-head", "w8a16"];
        flags.extend(["--format", if bits == 4 { "w4a16" } else { "w8a16" }]);
        flags.extend(zeros.then_some("--zero-points"));
        let out = quantized(dir.path(), &format!("{bits}-{group}"), &flags);
        let read = ModelFiles::open(&out).unwrap();
        assert_eq!(read.weights.matrices().count(), 4 * 7 + 1);
        assert!(!read.config.tie_word_embeddings);
        for matrix in read.weights.matrices() {
            let head = matrix.name() == "lm_head.weight";
            let from = original.weights.get(if head { "model.embed_tokens.weight" } else { matrix.name() }).unwrap();
            let (w, k) = (floats(from), from.shape()[1]);
            let grid = Grid { bits: if head { 8 } else { bits }, zeros: zeros && !head, scales: DType::Bf16 };
            let group = if head || group == 0 { k } else { group };
            let chosen = rtn::quantize(&w, k, group, grid, &vec![1.0; k]).values();
            let codes = matrix.codes();
            let values: Vec<f32> = (0..w.len()).map(|i| codes.value(i / k, i % k)).collect();
            assert_eq!(values, chosen, "{} of {flags:?}", matrix.name());
        }
        // Everything else is as it was.
        for tensor in read.weights.tensors() {
            assert_eq!(tensor.bytes(), original.weights.get(tensor.name()).unwrap().bytes(), "{}", tensor.name());
        }
    }
}

#[test]
fn inspect_counts_what_the_cpu_has_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--method", "rtn", "--format", "w4a16", "--group-size", "32", "--zero-points"];
    let model = quantized(dir.path(), "codes", &flags);
    // Of a code half a byte, of a group an f32 and a zero point.
    let weights = ModelFiles::open(&model).unwrap().weights;
    let sizes = weights.matrices().map(|m| m.codes().n * m.codes().k);
    let want: usize = sizes.map(|size| size / 2 + size / 32 * 5).sum();
    let inspect =
        |model: &str, json: &[&str]| good(&[&["inspect", "--model", model, "--device", "cpu"], json].concat());
    let model = model.to_str().unwrap();
    let memory = |model: &str| -> Value {
        serde_json::from_str::<Value>(&inspect(model, &["--json"])).unwrap()["memory"].clone()
    };
    let codes = memory(model);
    assert_eq!(codes["panels"], want);
    let regions: u64 = codes["regions"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(codes["total"], codes["weights"].as_u64().unwrap() + want as u64 + regions);
    assert!(inspect(model, &[]).contains("MiB of codes, in panels for the CPU"));
    let floats = demo();
    assert_eq!(memory(floats.to_str().unwrap())["panels"], 0);
    assert!(!inspect(floats.to_str().unwrap(), &[]).contains("panels"));
}

#[test]
fn int8_activations_have_signed_codes_and_smoothed_norms() {
    let dir = tempfile::tempdir().unwrap();
    let out = quantized(dir.path(), "w8a8", &["--format", "w8a8", "--samples", "3"]);
    let (read, original) = (ModelFiles::open(&out).unwrap(), ModelFiles::open(demo()).unwrap());
    for matrix in read.weights.matrices() {
        assert_eq!(matrix.codes().activations, Activations::Int8);
    }
    let norm = "model.layers.1.input_layernorm.weight";
    assert_ne!(read.weights.get(norm).unwrap().bytes(), original.weights.get(norm).unwrap().bytes());
    let Values::Quantized(q) = read.weights.values("model.layers.0.mlp.up_proj.weight").unwrap().0 else { panic!() };
    assert_eq!((q.n, q.k, q.group), (512, 256, 256));
}

/// Right answers, and how many were asked for.
fn right(model: &Path) -> (usize, usize) {
    let data: Vec<String> = ["naming", "counting", "place", "words", "numbers", "digits", "pointing"]
        .iter()
        .map(|kind| format!("{ROOT}/tests/data/demo/{kind}.jsonl"))
        .collect();
    let mut args = vec!["eval", "--json", "--device", "cpu", "--model", model.to_str().unwrap(), "--data"];
    args.extend(data.iter().map(String::as_str));
    let report: Value = serde_json::from_str(&good(&args)).unwrap();
    let all = report["sets"].as_array().unwrap().iter().find(|set| set["name"] == "all").unwrap();
    let items = all["accuracy"]["items"].as_u64().unwrap() as f64;
    ((all["accuracy"]["right"].as_f64().unwrap() / 100.0 * items).round() as usize, items as usize)
}

/// The bounds are those for all 280 questions: half a point for int8, two and one for int4 in groups of 128 and 32.
#[test]
fn held_out_answers_stay_right() {
    let dir = tempfile::tempdir().unwrap();
    let (before, asked) = right(&demo());
    assert_eq!(asked, 280);
    for (name, flags, points) in [
        ("w8a8", &["--format", "w8a8"][..], 0.5),
        ("w8a16", &["--format", "w8a16"], 0.5),
        ("w4a16-128", &["--format", "w4a16"], 2.0),
        ("w4a16-32", &["--format", "w4a16", "--group-size", "32"], 1.0),
    ] {
        let (after, _) = right(&quantized(dir.path(), name, flags));
        println!("{name}: {after} right, {before} before");
        let most = points / 100.0 * asked as f64;
        assert!((before - after.min(before)) as f64 <= most, "{name}: {after} right, {before} before");
    }
}

#[test]
fn a_run_that_was_cut_off_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--format", "w4a16", "--samples", "4"];
    let whole = quantized(dir.path(), "whole", &flags);
    // Killed as soon as the first layer is noted.
    let out = dir.path().join("cut");
    let args = [&["quantize", "--out", out.to_str().unwrap()], &flags[..]].concat();
    let mut child = osprey().args(&args).spawn().unwrap();
    let state = out.join("osprey-quantize.state");
    while !state.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("config.json").exists(), "it ended before it could be cut off");
    // Another format; pictures of fewer tokens; limits that leave these pictures as they are.
    let others = [
        &["--format", "w8a8", "--samples", "4"][..],
        &[&flags[..], &["--max-pixels", "12544"]].concat(),
        &[&flags[..], &["--min-pixels", "12543"]].concat(),
    ];
    for other in others {
        let refused = call(&[&["quantize", "--out", out.to_str().unwrap()], other].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("holds an unfinished job of other flags or files"), "{other:?}: {said}");
    }
    quantized(dir.path(), "cut", &flags);
    for file in ["model.safetensors", "config.json"] {
        assert!(std::fs::read(whole.join(file)).unwrap() == std::fs::read(out.join(file)).unwrap(), "{file}");
    }
    assert!(!state.exists());
}

#[test]
fn bad_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let good = r#"{"query": "What is this?", "response": "a star"}"#;
    write("empty.jsonl", "");
    write("broken.jsonl", &format!("{good}\n{{\"query\": 1}}\n"));
    write("missing.jsonl", &format!("{good}\n\n{{\"query\": \"?\", \"response\": \"\", \"images\": [\"no.png\"]}}\n"));
    write("one.jsonl", good);
    std::fs::create_dir(dir.path().join("used")).unwrap();
    write("used/notes.txt", "mine");
    let model = plain(dir.path()).display().to_string();
    let done = quantized(dir.path(), "done", &["--format", "w8a16", "--calibration", &path("one.jsonl")])
        .display()
        .to_string();
    let out = path("out");
    let (empty, broken, missing, used) =
        (path("empty.jsonl"), path("broken.jsonl"), path("missing.jsonl"), path("used"));
    let cases: [(&[&str], &str); 9] = [
        (&["--out", &out, "--format", "w4a16", "--calibration", &empty], "empty.jsonl: has no line"),
        (&["--out", &out, "--format", "w4a16", "--calibration", &broken], "broken.jsonl:2"),
        (&["--out", &out, "--format", "w4a16", "--calibration", &missing], "missing.jsonl:3"),
        (&["--out", &out, "--format", "w4a16", "--model", &model], "--calibration: is not given"),
        (&["--out", &out, "--format", "w8a16", "--model", &done], "--model: "),
        (&["--out", &out, "--format", "w8a8", "--group-size", "64"], "--group-size"),
        (&["--out", &out, "--format", "w8a8", "--method", "awq"], "--method"),
        (&["--out", &used, "--format", "w8a16"], "--out: "),
        (&["--out", &out, "--format", "w8a16", "--adapter", &used], "adapter_config.json"),
    ];
    for (flags, want) in cases {
        let done = call(&[&["quantize"], flags].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{flags:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(want) && said.lines().count() == 1, "{flags:?}: {said}");
        assert!(!Path::new(&out).exists(), "{flags:?} left a folder");
    }
    // A tiny model whose rows no group of 128 divides.
    let tiny = format!("{ROOT}/tests/golden/tiny_a");
    let flags = ["quantize", "--model", &tiny, "--out", &out, "--format", "w4a16", "--method", "rtn"];
    let said = call(&flags);
    assert!(String::from_utf8_lossy(&said.stderr).contains("--group-size: 128 does not divide"), "{said:?}");
}

/// An adapter of rank 1 on the named modules: `B A` is 1/8 in the first 3 columns of every second row.
fn adapter(dir: &Path, modules: &[(&str, usize, usize)]) -> PathBuf {
    let to = dir.join("adapter");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 0.5}"#).unwrap();
    let f32s = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let halves = modules.iter().flat_map(|&(module, n, k)| {
        let a = (0..k).map(|j| if j < 3 { 0.5 } else { 0.0 }).collect();
        let b = (0..n).map(|i| if i % 2 == 0 { 0.5 } else { 0.0 }).collect();
        let name = |half: &str| format!("base_model.model.{module}.lora_{half}.weight");
        [(name("A"), [1, k], f32s(a)), (name("B"), [n, 1], f32s(b))]
    });
    let halves: Vec<_> = halves.collect();
    let views = halves
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, &to.join("adapter_model.safetensors")).unwrap();
    to
}

/// An adapter on the head gives the model a head of its own; both are merged before they are rounded, and the embedding stays as it was.
#[test]
fn an_adapter_is_merged_before_weights_and_head_are_rounded() {
    let dir = tempfile::tempdir().unwrap();
    let model = plain(dir.path());
    let original = ModelFiles::open(&model).unwrap();
    let (embed, down) = ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight");
    let [vocab, d] = original.weights.get(embed).unwrap().shape() else { panic!() };
    let modules = [("lm_head", *vocab, *d), ("model.language_model.layers.1.mlp.down_proj", 256, 512)];
    let adapter = adapter(dir.path(), &modules);
    let flags = ["--model", model.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()];
    let formats = ["--format", "w8a16", "--group-size", "64", "--lm-head", "w8a16"];
    let out = quantized(dir.path(), "merged", &[&flags[..], &formats].concat());
    let read = ModelFiles::open(&out).unwrap();
    assert_eq!(read.weights.get(embed).unwrap().bytes(), original.weights.get(embed).unwrap().bytes());
    for (name, from, group) in [("lm_head.weight", embed, *d), (down, down, 64)] {
        let base = original.weights.get(from).unwrap();
        let (mut w, k) = (floats(base), base.shape()[1]);
        for row in w.chunks_exact_mut(k).step_by(2) {
            row[..3].iter_mut().for_each(|w| *w = half::bf16::from_f32(*w + 0.125).to_f32());
        }
        let grid = Grid { bits: 8, zeros: false, scales: DType::Bf16 };
        let Values::Quantized(codes) = read.weights.values(name).unwrap().0 else { panic!("{name} is no codes") };
        let values: Vec<f32> = (0..w.len()).map(|i| codes.value(i / k, i % k)).collect();
        assert_eq!(values, rtn::quantize(&w, k, group, grid, &vec![1.0; k]).values(), "{name}");
    }
    let out = out.to_str().unwrap();
    assert!(!good(&["run", "--model", out, "--prompt", "Hello", "--max-new-tokens", "3", "--json"]).is_empty());
    let data = format!("{ROOT}/tests/data/demo/naming.jsonl");
    let report = good(&["eval", "--model", out, "--data", &data, "--limit", "1", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["sets"][0]["accuracy"]["items"], 1);
}
