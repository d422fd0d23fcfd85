//! `generation_config.json`: the sampling defaults that a checkpoint ships. Every field, and the file itself, may be absent.

use std::path::Path;

use serde::Serialize;

use super::json::{self, Fields};
use crate::error::Result;

/// The checkpoint's own sampling defaults; `None` where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GenerationConfig {
    pub do_sample: Option<bool>,
    /// 0 or more.
    pub temperature: Option<f64>,
    /// 0 means no limit.
    pub top_k: Option<u64>,
    /// In 0..=1.
    pub top_p: Option<f64>,
    /// In 0..=1.
    pub min_p: Option<f64>,
    /// Above 0; 1 means none.
    pub repetition_penalty: Option<f64>,
    /// Any of these ends a text.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `dir`; all fields absent if there is no such file, an error that names the field if it is broken.
    pub fn open(dir: impl AsRef<Path>) -> Result<GenerationConfig> {
        let file = dir.as_ref().join("generation_config.json");
        if !file.exists() {
            return Ok(GenerationConfig::default());
        }
        let map = json::read_object(&file)?;
        let f = Fields::new(&file, "", &map);
        Ok(GenerationConfig {
            do_sample: f.flag("do_sample")?,
            temperature: within(&f, "temperature", 0.0, 1e6)?,
            top_k: f.uint("top_k")?,
            top_p: within(&f, "top_p", 0.0, 1.0)?,
            min_p: within(&f, "min_p", 0.0, 1.0)?,
            repetition_penalty: within(&f, "repetition_penalty", f64::MIN_POSITIVE, 1e6)?,
            eos_token_ids: f.tokens("eos_token_id")?,
            bos_token_id: f.token("bos_token_id")?,
            pad_token_id: f.token("pad_token_id")?,
        })
    }
}

fn within(f: &Fields, name: &str, min: f64, max: f64) -> Result<Option<f64>> {
    match f.float(name)? {
        Some(x) if !(min..=max).contains(&x) => Err(f.error(name, format!("{x} is outside {min}..={max}"))),
        other => Ok(other),
    }
}
