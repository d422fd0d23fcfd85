//! `osprey eval` through the real binary: its figures against logits that `osprey trace` writes, on the bundled model and a damaged copy.

use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn osprey(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osprey")).args(args).output().unwrap()
}

/// The bundled model with a quarter of the last layer's down projection lost.
fn damaged(dir: &Path) -> PathBuf {
    let to = dir.join("damaged");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(format!("{ROOT}/models/demo")).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }
    let file = to.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let name = "model.layers.3.mlp.down_proj.weight";
    let range = {
        let tensor = SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().as_ptr_range();
        let start = tensor.start as usize - bytes.as_ptr() as usize;
        start..start + (tensor.end as usize - tensor.start as usize) / 4
    };
    bytes[range].fill(0);
    std::fs::write(&file, bytes).unwrap();
    to
}

/// Ids, and the logits that follow each of them, of a conversation.
fn trace(dir: &Path, model: &str, messages: Value) -> (Vec<i64>, Vec<Vec<f64>>) {
    let (conversation, out) = (dir.join("conversation.json"), dir.join("trace.safetensors"));
    std::fs::write(&conversation, messages.to_string()).unwrap();
    let (conversation, path) = (conversation.to_str().unwrap(), out.to_str().unwrap());
    let done = osprey(&[
        "trace",
        "--model",
        model,
        "--dtype",
        "f32",
        "--max-new-tokens",
        "0",
        "--conversation",
        conversation,
        "--out",
        path,
    ]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = std::fs::read(&out).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("input_ids").unwrap();
    let ids = ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let logits = tensors.tensor("logits").unwrap();
    let vocab = logits.shape()[1];
    let values: Vec<f64> =
        logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect();
    (ids, values.chunks_exact(vocab).map(<[f64]>::to_vec).collect())
}

fn probabilities(logits: &[f64]) -> Vec<f64> {
    let e: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|x| x / total).collect()
}

fn near(got: &Value, want: f64, what: &str) {
    // f32 logits of two runs that differ in the size of a step at most; the sums here are in f64 on both sides.
    let got = got.as_f64().unwrap();
    assert!((got - want).abs() <= 1e-6 * want.abs().max(1e-3), "{what}: {got}, expected {want}");
}

#[test]
fn distances_are_those_of_the_logits() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = damaged(dir.path());
    let damaged = damaged.to_str().unwrap();
    let text = std::fs::read_to_string(format!("{ROOT}/tests/data/demo/pointing.jsonl")).unwrap();
    let mut item: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let image = format!("{ROOT}/tests/data/demo/{}", item["images"][0].as_str().unwrap());
    item["images"] = json!([image]);
    let data = dir.path().join("one.jsonl");
    std::fs::write(&data, format!("\n{item}\n")).unwrap();

    let base = format!("{ROOT}/models/demo");
    let args = ["eval", "--model", damaged, "--reference", &base, "--dtype", "f32", "--json", "--data"];
    let page = dir.path().join("page.html");
    let out = osprey(&[&args[..], &[data.to_str().unwrap(), "--html", page.to_str().unwrap()]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["sets"][0]["name"], "one");
    let found = &report["sets"][1];
    assert_eq!((&found["name"], &found["accuracy"]["items"]), (&json!("all"), &json!(1)));
    assert_eq!(found["reference"]["right"], 100.0);
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));

    let question = json!({"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": item["query"]}]});
    let answer = json!({"role": "assistant", "content": item["response"]});
    let first = trace(dir.path(), &base, json!([question])).0.len();
    let both = json!([question, answer]);
    let (ids, reference) = trace(dir.path(), &base, both.clone());
    let (_, model) = trace(dir.path(), damaged, both);
    // After the answer stand the end of its turn, a line break and the next turn's three tokens.
    let last = ids.len() - 4;
    let (mut kl, mut surprise, mut worst, mut agree) = (0.0, [0.0; 2], 0f64, 0);
    let best = |p: &[f64]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap();
    for at in first..last {
        let (p, q) = (probabilities(&reference[at - 1]), probabilities(&model[at - 1]));
        let d: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        (kl, worst) = (kl + d, worst.max(d));
        agree += usize::from(best(&p) == best(&q));
        let id = ids[at] as usize;
        surprise = [surprise[0] - p[id].ln(), surprise[1] - q[id].ln()];
    }
    let n = (last - first) as f64;
    let d = &found["distance"];
    assert_eq!(d["tokens"], last - first);
    assert!(kl / n > 1e-3, "the damage should show: {}", kl / n);
    near(&d["mean_kl"], kl / n, "mean KL");
    near(&d["p99_kl"], worst, "p99 KL");
    near(&d["top1_agreement"], 100.0 * agree as f64 / n, "top-1 agreement");
    near(&d["reference_perplexity"], (surprise[0] / n).exp(), "the reference's perplexity");
    near(&d["perplexity"], (surprise[1] / n).exp(), "perplexity");
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |lines: &str| {
        let data = dir.path().join("x.jsonl");
        std::fs::write(&data, lines).unwrap();
        let out = osprey(&["eval", "--data", data.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(error("").ends_with("x.jsonl: has no line\n"));
    assert!(error("\n{\"query\": 1, \"response\": \"\"}").contains("x.jsonl:2: invalid type: integer `1`"));
    let gone = error("{\"query\": \"?\", \"response\": \"\", \"images\": \"no.png\"}");
    assert!(gone.contains("x.jsonl:1: ") && gone.contains("no.png"), "{gone}");
}
