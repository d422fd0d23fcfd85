//! GPTQ, as AutoGPTQ (`qlinear_cuda.py`, release 0.7.1) and GPTQModel write it: codes packed along K, zero points along N.
//!
//! The surprise: files of version 1 hold zero points less one. The one is added to whole words, carries included, since GPTQModel takes it off whole words;
//! AutoGPTQ itself cannot store a zero point of 0.

use super::config::Gptq;
use super::module::Module;
use super::repack::{reordered, transposed, transposed_words, word};
use crate::data::TensorData;
use crate::error::Result;
use crate::quant::{Activations, Codes, Quantized};

/// Reads a layer: `qweight` i32 `[K bits / 32, N]`, `qzeros` i32 `[K / group, N bits / 32]`, `scales` `[K / group, N]`, `g_idx` i32 `[K]` or none.
pub(super) fn read(m: &Module, config: &Gptq) -> Result<Quantized> {
    let (n, k, bits) = (m.n, m.k, config.bits);
    let says = format!("quantization_config.bits {bits}");
    let qweight = m.words("qweight", [k * bits / 32, n], &says)?;
    let group = m.group("qweight", config.group)?;
    let scales = m.scales("scales", [k / group, n], "quantization_config.group_size")?;
    let zeros = zeros(m, config, k / group)?;
    let order = match m.get("g_idx") {
        Some(_) => m.order("g_idx", group)?,
        None if config.desc_act => return Err(m.error("g_idx", "is missing, but quantization_config.desc_act is true")),
        None => None,
    };
    let rows = transposed_words(qweight.bytes(), n);
    let rows = TensorData::from_bytes(match &order {
        Some(order) => reordered(rows, bits, order),
        None => rows,
    });
    let codes = if bits == 4 { Codes::U4(rows) } else { Codes::U8(rows) };
    let scales = transposed(&scales, n).into();
    Ok(Quantized { n, k, codes, group, scales, zeros, order, activations: Activations::Float })
}

/// Zero points `[N, groups]`; none where the config says that all are the middle, as they then must be.
fn zeros(m: &Module, config: &Gptq, groups: usize) -> Result<Option<std::sync::Arc<[u8]>>> {
    let (n, bits) = (m.n, config.bits);
    let per_word = 32 / bits;
    let says = format!("quantization_config.bits {bits}, group_size");
    let words = m.words("qzeros", [groups, n / per_word], &says)?.bytes();
    let ones = if config.v2 { 0 } else { u32::MAX / ((1 << bits) - 1) };
    let zero = |i: usize| {
        let word = word(words, i / per_word).wrapping_add(ones);
        (word >> (i % per_word * bits) & ((1 << bits) - 1)) as u8
    };
    let zeros: Vec<u8> = (0..groups * n).map(zero).collect();
    if !config.sym {
        return Ok(Some(transposed(&zeros, n).into()));
    }
    let middle = 1 << (bits - 1);
    match zeros.iter().position(|&zero| zero != middle) {
        Some(i) => {
            let why =
                format!("zero point {} in row {}, but quantization_config.sym makes it {middle}", zeros[i], i % n);
            Err(m.error("qzeros", why))
        }
        None => Ok(None),
    }
}
