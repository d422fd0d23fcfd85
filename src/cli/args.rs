//! Flags that several commands share. Names are those of transformers' generation settings and of common servers.

use crate::error::{Error, Result};
use crate::quantize::Scheme;
use clap::{Args, ValueEnum};

/// Columns that share a scale unless `--group-size` says otherwise.
pub const GROUP: usize = 128;

/// Which model, where and how.
#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// Model folder, or hub id `org/name[@revision]` [default: the bundled demo model]
    #[arg(long, value_name = "DIR|HF_ID")]
    pub model: Option<String>,
    /// Where to compute; auto takes a GPU that can run the model, else the CPU; emulator runs the CUDA kernels on the CPU, with all checks
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Check every op against this device as well, and stop at the first that differs
    #[arg(long, value_enum, value_name = "DEVICE")]
    pub lockstep: Option<Device>,
    /// Storage type of activations; auto is what the checkpoint was trained in
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// Storage type of keys and values; auto is that of activations, int8 has a scale for each token and head
    #[arg(long, value_enum, default_value_t = CacheDtype::Auto)]
    pub kv_cache_dtype: CacheDtype,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub threads: Option<u64>,
}

/// How large pictures may be after resizing.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct PixelArgs {
    /// Least area of a picture after resizing, in pixels [default: the checkpoint's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub min_pixels: Option<u64>,
    /// Largest area of a picture after resizing, in pixels [default: the checkpoint's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pixels: Option<u64>,
}

/// How long a conversation may be.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct ContextArgs {
    /// Tokens of the conversation, question and answer [default: 8192, or what the model can]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub context: Option<u64>,
}

/// How text is made into tokens.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct TextArgs {
    /// Let special tokens in the conversation's text count, as transformers does
    #[arg(long)]
    pub special_tokens_in_text: bool,
}

/// How tokens are drawn. What is not given comes from the checkpoint's generation_config.json.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct SamplingArgs {
    /// Longest answer, in tokens [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub max_new_tokens: Option<u64>,
    /// 0 always takes the most probable token
    #[arg(long, value_name = "X", value_parser = temperature)]
    pub temperature: Option<f32>,
    /// Keep the most probable tokens up to this total probability
    #[arg(long, value_name = "X", value_parser = probability)]
    pub top_p: Option<f32>,
    /// Keep this many tokens; 0 is no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i32::MAX as i64))]
    pub top_k: Option<u32>,
    /// Keep tokens of at least this fraction of the best one's probability
    #[arg(long, value_name = "X", value_parser = probability)]
    pub min_p: Option<f32>,
    /// Above 1 makes tokens that occurred less probable
    #[arg(long, value_name = "X", value_parser = penalty)]
    pub repetition_penalty: Option<f32>,
    /// Equal seeds draw equal tokens [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Where to compute.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
    Emulator,
}

/// A storage type, or the checkpoint's.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    Auto,
    F32,
    Bf16,
    F16,
}

/// A storage type of keys and values.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheDtype {
    Auto,
    Int8,
}

/// A format of quantized weights.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// int4, activations as they are
    W4a16,
    /// int8, activations as they are
    W8a16,
    /// int8 with a scale for each row, and so the activations
    W8a8,
}

impl WeightFormat {
    /// What it stands for.
    pub const fn scheme(self) -> Scheme {
        match self {
            WeightFormat::W4a16 => Scheme::W4A16,
            WeightFormat::W8a16 => Scheme::W8A16,
            WeightFormat::W8a8 => Scheme::W8A8,
        }
    }
}

/// A format of a quantized output head.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFormat {
    /// int8 with a scale for each row
    W8a16,
}

/// Parses `--group-size`.
pub fn group_size(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(n @ (128 | 64 | 32 | -1)) => Ok(n),
        _ => Err("must be 128, 64, 32 or -1".into()),
    }
}

/// Columns that share a scale by `--group-size`; none: all of a row.
///
/// # Errors
/// [`Error::Request`] if the format has no groups.
pub fn group(size: Option<i64>, scheme: Scheme) -> Result<Option<usize>> {
    match (size, scheme) {
        (Some(n), Scheme::W8A8) if n != -1 => {
            Err(Error::request("--group-size", "w8a8 has a scale for each row: pass -1, or leave it out"))
        }
        (Some(-1), _) | (None, Scheme::W8A8) => Ok(None),
        (Some(n), _) => Ok(Some(n as usize)),
        (None, _) => Ok(Some(GROUP)),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    within(text, 0.0, 1e6, "a number from 0")
}

fn probability(text: &str) -> Result<f32, String> {
    within(text, 0.0, 1.0, "a number from 0 to 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    within(text, 0.01, 100.0, "a number from 0.01 to 100")
}

/// A positive number, for frame rates.
pub fn rate(text: &str) -> Result<f64, String> {
    within(text, f32::MIN_POSITIVE, 1e6, "a number above 0").map(f64::from)
}

/// Bytes: a number, with a unit (`8GiB`, `500MB`) or without.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let unit = units.iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)));
    let (number, size) = unit.unwrap_or((text, 1u64));
    let bytes = number.trim_end().parse::<u64>().ok().and_then(|n| n.checked_mul(size));
    bytes.ok_or_else(|| "must be a number of bytes, such as 8GiB, 500MB or 1073741824".into())
}

fn within(text: &str, min: f32, max: f32, wanted: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (min..=max).contains(&x) => Ok(x),
        _ => Err(format!("must be {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_or_none() {
        let good = [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("3KiB", 3 << 10),
            ("3KB", 3000),
            ("500MB", 500_000_000),
            ("500 MiB", 500 << 20),
            ("8GiB", 8 << 30),
            ("8GB", 8_000_000_000),
            ("2TB", 2_000_000_000_000),
            ("16777215TiB", 16_777_215 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, want) in good {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        let wrong = [
            "",
            " ",
            "GiB",
            "-1GiB",
            "1.5GiB",
            "1e9",
            "0x10",
            "8gib",
            "8G",
            "8 Gi B",
            "GiB8",
            "8GiBGiB",
            "\u{ff18}GiB",
            "18446744073709551616",
            "18446744073709551615KB",
            "16777216TiB",
        ];
        for text in wrong {
            assert!(bytes(text).is_err_and(|why| why.contains("8GiB")), "{text}");
        }
    }
}
