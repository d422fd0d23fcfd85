//! Names, the inventory, whole folders and their summary.

use std::fs;
use std::sync::Arc;

use osprey::checkpoint::inventory::{Kind, Part, expected};
use osprey::checkpoint::names::canonical;
use osprey::checkpoint::{Checkpoint, Config, ModelFiles, StoredMatrix, StoredTensor, Summary, Weights};
use osprey::data::TensorData;
use osprey::dtype::DType;
use osprey::quant::{Activations, Codes, Format, Quantized};
use serde_json::{Value, json};

use crate::refusal;
use crate::writer::{Tensor, config, nested_config, tensors, write_shards, write_single};

/// Opens a folder of these tensors.
fn open(config: &Value, tensors: &[Tensor]) -> Result<ModelFiles, String> {
    let dir = tempfile::tempdir().unwrap();
    write_single(dir.path(), config, tensors);
    ModelFiles::open(dir.path()).map_err(|e| refusal::<()>(dir.path(), Err(e)))
}

fn renamed(rename: impl Fn(&str) -> String) -> Vec<Tensor> {
    tensors().into_iter().map(|t| Tensor { name: rename(&t.name), ..t }).collect()
}

fn edited(name: &str, edit: impl Fn(&mut Tensor)) -> Vec<Tensor> {
    let mut list = tensors();
    edit(list.iter_mut().find(|t| t.name == name).unwrap());
    list
}

#[test]
fn names_become_canonical() {
    for (stored, want) in [
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_proj.bias"),
        ("layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("embed_tokens.weight", "model.embed_tokens.weight"),
        ("norm.weight", "model.norm.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.model.layers.3.input_layernorm.weight", "model.layers.3.input_layernorm.weight"),
        ("language_model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.visual.blocks.1.norm1.weight", "visual.blocks.1.norm1.weight"),
        ("vlm.visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"),
        ("vlm.model.visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"),
        ("vlm.model.language_model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("vlm.lm_head.weight", "lm_head.weight"),
        ("base_model.model.model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("custom_text_proj.weight", "custom_text_proj.weight"),
        ("model.other.weight", "model.other.weight"),
        ("model", "model"),
        ("", ""),
        ("...", "..."),
    ] {
        assert_eq!(canonical(stored), want, "{stored}");
    }
}

#[test]
fn every_prefix_opens() {
    let text = |to: &'static str| {
        move |name: &str| match name.strip_prefix("model.") {
            Some(rest) => format!("{to}{rest}"),
            None => name.to_string(),
        }
    };
    let under = |to: &'static str| move |name: &str| format!("{to}{name}");
    let lists = [
        renamed(text("")),
        renamed(text("model.language_model.")),
        renamed(text("language_model.model.")),
        renamed(text("language_model.")),
        renamed(under("vlm.")),
        renamed(under("model.")),
        renamed(under("base_model.model.")),
    ];
    let plain = open(&config(), &tensors()).unwrap();
    for list in lists {
        let files = open(&config(), &list).unwrap();
        let names = |f: &ModelFiles| f.weights.tensors().map(|t| t.name().to_string()).collect::<Vec<_>>();
        assert_eq!(names(&files), names(&plain));
        for (a, b) in files.weights.tensors().zip(plain.weights.tensors()) {
            assert_eq!(a.bytes(), b.bytes());
        }
    }
}

#[test]
fn the_inventory_is_the_published_list() {
    let config = Config::from_json("config.json", &config().to_string()).unwrap();
    let list = expected(&config);
    let mut got: Vec<(String, Vec<u64>)> =
        list.iter().map(|e| (e.name.clone(), e.shape.iter().map(|&n| n as u64).collect())).collect();
    got.sort();
    let want: Vec<(String, Vec<u64>)> = tensors().into_iter().map(|t| (t.name, t.shape)).collect();
    assert_eq!(got, want);
    let of = |name: &str| list.iter().find(|e| e.name == name).map(|e| (e.kind, e.part)).unwrap();
    assert_eq!(of("lm_head.weight"), (Kind::Linear, Part::Head));
    assert_eq!(of("model.embed_tokens.weight"), (Kind::Embedding, Part::Embed));
    assert_eq!(of("model.layers.0.self_attn.q_proj.bias"), (Kind::Bias, Part::Text));
    assert_eq!(of("visual.merger.ln_q.bias"), (Kind::NormBias, Part::Vision));
    assert_eq!(of("visual.blocks.0.norm2.weight"), (Kind::Norm, Part::Vision));
}

#[test]
fn the_published_sizes() {
    // 2B: hidden 1536, 28 layers. The published model has 2,208,985,600 parameters.
    let big = json!({
        "model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": true,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"hidden_size": 1536, "in_chans": 3, "model_type": "qwen2_vl", "spatial_patch_size": 14}
    });
    let config = Config::from_json("config.json", &big.to_string()).unwrap();
    let parameters: usize = expected(&config).iter().map(|e| e.shape.iter().product::<usize>()).sum();
    assert_eq!(parameters, 2_208_985_600);
}

#[test]
fn a_whole_folder() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path(), &nested_config(), &tensors());
    for name in ["tokenizer.json", "preprocessor_config.json", "chat_template.jinja"] {
        fs::write(dir.path().join(name), "{}").unwrap();
    }
    let files = ModelFiles::open(dir.path()).unwrap();
    assert_eq!(files.weights.tensors().len(), 34);
    assert_eq!(files.tokenizer, Some(dir.path().join("tokenizer.json")));
    assert_eq!(files.preprocessor_config, Some(dir.path().join("preprocessor_config.json")));
    assert_eq!(files.chat_template_jinja, Some(dir.path().join("chat_template.jinja")));
    assert_eq!((files.tokenizer_config.as_deref(), files.chat_template_json.as_deref()), (None, None));
    assert_eq!(files.video_preprocessor_config, None);
    assert_eq!(files.eos_token_ids(), [2]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [3, 4]}"#).unwrap();
    assert_eq!(ModelFiles::open(dir.path()).unwrap().eos_token_ids(), [3, 4]);
    let norm = files.weights.get("model.norm.weight").unwrap();
    assert_eq!((norm.shape(), norm.dtype()), (&[16][..], DType::Bf16));
    let message = refusal(dir.path(), files.weights.get("model.norm.bias").map(drop));
    assert_eq!(message, "model.safetensors.index.json: model.norm.bias: is no tensor of this model");
}

#[test]
fn missing_and_unexpected() {
    let lack = |n: usize| open(&config(), &tensors()[n..]).unwrap_err();
    assert_eq!(lack(1), "model.safetensors: lm_head.weight: is missing");
    let many = lack(9);
    assert_eq!(
        many,
        "model.safetensors: model.embed_tokens.weight: is missing, and so are 8 more: model.layers.0.input_layernorm.weight, \
         model.layers.0.self_attn.k_proj.weight, model.layers.0.self_attn.k_proj.bias, ..."
    );
    let mut more = tensors();
    more.push(Tensor::new("zz.lora_A.weight", "F32", &[1]));
    assert_eq!(open(&config(), &more).unwrap_err(), "model.safetensors: zz.lora_A.weight: is no tensor of this model");
    more.push(Tensor::new("model.layers.1.input_layernorm.weight", "F32", &[1]));
    assert_eq!(
        open(&config(), &more).unwrap_err(),
        "model.safetensors: model.layers.1.input_layernorm.weight: is no tensor of this model, and so are 1 more: zz.lora_A.weight"
    );
}

#[test]
fn wrong_shape_and_dtype() {
    let shape = edited("model.norm.weight", |t| t.shape = vec![4, 4]);
    assert_eq!(
        open(&config(), &shape).unwrap_err(),
        "model.safetensors: model.norm.weight: shape [4, 4], but config.json makes it [16]"
    );
    let dtype = edited("model.norm.weight", |t| t.dtype = "I32");
    assert_eq!(
        open(&config(), &dtype).unwrap_err(),
        "model.safetensors: model.norm.weight: dtype i32, but weights must be f32, bf16 or f16"
    );
    let mixed = edited("model.norm.weight", |t| t.dtype = "F32");
    assert_eq!(open(&config(), &mixed).unwrap().weights.get("model.norm.weight").unwrap().dtype(), DType::F32);
}

#[test]
fn two_names_for_one_tensor() {
    let mut list = tensors();
    list.push(Tensor::new("model.language_model.norm.weight", "BF16", &[16]));
    assert_eq!(
        open(&config(), &list).unwrap_err(),
        "model.safetensors: model.norm.weight: is the same tensor as model.language_model.norm.weight: both are model.norm.weight"
    );
}

#[test]
fn tied_heads_and_recomputed_buffers() {
    let mut tied = config();
    tied["tie_word_embeddings"] = json!(true);
    let mut list = tensors();
    list.push(Tensor::new("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[4]));
    list.push(Tensor::new("visual.rotary_pos_emb.inv_freq", "F32", &[1]));
    let files = open(&tied, &list).unwrap();
    assert_eq!(files.weights.tensors().len(), 33);
    assert!(files.weights.get("lm_head.weight").is_err());
    assert_eq!(open(&tied, &list[1..]).unwrap().weights.tensors().len(), 33);
}

#[test]
fn weights_in_memory() {
    let config = Config::from_json("config.json", &config().to_string()).unwrap();
    let zeros = |e: &osprey::checkpoint::inventory::Expected| {
        let data = TensorData::from_bytes(vec![0; e.shape.iter().product::<usize>() * 4]);
        StoredTensor::new(&e.name, DType::F32, &e.shape, data).unwrap()
    };
    let list: Vec<StoredTensor> = expected(&config).iter().map(zeros).collect();
    let weights = Weights::from_tensors(&config, &list, &[]).unwrap();
    let norm = weights.get("model.norm.weight").unwrap();
    assert_eq!((norm.bytes().len(), norm.data().is_mapped(), norm.data().is_empty()), (64, false, false));
    assert_eq!(weights.bytes(), list.iter().map(|t| t.bytes().len() as u64).sum::<u64>());
    let short = StoredTensor::new("x", DType::F32, &[2], TensorData::from_bytes(vec![0; 7]));
    assert_eq!(short.unwrap_err().to_string(), "memory: x: shape [2] of f32 does not fit 7 bytes");
    let missing = Weights::from_tensors(&config, &list[1..], &[]).unwrap_err().to_string();
    assert_eq!(missing, "memory: visual.patch_embed.proj.weight: is missing");
}

#[test]
fn matrices_in_memory_stand_for_the_floats_of_a_linear_layer() {
    let config = Config::from_json("config.json", &config().to_string()).unwrap();
    let zeros = |e: &osprey::checkpoint::inventory::Expected| {
        let data = TensorData::from_bytes(vec![0; e.shape.iter().product::<usize>() * 4]);
        StoredTensor::new(&e.name, DType::F32, &e.shape, data).unwrap()
    };
    let codes = |name: &str, n: usize, k: usize| {
        let codes = Codes::U8(TensorData::from_bytes(vec![129; n * k]));
        let (zeros, order, activations) = (None, None, Activations::Float);
        let scales = vec![0.5; n].into();
        StoredMatrix::new(name, Arc::new(Quantized { n, k, codes, group: k, scales, zeros, order, activations }))
    };
    let head = "lm_head.weight";
    let without =
        |name: &str| -> Vec<StoredTensor> { expected(&config).iter().filter(|e| e.name != name).map(zeros).collect() };
    let refused = |name: &str, n, k| {
        let matrix = codes(name, n, k).unwrap();
        Weights::from_tensors(&config, &without(name), &[matrix]).unwrap_err().to_string()
    };

    let weights = Weights::from_tensors(&config, &without(head), &[codes(head, 20, 16).unwrap()]).unwrap();
    assert_eq!((weights.tensors().len(), weights.matrices().len()), (33, 1));
    let (values, n, k) = weights.values(head).unwrap();
    assert_eq!(
        (values.format(), n, k, values.bytes()),
        (Format::W8A16 { group: 16, zeros: false }, 20, 16, 20 * 16 + 80)
    );
    assert_eq!(weights.file(head).unwrap(), "memory");
    let (values, n, k) = weights.values("visual.patch_embed.proj.weight").unwrap();
    assert_eq!((values.format(), n, k), (Format::Float, 8, 24));
    assert_eq!(weights.bytes(), without(head).iter().map(|t| t.bytes().len() as u64).sum::<u64>() + 20 * 16 + 80);

    let message = "memory: lm_head.weight: codes of (20, 8), but config.json makes it [20, 16]";
    assert_eq!(refused(head, 20, 8), message);
    let message = "memory: model.embed_tokens.weight: is quantized, but only linear layers may be";
    assert_eq!(refused("model.embed_tokens.weight", 20, 16), message);
    assert_eq!(refused("zz.weight", 20, 16), "memory: zz.weight: is no tensor of this model");
    let lame = codes(head, 0, 3).unwrap().codes().as_ref().clone();
    let lame = StoredMatrix::new(head, Arc::new(Quantized { n: 1, ..lame }));
    assert_eq!(lame.unwrap_err().to_string(), "memory: lm_head.weight: 0 codes, expected 3 for [1, 3] in groups of 3");
}

#[test]
fn the_summary() {
    let files = open(&config(), &edited("model.norm.weight", |t| t.dtype = "F32")).unwrap();
    let summary = Summary::new(&files);
    assert_eq!((summary.total.tensors, summary.tensors.len()), (34, 34));
    assert_eq!(summary.total.bytes, summary.total.parameters * 2 + 32);
    assert_eq!(summary.by_format["f32"].bytes, 64);
    assert_eq!(summary.by_part[&Part::Embed]["bf16"].parameters, 320);
    assert_eq!(summary.by_part.values().flat_map(|p| p.values()).map(|t| t.bytes).sum::<u64>(), summary.total.bytes);
    let text = summary.to_string();
    assert!(text.starts_with("model type  qwen2_vl\ndecoder     1 layers, hidden 16, ffn 12\n"), "{text}");
    let row = text.lines().find(|l| l.starts_with("model.norm.weight ")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["model.norm.weight", "f32", "[16]", "64", "model.safetensors"]
    );
    assert!(text.lines().any(|l| l.starts_with("vision")), "{text}");
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["config"]["torch_dtype"], "bf16");
    assert_eq!(json["by_part"]["head"]["bf16"], json!({"tensors": 1, "parameters": 320, "bytes": 640}));
    assert_eq!(json["tensors"][0]["file"], "model.safetensors");
    assert_eq!(json["tensors"][0]["part"], "head");
}

#[test]
fn the_checkpoint_must_fit_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let mut wide = config();
    wide["intermediate_size"] = json!(13);
    write_single(dir.path(), &wide, &tensors());
    let config = Config::open(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let message = refusal(dir.path(), Weights::from_checkpoint(&config, &checkpoint));
    let want =
        "model.safetensors: model.layers.0.mlp.gate_proj.weight: shape [12, 16], but config.json makes it [13, 16]";
    assert_eq!(message, want);
}
