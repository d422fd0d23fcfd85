//! AWQ in its GEMM version, as AutoAWQ writes it (`packing_utils.py`, release 0.2.9): 4 bits, codes and zero points packed along N.
//!
//! The surprise is the order inside a word, which suits the tool's own kernel; and zero points are stored as they are.

use super::config::Awq;
use super::module::Module;
use super::repack::{transposed, unpacked_columns};
use crate::data::TensorData;
use crate::error::Result;
use crate::quant::{Activations, Codes, Quantized};

/// The column of a word's eight that each nibble holds.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Reads a layer: `qweight` i32 `[K, N / 8]`, `qzeros` i32 `[K / group, N / 8]`, `scales` `[K / group, N]`.
pub(super) fn read(m: &Module, config: &Awq) -> Result<Quantized> {
    let (n, k) = (m.n, m.k);
    let qweight = m.words("qweight", [k, n / 8], "quantization_config.bits 4")?;
    let group = m.group("qweight", config.group)?;
    let groups = k / group;
    let qzeros = m.words("qzeros", [groups, n / 8], "quantization_config.group_size")?;
    let scales = m.scales("scales", [groups, n], "quantization_config.group_size")?;
    let codes = Codes::U4(TensorData::from_bytes(unpacked_columns(qweight.bytes(), k, ORDER)));
    let zeros = unpacked_columns(qzeros.bytes(), groups, ORDER);
    let zeros =
        zeros.chunks_exact(groups.div_ceil(2)).flat_map(|row| (0..groups).map(|g| row[g / 2] >> (g % 2 * 4) & 15));
    Ok(Quantized {
        n,
        k,
        codes,
        group,
        scales: transposed(&scales, n).into(),
        zeros: Some(zeros.collect()),
        order: None,
        activations: Activations::Float,
    })
}
