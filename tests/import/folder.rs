//! Layers and model folders out of the goldens in `tests/golden/quantized`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use osprey::checkpoint::inventory::expected;
use osprey::checkpoint::names::canonical;
use osprey::checkpoint::{Checkpoint, Config, ModelFiles, StoredTensor, Weights};
use osprey::data::TensorData;
use osprey::dtype::DType;
use osprey::error::Result;
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};

use crate::traces::Tensors;

const GOLDEN: &str = "tests/golden";
/// The layer that stands for all.
pub const LAYER: &str = "model.layers.0.mlp.down_proj";

/// A golden's configuration and tensors.
pub fn golden_tensors(name: &str) -> (Value, Tensors) {
    let text = fs::read_to_string(format!("{GOLDEN}/quantized/{name}.json")).unwrap();
    let tensors = Checkpoint::open_file(format!("{GOLDEN}/quantized/{name}.safetensors")).unwrap();
    (serde_json::from_str(&text).unwrap(), Tensors(tensors))
}

/// A model of zeros but for one layer; what a test changes before it is opened.
pub struct Case {
    pub config: Value,
    /// Of the layer, by what follows its name and a dot.
    pub layer: BTreeMap<String, StoredTensor>,
}

impl Case {
    /// A layer of the goldens.
    pub fn new(name: &str) -> Case {
        let (cases, tensors) = golden_tensors("layers");
        let (n, k) = (cases[name]["n"].as_u64().unwrap(), cases[name]["k"].as_u64().unwrap());
        let config = json!({
            "model_type": "qwen2_vl", "hidden_size": n, "intermediate_size": k, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 20, "tie_word_embeddings": true,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, n / 4 - 2]},
            "image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3, "vision_end_token_id": 4,
            "vision_config": {"depth": 1, "embed_dim": 8, "mlp_ratio": 2, "num_heads": 2, "hidden_size": n, "patch_size": 2},
            "quantization_config": cases[name]["quantization_config"],
        });
        let under = format!("{name}.");
        let own = tensors.0.tensors().filter_map(|t| Some((t.name().strip_prefix(&under)?.to_string(), t.clone())));
        Case { config, layer: own.filter(|(suffix, _)| suffix != "values").collect() }
    }

    /// Puts a tensor in place of one of the layer's.
    pub fn set<T: bytemuck::Pod>(&mut self, suffix: &str, dtype: DType, shape: &[usize], values: &[T]) {
        let data = TensorData::from_bytes(bytemuck::cast_slice(values).to_vec());
        self.layer.insert(suffix.into(), StoredTensor::new(suffix, dtype, shape, data).unwrap());
    }

    /// Opens it.
    pub fn open(&self) -> Result<Weights> {
        let config = Config::from_json("config.json", &self.config.to_string())?;
        let zeros = |e: osprey::checkpoint::inventory::Expected| {
            let data = TensorData::from_bytes(vec![0; e.shape.iter().product::<usize>() * 2]);
            StoredTensor::new(&e.name, DType::F16, &e.shape, data).unwrap()
        };
        let rest = expected(&config).into_iter().filter(|e| e.name != format!("{LAYER}.weight")).map(zeros);
        let own = self.layer.iter().map(|(suffix, t)| t.renamed(&format!("{LAYER}.{suffix}")));
        Weights::from_tensors(&config, &rest.chain(own).collect::<Vec<_>>(), &[])
    }

    /// The message with which it is refused; whatever its tensors come from is called `memory`.
    pub fn refusal(&self) -> String {
        let Err(error) = self.open() else { panic!("was accepted") };
        let message = error.to_string();
        assert!(!message.contains('\n'), "more than one line: {message}");
        message.replace(&format!("{GOLDEN}/quantized/layers.safetensors"), "memory")
    }
}

/// A layer of the goldens in a model of zeros.
pub fn layer(name: &str) -> Result<Weights> {
    Case::new(name).open()
}

/// A model folder in two shards: the quantized layers of a golden, and the rest cut out of `tiny_b`, whose tokenizer it has too.
pub fn model_folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(GOLDEN).join("tiny_b");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json"] {
        fs::copy(tiny.join(file), dir.path().join(file)).unwrap();
    }
    let (config, golden) = golden_tensors(name);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let quantized: Vec<&StoredTensor> = golden.0.tensors().filter(|t| !t.name().starts_with("golden_")).collect();
    let has = |layer: &str| quantized.iter().any(|t| canonical(t.name()).starts_with(&format!("{layer}.")));
    let whole = ModelFiles::open(tiny).unwrap().weights;
    let parsed = Config::open(dir.path()).unwrap();
    let floats = expected(&parsed).into_iter().filter(|e| !e.name.strip_suffix(".weight").is_some_and(has));
    let floats: Vec<StoredTensor> = floats.map(|e| leading(whole.get(&e.name).unwrap(), &e.shape)).collect();

    let mut map = serde_json::Map::new();
    for (shard, tensors) in [("a.safetensors", quantized), ("b.safetensors", floats.iter().collect())] {
        write(&dir.path().join(shard), &tensors);
        map.extend(tensors.iter().map(|t| (t.name().to_string(), json!(shard))));
    }
    let index = json!({"weight_map": map}).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    dir
}

/// The leading part of a tensor of 16-bit elements.
fn leading(t: &StoredTensor, shape: &[usize]) -> StoredTensor {
    let (wide, rows) = (t.shape()[1..].iter().product::<usize>(), shape[0]);
    let narrow = shape[1..].iter().product::<usize>();
    let bytes: Vec<u8> =
        t.bytes().chunks_exact(2 * wide).take(rows).flat_map(|row| &row[..2 * narrow]).copied().collect();
    StoredTensor::new(t.name(), t.dtype(), shape, TensorData::from_bytes(bytes)).unwrap()
}

fn write(file: &Path, tensors: &[&StoredTensor]) {
    let dtype = |d: DType| match d {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
    };
    let views =
        tensors.iter().map(|t| (t.name(), TensorView::new(dtype(t.dtype()), t.shape().to_vec(), t.bytes()).unwrap()));
    serialize_to_file(views, None, file).unwrap();
}
