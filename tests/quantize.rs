//! `osprey quantize` through the real binary, on the bundled model: what is written is what was chosen, a cut run goes on, bad input is named, and
//! held-out answers stay as right as they must.

use osprey::checkpoint::{ModelFiles, StoredTensor};
use osprey::dtype::DType;
use osprey::quant::grid::Grid;
use osprey::quant::{Activations, Values, rtn};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn osprey(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osprey")).args(args).output().unwrap()
}

fn demo() -> PathBuf {
    Path::new(ROOT).join("models/demo")
}

/// Quantizes into `dir/name`.
fn quantized(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let out = dir.join(name);
    let done = osprey(&[&["quantize", "--out", out.to_str().unwrap()], flags].concat());
    assert!(done.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&done.stderr));
    out
}

/// The bundled model without samples of its own.
fn plain(dir: &Path) -> PathBuf {
    let to = dir.join("plain");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(demo()).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() && from.file_name().unwrap() != "calibration.jsonl" {
            std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }
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
    let done = osprey(&args);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
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
    let mut child = Command::new(env!("CARGO_BIN_EXE_osprey")).args(&args).spawn().unwrap();
    let state = out.join("osprey-quantize.state");
    while !state.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("config.json").exists(), "it ended before it could be cut off");
    let other = osprey(&["quantize", "--out", out.to_str().unwrap(), "--format", "w8a8", "--samples", "4"]);
    assert!(!other.status.success());
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
        let done = osprey(&[&["quantize"], flags].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{flags:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(want) && said.lines().count() == 1, "{flags:?}: {said}");
        assert!(!Path::new(&out).exists(), "{flags:?} left a folder");
    }
    // A tiny model whose rows no group of 128 divides.
    let tiny = format!("{ROOT}/tests/golden/tiny_a");
    let flags = ["quantize", "--model", &tiny, "--out", &out, "--format", "w4a16", "--method", "rtn"];
    let said = osprey(&flags);
    assert!(String::from_utf8_lossy(&said.stderr).contains("--group-size: 128 does not divide"), "{said:?}");
}
