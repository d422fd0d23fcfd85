//! compressed-tensors: codes by rows of N already, so they stay in the file's mapping.
//!
//! Packed codes are stored with the middle added (`pack_quantized`), which makes them unsigned. The surprise: zero points are packed along N.

use std::sync::Arc;

use super::config::Scheme;
use super::module::Module;
use super::repack::{reordered, word};
use crate::checkpoint::storage::StoredTensor;
use crate::data::TensorData;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::quant::{Activations, Codes, Quantized};

/// Reads a packed layer: `weight_packed` i32 `[N, K bits / 32]`, `weight_scale` `[N, K / group]`, `weight_shape` `[2]`; `weight_zero_point` i32
/// `[N bits / 32, K / group]` and `weight_g_idx` i32 `[K]` where there are some. Quotients are rounded up.
pub(super) fn packed(m: &Module, schemes: &[Scheme]) -> Result<Quantized> {
    let (n, k) = (m.n, m.k);
    let shape = m.tensor("weight_shape", &[DType::I64, DType::I32], &[2], "its rank")?;
    if stated(shape) != [n as i64, k as i64] {
        let why = format!("says {:?}, but config.json makes the layer [{n}, {k}]", stated(shape));
        return Err(m.error("weight_shape", why));
    }
    let columns = |bits: usize| (k * bits).div_ceil(32);
    let is_packed = |s: &Scheme| m.get("weight_packed").is_some_and(|t| t.shape() == [n, columns(s.bits)]);
    let scheme = scheme(m, "weight_packed", schemes, is_packed)?;
    if scheme.int8_activations {
        let what = format!("{}: {}.weight_packed: packed codes with int8 activations", m.file().display(), m.name);
        return Err(Error::unsupported(what, "int8 weights (format int-quantized) go with int8 activations"));
    }
    let bits = scheme.bits;
    let words = m.words("weight_packed", [n, columns(bits)], "num_bits of config_groups")?;
    let group = m.group("weight_packed", scheme.group)?;
    let scales = m.scales("weight_scale", [n, k / group], "group_size of config_groups")?.into();
    let order = m.get("weight_g_idx").map(|_| m.order("weight_g_idx", group)).transpose()?.flatten();
    let rows = in_rows(words, (k * bits).div_ceil(8));
    let rows = match &order {
        Some(order) => TensorData::from_bytes(reordered(rows.bytes().to_vec(), bits, order)),
        None => rows,
    };
    let codes = if bits == 4 { Codes::U4(rows) } else { Codes::U8(rows) };
    let zeros = zeros(m, scheme, k / group)?;
    Ok(Quantized { n, k, codes, group, scales, zeros, order, activations: Activations::Float })
}

/// Reads an int8 layer: `weight` i8 `[N, K]`, `weight_scale` `[N, K / group]`.
pub(super) fn int8(m: &Module, schemes: &[Scheme]) -> Result<Quantized> {
    let (n, k) = (m.n, m.k);
    let scheme = scheme(m, "weight", schemes, |s| s.bits == 8)?;
    let weight = m.tensor("weight", &[DType::I8], &[n, k], "config.json")?;
    let group = m.group("weight", scheme.group)?;
    let scales = m.scales("weight_scale", [n, k / group], "group_size of config_groups")?.into();
    if m.get("weight_zero_point").is_some_and(|zeros| zeros.bytes().iter().any(|&b| b != 0)) || !scheme.symmetric {
        let what = format!("{}: {}.weight_zero_point: zero points of int8 codes", m.file().display(), m.name);
        return Err(Error::unsupported(what, "quantize with symmetric weights"));
    }
    let activations = if scheme.int8_activations { Activations::Int8 } else { Activations::Float };
    let codes = Codes::I8(weight.data().clone());
    Ok(Quantized { n, k, codes, group, scales, zeros: None, order: None, activations })
}

/// The scheme that a layer's tensors have, by name before by class; if none fits, the first, which they are then held against.
fn scheme<'s>(
    m: &Module,
    suffix: &str,
    schemes: &'s [Scheme],
    codes_fit: impl Fn(&Scheme) -> bool,
) -> Result<&'s Scheme> {
    let scale_columns = m.get("weight_scale").and_then(|t| t.shape().last().copied());
    let fits = |s: &&Scheme| codes_fit(s) && s.group.map_or(1, |g| m.k / g) == scale_columns.unwrap_or(0);
    let mut fitting: Vec<&Scheme> = schemes.iter().filter(fits).collect();
    let closest = fitting.iter().map(|s| s.closeness(&m.name)).max();
    fitting.retain(|s| Some(s.closeness(&m.name)) == closest);
    let Some(&first) = fitting.first().or(schemes.first().as_ref()) else {
        return Err(m.error(suffix, "is quantized, but quantization_config.config_groups is empty"));
    };
    match fitting.iter().any(|s| !s.is_like(first)) {
        true => {
            Err(m
                .error(suffix, "fits two of quantization_config.config_groups, which differ in more than their layers"))
        }
        false => Ok(first),
    }
}

/// What a `weight_shape` says.
fn stated(shape: &StoredTensor) -> Vec<i64> {
    match shape.dtype() {
        DType::I64 => bytemuck::pod_collect_to_vec(shape.bytes()),
        _ => bytemuck::pod_collect_to_vec::<u8, i32>(shape.bytes()).into_iter().map(i64::from).collect(),
    }
}

/// Packed rows in place, or without the padding of a last word that is not full.
fn in_rows(words: &StoredTensor, row_bytes: usize) -> TensorData {
    let stored = 4 * words.shape()[1];
    if stored == row_bytes {
        return words.data().clone();
    }
    let rows = words.bytes().chunks_exact(stored).flat_map(|row| &row[..row_bytes]);
    TensorData::from_bytes(rows.copied().collect::<Vec<u8>>())
}

/// Zero points `[N, groups]`; none where the middle is.
fn zeros(m: &Module, scheme: &Scheme, groups: usize) -> Result<Option<Arc<[u8]>>> {
    const SUFFIX: &str = "weight_zero_point";
    if scheme.symmetric {
        let why = "is there, but config_groups says symmetric";
        return m.get(SUFFIX).map_or(Ok(None), |_| Err(m.error(SUFFIX, why)));
    }
    let (bits, per_word) = (scheme.bits, 32 / scheme.bits);
    let words = m.words(SUFFIX, [m.n.div_ceil(per_word), groups], "num_bits and group_size of config_groups")?.bytes();
    let zero = |n: usize, g: usize| {
        (word(words, n / per_word * groups + g) >> (n % per_word * bits) & ((1 << bits) - 1)) as u8
    };
    Ok(Some((0..m.n).flat_map(|n| (0..groups).map(move |g| (n, g))).map(|(n, g)| zero(n, g)).collect()))
}
