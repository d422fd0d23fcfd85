//! Linear layers that a checkpoint holds as codes: GPTQ, AWQ and compressed-tensors.
//!
//! It owns the layouts of those tools and brings each to `Quantized`. It refuses to know what the model does with a layer. The surprise: which layout
//! a layer has is decided by the tensors that the file holds for it; `quantization_config` must then agree, and is believed only where tensors are silent.

mod awq;
mod compressed_tensors;
pub mod config;
mod gptq;
mod module;
mod repack;

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::config::Config;
use super::inventory::{Expected, Kind};
use super::storage::{StoredMatrix, StoredTensor, rows};
use crate::error::{Error, Result};
use config::Quantization;
use module::Module;

/// How the tensors of a layer lie.
enum Layout {
    Gptq,
    Awq,
    Packed,
    Int8,
}

/// Takes the tensors of every quantized layer out of `found`, which has them by canonical name, and brings their codes to rows.
///
/// # Errors
/// Naming the tensor, and the field of the config that contradicts it.
pub(super) fn import(
    config: &Config,
    expected: &[Expected],
    found: &mut BTreeMap<String, &StoredTensor>,
) -> Result<Vec<StoredMatrix>> {
    let linears = expected.iter().filter(|e| e.kind == Kind::Linear);
    let modules: Vec<Module> = linears.filter_map(|e| take(e, found)).collect();
    modules.par_iter().map(|m| matrix(m, config.quantization.as_ref())).collect()
}

/// The layer's tensors, unless it has none, or floats alone. Its bias stays where it is.
fn take<'a>(linear: &Expected, found: &mut BTreeMap<String, &'a StoredTensor>) -> Option<Module<'a>> {
    let name = linear.name.strip_suffix(".weight")?;
    let under = format!("{name}.");
    let own: Vec<&str> = found
        .range(under.clone()..)
        .map_while(|(tensor, _)| tensor.strip_prefix(&under))
        .filter(|suffix| !suffix.contains('.') && *suffix != "bias")
        .collect();
    if matches!(own[..], [] | ["weight"]) {
        return None;
    }
    let own: Vec<String> = own.into_iter().map(str::to_string).collect();
    let tensors = own.into_iter().filter_map(|suffix| {
        let tensor = found.remove(&format!("{under}{suffix}"))?;
        Some((suffix, tensor))
    });
    let (n, k) = rows(&linear.shape);
    Some(Module { name: name.to_string(), n, k, tensors: tensors.collect() })
}

fn matrix(m: &Module, config: Option<&Quantization>) -> Result<StoredMatrix> {
    let layout = layout(m)?;
    let Some(config) = config else {
        let why = "is quantized, but config.json has no quantization_config to say how";
        return Err(m.error(m.first(), why));
    };
    let codes = match (layout, config) {
        (Layout::Gptq, Quantization::Gptq(gptq)) => gptq::read(m, gptq)?,
        (Layout::Awq, Quantization::Awq(awq)) => awq::read(m, awq)?,
        (Layout::Packed, Quantization::CompressedTensors { schemes }) => compressed_tensors::packed(m, schemes)?,
        (Layout::Int8, Quantization::CompressedTensors { schemes }) => compressed_tensors::int8(m, schemes)?,
        (layout, config) => {
            let (is, says) = (layout.method(), config.method());
            return Err(
                m.error(m.first(), format!("lies as {is} has it, but quantization_config.quant_method is {says}"))
            );
        }
    };
    StoredMatrix::in_file(&format!("{}.weight", m.name), m.file(), codes.into())
}

impl Layout {
    fn method(&self) -> &'static str {
        match self {
            Layout::Gptq => "gptq",
            Layout::Awq => "awq",
            Layout::Packed | Layout::Int8 => "compressed-tensors",
        }
    }

    /// The tensors that a layer may have.
    fn suffixes(&self) -> &'static [&'static str] {
        match self {
            Layout::Gptq => &["qweight", "qzeros", "scales", "g_idx"],
            Layout::Awq => &["qweight", "qzeros", "scales"],
            Layout::Packed => &["weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"],
            Layout::Int8 => &["weight", "weight_scale", "weight_zero_point"],
        }
    }
}

fn layout(m: &Module) -> Result<Layout> {
    let layout = if let Some(codes) = m.get("qweight") {
        // Codes packed along N have all K rows, codes packed along K have all N columns.
        if codes.shape().first() == Some(&m.k) { Layout::Awq } else { Layout::Gptq }
    } else if m.get("weight_packed").is_some() {
        Layout::Packed
    } else if m.get("weight").is_some() && m.get("weight_scale").is_some() {
        Layout::Int8
    } else {
        let other = m.suffixes().find(|suffix| *suffix != "weight");
        return Err(foreign(m, other.unwrap_or(m.first())));
    };
    match m.suffixes().find(|s| !layout.suffixes().contains(s)) {
        Some(other) => Err(foreign(m, other)),
        None => Ok(layout),
    }
}

/// A tensor of a layer that no supported layout has.
fn foreign(m: &Module, suffix: &str) -> Error {
    let (what, hint) = match suffix {
        "B" | "s" | "workspace" => {
            ("codes packed for Marlin", "take the checkpoint that was packed for it (checkpoint_format gptq)")
        }
        "input_scale" | "input_zero_point" => {
            ("static activation scales", "quantize with dynamic activations (one scale for each token)")
        }
        "SCB" | "absmax" | "quant_map" | "weight_format" => ("a bitsandbytes checkpoint", config::ORIGINAL),
        "weight_scale_inv" => ("an fp8 checkpoint", config::ORIGINAL),
        "W_q" | "meta" => ("an HQQ checkpoint", config::ORIGINAL),
        "weight" => return m.error(suffix, "is a second form of the same layer: its codes are there too"),
        _ => return m.error(suffix, "is no tensor of this model, nor of a layout that can be read"),
    };
    let at = format!("{}: {}.{suffix}: {what}", m.file().display(), m.name);
    Error::unsupported(at, hint)
}
