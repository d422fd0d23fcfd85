//! Quantized matrices: what a checkpoint's codes mean, whatever tool wrote them.
//!
//! It owns the ways in which codes lie in memory and the one formula that gives them values. It refuses to know files, ops and devices. The surprise:
//! codes stay in place where a file has them by rows (compressed-tensors does); only layouts that pack along other axes are repacked. A CPU multiplies
//! copies of them ([`panels`]).

pub mod awq;
pub mod fold;
pub mod gptq;
pub mod gram;
pub mod grid;
pub mod inputs;
pub mod panels;
pub mod rtn;
#[cfg(test)]
mod sample;
pub mod smooth;

use crate::data::TensorData;
use crate::dtype::DType;
use panels::Panels;
use std::fmt;
use std::sync::Arc;

/// What an op must know of its weight before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// f32, bf16 or f16, read in place.
    Float,
    /// int4 weights, activations of 16 bits or more. `group` columns of a row share a scale; with `zeros`, also a zero point.
    W4A16 { group: usize, zeros: bool },
    /// The same with int8 weights.
    W8A16 { group: usize, zeros: bool },
    /// int8 weights with a scale for each row, int8 activations with a scale for each token.
    W8A8,
}

/// What weights of groups are, whose activations have 16 bits or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Of a code.
    pub bits: usize,
    /// Columns of a group.
    pub group: usize,
    /// Whether groups have zero points of their own.
    pub zeros: bool,
}

impl Groups {
    /// Bytes of the zero points of 16 rows of `k` columns on a device: one for each row and group, and what fills the last sector of 32.
    pub const fn zero_bytes(self, k: usize) -> usize {
        if self.zeros { (16 * (k / self.group)).next_multiple_of(32) } else { 0 }
    }
}

impl Format {
    /// Its groups; none of floats and of what multiplies int8.
    pub const fn groups(self) -> Option<Groups> {
        match self {
            Format::W4A16 { group, zeros } => Some(Groups { bits: 4, group, zeros }),
            Format::W8A16 { group, zeros } => Some(Groups { bits: 8, group, zeros }),
            Format::Float | Format::W8A8 => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Float => "float",
            Format::W4A16 { .. } => "w4a16",
            Format::W8A16 { .. } => "w8a16",
            Format::W8A8 => "w8a8",
        })
    }
}

/// Codes by rows `[N, K]`.
#[derive(Debug, Clone)]
pub enum Codes {
    /// Two in a byte, the even column in the low half; 8 stands for zero unless there are zero points.
    U4(TensorData),
    /// One in a byte; 128 stands for zero unless there are zero points.
    U8(TensorData),
    /// Two's complement; there are no zero points.
    I8(TensorData),
}

impl Codes {
    /// The bytes, row by row.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Codes::U4(data) | Codes::U8(data) | Codes::I8(data) => data.bytes(),
        }
    }

    /// Bytes of a row of `k` codes.
    fn row_bytes(&self, k: usize) -> usize {
        if matches!(self, Codes::U4(_)) { k.div_ceil(2) } else { k }
    }
}

/// What multiplies the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// The activations as they are.
    Float,
    /// Activations rounded to int8, each token with a scale of its own.
    Int8,
}

/// A matrix `[N, K]` of codes: element `(n, k)` is `scale[n, k / group] * (code[n, k] - zero[n, k / group])`.
#[derive(Debug, Clone)]
pub struct Quantized {
    pub n: usize,
    pub k: usize,
    pub codes: Codes,
    /// Columns that share a scale; `k` where a row has one.
    pub group: usize,
    /// `[N, K / group]`
    pub scales: Arc<[f32]>,
    /// `[N, K / group]`
    pub zeros: Option<Arc<[u8]>>,
    /// Column `j` multiplies input `order[j]` (GPTQ's act-order); `j` without it.
    pub order: Option<Arc<[u32]>>,
    pub activations: Activations,
}

impl Quantized {
    /// Checks that the parts belong together.
    ///
    /// # Errors
    /// One line that names the part and what it should be.
    pub fn check(&self) -> Result<(), String> {
        let (n, k, group) = (self.n, self.k, self.group);
        if group == 0 || !k.is_multiple_of(group) {
            return Err(format!("{k} columns do not split into groups of {group}"));
        }
        let lengths = [
            ("codes", self.codes.bytes().len(), n * self.codes.row_bytes(k)),
            ("scales", self.scales.len(), n * (k / group)),
            ("zero points", self.zeros.as_ref().map_or(n * (k / group), |z| z.len()), n * (k / group)),
            ("order", self.order.as_ref().map_or(k, |o| o.len()), k),
        ];
        if let Some((what, have, want)) = lengths.into_iter().find(|(_, have, want)| have != want) {
            return Err(format!("{have} {what}, expected {want} for [{n}, {k}] in groups of {group}"));
        }
        if self.scales.iter().any(|s| !s.is_finite()) {
            return Err("a scale is not finite".into());
        }
        if self.order.as_ref().is_some_and(|order| !is_permutation(order)) {
            return Err("the order of its columns is no permutation".into());
        }
        let signed = matches!(self.codes, Codes::I8(_));
        if signed && self.zeros.is_some() {
            return Err("signed codes have no zero points".into());
        }
        if self.activations == Activations::Int8 && !(signed && group == k) {
            return Err("int8 activations need signed codes and a scale for each row".into());
        }
        Ok(())
    }

    /// Its format.
    pub fn format(&self) -> Format {
        let (group, zeros) = (self.group, self.zeros.is_some());
        match (&self.codes, self.activations) {
            (_, Activations::Int8) => Format::W8A8,
            (Codes::U4(_), _) => Format::W4A16 { group, zeros },
            (Codes::U8(_) | Codes::I8(_), _) => Format::W8A16 { group, zeros },
        }
    }

    /// Scales of a row.
    pub fn groups(&self) -> usize {
        self.k / self.group
    }

    /// Bytes of codes, scales and zero points.
    pub fn bytes(&self) -> usize {
        self.codes.bytes().len() + 4 * self.scales.len() + self.zeros.as_ref().map_or(0, |z| z.len())
    }

    /// Bytes that lie in memory, and not in a file's mapping.
    pub fn unmapped(&self) -> usize {
        let (Codes::U4(data) | Codes::U8(data) | Codes::I8(data)) = &self.codes;
        self.bytes() - if data.is_mapped() { data.len() } else { 0 }
    }

    /// The bytes of row `n` of the codes.
    pub fn row(&self, n: usize) -> &[u8] {
        let bytes = self.codes.row_bytes(self.k);
        &self.codes.bytes()[n * bytes..][..bytes]
    }

    /// A code as a number, before the zero point is taken off.
    pub fn code(&self, n: usize, k: usize) -> i32 {
        let row = self.row(n);
        match &self.codes {
            Codes::U4(_) => (row[k / 2] >> (4 * (k % 2)) & 15) as i32,
            Codes::U8(_) => row[k] as i32,
            Codes::I8(_) => row[k] as i8 as i32,
        }
    }

    /// The zero point of a group.
    pub fn zero(&self, n: usize, group: usize) -> i32 {
        match (&self.zeros, &self.codes) {
            (Some(zeros), _) => zeros[n * self.groups() + group] as i32,
            (None, Codes::U4(_)) => 8,
            (None, Codes::U8(_)) => 128,
            (None, Codes::I8(_)) => 0,
        }
    }

    /// The value of an element, in the codes' order of columns. Exact if the scale has 16 bits.
    pub fn value(&self, n: usize, k: usize) -> f32 {
        let group = k / self.group;
        self.scales[n * self.groups() + group] * (self.code(n, k) - self.zero(n, group)) as f32
    }
}

fn is_permutation(order: &[u32]) -> bool {
    let mut seen = vec![false; order.len()];
    order.iter().all(|&i| seen.get_mut(i as usize).is_some_and(|seen| !std::mem::replace(seen, true)))
}

/// The elements of a weight's part: floats in place, codes, or codes as a CPU multiplies them.
#[derive(Debug, Clone)]
pub enum Values {
    Float(TensorData, DType),
    Quantized(Arc<Quantized>),
    Panels(Arc<Panels>),
}

impl Values {
    /// Their format.
    pub fn format(&self) -> Format {
        match self {
            Values::Float(..) => Format::Float,
            Values::Quantized(q) => q.format(),
            Values::Panels(p) => p.format,
        }
    }

    /// The order that their columns are in, if it is not that of the inputs.
    pub fn order(&self) -> Option<&[u32]> {
        match self {
            Values::Float(..) => None,
            Values::Quantized(q) => q.order.as_deref(),
            // A model has asked before there are panels.
            Values::Panels(_) => None,
        }
    }

    /// Bytes in memory or in the file.
    pub fn bytes(&self) -> usize {
        match self {
            Values::Float(data, _) => data.len(),
            Values::Quantized(q) => q.bytes(),
            Values::Panels(p) => p.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(codes: Codes, group: usize, scales: &[f32], zeros: Option<&[u8]>) -> Quantized {
        let zeros = zeros.map(Arc::from);
        let activations = Activations::Float;
        Quantized { n: 2, k: 4, codes, group, scales: scales.into(), zeros, order: None, activations }
    }

    fn values(q: &Quantized) -> Vec<f32> {
        q.check().unwrap();
        (0..q.n).flat_map(|n| (0..q.k).map(move |k| (n, k))).map(|(n, k)| q.value(n, k)).collect()
    }

    #[test]
    fn codes_of_every_kind_mean_scale_times_distance_from_zero() {
        let data = |bytes: &[u8]| TensorData::from_bytes(bytes.to_vec());
        let nibbles = Codes::U4(data(&[0x08, 0xF7, 0x98, 0x88]));
        let q = quantized(nibbles.clone(), 2, &[1.0, 2.0, 0.5, 1.0], None);
        assert_eq!(values(&q), [0.0, -8.0, -2.0, 14.0, 0.0, 0.5, 0.0, 0.0]);
        let q = quantized(nibbles, 4, &[1.0, 2.0], Some(&[7, 8]));
        assert_eq!(values(&q), [1.0, -7.0, 0.0, 8.0, 0.0, 2.0, 0.0, 0.0]);
        let bytes = data(&[128, 0, 255, 129, 1, 2, 3, 4]);
        assert_eq!(values(&quantized(Codes::U8(bytes.clone()), 4, &[1.0, 2.0], None))[..3], [0.0, -128.0, 127.0]);
        assert_eq!(values(&quantized(Codes::I8(bytes), 4, &[1.0, 2.0], None))[..3], [-128.0, 0.0, -1.0]);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_named() {
        let data = TensorData::from_bytes(vec![0; 8]);
        let error = |q: Quantized| q.check().unwrap_err();
        let scales = [1.0; 2];
        let with = |codes, group, zeros| quantized(codes, group, &scales, zeros);
        assert_eq!(error(with(Codes::U8(data.clone()), 3, None)), "4 columns do not split into groups of 3");
        assert_eq!(error(with(Codes::U4(data.clone()), 4, None)), "8 codes, expected 4 for [2, 4] in groups of 4");
        assert_eq!(error(with(Codes::U8(data.clone()), 2, None)), "2 scales, expected 4 for [2, 4] in groups of 2");
        assert_eq!(
            error(with(Codes::U8(data.clone()), 4, Some(&[1]))),
            "1 zero points, expected 2 for [2, 4] in groups of 4"
        );
        assert_eq!(error(with(Codes::I8(data.clone()), 4, Some(&[1, 1]))), "signed codes have no zero points");
        let twice = Quantized { order: Some([0, 1, 1, 3].into()), ..with(Codes::U8(data.clone()), 4, None) };
        assert_eq!(error(twice), "the order of its columns is no permutation");
        let int8 = Quantized { activations: Activations::Int8, ..with(Codes::U8(data), 4, None) };
        assert_eq!(error(int8), "int8 activations need signed codes and a scale for each row");
    }
}
