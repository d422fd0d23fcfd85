//! `adapter_config.json`: rank and scale of every module, and the refusal of what is not plain LoRA.
//!
//! Field names and meaning are those of `LoraConfig` in PEFT 0.21. `target_modules` is not read: the tensors say what was trained.

use std::fmt;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::checkpoint::json::{self, Fields, shown};
use crate::error::{Error, Result};

/// The name of the file in an adapter's folder.
pub const CONFIG: &str = "adapter_config.json";
/// The largest rank that is taken as sane.
const MAX_RANK: u64 = 1 << 14;

/// A model has some hundred modules, and its rules for them are short.
const MAX_PATTERNS: usize = 4096;
const PATTERN_BYTES: usize = 1 << 20;

/// Options that change what a tensor means, and what they are called. Absent, null, false and empty are all "not used".
const REFUSED: [(&str, &str); 13] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "Arrow"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("lora_bias", "a bias inside LoRA"),
    ("layer_replication", "layer replication"),
    ("target_parameters", "LoRA on single parameters"),
    ("trainable_token_indices", "trainable tokens"),
    // PEFT saves false for every layer that Qwen-VL has.
    ("fan_in_fan_out", "a transposed layer"),
    ("megatron_config", "Megatron's layers"),
];

/// Initialisations that leave the model's weights as they are. The others train against a changed copy of them.
const PLAIN_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Which biases the file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Biases {
    None,
    Trained,
}

/// What an adapter's configuration says, checked.
#[derive(Debug)]
pub struct LoraConfig {
    rank: usize,
    alpha: f64,
    ranks: Patterns,
    alphas: Patterns,
    /// The scale is alpha / sqrt(rank) instead of alpha / rank.
    rank_stabilized: bool,
    pub biases: Biases,
    /// Ends of module names that were trained as a whole.
    pub modules_to_save: Vec<String>,
    /// The embedding's change is the head's too, if the head is tied.
    pub ensure_weight_tying: bool,
}

impl LoraConfig {
    /// Reads and checks the file in `dir`. Fails with the field, or with the name of the method if it is not LoRA.
    pub fn open(dir: &Path) -> Result<LoraConfig> {
        let file = dir.join(CONFIG);
        let map = json::read_object(&file)?;
        let f = Fields::new(&file, "", &map);
        refuse_methods(&f, &map)?;
        let patterns = RawPatterns::read(&file)?;
        Ok(LoraConfig {
            rank: f.size("r", MAX_RANK, None)?,
            alpha: f.float("lora_alpha")?.ok_or_else(|| f.error("lora_alpha", "is missing"))?,
            ranks: Patterns::new(&f, "rank_pattern", patterns.rank_pattern, rank)?,
            alphas: Patterns::new(&f, "alpha_pattern", patterns.alpha_pattern, Value::as_f64)?,
            rank_stabilized: f.flag("use_rslora")?.unwrap_or(false),
            biases: biases(&f)?,
            modules_to_save: f.texts("modules_to_save")?.unwrap_or_default().into_iter().map(str::to_string).collect(),
            ensure_weight_tying: f.flag("ensure_weight_tying")?.unwrap_or(false),
        })
    }

    /// The rank of a module, by the path that PEFT knew it under.
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.first(module).map_or(self.rank, |r| r as usize)
    }

    /// What the product of B and A is multiplied by: computed in f64 as PEFT does, then rounded.
    pub fn scale(&self, module: &str) -> f32 {
        let (rank, alpha) = (self.rank(module) as f64, self.alphas.first(module).unwrap_or(self.alpha));
        (alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }
}

fn rank(value: &Value) -> Option<f64> {
    value.as_u64().filter(|r| (1..=MAX_RANK).contains(r)).map(|r| r as f64)
}

fn refuse_methods(f: &Fields, map: &Map<String, Value>) -> Result<()> {
    let unsupported = |what: String| {
        Err(Error::unsupported(
            format!("{CONFIG}: {what}"),
            "only plain LoRA can be merged; PEFT's merge_and_unload knows some of the others",
        ))
    };
    match f.text("peft_type")? {
        Some("LORA") => {}
        Some(other) => return unsupported(format!("peft_type {}", shown(other))),
        None => return Err(f.error("peft_type", "is missing")),
    }
    if let Some((field, what)) = REFUSED.iter().find(|(field, _)| map.get(*field).is_some_and(is_used)) {
        return unsupported(format!("{field} ({what})"));
    }
    match map.get("init_lora_weights") {
        Some(Value::String(init)) if !PLAIN_INITS.contains(&init.as_str()) => {
            unsupported(format!("init_lora_weights \"{}\" (it changes the model's own weights)", shown(init)))
        }
        _ => Ok(()),
    }
}

fn is_used(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn biases(f: &Fields) -> Result<Biases> {
    match f.text("bias")? {
        None | Some("none") => Ok(Biases::None),
        Some("all" | "lora_only") => Ok(Biases::Trained),
        Some(other) => Err(f.error("bias", format!("\"{}\" is none of none, all, lora_only", shown(other)))),
    }
}

/// Values for modules whose path matches. The first in the file counts.
#[derive(Debug)]
struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    fn new(f: &Fields, field: &str, raw: Option<Ordered>, value: impl Fn(&Value) -> Option<f64>) -> Result<Patterns> {
        let one = |(pattern, v): (String, Value)| {
            // PEFT: re.match(rf"(.*\.)?({key})$", path)
            let regex = RegexBuilder::new(&format!(r"^(.*\.)?({pattern})$")).size_limit(PATTERN_BYTES).build();
            let regex = regex.map_err(|_| {
                f.error(
                    field,
                    format!("\"{}\" is no regular expression (look-around is not supported)", shown(&pattern)),
                )
            })?;
            let bad =
                || f.error(field, format!("\"{}\": {} is no value for it", shown(&pattern), shown(&v.to_string())));
            Ok((regex, value(&v).ok_or_else(bad)?))
        };
        Ok(Patterns(raw.unwrap_or_default().0.into_iter().map(one).collect::<Result<_>>()?))
    }

    fn first(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
    }
}

/// The patterns again, since a JSON map forgets their order.
#[derive(Deserialize)]
struct RawPatterns {
    rank_pattern: Option<Ordered>,
    alpha_pattern: Option<Ordered>,
}

impl RawPatterns {
    fn read(file: &Path) -> Result<RawPatterns> {
        let text = json::read_text(file)?;
        serde_json::from_str(&text)
            .map_err(|e| Error::checkpoint(file, "rank_pattern, alpha_pattern", shown(&e.to_string())))
    }
}

/// A JSON object in the order of the file.
#[derive(Default)]
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(OrderedVisitor)
    }
}

struct OrderedVisitor;

impl<'de> Visitor<'de> for OrderedVisitor {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of patterns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ordered, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() == MAX_PATTERNS {
                return Err(de::Error::custom(format!("more than {MAX_PATTERNS} patterns")));
            }
            entries.push(entry);
        }
        Ok(Ordered(entries))
    }
}
