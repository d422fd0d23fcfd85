//! A golden model whose layers' linear weights are quantized, each row to nearest.
#![allow(dead_code)] // Every test uses a part of it.

use osprey::checkpoint::inventory::{Kind, expected};
use osprey::checkpoint::{ModelFiles, StoredMatrix, StoredTensor, Weights};
use osprey::data::TensorData;
use osprey::ops::case::value;
use osprey::quant::{Activations, Codes, Format, Quantized};
use std::sync::Arc;

/// The weights of a model in a format: all linear layers but the patches' and the head, of the decoder alone unless activations are int8 too.
pub fn weights(files: &ModelFiles, format: Format) -> Weights {
    let whole = ["visual.patch_embed.proj.weight", "lm_head.weight"];
    let (mut floats, mut codes) = (Vec::new(), Vec::new());
    for e in expected(&files.config) {
        let stored = files.weights.get(&e.name).unwrap();
        let linear = e.kind == Kind::Linear && !whole.contains(&e.name.as_str());
        let matrix = match format {
            Format::W8A8 if linear => int8(stored),
            Format::W4A16 { group, zeros } if linear && !e.name.starts_with("visual.") => {
                grouped(stored, 4, group, zeros)
            }
            Format::W8A16 { group, zeros } if linear && !e.name.starts_with("visual.") => {
                grouped(stored, 8, group, zeros)
            }
            _ => {
                floats.push(stored.clone());
                continue;
            }
        };
        codes.push(StoredMatrix::new(&e.name, Arc::new(matrix)).unwrap());
    }
    Weights::from_tensors(&files.config, &floats, &codes).unwrap()
}

fn values(t: &StoredTensor) -> Vec<f32> {
    t.bytes().chunks(t.dtype().size()).map(|b| value(t.dtype(), b) as f32).collect()
}

fn int8(t: &StoredTensor) -> Quantized {
    let (n, k, values) = (t.shape()[0], t.shape()[1], values(t));
    let scale = |row: &[f32]| row.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
    let scales: Arc<[f32]> = values.chunks(k).map(scale).collect();
    let code = |(i, x): (usize, &f32)| (x / scales[i / k]).round() as i8 as u8;
    let codes: Vec<u8> = values.iter().enumerate().map(code).collect();
    let codes = Codes::I8(TensorData::from_bytes(codes));
    Quantized { n, k, codes, group: k, scales, zeros: None, order: None, activations: Activations::Int8 }
}

/// Codes that span what each group holds: with zero points from its least value, or else as far below zero as above.
fn grouped(t: &StoredTensor, bits: usize, group: usize, zeros: bool) -> Quantized {
    let most = ((1 << bits) - 1) as f32;
    let (mut codes, mut scales, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for values in values(t).chunks(group) {
        let (low, high) = values.iter().fold((0f32, 0f32), |(a, b), &x| (a.min(x), b.max(x)));
        let scale = if zeros { (high - low) / most } else { 2.0 * high.max(-low) / most };
        let zero = if zeros { (-low / scale).round() } else { (most + 1.0) / 2.0 };
        codes.extend(values.iter().map(|x| ((x / scale).round() + zero).clamp(0.0, most) as u8));
        scales.push(scale);
        points.push(zero as u8);
    }
    let codes = match bits {
        4 => Codes::U4(TensorData::from_bytes(codes.chunks(2).map(|two| two[0] | two[1] << 4).collect::<Vec<_>>())),
        _ => Codes::U8(TensorData::from_bytes(codes)),
    };
    let (n, k, zeros) = (t.shape()[0], t.shape()[1], zeros.then(|| points.into()));
    Quantized { n, k, codes, group, scales: scales.into(), zeros, order: None, activations: Activations::Float }
}
