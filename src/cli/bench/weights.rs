//! Random weights in memory: normal with deviation 0.02 as models are initialised, norm scales 1, so that nothing overflows.
//!
//! Values come from a table of normal numbers picked by a cheap generator; a tensor is allocated once, so the peak is the weights themselves.

use crate::checkpoint::inventory::{Expected, Kind, Part, expected};
use crate::checkpoint::{Config, StoredMatrix, StoredTensor};
use crate::cli::args::GROUP;
use crate::data::TensorData;
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::{Activations, Codes, Quantized};
use crate::quantize::Scheme;
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Entries of the table: 12 bits of the generator pick one.
const TABLE: usize = 1 << 12;
const DEVIATION: f32 = 0.02;
/// Bytes that one task fills.
const PIECE: usize = 1 << 20;

/// The decoder's linear layers as random codes, and the head in w8a16 if the model has one of its own and `head` says so.
///
/// # Errors
/// Never for shapes that fit the address space.
pub fn codes(config: &Config, format: Scheme, head: bool) -> Result<Vec<StoredMatrix>> {
    let of = |t: &Expected| match (t.kind, t.part) {
        (Kind::Linear, Part::Text) => Some(format),
        (Kind::Linear, Part::Head) if head => Some(Scheme::W8A16),
        _ => None,
    };
    let quantized =
        expected(config).into_iter().enumerate().filter_map(|(i, t)| of(&t).map(|format| (i as u64, t, format)));
    quantized.map(|(seed, t, format)| StoredMatrix::new(&t.name, Arc::new(matrix(&t.shape, seed, format)))).collect()
}

fn matrix(shape: &[usize], seed: u64, format: Scheme) -> Quantized {
    let (n, k) = (shape[0], shape[1]);
    let group = if format == Scheme::W8A8 || !k.is_multiple_of(GROUP) { k } else { GROUP };
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, n * if format == Scheme::W4A16 { k / 2 } else { k }).collect();
    if let Some(bytes) = Arc::get_mut(&mut bytes) {
        bytes.par_chunks_mut(8).enumerate().for_each(|(i, to)| {
            to.copy_from_slice(&mix(seed << 40 | i as u64).to_le_bytes()[..to.len()]);
        });
    }
    let data = TensorData::from_bytes(bytes);
    let (codes, values) = match format {
        Scheme::W4A16 => (Codes::U4(data), 16.0),
        Scheme::W8A16 => (Codes::U8(data), 256.0),
        Scheme::W8A8 => (Codes::I8(data), 256.0f32),
    };
    // So many equally likely values have a deviation of so many / sqrt(12).
    let scales = vec![DEVIATION * 12f32.sqrt() / values; n * (k / group)].into();
    let activations = if format == Scheme::W8A8 { Activations::Int8 } else { Activations::Float };
    Quantized { n, k, codes, group, scales, zeros: None, order: None, activations }
}

/// Every tensor of the model in `dtype` (f32 or bf16).
///
/// # Errors
/// Never for shapes that fit the address space.
pub fn random(config: &Config, dtype: DType) -> Result<Vec<StoredTensor>> {
    let table = table();
    expected(config).iter().enumerate().map(|(i, tensor)| one(tensor, i as u64, dtype, &table)).collect()
}

fn one(tensor: &Expected, seed: u64, dtype: DType, table: &[f32]) -> Result<StoredTensor> {
    let elements: usize = tensor.shape.iter().product();
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, elements * dtype.size()).collect();
    let one = [1.0; 1];
    let table = if tensor.kind == Kind::Norm { &one[..] } else { table };
    if let Some(bytes) = Arc::get_mut(&mut bytes) {
        if dtype == DType::F32 {
            fill(bytes, seed, &table.iter().map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        } else {
            fill(bytes, seed, &table.iter().map(|&x| bf16::from_f32(x).to_le_bytes()).collect::<Vec<_>>());
        }
    }
    StoredTensor::new(&tensor.name, dtype, &tensor.shape, TensorData::from_bytes(bytes))
}

/// Fills with entries of the table, whose length is a power of two of at most 2^12.
fn fill<const N: usize>(bytes: &mut [u8], seed: u64, table: &[[u8; N]]) {
    bytes.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| {
        let mut state = mix(seed << 32 | i as u64);
        for five in piece.as_chunks_mut::<N>().0.chunks_mut(5) {
            state = mix(state);
            for (j, out) in five.iter_mut().enumerate() {
                *out = table[(state >> (12 * j)) as usize & (table.len() - 1)];
            }
        }
    });
}

/// SplitMix64: one step and its output.
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Nearly normal numbers: sums of 12 uniform ones.
fn table() -> Vec<f32> {
    let uniform = |i: usize| (mix(i as u64) >> 40) as f32 / (1u64 << 24) as f32;
    (0..TABLE).map(|i| ((0..12).map(|j| uniform(12 * i + j)).sum::<f32>() - 6.0) * DEVIATION).collect()
}
