//! `merge-lora` against PEFT: merged weights bit for bit, and every adapter that cannot be merged refused by name.
//!
//! The adapters in `tests/golden/adapters` have products that are exact in f32, so that there is one right answer; only `rounding` has not, and is held to
//! the bound of its sums.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use osprey::checkpoint::lora::{Adapter, Merged};
use osprey::checkpoint::{Checkpoint, ModelFiles, StoredMatrix, StoredTensor, Weights};
use osprey::data::TensorData;
use osprey::dtype::DType;
use osprey::error::Result;
use osprey::quant::{Activations, Codes, Quantized};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

mod command;
use command::{call, good};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(golden(name)).unwrap()
}

fn merge(files: &ModelFiles, dir: &Path) -> Result<Merged> {
    Merged::new(files, Some(Adapter::open(dir)?))
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What PEFT changes, by case: the model and the hashes of the changed tensors.
fn facts() -> BTreeMap<String, Value> {
    serde_json::from_str(&fs::read_to_string(golden("adapters/merged.json")).unwrap()).unwrap()
}

/// Every tensor of the result is PEFT's, or the model's where PEFT leaves it alone.
fn check(case: &str, fact: &Value, files: &ModelFiles, merged: &Merged) {
    let mut changed = 0;
    for t in merged.tensors().unwrap() {
        let got = merged.get(&t.name).unwrap();
        assert_eq!((got.name(), got.shape(), got.dtype()), (&t.name[..], &t.shape[..], t.dtype));
        match fact["tensors"].get(&t.name) {
            Some(hash) => {
                changed += 1;
                assert_eq!(&sha(got.bytes()), hash.as_str().unwrap(), "{case}: {}", t.name);
            }
            None => {
                let name = if t.name == "lm_head.weight" && merged.is_untied() {
                    "model.embed_tokens.weight"
                } else {
                    &t.name
                };
                assert!(
                    got.bytes() == files.weights.get(name).unwrap().bytes(),
                    "{case}: {} should be the model's",
                    t.name
                );
            }
        }
    }
    assert_eq!(changed, fact["tensors"].as_object().unwrap().len(), "{case}");
}

/// The cases whose arithmetic is exact.
const EXACT: [&str; 8] = ["plain", "patterns", "rslora", "vision", "saved", "biases", "embedding", "head"];

#[test]
fn merged_weights_are_pefts() {
    let facts = facts();
    for case in EXACT {
        let files = model(facts[case]["model"].as_str().unwrap());
        let merged = merge(&files, &golden("adapters").join(case)).unwrap();
        check(case, &facts[case], &files, &merged);
        assert_eq!(merged.is_untied(), ["embedding", "head"].contains(&case), "{case}");
    }
}

/// An adapter to tamper with: its configuration, and its tensors by name.
#[derive(Clone)]
struct Draft {
    config: Value,
    tensors: BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>,
}

impl Draft {
    fn of(case: &str) -> Draft {
        let dir = golden("adapters").join(case);
        let config = serde_json::from_str(&fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap();
        let bytes = fs::read(dir.join("adapter_model.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = all.iter().map(|(name, t)| (name.into(), (t.dtype(), t.shape().to_vec(), t.data().to_vec())));
        Draft { config, tensors: tensors.collect() }
    }

    fn renamed(&self, rename: impl Fn(&str) -> String) -> Draft {
        let tensors = self.tensors.iter().map(|(name, t)| (rename(name), t.clone())).collect();
        Draft { config: self.config.clone(), tensors }
    }

    fn with(&self, field: &str, value: Value) -> Draft {
        let mut draft = self.clone();
        draft.config[field] = value;
        draft
    }

    /// Renames the first tensor whose name has `part`.
    fn with_name(&self, part: &str, change: impl Fn(&str) -> String) -> Draft {
        let mut draft = self.clone();
        let name = self.tensors.keys().find(|n| n.contains(part)).unwrap();
        let tensor = draft.tensors.remove(name).unwrap();
        draft.tensors.insert(change(name), tensor);
        draft
    }

    fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join("adapter_model.safetensors")).unwrap();
        dir
    }

    /// The message of its refusal for a model, without the folder.
    fn refusal(&self, files: &ModelFiles) -> String {
        let dir = self.write();
        let Err(error) = merge(files, dir.path()) else { panic!("was merged") };
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message.replace(&format!("{}/", dir.path().display()), "")
    }
}

#[test]
fn every_way_to_name_a_tensor_is_understood() {
    let facts = facts();
    let styles: [(&str, &str); 5] = [
        // As transformers before 4.52 had it, and as published.
        ("model.language_model.layers", "model.layers"),
        ("model.visual.", "visual."),
        ("model.language_model.layers", "language_model.model.layers"),
        (".weight", ".default.weight"),
        ("base_model.model.", ""),
    ];
    for (from, to) in styles {
        for case in ["plain", "vision"] {
            let files = model(facts[case]["model"].as_str().unwrap());
            let dir = Draft::of(case).renamed(|n| n.replace(from, to)).write();
            check(case, &facts[case], &files, &merge(&files, dir.path()).unwrap());
        }
    }
    let raw = |n: &str| {
        n.replace("v_proj.weight", "v_proj.modules_to_save.default.weight").replace("ln_q.", "ln_q.modules_to_save.x.")
    };
    for (case, name) in
        [("saved", &raw as &dyn Fn(&str) -> String), ("biases", &|n: &str| n.replace("base_layer.", ""))]
    {
        let files = model("tiny_b");
        let dir = Draft::of(case).renamed(name).write();
        check(case, &facts[case], &files, &merge(&files, dir.path()).unwrap());
    }
    let files = model("tiny_a");
    let dir = Draft::of("embedding").renamed(|n| format!("{n}.default")).write();
    check("embedding", &facts["embedding"], &files, &merge(&files, dir.path()).unwrap());
}

#[test]
fn the_first_pattern_that_matches_counts() {
    let files = model("tiny_a");
    let value = |patterns: &str| {
        let draft = Draft::of("plain");
        let dir = draft.write();
        let text = draft.with("alpha_pattern", json!("HERE")).config.to_string().replace("\"HERE\"", patterns);
        fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        let merged = merge(&files, dir.path()).unwrap();
        ["0.self_attn.q", "1.self_attn.q", "0.self_attn.v"]
            .map(|at| sha(merged.get(&format!("model.layers.{at}_proj.weight")).unwrap().bytes()))
    };
    let [plain, four] = ["{}", r#"{"q_proj": 4}"#].map(value);
    // In the order of the file, not of the alphabet.
    assert_eq!(value(r#"{"self_attn.q_proj": 4, "0.self_attn.q_proj": 16}"#), four);
    assert_eq!(value(r#"{"q_proj": 4, "layers.1.self_attn.q_proj": 8}"#), four);
    let got = value(r#"{"layers.1.self_attn.q_proj": 8, "q_proj": 4}"#);
    assert_eq!(got, [four[0].clone(), plain[1].clone(), plain[2].clone()]);
    // A whole path or the end of one after a dot: nothing else.
    assert_eq!(value(r#"{"proj": 4, "model.language_model": 4, "q_proj.weight": 4}"#), plain);
    assert_eq!(value(r#"{"^model.language_model.layers.\\d.self_attn.q_proj": 4}"#), four);
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        DType::Bf16 => bytes.chunks(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        _ => bytes.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    }
}

/// The model with its tensors stored in another type, exactly.
fn stored_as(files: &ModelFiles, dtype: DType) -> ModelFiles {
    let convert = |t: &StoredTensor| {
        let values = floats(t.dtype(), t.bytes());
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        };
        StoredTensor::new(t.name(), dtype, t.shape(), TensorData::from_bytes(bytes)).unwrap()
    };
    let tensors: Vec<_> = files.weights.tensors().map(convert).collect();
    let weights = Weights::from_tensors(&files.config, &tensors, &[]).unwrap();
    ModelFiles { weights, ..files.clone() }
}

/// Every value is that of PEFT in f64, within the roundings of its sum and one to the type of the weight.
#[test]
fn values_are_rounded_once() {
    const NAME: &str = "model.layers.1.self_attn.k_proj.weight";
    let bytes = fs::read(golden("adapters/rounding/merged.safetensors")).unwrap();
    let want = SafeTensors::deserialize(&bytes).unwrap();
    let exact = want.tensor(NAME).unwrap().data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
    let exact: Vec<f64> = exact.collect();
    let magnitude = floats(DType::F32, want.tensor("magnitude").unwrap().data());
    let (base, dir) = (model("tiny_b"), golden("adapters/rounding"));
    // Half a unit in the last place, for values from 1 to 2; a sum in f32 is stored as f32 without another rounding.
    for (dtype, half) in [(DType::F32, 0.0), (DType::Bf16, 2f64.powi(-8))] {
        let files = if dtype == DType::Bf16 { base.clone() } else { stored_as(&base, dtype) };
        let got = merge(&files, &dir).unwrap().get(NAME).unwrap();
        assert_eq!(got.dtype(), dtype);
        let got = floats(dtype, got.bytes());
        let rows = got.chunks(144).step_by(2).flatten();
        for ((got, exact), size) in rows.zip(&exact).zip(&magnitude) {
            // Rank 3: a product, two sums (that from 0 is exact), the scale's own rounding, its product, and the sum with W: six in f32.
            let sum = 6.0 * 2f64.powi(-24) * size;
            let half = half * (exact.abs() + sum).log2().floor().exp2();
            assert!((got - exact).abs() <= sum + half, "{dtype}: {got} for {exact}");
        }
    }
}

#[test]
fn a_value_beyond_the_type_is_refused() {
    let files = stored_as(&model("tiny_a"), DType::F16);
    let refused = |alpha: Value| {
        let dir = Draft::of("plain").with("lora_alpha", alpha).write();
        let merged = merge(&files, dir.path()).unwrap();
        merged.get("model.layers.0.self_attn.k_proj.weight").unwrap();
        let error = merged.get("model.layers.0.self_attn.q_proj.weight").err();
        error.map(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    };
    assert_eq!(refused(json!(8)), None);
    let want = "adapter_model.safetensors: model.layers.0.self_attn.q_proj.weight: with this adapter it has values that are NaN or too large for f16";
    assert_eq!(refused(json!(1e9)).as_deref(), Some(want));
    assert_eq!(refused(json!(1e300)).as_deref(), Some(want));
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    let (files, draft) = (model("tiny_a"), Draft::of("plain"));
    let hint = "is not supported: only plain LoRA can be merged; PEFT's merge_and_unload knows some of the others";
    let refused = |field: &str, value: Value| draft.with(field, value).refusal(&files);
    for (field, value, name) in [
        ("peft_type", json!("ADALORA"), "peft_type ADALORA"),
        ("peft_type", json!("IA3"), "peft_type IA3"),
        ("use_dora", json!(true), "use_dora (DoRA)"),
        ("use_qalora", json!(true), "use_qalora (QALoRA)"),
        ("use_bdlora", json!({"nblocks": 2}), "use_bdlora (BD-LoRA)"),
        ("alora_invocation_tokens", json!([1]), "alora_invocation_tokens (activated LoRA)"),
        ("lora_bias", json!(true), "lora_bias (a bias inside LoRA)"),
        ("layer_replication", json!([[0, 1]]), "layer_replication (layer replication)"),
        ("target_parameters", json!(["q"]), "target_parameters (LoRA on single parameters)"),
        ("trainable_token_indices", json!([5]), "trainable_token_indices (trainable tokens)"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out (a transposed layer)"),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "init_lora_weights \"pissa_niter_4\" (it changes the model's own weights)",
        ),
        ("init_lora_weights", json!("loftq"), "init_lora_weights \"loftq\" (it changes the model's own weights)"),
    ] {
        assert_eq!(refused(field, value), format!("adapter_config.json: {name} {hint}"));
    }
    for (field, value) in
        [("init_lora_weights", json!("gaussian")), ("use_bdlora", Value::Null), ("target_parameters", json!([]))]
    {
        merge(&files, draft.with(field, value).write().path()).unwrap();
    }
    let dora = draft
        .with_name("0.self_attn.q_proj.lora_A", |n| n.replace("lora_A.weight", "lora_magnitude_vector"))
        .refusal(&files);
    assert!(dora.ends_with("q_proj.lora_magnitude_vector: belongs to DoRA, which cannot be merged"), "{dora}");
    let tied = Draft::of("embedding").with("ensure_weight_tying", json!(true)).refusal(&files);
    assert_eq!(
        tied,
        "adapter_config.json: ensure_weight_tying is not supported: merge this adapter with PEFT's merge_and_unload"
    );
}

#[test]
fn quantized_weights_are_refused() {
    const NAME: &str = "model.layers.0.self_attn.k_proj.weight";
    let mut files = model("tiny_a");
    let (n, k) = (128, 256);
    let codes = Codes::I8(TensorData::from_bytes(vec![0; n * k]));
    let (zeros, order, activations) = (None, None, Activations::Float);
    let matrix = Quantized { n, k, codes, group: k, scales: vec![1.0; n].into(), zeros, order, activations };
    let matrix = StoredMatrix::new(NAME, Arc::new(matrix)).unwrap();
    let others: Vec<_> = files.weights.tensors().filter(|t| t.name() != NAME).cloned().collect();
    files.weights = Weights::from_tensors(&files.config, &others, &[matrix]).unwrap();
    let message = Draft::of("plain").refusal(&files);
    let want = "a change of quantized weights is not supported: take the bf16 or f16 original";
    assert_eq!(message, format!("memory: {NAME}: {want}"));
}

#[test]
fn wrong_configurations_name_the_field() {
    let (files, draft) = (model("tiny_a"), Draft::of("plain"));
    let refused = |field: &str, value: Value| draft.with(field, value).refusal(&files);
    for (field, value, why) in [
        ("peft_type", Value::Null, "peft_type: is missing"),
        ("r", Value::Null, "r: is missing"),
        ("r", json!(0), "r: 0 is outside 1..=16384"),
        ("r", json!("8"), "r: expected a whole number, found \"8\""),
        ("lora_alpha", Value::Null, "lora_alpha: is missing"),
        ("bias", json!("some"), "bias: \"some\" is none of none, all, lora_only"),
        ("use_rslora", json!(1), "use_rslora: expected true or false, found 1"),
        ("modules_to_save", json!("lm_head"), "modules_to_save: expected a list of strings, found \"lm_head\""),
        ("modules_to_save", json!(["norm"]), "modules_to_save: \"norm\" has no tensor in adapter_model.safetensors"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern: \"q_proj\": 0 is no value for it"),
        ("alpha_pattern", json!({"q_proj": "4"}), "alpha_pattern: \"q_proj\": \\\"4\\\" is no value for it"),
        (
            "alpha_pattern",
            json!({"(?=q)": 4}),
            "alpha_pattern: \"(?=q)\" is no regular expression (look-around is not supported)",
        ),
    ] {
        assert_eq!(refused(field, value), format!("adapter_config.json: {why}"));
    }
    let list = refused("rank_pattern", json!([1]));
    assert!(list.starts_with("adapter_config.json: rank_pattern, alpha_pattern: invalid type: sequence"), "{list}");
    let dir = tempfile::tempdir().unwrap();
    let message = merge(&files, dir.path()).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json: "), "{message}");
    fs::write(dir.path().join("adapter_config.json"), draft.config.to_string()).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    let message = merge(&files, dir.path()).unwrap_err().to_string();
    assert!(message.ends_with("only a pickled adapter_model.bin: save it as safetensors"), "{message}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let (files, draft) = (model("tiny_a"), Draft::of("plain"));
    const AT: &str = "base_model.model.model.language_model.layers.0.self_attn.q_proj";
    let at = |why: &str| format!("adapter_model.safetensors: {AT}.{why}");
    let swap = |from: &str, to: &str| draft.with_name(&format!("{AT}.{from}"), |n| n.replace(from, to)).refusal(&files);

    let mut missing = draft.clone();
    missing.tensors.remove(&format!("{AT}.lora_B.weight"));
    assert_eq!(missing.refusal(&files), at("lora_A.weight: has no lora_B"));
    missing.tensors.clear();
    assert_eq!(missing.refusal(&files), "adapter_model.safetensors: adapter: holds no tensor at all");

    let unknown = draft.renamed(|n| n.replace("0.self_attn.q_proj", "0.self_attn.q_prj")).refusal(&files);
    let want = "q_prj.lora_A.weight: the model has no model.layers.0.self_attn.q_prj.weight, which it changes";
    assert!(unknown.ends_with(want), "{unknown}");
    let deep = draft.renamed(|n| n.replace("layers.0", "layers.7")).refusal(&files);
    assert!(deep.contains("the model has no model.layers.7."), "{deep}");
    let norm = draft.renamed(|n| n.replace("0.self_attn.q_proj", "0.input_layernorm")).refusal(&files);
    assert!(norm.ends_with("model.layers.0.input_layernorm.weight of shape [256] takes no such change"), "{norm}");
    assert_eq!(swap("lora_A.weight", "lora_C.weight"), at("lora_C.weight: is no tensor of plain LoRA"));
    assert_eq!(swap("lora_A.weight", "lora_A.bias"), at("lora_A.bias: is no tensor of plain LoRA"));
    assert_eq!(swap("lora_A.weight", "scale"), at("scale: is neither LoRA nor a weight or a bias"));
    let whole = "weight: is a whole tensor, but adapter_config.json lists it neither in modules_to_save nor in bias";
    assert_eq!(swap("lora_A.weight", "weight"), at(whole));
    let bias = Draft::of("biases").with("bias", json!("none")).refusal(&model("tiny_b"));
    assert!(
        bias.ends_with(
            ".bias: is a whole tensor, but adapter_config.json lists it neither in modules_to_save nor in bias"
        ),
        "{bias}"
    );
    let embedding = draft.renamed(|n| match n.contains("q_proj.lora_A") {
        true => n.replace("lora_A.weight", "lora_embedding_A"),
        false => n.into(),
    });
    assert_eq!(embedding.refusal(&files), at("lora_embedding_A: changes the same tensor as ") + AT + ".lora_B.weight");
    let mut twice = draft.clone();
    let tensor = twice.tensors[&format!("{AT}.lora_A.weight")].clone();
    twice.tensors.insert(format!("{AT}.lora_A.other.weight"), tensor);
    assert_eq!(twice.refusal(&files), at("lora_A.weight: changes the same tensor as ") + AT + ".lora_A.other.weight");

    let rank = draft.with("r", json!(8)).refusal(&files);
    let want = "shape [4, 96], but adapter_config.json makes rank 8, which is dimension 0 of it";
    assert!(rank.ends_with(want), "{rank}");
    let mut uneven = draft.clone();
    let b = uneven.tensors.get_mut(&format!("{AT}.lora_B.weight")).unwrap();
    b.1 = vec![512, 2];
    let want = at("lora_B.weight: shape [512, 2], but adapter_config.json makes rank 4, which is dimension 1 of it");
    assert_eq!(uneven.refusal(&files), want);
    uneven.tensors.get_mut(&format!("{AT}.lora_B.weight")).unwrap().1 = vec![64, 4, 4];
    let ranks = uneven.refusal(&files);
    let want =
        at("lora_B.weight: shape [64, 4, 4], but the model makes it [256, 4]: is it an adapter of another model?");
    assert_eq!(ranks, want);
    let other = draft.refusal(&model("tiny_b"));
    assert!(other.ends_with("is it an adapter of another model?"), "{other}");
    let mut integers = draft.clone();
    integers.tensors.get_mut(&format!("{AT}.lora_A.weight")).unwrap().0 = safetensors::Dtype::I16;
    assert!(integers.refusal(&files).contains("lora_A.weight: dtype I16 is none of"));
}

/// Whatever the bytes are, the answer is a merged model or one line.
#[test]
fn corrupt_adapters_do_not_panic() {
    let files = model("tiny_a");
    let dir = Draft::of("plain").write();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let whole = fs::read(dir.path().join(name)).unwrap();
        let mut seed = 1u64;
        let mut refused = 0;
        for round in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 4 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // The first bytes are all structure.
                let at = (seed >> 33) as usize % bytes.len().min(4000);
                match round % 3 {
                    0 => bytes[at] ^= 1 << (seed & 7),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes[at] = b"0-9\"{}[]"[seed as usize & 7],
                }
            }
            fs::write(dir.path().join(name), &bytes).unwrap();
            match merge(&files, dir.path()) {
                Ok(merged) => merged.tensors().unwrap().iter().for_each(|t| drop(merged.get(&t.name))),
                Err(e) => {
                    refused += 1;
                    assert!(!e.to_string().contains('\n'), "{e}");
                }
            }
        }
        assert!(refused > 100, "{name}: {refused}");
        fs::write(dir.path().join(name), whole).unwrap();
    }
    merge(&files, dir.path()).unwrap();
}

#[test]
fn the_command_writes_a_folder_that_opens() {
    let facts = facts();
    for case in ["patterns", "embedding"] {
        let name = facts[case]["model"].as_str().unwrap();
        let (base, adapter, dir) = (golden(name), golden("adapters").join(case), tempfile::tempdir().unwrap());
        let out = dir.path().join("out");
        let args = [
            "merge-lora",
            "--model",
            base.to_str().unwrap(),
            "--adapter",
            adapter.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let report: Value = serde_json::from_str(&good(&[&args[..], &["--json"]].concat())).unwrap();
        let changed = facts[case]["tensors"].as_object().unwrap().len();
        assert_eq!(
            (&report["merged"], &report["replaced"], &report["continued_from"]),
            (&json!(changed), &json!(0), &json!(0))
        );
        assert_eq!(report["untied"], case == "embedding");
        let files = ModelFiles::open(&out).unwrap();
        assert!(!files.config.tie_word_embeddings);
        assert_eq!(report["tensors"], Checkpoint::open(&out).unwrap().len());
        assert_eq!(report["bytes"], files.weights.bytes());
        for (tensor, hash) in facts[case]["tensors"].as_object().unwrap() {
            assert_eq!(&sha(files.weights.get(tensor).unwrap().bytes()), hash.as_str().unwrap(), "{tensor}");
        }
        for file in ["tokenizer.json", "chat_template.json", "preprocessor_config.json", "generation_config.json"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(base.join(file)).unwrap(), "{file}");
        }
        if case == "patterns" {
            assert_eq!(fs::read(out.join("config.json")).unwrap(), fs::read(base.join("config.json")).unwrap());
        }
        let again = call(&args);
        let stderr = String::from_utf8(again.stderr).unwrap();
        assert!(!again.status.success() && stderr.ends_with("is not empty: give a new folder\n"), "{stderr}");
    }
}
