//! `config.json` and `generation_config.json`.

use std::fs;
use std::path::Path;

use osprey::checkpoint::{Config, GenerationConfig};
use osprey::dtype::DType;
use osprey::error::Error;
use serde_json::{Value, json};

use crate::refusal;
use crate::writer::{config, nested_config};

fn parse(value: &Value) -> osprey::error::Result<Config> {
    Config::from_json("config.json", &value.to_string())
}

/// The refusal of the flat config with one field (a JSON pointer) replaced.
fn refused(pointer: &str, value: Value) -> String {
    refusal(Path::new("/nowhere"), parse(&with(config(), pointer, value)))
}

fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    base.pointer_mut(parent).unwrap()[key] = value;
    base
}

fn without(mut base: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    base.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    base
}

#[test]
fn published_form() {
    let c = parse(&config()).unwrap();
    assert_eq!((c.text.hidden_size, c.text.intermediate_size, c.text.num_hidden_layers), (16, 12, 1));
    assert_eq!((c.text.num_attention_heads, c.text.num_key_value_heads, c.text.head_dim), (2, 1, 8));
    assert_eq!((c.text.q_dim(), c.text.kv_dim()), (16, 8));
    assert_eq!((c.text.vocab_size, c.text.max_position_embeddings, c.text.mrope_section), (20, 64, [1, 1, 2]));
    assert_eq!((c.text.rms_norm_eps, c.text.rope_theta), (1e-6, 10000.0));
    assert_eq!((c.vision.depth, c.vision.embed_dim, c.vision.num_heads, c.vision.head_dim), (1, 8, 2, 4));
    assert_eq!((c.vision.mlp_dim, c.vision.hidden_size, c.vision.in_channels), (16, 16, 3));
    assert_eq!((c.vision.patch_dim(), c.vision.merged_dim()), (24, 32));
    assert_eq!((c.vision_start_token_id, c.vision_end_token_id, c.image_token_id, c.video_token_id), (10, 11, 13, 14));
    assert_eq!((c.bos_token_id, c.eos_token_ids, c.pad_token_id), (Some(1), vec![2], None));
    assert_eq!((c.tie_word_embeddings, c.torch_dtype), (false, Some(DType::Bf16)));
}

#[test]
fn nested_form_says_the_same() {
    assert_eq!(parse(&nested_config()).unwrap(), parse(&config()).unwrap());
}

#[test]
fn nested_value_wins_and_the_top_fills_in() {
    let both = with(nested_config(), "/rms_norm_eps", json!(0.5));
    assert_eq!(parse(&both).unwrap().text.rms_norm_eps, 1e-6);
    let only_top = with(without(nested_config(), "/text_config/vocab_size"), "/vocab_size", json!(30));
    assert_eq!(parse(&only_top).unwrap().text.vocab_size, 30);
    let tied = with(without(nested_config(), "/text_config/tie_word_embeddings"), "/tie_word_embeddings", json!(true));
    assert!(parse(&tied).unwrap().tie_word_embeddings);
}

#[test]
fn both_rope_types_and_the_renamed_object() {
    let section = json!([1, 1, 2]);
    for rope in [
        json!({"type": "mrope", "mrope_section": section}),
        json!({"type": "default", "rope_type": "default", "mrope_section": section}),
        json!({"rope_type": "default", "mrope_section": section}),
        json!({"mrope_section": section}),
    ] {
        assert_eq!(parse(&with(config(), "/rope_scaling", rope)).unwrap().text.mrope_section, [1, 1, 2]);
    }
    let moved = without(without(config(), "/rope_scaling"), "/rope_theta");
    let moved =
        with(moved, "/rope_parameters", json!({"rope_type": "default", "rope_theta": 7.0, "mrope_section": section}));
    assert_eq!(parse(&moved).unwrap().text.rope_theta, 7.0);
}

#[test]
fn defaults_are_those_of_transformers() {
    let mut c = config();
    for field in [
        "rms_norm_eps",
        "rope_theta",
        "max_position_embeddings",
        "tie_word_embeddings",
        "torch_dtype",
        "num_key_value_heads",
    ] {
        c = without(c, &format!("/{field}"));
    }
    for field in [
        "depth",
        "embed_dim",
        "mlp_ratio",
        "num_heads",
        "in_chans",
        "patch_size",
        "spatial_merge_size",
        "temporal_patch_size",
    ] {
        c = without(c, &format!("/vision_config/{field}"));
    }
    let c = parse(&c).unwrap();
    assert_eq!((c.text.rms_norm_eps, c.text.rope_theta, c.text.max_position_embeddings), (1e-5, 1e6, 32768));
    assert_eq!((c.text.num_key_value_heads, c.tie_word_embeddings, c.torch_dtype), (2, false, None));
    assert_eq!((c.vision.depth, c.vision.embed_dim, c.vision.num_heads, c.vision.mlp_dim), (32, 1280, 16, 5120));
    assert_eq!((c.vision.patch_dim(), c.vision.merged_dim()), (1176, 5120));
}

#[test]
fn essentials_must_be_there() {
    for field in
        ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"]
    {
        let message = refusal(Path::new("/nowhere"), parse(&without(config(), &format!("/{field}"))));
        assert_eq!(message, format!("config.json: {field}: is missing"));
    }
    for (pointer, message) in [
        ("/vision_config", "config.json: vision_config: is missing"),
        ("/rope_scaling", "config.json: rope_scaling: is missing: it must hold mrope_section"),
        ("/rope_scaling/mrope_section", "config.json: rope_scaling.mrope_section: is missing"),
    ] {
        assert_eq!(refusal(Path::new("/nowhere"), parse(&without(config(), pointer))), message);
    }
    let nested = refusal(Path::new("/nowhere"), parse(&without(nested_config(), "/text_config/hidden_size")));
    assert_eq!(nested, "config.json: text_config.hidden_size: is missing");
}

#[test]
fn absurd_values_are_refused_by_name() {
    for (pointer, value, message) in [
        ("/hidden_size", json!(0), "hidden_size: 0 is outside 1..=262144"),
        ("/hidden_size", json!(1u64 << 40), "hidden_size: 1099511627776 is outside 1..=262144"),
        ("/hidden_size", json!(-16), "hidden_size: expected a whole number, found -16"),
        ("/hidden_size", json!("16"), "hidden_size: expected a whole number, found \"16\""),
        ("/hidden_size", json!(15), "num_attention_heads: 2 does not divide the width 15"),
        ("/hidden_size", json!(18), "num_attention_heads: 2 heads of 9: rotary embeddings need a multiple of 2"),
        ("/num_hidden_layers", json!(4_000_000_000u64), "num_hidden_layers: 4000000000 is outside 1..=1024"),
        ("/num_key_value_heads", json!(3), "num_key_value_heads: 3 does not divide num_attention_heads 2"),
        ("/vocab_size", json!(u64::MAX), "vocab_size: 18446744073709551615 is outside 1..=16777216"),
        ("/vocab_size", json!(13), "image_token_id: 13 is outside the vocabulary of 13"),
        ("/head_dim", json!(4), "head_dim: 4, but hidden_size / num_attention_heads is 8"),
        ("/rms_norm_eps", json!(-1e-6), "rms_norm_eps: -0.000001 is outside 0 < x <= 1"),
        ("/rope_theta", json!(0), "rope_theta: 0 is outside 0 < x <= 1000000000000"),
        ("/rope_scaling", json!(3), "rope_scaling: expected an object, found 3"),
        (
            "/rope_scaling/mrope_section",
            json!([1, 1, 1]),
            "rope_scaling.mrope_section: [1, 1, 1] must add up to half the head width, 4",
        ),
        ("/rope_scaling/mrope_section", json!([1, 3]), "rope_scaling.mrope_section: expected three numbers (t, h, w)"),
        (
            "/rope_scaling/mrope_section",
            json!([u64::MAX, 5, 0]),
            "rope_scaling.mrope_section: [18446744073709551615, 5, 0] must add up to half the head width, 4",
        ),
        ("/eos_token_id", json!(["a"]), "eos_token_id: expected a token id or a list of at most 64, found a list"),
        ("/torch_dtype", json!("int8"), "torch_dtype: \"int8\" is none of float32, bfloat16, float16"),
        ("/vision_config/depth", json!(0), "vision_config.depth: 0 is outside 1..=1024"),
        ("/vision_config/num_heads", json!(3), "vision_config.num_heads: 3 does not divide the width 8"),
        (
            "/vision_config/num_heads",
            json!(4),
            "vision_config.num_heads: 4 heads of 2: rotary embeddings need a multiple of 4",
        ),
        ("/vision_config/mlp_ratio", json!(1e-9), "vision_config.mlp_ratio: 0.000000001 leaves no MLP for embed_dim 8"),
        ("/vision_config/hidden_size", json!(8), "vision_config.hidden_size: 8, but the decoder's hidden_size is 16"),
        ("/vision_config/in_channels", json!(4), "vision_config.in_channels: 4: images have 3 channels"),
        ("/vision_config/patch_size", json!(1000), "vision_config.patch_size: 1000 is outside 1..=64"),
        ("/vision_config", json!([]), "vision_config: expected an object, found a list"),
    ] {
        assert_eq!(refused(pointer, value), format!("config.json: {message}"));
    }
}

#[test]
fn what_is_understood_but_missing_is_unsupported() {
    let long = "x".repeat(200);
    for (pointer, value, message) in [
        (
            "/model_type",
            json!("qwen2_5_vl"),
            "config.json: model_type \"qwen2_5_vl\" is not supported: supported: qwen2_vl (Qwen2-VL)",
        ),
        (
            "/rope_scaling/type",
            json!("yarn"),
            "config.json: rope_scaling.type \"yarn\" is not supported: supported: mrope, default",
        ),
        ("/hidden_act", json!("gelu"), "config.json: hidden_act \"gelu\" is not supported: Qwen2-VL uses silu"),
        ("/vision_config/hidden_act", json!("silu"), "config.json: vision_config.hidden_act \"silu\" is not supported"),
        (
            "/layer_types",
            json!(["sliding_attention"]),
            "config.json: layer_types is not supported: every layer must use full attention",
        ),
        (
            "/quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "config.json: quantization_config.quant_method bitsandbytes is not supported: supported: gptq, awq, compressed-tensors",
        ),
        ("/model_type", json!(format!("a\nb{long}")), "config.json: model_type \"a\\nbxxx"),
    ] {
        let result = parse(&with(config(), pointer, value));
        assert!(matches!(result, Err(Error::Unsupported { .. })), "{pointer}");
        let got = refusal(Path::new("/nowhere"), result);
        assert!(got.starts_with(message), "{got}");
        assert!(got.len() < 300, "{got}");
    }
}

#[test]
fn a_sliding_window_is_refused_only_where_a_layer_uses_it() {
    let unused = with(config(), "/use_sliding_window", json!(true));
    assert!(parse(&unused).is_ok(), "no layer is beyond max_window_layers");
    let used = refusal(Path::new("/nowhere"), parse(&with(unused, "/max_window_layers", json!(0))));
    assert_eq!(used, "config.json: use_sliding_window is not supported: every layer must use full attention");
}

#[test]
fn broken_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(refusal(dir.path(), Config::open(dir.path())).starts_with("config.json: No such file"));
    for (text, message) in [
        ("{", "config.json: JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "config.json: JSON: expected an object, found a list"),
        ("{} x", "config.json: JSON: trailing characters at line 1 column 4"),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(refusal(dir.path(), Config::open(dir.path())), message);
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(refusal(dir.path(), Config::open(dir.path())).starts_with("config.json: text: is not UTF-8"));
    fs::File::create(&path).unwrap().set_len(65 << 20).unwrap();
    assert_eq!(
        refusal(dir.path(), Config::open(dir.path())),
        "config.json: size: 68157440 bytes is more than 67108864"
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refusal(dir.path(), Config::open(dir.path())), "config.json: file: is not a regular file");
}

#[test]
fn generation_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("generation_config.json"), text).unwrap();
    assert_eq!(GenerationConfig::open(dir.path()).unwrap(), GenerationConfig::default());
    write(
        r#"{"bos_token_id": 1, "pad_token_id": 1, "do_sample": true, "eos_token_id": [2, 1], "repetition_penalty": 1.05,
            "temperature": 0.01, "top_p": 0.001, "top_k": 1, "min_p": null, "transformers_version": "4.37.0"}"#,
    );
    let g = GenerationConfig::open(dir.path()).unwrap();
    assert_eq!((g.do_sample, g.temperature, g.top_p, g.top_k), (Some(true), Some(0.01), Some(0.001), Some(1)));
    assert_eq!((g.min_p, g.repetition_penalty), (None, Some(1.05)));
    assert_eq!((g.eos_token_ids, g.bos_token_id, g.pad_token_id), (vec![2, 1], Some(1), Some(1)));
    write(r#"{"eos_token_id": 7}"#);
    assert_eq!(GenerationConfig::open(dir.path()).unwrap().eos_token_ids, [7]);
    for (text, message) in [
        ("{", "JSON: EOF while parsing an object at line 1 column 1"),
        (r#"{"top_p": 1.5}"#, "top_p: 1.5 is outside 0..=1"),
        (r#"{"temperature": "hot"}"#, "temperature: expected a number, found \"hot\""),
        (r#"{"top_k": -1}"#, "top_k: expected a whole number, found -1"),
        (
            r#"{"eos_token_id": 4294967296}"#,
            "eos_token_id: expected a token id or a list of at most 64, found 4294967296",
        ),
    ] {
        write(text);
        assert_eq!(
            refusal(dir.path(), GenerationConfig::open(dir.path())),
            format!("generation_config.json: {message}")
        );
    }
}
