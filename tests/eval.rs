//! `osprey eval` through the real binary: its figures against logits that `osprey trace` writes, on the bundled model and a damaged copy.

use osprey::checkpoint::{ModelFiles, StoredTensor};
use osprey::dtype::{DType, widened};
use osprey::quant::grid::Grid;
use osprey::quant::rtn;
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod command;
use command::{ROOT, call, copied, demo, good};

/// The bundled model with a quarter of the last layer's down projection lost.
fn damaged(dir: &Path) -> PathBuf {
    let to = copied(demo(), dir.join("damaged"));
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
    good(&[
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
    let report = good(&[&args[..], &[data.to_str().unwrap(), "--html", page.to_str().unwrap()]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
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
        let out = call(&["eval", "--data", data.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(error("").ends_with("x.jsonl: has no line\n"));
    assert!(error("\n{\"query\": 1, \"response\": \"\"}").contains("x.jsonl:2: invalid type: integer `1`"));
    let gone = error("{\"query\": \"?\", \"response\": \"\", \"images\": \"no.png\"}");
    assert!(gone.contains("x.jsonl:1: ") && gone.contains("no.png"), "{gone}");
}

/// A copy of the bundled model in f32 whose tensors `change` may change, by name.
fn altered(dir: &Path, name: &str, change: impl Fn(&str, &StoredTensor, &mut [f32])) -> String {
    let to = copied(demo(), dir.join(name));
    let files = ModelFiles::open(demo()).unwrap();
    let of = |t: &StoredTensor| {
        let mut values = widened(t.dtype(), t.bytes());
        change(t.name(), t, &mut values);
        (t.name().to_string(), t.shape().to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    };
    let tensors: Vec<_> = files.weights.tensors().map(of).collect();
    let views = tensors.iter().map(|(n, shape, bytes)| (n, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
    to.display().to_string()
}

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/demo/numbers.jsonl");

/// What `eval` finds, as JSON, in f32 over two questions.
fn eval(more: &[&str]) -> Value {
    let args = ["eval", "--data", DATA, "--limit", "2", "--dtype", "f32", "--json"];
    serde_json::from_str(&good(&[&args[..], more].concat())).unwrap()
}

/// Mean KL by layer and kind, and the first of the list.
fn sensitivity(model: &str, format: &str) -> (BTreeMap<(u64, String), f64>, (u64, String)) {
    let report = eval(&["--model", model, "--sensitivity", format]);
    let linears = report["linears"].as_array().unwrap().iter();
    let key = |l: &Value| (l["layer"].as_u64().unwrap(), l["kind"].as_str().unwrap().to_string());
    let list: Vec<_> = linears.map(|l| (key(l), l["distance"]["mean_kl"].as_f64().unwrap())).collect();
    assert!(list.is_sorted_by(|a, b| a.1 >= b.1), "{list:?}");
    (list.iter().cloned().collect(), list[0].0.clone())
}

/// One linear alone is that linear of a model folder replaced by the values of its codes.
#[test]
fn sensitivity_is_the_distance_with_one_linear_rounded() {
    let dir = tempfile::tempdir().unwrap();
    let base = altered(dir.path(), "base", |_, _, _| {});
    let (found, _) = sensitivity(&base, "w4a16");
    assert_eq!(found.len(), 4 * 7);
    for (layer, kind) in [(1, "self_attn.k_proj"), (2, "mlp.down_proj")] {
        let linear = format!("model.layers.{layer}.{kind}.weight");
        let grid = Grid { bits: 4, zeros: false, scales: DType::Bf16 };
        let rounded = altered(dir.path(), kind, |name, t, w| {
            if name == linear {
                let k = t.shape()[1];
                w.copy_from_slice(&rtn::quantize(w, k, 128, grid, &vec![1.0; k]).values());
            }
        });
        let want = eval(&["--model", &rounded, "--reference", &base]);
        let want = want["sets"][1]["distance"]["mean_kl"].as_f64().unwrap();
        let got = found[&(layer, kind.to_string())];
        // Logits that `score` computes from other chunks are the same: so are the sums.
        assert!(want > 0.0 && (got - want).abs() <= 1e-9 * want, "{linear}: {got}, expected {want}");
    }
}

/// Moving size from a channel of up into its column of down changes no output, since it is a power of two; but that column then spoils its groups' scales.
#[test]
fn a_linear_that_rounds_badly_is_the_most_sensitive() {
    let dir = tempfile::tempdir().unwrap();
    let demo = demo().display().to_string();
    let planted = altered(dir.path(), "planted", |name, t, w| {
        let k = *t.shape().last().unwrap();
        match name {
            "model.layers.3.mlp.up_proj.weight" => {
                w.chunks_exact_mut(k).step_by(128).flatten().for_each(|w| *w /= 64.0);
            }
            "model.layers.3.mlp.down_proj.weight" => w.iter_mut().step_by(128).for_each(|w| *w *= 64.0),
            _ => {}
        }
    });
    let spoilt = (3, "mlp.down_proj".to_string());
    let ((before, first), (after, worst)) = (sensitivity(&demo, "w4a16"), sensitivity(&planted, "w4a16"));
    assert_ne!(first, spoilt);
    assert_eq!(worst, spoilt);
    assert!(after[&spoilt] > 10.0 * before[&spoilt], "{} {}", after[&spoilt], before[&spoilt]);
    for (key, kl) in before.iter().filter(|(key, _)| **key != spoilt) {
        assert!((after[key] - kl).abs() <= 1e-6 * kl.max(1e-6), "{key:?}: {} before {kl}", after[key]);
    }
}

/// With int8 activations the linears that read the same rows are rounded together.
#[test]
fn sensitivity_of_int8_is_measured_by_product_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let demo = demo().display().to_string();
    let (found, _) = sensitivity(&demo, "w8a8");
    let kinds = ["mlp.down_proj", "mlp.gate_proj+up_proj", "self_attn.o_proj", "self_attn.q_proj+k_proj+v_proj"];
    assert_eq!(found.keys().map(|(_, kind)| kind.as_str()).take(4).collect::<Vec<_>>(), kinds);
    // Weights of 8 bits with a scale for each row, without rounded activations.
    let report = eval(&["--sensitivity", "w8a16", "--group-size", "-1", "--html", page.to_str().unwrap()]);
    assert_eq!((&report["group_size"], &report["items"]), (&json!(-1), &json!(2)));
    let of_layers = |kl: &dyn Fn(u64) -> f64| (0..4).map(kl).sum::<f64>();
    let weights_alone = report["linears"].as_array().unwrap().iter().filter(|l| l["kind"] == "mlp.down_proj");
    let weights_alone: f64 = weights_alone.map(|l| l["distance"]["mean_kl"].as_f64().unwrap()).sum();
    assert!(of_layers(&|layer| found[&(layer, kinds[0].to_string())]) > weights_alone);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!((page.matches("<svg").count(), page.matches("<rect").count()), (7, 28));
    let flags = ["--sensitivity", "w4a16", "--model", &format!("{ROOT}/tests/golden/tiny_a")];
    let refused = call(&[&["eval", "--data", DATA], &flags[..]].concat());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("--group-size: 128 does not divide the 96 columns of model.layers.0.mlp.down_proj"),
        "{said}"
    );
}
