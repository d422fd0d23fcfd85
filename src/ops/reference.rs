//! The obvious f64 arithmetic that scalar references are made of. Nothing here is fast, and nothing here is shared with the fast bodies.

use super::input::Input;
use super::norm::{Norm, NormKind, Normed};
use crate::dtype::{DType, Element, Float, with_float};
use crate::hostmem::OpMem;
use crate::quant::Values;
use crate::tensor::{Tensor, WeightId};
use crate::weights::Part;

/// Rows of a matrix in f64.
pub type Rows = Vec<Vec<f64>>;

/// A read operand as f64 rows.
pub fn load(m: &OpMem, t: &Tensor) -> Rows {
    with_float!(t.dtype, T => split(m.read::<T>(t), t, |x| x.to_f32() as f64))
}

/// Rows in either form as f64, each int8 times its scale.
pub fn load_input(m: &OpMem, input: &Input) -> Rows {
    let Some(scales) = input.scales else { return load(m, &input.x) };
    let scales = m.read::<f32>(&scales);
    let mut rows = split(m.read::<i8>(&input.x), &input.x, |x| x as f64);
    rows.iter_mut().zip(scales).for_each(|(row, scale)| row.iter_mut().for_each(|x| *x *= *scale as f64));
    rows
}

/// A read operand of indices.
pub fn load_i32(m: &OpMem, t: &Tensor) -> Vec<i32> {
    m.read::<i32>(t).to_vec()
}

fn split<T: Element>(data: &[T], t: &Tensor, widen: impl Fn(T) -> f64) -> Rows {
    (0..t.rows()).map(|r| data[r * t.row_stride..][..t.cols()].iter().map(|&x| widen(x)).collect()).collect()
}

/// Stores rows into a written operand, rounded to its type; gives what it then holds.
pub fn store(m: &OpMem, t: &Tensor, rows: &Rows) -> Rows {
    edit(m, t, |r, c, _| rows[r][c])
}

/// Replaces every element of an operand by `f(row, column, old)`, rounded to its type; gives what it then holds.
pub fn edit(m: &OpMem, t: &Tensor, f: impl Fn(usize, usize, f64) -> f64) -> Rows {
    with_float!(t.dtype, T => {
        let data = m.write::<T>(t);
        for r in 0..t.rows() {
            for c in 0..t.cols() {
                let x = &mut data[r * t.row_stride + c];
                *x = T::from_f32(f(r, c, x.to_f32() as f64) as f32);
            }
        }
        split(data, t, |x| x.to_f32() as f64)
    })
}

/// Stores rows as int8 with scales.
pub fn store_int8(m: &OpMem, to: &Input, rows: &Rows) {
    put_int8(m, to, rows.iter().map(Vec::as_slice).enumerate());
}

/// Stores some rows, given with their numbers: quotients of f32 numbers, each rounded once to f32 and once to an integer.
pub fn put_int8<'a>(m: &OpMem, to: &Input, rows: impl Iterator<Item = (usize, &'a [f64])>) {
    let t = to.scales.expect("int8 rows have scales");
    let (codes, scales) = (m.write::<i8>(&to.x), m.write::<f32>(&t));
    for (r, row) in rows {
        let most = row.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        scales[r] = (most / 127.0) as f32;
        for (c, x) in row.iter().enumerate() {
            let quotient = if scales[r] == 0.0 { 0.0 } else { (x / scales[r] as f64) as f32 };
            codes[r * to.x.row_stride + c] = quotient.round_ties_even().clamp(-128.0, 127.0) as i8;
        }
    }
}

/// Stores the norms of finished rows, if they are wanted.
pub fn store_normed(m: &OpMem, normed: Option<&Normed>, rows: &Rows) {
    let Some(n) = normed else { return };
    let mut normed: Rows = rows.iter().map(|row| norm(m, &n.norm, row)).collect();
    if n.y.scales.is_none() {
        store(m, &n.y.x, &normed);
        return;
    }
    round(n.activations, normed.iter_mut().flatten());
    store_int8(m, &n.y, &normed);
}

/// Rounds numbers to a storage type.
pub fn round<'a>(dtype: DType, numbers: impl Iterator<Item = &'a mut f64>) {
    with_float!(dtype, T => numbers.for_each(|x| *x = T::from_f32(*x as f32).to_f32() as f64));
}

/// A weight's rows, the parts one after the other.
pub fn weight(m: &OpMem, id: WeightId) -> Rows {
    m.weight(id).parts.iter().flat_map(part).collect()
}

fn part(p: &Part) -> Rows {
    match &p.values {
        Values::Float(data, dtype) => widen(data.bytes(), *dtype).chunks_exact(p.k).map(<[f64]>::to_vec).collect(),
        Values::Quantized(q) => (0..q.n).map(|n| (0..q.k).map(|k| q.value(n, k) as f64).collect()).collect(),
        Values::Panels(_) => unreachable!("a CPU executor's own, which runs no references"),
    }
}

/// A weight's elements in one vector.
pub fn vector(m: &OpMem, id: WeightId) -> Vec<f64> {
    weight(m, id).concat()
}

fn widen(bytes: &[u8], dtype: DType) -> Vec<f64> {
    with_float!(dtype, T => bytes.chunks_exact(dtype.size()).map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f32() as f64).collect())
}

/// RMSNorm or LayerNorm of a row.
fn norm(m: &OpMem, norm: &Norm, x: &[f64]) -> Vec<f64> {
    let weight = vector(m, norm.weight);
    let bias = norm.bias.map(|b| vector(m, b));
    let n = x.len() as f64;
    let mean = match norm.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().sum::<f64>() / n,
    };
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + norm.eps as f64).sqrt();
    (0..x.len()).map(|i| (x[i] - mean) * scale * weight[i] + bias.as_ref().map_or(0.0, |b| b[i])).collect()
}

/// `x · Wᵀ` for one row.
pub fn project(x: &[f64], w: &Rows) -> Vec<f64> {
    w.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

/// Rotates the pairs (i, i + n/2) of a head by angles given in f32, as NeoX and transformers' `rotate_half` do.
pub fn rotate(head: &mut [f64], angles: &[f32]) {
    let half = head.len() / 2;
    for i in 0..half {
        let (sin, cos) = (angles[i] as f64).sin_cos();
        let (a, b) = (head[i], head[i + half]);
        (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// Softmax-weighted sum of `v` rows by `q · k / sqrt(d)`.
pub fn attend<'a>(q: &[f64], kv: impl Iterator<Item = (&'a [f64], &'a [f64])>) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scored: Vec<(f64, &[f64])> =
        kv.map(|(k, v)| (scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>(), v)).collect();
    let top = scored.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scored.iter().map(|s| (s.0 - top).exp()).sum();
    let mut out = vec![0.0; q.len()];
    for (score, v) in &scored {
        let p = (score - top).exp() / total;
        out.iter_mut().zip(*v).for_each(|(o, x)| *o += p * x);
    }
    out
}
