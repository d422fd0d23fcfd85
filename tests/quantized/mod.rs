//! A golden model whose layers' linear weights are quantized, each row to nearest.
#![allow(dead_code)] // Every test uses a part of it.

use osprey::checkpoint::inventory::{Kind, expected};
use osprey::checkpoint::{ModelFiles, StoredMatrix, StoredTensor, Weights};
use osprey::data::TensorData;
use osprey::ops::case::value;
use osprey::quant::{Activations, Codes, Format, Quantized};
use std::sync::Arc;

/// The weights of a model in a format: all linear layers but the patches' and the head.
pub fn weights(files: &ModelFiles, format: Format) -> Weights {
    let whole = ["visual.patch_embed.proj.weight", "lm_head.weight"];
    let (mut floats, mut codes) = (Vec::new(), Vec::new());
    for e in expected(&files.config) {
        let stored = files.weights.get(&e.name).unwrap();
        match format {
            Format::W8A8 if e.kind == Kind::Linear && !whole.contains(&e.name.as_str()) => {
                codes.push(StoredMatrix::new(&e.name, Arc::new(int8(stored))).unwrap());
            }
            _ => floats.push(stored.clone()),
        }
    }
    Weights::from_tensors(&files.config, &floats, &codes).unwrap()
}

fn int8(t: &StoredTensor) -> Quantized {
    let (n, k) = (t.shape()[0], t.shape()[1]);
    let values: Vec<f32> = t.bytes().chunks(t.dtype().size()).map(|b| value(t.dtype(), b) as f32).collect();
    let scale = |row: &[f32]| row.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
    let scales: Arc<[f32]> = values.chunks(k).map(scale).collect();
    let code = |(i, x): (usize, &f32)| (x / scales[i / k]).round() as i8 as u8;
    let codes: Vec<u8> = values.iter().enumerate().map(code).collect();
    let codes = Codes::I8(TensorData::from_bytes(codes));
    Quantized { n, k, codes, group: k, scales, zeros: None, order: None, activations: Activations::Int8 }
}
