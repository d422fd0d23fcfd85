//! `quantization_config` of `config.json`: how the quantized layers were made. What no layout here can hold is refused by name.

use regex::Regex;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::checkpoint::json::{Fields, shown};
use crate::error::{Error, Result};

/// The way out where a checkpoint cannot be read.
pub(super) const ORIGINAL: &str = "take the bf16 or f16 original";
/// Groups are no wider than a row, whose width is bounded likewise.
const MAX_GROUP: u64 = 1 << 18;

/// What the config says of all quantized layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "quant_method", rename_all = "kebab-case")]
pub enum Quantization {
    Gptq(Gptq),
    Awq(Awq),
    CompressedTensors { schemes: Vec<Scheme> },
}

/// Of GPTQ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gptq {
    /// 4 or 8.
    pub bits: usize,
    /// Columns that share a scale; none if a row has one.
    pub group: Option<usize>,
    /// Every zero point is the middle.
    pub sym: bool,
    /// Columns were quantized in the order of their activations.
    pub desc_act: bool,
    /// Zero points are stored as they are, not less one.
    pub v2: bool,
}

/// Of AWQ, which has 4 bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Awq {
    /// Columns that share a scale; none if a row has one.
    pub group: Option<usize>,
}

/// One of the `config_groups` of compressed-tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scheme {
    pub targets: Vec<Target>,
    /// 4 or 8.
    pub bits: usize,
    /// Columns that share a scale; none if a row has one.
    pub group: Option<usize>,
    pub symmetric: bool,
    /// Activations are rounded to int8, each token with a scale of its own.
    pub int8_activations: bool,
}

/// Which layers a scheme is for.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name of a layer, a pattern for names behind `re:`, or a class such as `Linear`.
    text: String,
    pattern: Option<Regex>,
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        self.text == other.text
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(s)
    }
}

impl Target {
    /// None if it is a pattern that is no regular expression.
    fn parse(text: &str) -> Option<Target> {
        // As Python's `re.match`, from the start.
        let pattern = text.strip_prefix("re:").map(|pattern| Regex::new(&format!("^(?:{pattern})")).ok());
        let pattern = match pattern {
            Some(None) => return None,
            found => found.flatten(),
        };
        Some(Target { text: text.into(), pattern })
    }

    /// How closely it means a layer: by its name, by its class, or not at all.
    fn closeness(&self, layer: &str) -> usize {
        match &self.pattern {
            Some(pattern) => 2 * usize::from(pattern.is_match(layer)),
            None if self.text == layer => 2,
            None => usize::from(self.text == "Linear"),
        }
    }
}

impl Scheme {
    /// How closely the targets mean a layer: by its name, by its class, or not at all.
    pub(super) fn closeness(&self, layer: &str) -> usize {
        self.targets.iter().map(|target| target.closeness(layer)).max().unwrap_or(0)
    }

    /// Whether layers of both are stored and multiplied alike.
    pub(super) fn is_like(&self, other: &Scheme) -> bool {
        *self == Scheme { targets: self.targets.clone(), ..other.clone() }
    }
}

impl Quantization {
    /// Its `quant_method`.
    pub fn method(&self) -> &'static str {
        match self {
            Quantization::Gptq(_) => "gptq",
            Quantization::Awq(_) => "awq",
            Quantization::CompressedTensors { .. } => "compressed-tensors",
        }
    }

    /// Reads the `quantization_config` among `fields`, if there is one.
    pub(in crate::checkpoint) fn read(fields: &Fields) -> Result<Option<Quantization>> {
        let Some(q) = fields.object("quantization_config")? else { return Ok(None) };
        Ok(Some(match q.text("quant_method")? {
            Some("gptq") => Quantization::Gptq(gptq(&q)?),
            Some("awq") => Quantization::Awq(awq(&q)?),
            Some("compressed-tensors") => Quantization::CompressedTensors { schemes: schemes(&q)? },
            Some(other) => {
                let hint = format!("supported: gptq, awq, compressed-tensors; or {ORIGINAL}");
                return Err(refused(&q, "quant_method", other, &hint));
            }
            None => return Err(q.error("quant_method", "is missing")),
        }))
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |bits: usize, group: Option<usize>| match group {
            Some(group) => format!("int{bits} in groups of {group}"),
            None => format!("int{bits} by rows"),
        };
        let what = match self {
            Quantization::Gptq(q) => each(q.bits, q.group),
            Quantization::Awq(q) => each(4, q.group),
            Quantization::CompressedTensors { schemes } => {
                schemes.iter().map(|s| each(s.bits, s.group)).collect::<Vec<_>>().join(", ")
            }
        };
        write!(f, "{}, {what}", self.method())
    }
}

fn refused(fields: &Fields, field: &str, value: impl fmt::Display, hint: &str) -> Error {
    Error::unsupported(format!("config.json: {} {}", fields.at(field), shown(&value.to_string())), hint)
}

fn gptq(q: &Fields) -> Result<Gptq> {
    let format = if q.has("checkpoint_format") { "checkpoint_format" } else { "format" };
    let v2 = match q.text(format)? {
        None | Some("gptq") => false,
        Some("gptq_v2") => true,
        Some(other) => {
            return Err(refused(q, format, other, "supported: gptq, gptq_v2; take the checkpoint it was made from"));
        }
    };
    if q.flag("is_marlin_format")?.unwrap_or(false) {
        return Err(refused(
            q,
            "is_marlin_format",
            true,
            "take the checkpoint it was made from (checkpoint_format gptq)",
        ));
    }
    Ok(Gptq {
        bits: bits(q, "bits", &[4, 8])?,
        group: group(q)?,
        sym: q.flag("sym")?.unwrap_or(true),
        desc_act: q.flag("desc_act")?.unwrap_or(false),
        v2,
    })
}

fn awq(q: &Fields) -> Result<Awq> {
    bits(q, "bits", &[4])?;
    let version = if q.has("version") { "version" } else { "checkpoint_format" };
    match q.text(version)? {
        Some(other) if !other.eq_ignore_ascii_case("gemm") => {
            Err(refused(q, version, other, "supported: gemm; it is what AutoAWQ saves unless told otherwise"))
        }
        _ => Ok(Awq { group: group(q)? }),
    }
}

/// A number of bits, which has no default.
fn bits(f: &Fields, field: &str, supported: &[u64]) -> Result<usize> {
    match f.uint(field)? {
        Some(bits) if supported.contains(&bits) => Ok(bits as usize),
        Some(bits) => {
            let known: Vec<String> = supported.iter().map(u64::to_string).collect();
            Err(refused(f, field, bits, &format!("supported: {} bits; or {ORIGINAL}", known.join(", "))))
        }
        None => Err(f.error(field, "is missing")),
    }
}

/// `group_size`; -1 makes every row a group.
fn group(f: &Fields) -> Result<Option<usize>> {
    match f.float("group_size")? {
        Some(-1.0) => Ok(None),
        Some(_) => Ok(Some(f.size("group_size", MAX_GROUP, None)?)),
        None => Err(f.error("group_size", "is missing")),
    }
}

fn schemes(q: &Fields) -> Result<Vec<Scheme>> {
    known_format(q)?;
    for field in ["kv_cache_scheme", "transform_config"] {
        if q.object(field)?.is_some_and(|o| !o.is_empty()) {
            return Err(refused(q, field, "", ORIGINAL));
        }
    }
    if let Some(sparse) = q.object("sparsity_config")?
        && sparse.text("format")?.is_some_and(|format| format != "dense")
    {
        return Err(refused(&sparse, "format", "of sparse weights", ORIGINAL));
    }
    let groups = q.objects("config_groups")?;
    let schemes = groups.iter().map(scheme).collect::<Result<Vec<Option<Scheme>>>>()?;
    Ok(schemes.into_iter().flatten().collect())
}

fn known_format(f: &Fields) -> Result<()> {
    match f.text("format")? {
        None | Some("pack-quantized" | "int-quantized" | "naive-quantized" | "mixed-precision" | "dense") => Ok(()),
        Some(other) => Err(refused(f, "format", other, "supported: pack-quantized, int-quantized")),
    }
}

/// A group's scheme; none if it leaves the weights alone.
fn scheme(group: &Fields) -> Result<Option<Scheme>> {
    known_format(group)?;
    let Some(weights) = group.object("weights")? else { return Ok(None) };
    integers(&weights)?;
    if let Some(outputs) = group.object("output_activations")? {
        return Err(refused(&outputs, "num_bits", "of outputs", ORIGINAL));
    }
    let scheme = Scheme {
        targets: targets(group)?,
        bits: bits(&weights, "num_bits", &[4, 8])?,
        group: match weights.text("strategy")? {
            Some("channel") => None,
            Some("group") => self::group(&weights)?,
            other => return Err(refused(&weights, "strategy", other.unwrap_or("tensor"), "supported: group, channel")),
        },
        symmetric: weights.flag("symmetric")?.unwrap_or(true),
        int8_activations: match group.object("input_activations")? {
            Some(inputs) => dynamic_int8(&inputs)?,
            None => false,
        },
    };
    if scheme.int8_activations && scheme != (Scheme { bits: 8, group: None, symmetric: true, ..scheme.clone() }) {
        let hint = "they go with symmetric int8 weights that have a scale for each row (strategy channel)";
        return Err(refused(group, "input_activations", "of int8", hint));
    }
    Ok(Some(scheme))
}

fn targets(group: &Fields) -> Result<Vec<Target>> {
    let target = |text: &str| {
        let why = || format!("\"{}\" is no regular expression (look-around is not supported)", shown(text));
        Target::parse(text).ok_or_else(|| group.error("targets", why()))
    };
    group.texts("targets")?.unwrap_or_default().into_iter().map(target).collect()
}

fn integers(f: &Fields) -> Result<()> {
    match f.text("type")? {
        None | Some("int") => Ok(()),
        Some(other) => Err(refused(f, "type", other, &format!("supported: int; or {ORIGINAL}"))),
    }
}

/// Checks that activations are int8, each token with a scale of its own that is found when it comes.
fn dynamic_int8(f: &Fields) -> Result<bool> {
    integers(f)?;
    bits(f, "num_bits", &[8])?;
    let hint = "supported: dynamic, symmetric, with a scale for each token";
    if !f.flag("dynamic")?.unwrap_or(false) {
        return Err(refused(f, "dynamic", "false (static activation scales)", hint));
    }
    match f.text("strategy")? {
        Some("token") => {}
        other => return Err(refused(f, "strategy", other.unwrap_or("tensor"), hint)),
    }
    match f.flag("symmetric")? {
        Some(false) => Err(refused(f, "symmetric", "false", hint)),
        _ => Ok(true),
    }
}
