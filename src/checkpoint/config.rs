//! `config.json`: the shape of a Qwen2-VL model, validated before anything is allocated from it.
//!
//! Two forms are in the wild: the published one, with the text fields at the top level, and the nested one that newer tools save, with
//! `text_config`. A nested value wins, the top level fills in. Defaults are those of `Qwen2VLConfig` in transformers 4.57, and only where files saved
//! by it (or by older ones, which drop vision fields equal to the default) really lack the field.

use std::path::Path;

use serde::{Serialize, Serializer};

use super::json::{self, Fields, shown};
use super::quantized::config::Quantization;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// The largest values that are taken as sane. Beyond them no model exists, and products of them might overflow.
const MAX_WIDTH: u64 = 1 << 18;
const MAX_LAYERS: u64 = 1024;
const MAX_HEADS: u64 = 1024;
const MAX_VOCAB: u64 = 1 << 24;
const MAX_POSITIONS: u64 = 1 << 31;

/// What a checkpoint's `config.json` says, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Always `qwen2_vl` so far.
    pub model_type: String,
    pub text: TextConfig,
    pub vision: VisionConfig,
    pub image_token_id: u32,
    pub video_token_id: u32,
    pub vision_start_token_id: u32,
    pub vision_end_token_id: u32,
    /// May be empty; `generation_config.json` is what usually says it.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    /// The output head is the embedding matrix; a stored `lm_head.weight` is then ignored, as transformers does.
    pub tie_word_embeddings: bool,
    /// `torch_dtype` (or `dtype`): what the model was trained in. The tensors themselves may differ.
    #[serde(serialize_with = "dtype_name")]
    pub torch_dtype: Option<DType>,
    /// How linear layers were quantized; none if all weights are floats.
    pub quantization: Option<Quantization>,
}

/// The decoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// `hidden_size / num_attention_heads`, even.
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Rotary channel pairs per axis (t, h, w); they add up to `head_dim / 2`.
    pub mrope_section: [usize; 3],
}

/// The vision tower.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VisionConfig {
    pub depth: usize,
    pub embed_dim: usize,
    pub num_heads: usize,
    /// `embed_dim / num_heads`, a multiple of 4.
    pub head_dim: usize,
    /// Width of the MLP: `embed_dim * mlp_ratio`, truncated.
    pub mlp_dim: usize,
    /// Width of the merger's output: the decoder's `hidden_size`.
    pub hidden_size: usize,
    pub in_channels: usize,
    pub patch_size: usize,
    pub temporal_patch_size: usize,
    pub spatial_merge_size: usize,
}

impl TextConfig {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

impl VisionConfig {
    /// Values of one flattened patch: channels x frames x rows x columns.
    pub fn patch_dim(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Width of one merged cell before the merger's first linear.
    pub fn merged_dim(&self) -> usize {
        self.embed_dim * self.spatial_merge_size * self.spatial_merge_size
    }
}

impl Config {
    /// Reads and checks `config.json` in `dir`. Fails with the file and the field in the message.
    pub fn open(dir: impl AsRef<Path>) -> Result<Config> {
        let file = dir.as_ref().join("config.json");
        let map = json::read_object(&file)?;
        parse(&Fields::new(&file, "", &map))
    }

    /// Checks the text of a `config.json`; `file` is what messages call it.
    pub fn from_json(file: impl AsRef<Path>, text: &str) -> Result<Config> {
        let file = file.as_ref();
        let map = serde_json::from_str(text).map_err(|e| Error::checkpoint(file, "JSON", e.to_string()))?;
        parse(&Fields::new(file, "", &map))
    }
}

fn parse(top: &Fields) -> Result<Config> {
    let model_type = model_type(top)?;
    let nested = top.object("text_config")?;
    let text_fields = nested.map_or_else(|| top.clone(), |t| t.or(top));
    let text = text(&text_fields)?;
    let Some(vision_fields) = top.object("vision_config")? else {
        return Err(top.error("vision_config", "is missing"));
    };
    let vision = vision(&vision_fields, &text)?;
    let ids = top.clone().or(&text_fields);
    let special = |name: &str, default: u32| special_token(&ids, name, default, text.vocab_size);
    Ok(Config {
        model_type,
        image_token_id: special("image_token_id", 151655)?,
        video_token_id: special("video_token_id", 151656)?,
        vision_start_token_id: special("vision_start_token_id", 151652)?,
        vision_end_token_id: special("vision_end_token_id", 151653)?,
        eos_token_ids: text_fields.tokens("eos_token_id")?,
        bos_token_id: text_fields.token("bos_token_id")?,
        pad_token_id: text_fields.token("pad_token_id")?,
        tie_word_embeddings: text_fields.flag("tie_word_embeddings")?.unwrap_or(false),
        torch_dtype: torch_dtype(&ids)?,
        quantization: Quantization::read(&ids)?,
        text,
        vision,
    })
}

fn model_type(top: &Fields) -> Result<String> {
    match top.text("model_type")? {
        None => Err(top.error("model_type", "is missing")),
        Some("qwen2_vl") => Ok("qwen2_vl".into()),
        Some(other) => Err(Error::unsupported(
            format!("config.json: model_type \"{}\"", shown(other)),
            "supported: qwen2_vl (Qwen2-VL)",
        )),
    }
}

fn text(f: &Fields) -> Result<TextConfig> {
    require_act(f, "silu")?;
    let hidden_size = f.size("hidden_size", MAX_WIDTH, None)?;
    let layers = f.size("num_hidden_layers", MAX_LAYERS, None)?;
    let heads = f.size("num_attention_heads", MAX_HEADS, None)?;
    let kv_heads = f.size("num_key_value_heads", MAX_HEADS, Some(heads as u64))?;
    let head_dim = head_dim(f, "num_attention_heads", hidden_size, heads, 2)?;
    if let Some(stated) = f.uint("head_dim")?
        && stated != head_dim as u64
    {
        return Err(f.error("head_dim", format!("{stated}, but hidden_size / num_attention_heads is {head_dim}")));
    }
    if heads % kv_heads != 0 {
        return Err(f.error("num_key_value_heads", format!("{kv_heads} does not divide num_attention_heads {heads}")));
    }
    refuse_sliding_window(f, layers)?;
    let rope = rope(f)?;
    Ok(TextConfig {
        hidden_size,
        intermediate_size: f.size("intermediate_size", MAX_WIDTH, None)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        vocab_size: f.size("vocab_size", MAX_VOCAB, None)?,
        max_position_embeddings: f.size("max_position_embeddings", MAX_POSITIONS, Some(32768))?,
        rms_norm_eps: f.positive("rms_norm_eps", 1.0, 1e-5)?,
        rope_theta: rope.clone().or(f).positive("rope_theta", 1e12, 1e6)?,
        mrope_section: mrope_section(&rope, head_dim)?,
    })
}

fn vision(f: &Fields, text: &TextConfig) -> Result<VisionConfig> {
    require_act(f, "quick_gelu")?;
    let embed_dim = f.size("embed_dim", MAX_WIDTH, Some(1280))?;
    let num_heads = f.size("num_heads", MAX_HEADS, Some(16))?;
    let ratio = f.positive("mlp_ratio", 64.0, 4.0)?;
    let mlp_dim = (embed_dim as f64 * ratio) as usize;
    if mlp_dim == 0 {
        return Err(f.error("mlp_ratio", format!("{ratio} leaves no MLP for embed_dim {embed_dim}")));
    }
    let hidden_size = f.size("hidden_size", MAX_WIDTH, Some(3584))?;
    if hidden_size != text.hidden_size {
        let why = format!("{hidden_size}, but the decoder's hidden_size is {}", text.hidden_size);
        return Err(f.error("hidden_size", why));
    }
    // The published files say `in_chans`, which transformers ignores in favour of the default 3.
    let channels = if f.has("in_channels") { "in_channels" } else { "in_chans" };
    let in_channels = f.size(channels, 16, Some(3))?;
    if in_channels != 3 {
        return Err(f.error(channels, format!("{in_channels}: images have 3 channels")));
    }
    Ok(VisionConfig {
        depth: f.size("depth", MAX_LAYERS, Some(32))?,
        embed_dim,
        num_heads,
        head_dim: head_dim(f, "num_heads", embed_dim, num_heads, 4)?,
        mlp_dim,
        hidden_size,
        in_channels,
        patch_size: f.size("patch_size", 64, Some(14))?,
        temporal_patch_size: f.size("temporal_patch_size", 8, Some(2))?,
        spatial_merge_size: merge_size(f)?,
    })
}

/// Every Qwen2-VL merges 2 x 2 patches.
fn merge_size(f: &Fields) -> Result<usize> {
    match f.size("spatial_merge_size", 8, Some(2))? {
        2 => Ok(2),
        other => Err(f.error("spatial_merge_size", format!("is {other}; only 2 is supported"))),
    }
}

/// What the attention kernels hold of one head.
const MAX_HEAD_DIM: usize = 256;

fn head_dim(f: &Fields, field: &str, width: usize, heads: usize, multiple: usize) -> Result<usize> {
    if !width.is_multiple_of(heads) {
        return Err(f.error(field, format!("{heads} does not divide the width {width}")));
    }
    let dim = width / heads;
    if !dim.is_multiple_of(multiple) {
        return Err(f.error(field, format!("{heads} heads of {dim}: rotary embeddings need a multiple of {multiple}")));
    }
    if dim > MAX_HEAD_DIM {
        return Err(f.error(field, format!("{heads} heads of {dim}: at most {MAX_HEAD_DIM} are supported")));
    }
    Ok(dim)
}

fn require_act(f: &Fields, supported: &str) -> Result<()> {
    match f.text("hidden_act")? {
        Some(act) if act != supported => Err(Error::unsupported(
            format!("config.json: {} \"{}\"", f.at("hidden_act"), shown(act)),
            format!("Qwen2-VL uses {supported}"),
        )),
        _ => Ok(()),
    }
}

fn refuse_sliding_window(f: &Fields, layers: usize) -> Result<()> {
    let from = f.uint("max_window_layers")?.unwrap_or(80);
    let used = f.flag("use_sliding_window")?.unwrap_or(false) && from < layers as u64;
    let types = f.texts("layer_types")?.unwrap_or_default();
    let field = if types.iter().any(|t| *t != "full_attention") {
        "layer_types"
    } else if used && types.is_empty() {
        "use_sliding_window"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(format!("config.json: {}", f.at(field)), "every layer must use full attention"))
}

/// The rope object: `rope_scaling`, or what transformers 5 renamed it to.
fn rope<'a>(f: &Fields<'a>) -> Result<Fields<'a>> {
    let name = if f.has("rope_scaling") { "rope_scaling" } else { "rope_parameters" };
    let Some(rope) = f.object(name)? else {
        return Err(f.error("rope_scaling", "is missing: it must hold mrope_section"));
    };
    // As in transformers: `type` wins over `rope_type`, and "mrope" means "default" with sections.
    let field = if rope.has("type") { "type" } else { "rope_type" };
    match rope.text(field)? {
        None | Some("mrope" | "default") => Ok(rope),
        Some(other) => Err(Error::unsupported(
            format!("config.json: {} \"{}\"", rope.at(field), shown(other)),
            "supported: mrope, default (remove the rope scaling to use the trained context length)",
        )),
    }
}

fn mrope_section(rope: &Fields, head_dim: usize) -> Result<[usize; 3]> {
    let Some(list) = rope.uints("mrope_section")? else { return Err(rope.error("mrope_section", "is missing")) };
    let Ok(section) = <[u64; 3]>::try_from(list) else {
        return Err(rope.error("mrope_section", "expected three numbers (t, h, w)"));
    };
    let sum = section.iter().try_fold(0u64, |a, &b| a.checked_add(b));
    if sum != Some(head_dim as u64 / 2) {
        let why = format!("{section:?} must add up to half the head width, {}", head_dim / 2);
        return Err(rope.error("mrope_section", why));
    }
    Ok(section.map(|n| n as usize))
}

fn special_token(f: &Fields, name: &str, default: u32, vocab: usize) -> Result<u32> {
    let id = f.token(name)?.unwrap_or(default);
    if id as usize >= vocab {
        return Err(f.error(name, format!("{id} is outside the vocabulary of {vocab}")));
    }
    Ok(id)
}

fn torch_dtype(f: &Fields) -> Result<Option<DType>> {
    let name = if f.has("torch_dtype") { "torch_dtype" } else { "dtype" };
    match f.text(name)? {
        None | Some("auto") => Ok(None),
        Some("float32") => Ok(Some(DType::F32)),
        Some("bfloat16") => Ok(Some(DType::Bf16)),
        Some("float16") => Ok(Some(DType::F16)),
        Some(other) => Err(f.error(name, format!("\"{}\" is none of float32, bfloat16, float16", shown(other)))),
    }
}

fn dtype_name<S: Serializer>(dtype: &Option<DType>, s: S) -> std::result::Result<S::Ok, S::Error> {
    match dtype {
        Some(d) => s.serialize_some(d.name()),
        None => s.serialize_none(),
    }
}
