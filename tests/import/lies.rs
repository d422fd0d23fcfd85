//! What is refused: configs that lie about the tensors, tensors that lie about each other, and what no layout here can hold.

use osprey::checkpoint::{Config, ModelFiles, StoredTensor};
use osprey::data::TensorData;
use osprey::dtype::DType;
use osprey::error::Error;
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use serde_json::{Value, json};

use crate::folder::{Case, LAYER, model_folder};

/// A layer of the goldens with a change to its config's `quantization_config`.
fn configured(name: &str, pointer: &str, value: Value) -> Case {
    let mut case = Case::new(name);
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = case.config["quantization_config"].pointer_mut(parent).unwrap();
    parent[field] = value;
    case
}

/// A layer of the goldens without one of its tensors.
fn without(name: &str, suffix: &str) -> Case {
    let mut case = Case::new(name);
    case.layer.remove(suffix).unwrap();
    case
}

fn starts(case: &Case, want: &str) {
    let got = case.refusal();
    assert!(got.starts_with(want), "{got}\n{want}");
}

/// A refusal whose message begins with the layer's name.
fn at_layer(case: &Case, want: &str) {
    starts(case, &format!("memory: {LAYER}.{want}"));
}

#[test]
fn a_config_that_lies_about_bits_or_groups() {
    at_layer(
        &configured("gptq4", "/bits", json!(8)),
        "qweight: shape [6, 16], but quantization_config.bits 8 and a layer of [16, 48] make it [12, 16]",
    );
    at_layer(&configured("gptq8", "/bits", json!(4)), "qweight: shape [8, 16], but quantization_config.bits 4");
    for group in [json!(8), json!(-1), json!(24)] {
        let case = configured("gptq4", "/group_size", group.clone());
        at_layer(&case, "scales: shape [3, 16], but quantization_config.group_size");
        at_layer(&configured("awq4", "/group_size", group), "qzeros: shape [3, 2], but quantization_config.group_size");
    }
    let case = configured("gptq4", "/group_size", json!(20));
    at_layer(&case, "qweight: its 48 columns do not split into groups of 20 (quantization_config)");
    let weights = "/config_groups/group_0/weights";
    let case = configured("ct4", &format!("{weights}/num_bits"), json!(8));
    at_layer(
        &case,
        "weight_packed: shape [20, 6], but num_bits of config_groups and a layer of [20, 48] make it [20, 12]",
    );
    let case = configured("ct4", &format!("{weights}/group_size"), json!(24));
    at_layer(
        &case,
        "weight_scale: shape [20, 3], but group_size of config_groups and a layer of [20, 48] make it [20, 2]",
    );
    let case = configured("ct4_zeros", &format!("{weights}/symmetric"), json!(true));
    at_layer(&case, "weight_zero_point: is there, but config_groups says symmetric");
    let case = configured("ct4", &format!("{weights}/symmetric"), json!(false));
    at_layer(&case, "weight_zero_point: is missing");
    at_layer(
        &configured("gptq4", "/sym", json!(true)),
        "qzeros: zero point 15 in row 0, but quantization_config.sym makes it 8",
    );
    let case = configured("ct4", "/config_groups", json!({}));
    at_layer(&case, "weight_packed: is quantized, but quantization_config.config_groups is empty");
    for version in [json!("gptq_v2"), json!("gptq")] {
        let (name, sym) = if version == "gptq" { ("gptq8_sym_v2", 129) } else { ("gptq4_sym", 7) };
        let case = configured(name, "/checkpoint_format", version);
        at_layer(&case, &format!("qzeros: zero point {sym} in row 0"));
    }
}

#[test]
fn a_config_of_another_method() {
    let mut case = Case::new("gptq4");
    case.config["quantization_config"] = Case::new("awq4").config["quantization_config"].clone();
    at_layer(&case, "g_idx: lies as gptq has it, but quantization_config.quant_method is awq");
    let mut case = Case::new("awq4");
    case.config["quantization_config"] = Case::new("ct4").config["quantization_config"].clone();
    at_layer(&case, "qweight: lies as awq has it, but quantization_config.quant_method is compressed-tensors");
    let mut case = Case::new("ct_int8");
    case.config.as_object_mut().unwrap().remove("quantization_config");
    at_layer(&case, "weight: is quantized, but config.json has no quantization_config to say how");
}

#[test]
fn tensors_missing_left_over_or_of_another_shape() {
    for (name, suffix) in
        [("gptq4", "qzeros"), ("gptq4", "scales"), ("awq4", "scales"), ("ct4", "weight_shape"), ("ct4", "weight_scale")]
    {
        at_layer(&without(name, suffix), &format!("{suffix}: is missing"));
    }
    at_layer(&without("gptq4_order", "g_idx"), "g_idx: is missing, but quantization_config.desc_act is true");
    assert!(without("gptq4", "g_idx").open().is_ok());
    starts(&without("ct_int8", "weight"), &format!("memory: {LAYER}.weight_scale: is no tensor of this model"));

    let mut case = Case::new("gptq4");
    case.set("qzeros", DType::I32, &[3, 4], &[0i32; 12]);
    at_layer(
        &case,
        "qzeros: shape [3, 4], but quantization_config.bits 4, group_size and a layer of [16, 48] make it [3, 2]",
    );
    let mut case = Case::new("ct4_zeros");
    case.set("weight_zero_point", DType::I32, &[20, 3], &[0i32; 60]);
    at_layer(&case, "weight_zero_point: shape [20, 3]");
    let mut case = Case::new("ct4");
    case.set("weight_shape", DType::I64, &[2], &[20i64, 40]);
    at_layer(&case, "weight_shape: says [20, 40], but config.json makes the layer [20, 48]");
    let mut case = Case::new("gptq4");
    case.set("scales", DType::I32, &[3, 16], &[0i32; 48]);
    at_layer(&case, "scales: dtype i32, expected f16 or bf16 or f32");
    case.set("scales", DType::F32, &[3, 16], &[f32::NAN; 48]);
    at_layer(&case, "scales: element 0 is NaN, which is no scale");

    let mut case = Case::new("gptq4");
    case.set("weight", DType::F16, &[16, 48], &[0u16; 16 * 48]);
    at_layer(&case, "weight: is a second form of the same layer: its codes are there too");
    let mut case = Case::new("awq4");
    case.set("outliers", DType::F16, &[1], &[0u16]);
    at_layer(&case, "outliers: is no tensor of this model, nor of a layout that can be read");
}

#[test]
fn groups_that_are_no_groups() {
    let with = |change: &dyn Fn(&mut Vec<i32>)| {
        let mut case = Case::new("gptq4");
        let mut groups: Vec<i32> = (0..48).map(|k| k / 16).collect();
        change(&mut groups);
        case.set("g_idx", DType::I32, &[groups.len()], &groups);
        case
    };
    at_layer(&with(&|g| g[5] = 3), "g_idx: column 5 is in group 3, but there are 3");
    at_layer(&with(&|g| g[7] = -1), "g_idx: column 7 is in group -1, but there are 3");
    at_layer(&with(&|g| g[0] = 2), "g_idx: group 0 has 15 columns, but quantization_config makes it 16");
    at_layer(&with(&|g| g.truncate(16)), "g_idx: shape [16]");
    assert!(with(&|g| g.swap(0, 40)).open().is_ok());
}

#[test]
fn a_bias_that_the_model_does_not_have() {
    let mut case = Case::new("gptq4");
    case.set("bias", DType::F16, &[16], &[0u16; 16]);
    assert!(case.open().unwrap().get(&format!("{LAYER}.bias")).is_err());
    let mut ones = [0u16; 16];
    ones[9] = 1;
    case.set("bias", DType::F16, &[16], &ones);
    at_layer(&case, "bias: is not zero, but this layer has no bias in the model");
}

#[test]
fn layouts_that_are_refused_by_name() {
    for (tensors, what, hint) in [
        (&["B", "s"][..], "B: codes packed for Marlin", "checkpoint_format gptq"),
        (&["weight", "weight_scale", "input_scale"], "input_scale: static activation scales", "dynamic"),
        (&["weight", "SCB", "weight_format"], "SCB: a bitsandbytes checkpoint", "original"),
        (&["weight", "weight_scale_inv"], "weight_scale_inv: an fp8 checkpoint", "original"),
        (&["W_q", "meta"], "W_q: an HQQ checkpoint", "original"),
    ] {
        let mut case = Case::new("ct_int8");
        case.layer.retain(|suffix, _| tensors.contains(&suffix.as_str()));
        tensors.iter().filter(|s| **s != "weight").for_each(|s| case.set(s, DType::U8, &[1], &[0u8]));
        assert!(matches!(case.open(), Err(Error::Unsupported { .. })), "{what}: {}", case.refusal());
        let got = case.refusal();
        assert!(got.starts_with(&format!("memory: {LAYER}.{what} is not supported: ")) && got.contains(hint), "{got}");
    }
    let mut case = Case::new("ct_int8");
    case.set("weight_zero_point", DType::I8, &[20, 1], &[0i8; 20]);
    assert!(case.open().is_ok());
    case.set("weight_zero_point", DType::I8, &[20, 1], &[3i8; 20]);
    at_layer(&case, "weight_zero_point: zero points of int8 codes is not supported");
}

#[test]
fn configs_that_are_refused_by_name() {
    let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true, "symmetric": true});
    let with = |field: &str, value: Value| {
        let mut inputs = inputs.clone();
        inputs[field] = value;
        inputs
    };
    let group = "/config_groups/group_0";
    for (name, pointer, value, want) in [
        ("gptq4", "/quant_method", json!("fp8"), "quantization_config.quant_method fp8"),
        ("gptq4", "/quant_method", json!("hqq"), "quantization_config.quant_method hqq"),
        ("gptq4", "/bits", json!(3), "quantization_config.bits 3"),
        ("gptq4", "/bits", json!(2), "quantization_config.bits 2"),
        ("gptq4", "/checkpoint_format", json!("marlin"), "quantization_config.checkpoint_format marlin"),
        ("gptq4", "/is_marlin_format", json!(true), "quantization_config.is_marlin_format true"),
        ("awq4", "/version", json!("gemv"), "quantization_config.version gemv"),
        ("awq4", "/version", json!("exllama"), "quantization_config.version exllama"),
        ("awq4", "/bits", json!(8), "quantization_config.bits 8"),
        ("ct4", "/format", json!("float-quantized"), "quantization_config.format float-quantized"),
        ("ct4", "/format", json!("marlin-24"), "quantization_config.format marlin-24"),
        ("ct4", "/kv_cache_scheme", json!({"num_bits": 8}), "quantization_config.kv_cache_scheme"),
        (
            "ct4",
            "/config_groups/group_0/weights/num_bits",
            json!(2),
            "quantization_config.config_groups.group_0.weights.num_bits 2",
        ),
        (
            "ct4",
            "/config_groups/group_0/weights/type",
            json!("float"),
            "quantization_config.config_groups.group_0.weights.type float",
        ),
        (
            "ct4",
            "/config_groups/group_0/weights/strategy",
            json!("tensor"),
            "quantization_config.config_groups.group_0.weights.strategy tensor",
        ),
        (
            "ct4",
            "/config_groups/group_0/input_activations",
            inputs.clone(),
            "quantization_config.config_groups.group_0.input_activations of int8",
        ),
        (
            "ct_int8",
            "/config_groups/group_0/input_activations",
            with("dynamic", json!(false)),
            "quantization_config.config_groups.group_0.input_activations.dynamic false (static activation scales)",
        ),
        (
            "ct_int8",
            "/config_groups/group_0/input_activations",
            with("strategy", json!("tensor")),
            "quantization_config.config_groups.group_0.input_activations.strategy tensor",
        ),
        (
            "ct_int8",
            "/config_groups/group_0/input_activations",
            with("symmetric", json!(false)),
            "quantization_config.config_groups.group_0.input_activations.symmetric false",
        ),
        (
            "ct_int8",
            "/config_groups/group_0/input_activations",
            with("type", json!("float")),
            "quantization_config.config_groups.group_0.input_activations.type float",
        ),
    ] {
        let case = configured(name, pointer, value);
        assert!(matches!(case.open(), Err(Error::Unsupported { .. })), "{pointer}: {}", case.refusal());
        let got = case.refusal();
        assert!(got.starts_with(&format!("config.json: {want}")) && got.contains(" is not supported: "), "{got}");
    }
    for (name, pointer, value, want) in [
        ("gptq4", "/quant_method", Value::Null, "quantization_config.quant_method: is missing"),
        ("gptq4", "/bits", Value::Null, "quantization_config.bits: is missing"),
        ("gptq4", "/group_size", json!(0), "quantization_config.group_size: 0 is outside 1..=262144"),
        ("gptq4", "/group_size", json!(-2), "quantization_config.group_size: expected a whole number, found -2"),
        ("awq4", "/group_size", Value::Null, "quantization_config.group_size: is missing"),
        (
            "ct4",
            &*format!("{group}/weights"),
            json!(7),
            "quantization_config.config_groups.group_0.weights: expected an object, found 7",
        ),
    ] {
        starts(&configured(name, pointer, value), &format!("config.json: {want}"));
    }
}

#[test]
fn dynamic_int8_activations_make_w8a8() {
    let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true, "symmetric": true});
    let case = configured("ct_int8", "/config_groups/group_0/input_activations", inputs);
    let weights = case.open().unwrap();
    assert_eq!(weights.values(&format!("{LAYER}.weight")).unwrap().0.format(), osprey::quant::Format::W8A8);
}

/// 29568 columns are 231 groups of 128; the published 72B checkpoints are padded to 29696.
#[test]
fn both_widths_of_the_72b_ffn_open() {
    for k in [29568usize, 29696] {
        let mut case = configured("ct4", "/config_groups/group_0/weights/group_size", json!(128));
        case.config["intermediate_size"] = json!(k);
        case.set("weight_packed", DType::I32, &[20, k / 8], &vec![0x7777_7777i32; 20 * k / 8]);
        case.set("weight_scale", DType::F32, &[20, k / 128], &vec![1f32; 20 * k / 128]);
        case.set("weight_shape", DType::I64, &[2], &[20, k as i64]);
        assert_eq!(case.open().unwrap().values(&format!("{LAYER}.weight")).unwrap().2, k);
    }
}

#[test]
fn one_product_has_one_order() {
    let dir = model_folder("gptq4");
    let config = Config::open(dir.path()).unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    assert!(Qwen2Vl::load(&config, &files.weights, Precision::new(DType::F32)).is_ok());

    let checkpoint = osprey::checkpoint::Checkpoint::open(dir.path()).unwrap();
    let other: Vec<i32> = (0..48).map(|k| k % 3).collect();
    let other = TensorData::from_bytes(bytemuck::cast_slice(&other).to_vec());
    let changed = checkpoint.tensors().map(|t| match t.name() {
        name @ "model.layers.1.self_attn.v_proj.g_idx" => {
            StoredTensor::new(name, DType::I32, &[48], other.clone()).unwrap()
        }
        _ => t.clone(),
    });
    let weights = osprey::checkpoint::Weights::from_tensors(&config, &changed.collect::<Vec<_>>(), &[]).unwrap();
    let message = Qwen2Vl::load(&config, &weights, Precision::new(DType::F32)).unwrap_err().to_string();
    assert_eq!(
        message,
        "model.layers.1.self_attn.v_proj.weight: columns in another order than those of model.layers.1.self_attn.q_proj.weight \
         is not supported: they are one product: quantize them together, or without desc_act"
    );
}
