//! Test cases of ops: operands filled with reproducible numbers, poisoned outputs with red zones, and bounds derived from the arithmetic.

use super::Op;
use super::input::Input;
use super::norm::{Norm, NormKind, Normed};
use crate::data::TensorData;
use crate::dtype::{DType, Float, with_float};
use crate::hostmem::{HostRegions, RegionBytes};
use crate::quant::{Activations, Codes, Format, Groups, Quantized, Values};
use crate::step::{HostStep, StepShape};
use crate::tensor::{Region, Tensor, WeightId};
use crate::weights::{Matrix, Part, Weight, WeightSet};
use std::sync::Arc;

/// Bytes around every operand that nobody may touch.
const RED_ZONE: usize = 256;
/// Unwritten memory: a NaN in every floating-point type, and no valid index.
pub const POISON: u8 = 0xFF;

/// How far an output may be from the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    Exact,
    /// Workspace: what it holds means nothing.
    Anything,
    /// So many units in the last place of the storage type, plus `abs` for the arithmetic before it.
    Rounded {
        ulps: f64,
        abs: f64,
    },
}

impl Tolerance {
    /// One rounding after arithmetic that is exact to `abs`.
    pub fn rounded(abs: f64) -> Self {
        Tolerance::Rounded { ulps: 1.0, abs }
    }

    /// Of the norm of rows that are exact to `self`: their rounding scales with them, and so does the error before it. Rows of a case have an
    /// rms above 1/4, norm weights are below 1; statistics move by no more than their worst element.
    fn normed(self) -> Self {
        match self {
            Tolerance::Anything => self,
            Tolerance::Exact => Tolerance::rounded(1e-6),
            Tolerance::Rounded { ulps, abs } => Tolerance::Rounded { ulps: 2.0 * ulps + 1.0, abs: 8.0 * abs + 1e-6 },
        }
    }

    /// Of int8 and scales made of rows of `dtype` that are exact to `self`. A scale is off by as much as the largest number of its row; an int8 by
    /// twice that share of itself (its number and its scale move), and by one where the quotient crosses a half. Rows have a number above 1/4.
    fn quantized(self, dtype: DType) -> [Self; 2] {
        let Tolerance::Rounded { ulps, abs } = self else { return [self; 2] };
        let (share, abs) = (ulps * ulp(dtype), 4.0 * abs);
        let scale = Tolerance::Rounded { ulps: (share + abs) / ulp(DType::F32) + 1.0, abs: 0.0 };
        [Tolerance::Rounded { ulps: 2.0 * share, abs: 1.0 + 2.0 * 127.0 * abs }, scale]
    }

    /// The largest difference allowed from the reference value `want` stored as `dtype`.
    pub fn allowed(&self, dtype: DType, want: f64) -> f64 {
        match self {
            Tolerance::Exact => 0.0,
            Tolerance::Anything => f64::INFINITY,
            Tolerance::Rounded { ulps, abs } => ulps * ulp(dtype) * want.abs() + abs,
        }
    }
}

/// An element of any type that an op may write, as a number.
pub fn value(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F32 => bytemuck::pod_read_unaligned::<f32>(bytes) as f64,
        DType::Bf16 => bytemuck::pod_read_unaligned::<half::bf16>(bytes).to_f64(),
        DType::F16 => bytemuck::pod_read_unaligned::<half::f16>(bytes).to_f64(),
        DType::I64 => bytemuck::pod_read_unaligned::<i64>(bytes) as f64,
        DType::I32 => bytemuck::pod_read_unaligned::<i32>(bytes) as f64,
        DType::I8 => bytes[0] as i8 as f64,
        other => unreachable!("no op writes {other}"),
    }
}

/// The largest relative distance between neighbours of a type.
fn ulp(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-23),
        DType::F16 => 2f64.powi(-10),
        DType::Bf16 => 2f64.powi(-7),
        // A share of the number: what an int8 is compared with was itself rounded elsewhere.
        DType::I8 => 1.0,
        other => unreachable!("{other} is compared exactly"),
    }
}

/// Bound on the error of an f32 dot product of `k` uniform numbers below `a` and `b`, and of a bias added to it: the longest chain of roundings
/// times the sum of the products' magnitudes (Higham, Accuracy and Stability, eq. 3.5). The CPU's chains have 256 terms; the kernels' are
/// slices, with borders at multiples of 192 and at most eight of them. Codes have shorter ones: at most 128 terms in a group, then a rounding for
/// each group of a slice. A tensor core may truncate, so a rounding is 2^-23. Magnitudes have mean
/// `a b / 4` and deviation `0.22 a b`; six deviations of the mean are beyond any case.
pub fn dot_error(k: usize, a: f64, b: f64) -> f64 {
    let slice = (k.div_ceil(super::product::slices(Format::Float, k) as usize) + 192).min(k);
    let chain = slice.max(k.min(256) + k.div_ceil(256)) + 8;
    let magnitude = (0.25 + 6.0 * 0.22 / (k as f64).sqrt()).min(1.0);
    chain as f64 * 2f64.powi(-23) * magnitude * k as f64 * a * b
}

/// The same of a product in any format. The CPU multiplies codes with integers: activations below `a` are off by half a 32512th of it and by four
/// roundings of 32512 (or, f32, by a 65024th of that), each times a weight below `b`. Sums of blocks round thrice, less often than `dot_error` has it.
pub fn product_error(format: Format, dtype: DType, k: usize, a: f64, b: f64) -> f64 {
    let unit = (0.5 + 4.0 * 32512.0 * 2f64.powi(-24)) / 32512.0;
    let off = match format {
        Format::Float | Format::W8A8 => 0.0,
        _ if dtype == DType::F32 => unit / 65024.0,
        _ => unit,
    };
    dot_error(k, a, b) + off * k as f64 * a * b
}

/// One test of an op.
#[derive(Debug)]
pub struct Case {
    pub label: String,
    pub op: Box<dyn Op>,
    pub weights: WeightSet,
    /// The lengths that costs are computed from.
    pub step: HostStep,
    /// What the op writes, and how exactly.
    pub outputs: Vec<(Tensor, Tolerance)>,
    image: Vec<u8>,
}

impl Case {
    /// Fresh memory: inputs filled, all else poisoned.
    pub fn memory(&self) -> HostRegions {
        let mut bytes = RegionBytes::default();
        bytes.set(Region::Arena, self.image.len());
        let mut memory = HostRegions::new(&bytes).expect("a case is small");
        memory.bytes_mut(Region::Arena).copy_from_slice(&self.image);
        memory
    }
}

/// Builds a case: operands first, then the op that uses them.
pub struct CaseBuilder {
    label: String,
    rng: SplitMix,
    image: Vec<u8>,
    weights: WeightSet,
    outputs: Vec<(Tensor, Tolerance)>,
}

impl CaseBuilder {
    /// A case whose numbers derive from its label.
    pub fn new(label: impl Into<String>) -> Self {
        let label = label.into();
        let seed = label.bytes().fold(0x05b3, |h: u64, b| h.wrapping_mul(0x100_0000_01b3) ^ b as u64);
        CaseBuilder {
            label,
            rng: SplitMix(seed),
            image: vec![POISON; RED_ZONE],
            weights: WeightSet::default(),
            outputs: Vec::new(),
        }
    }

    /// An input of numbers in `-scale..scale`.
    pub fn random(&mut self, dtype: DType, shape: &[usize], scale: f32) -> Tensor {
        let t = self.place(dtype, shape);
        let bytes = self.random_bytes(dtype, t.elements(), scale);
        self.fill(&t, &bytes);
        t
    }

    /// An input of indices.
    pub fn indices(&mut self, values: &[i32]) -> Tensor {
        let t = self.place(DType::I32, &[values.len()]);
        self.fill(&t, bytemuck::cast_slice(values));
        t
    }

    /// An input of given bytes.
    pub fn bytes(&mut self, dtype: DType, shape: &[usize], bytes: &[u8]) -> Tensor {
        let t = self.place(dtype, shape);
        self.fill(&t, bytes);
        t
    }

    /// Poisons one row of a cache again: nobody may use it.
    pub fn poison(&mut self, cache: &Input, row: usize) {
        self.poison_row(&cache.x, row);
        cache.scales.iter().for_each(|s| self.poison_row(&s.reshape(&[s.elements(), 1]), row));
    }

    fn poison_row(&mut self, t: &Tensor, row: usize) {
        let crate::tensor::Place::At { offset, .. } = t.place else { unreachable!("cases use fixed places") };
        let bytes = t.cols() * t.dtype.size();
        self.image[offset + row * bytes..][..bytes].fill(POISON);
    }

    /// An output that starts poisoned.
    pub fn output(&mut self, dtype: DType, shape: &[usize], tolerance: Tolerance) -> Tensor {
        let t = self.place(dtype, shape);
        self.outputs.push((t, tolerance));
        t
    }

    /// An operand that is both: random, then changed.
    pub fn updated(&mut self, dtype: DType, shape: &[usize], scale: f32, tolerance: Tolerance) -> Tensor {
        let t = self.random(dtype, shape, scale);
        self.outputs.push((t, tolerance));
        t
    }

    /// The norm of an output that is exact to `of`, with weights of its own, as a product of the format `reader` reads it.
    pub fn normed(&mut self, kind: NormKind, dtype: DType, reader: Format, rows: &Tensor, of: Tolerance) -> Normed {
        let weight = self.weight(dtype, &[(rows.cols(), 1)], 1.0);
        let bias = (kind == NormKind::Layer).then(|| self.weight(dtype, &[(rows.cols(), 1)], 0.1));
        let y = match reader {
            Format::W8A8 => self.int8_output(rows.shape(), of.normed().quantized(dtype)),
            _ => self.output(dtype, rows.shape(), of.normed()).into(),
        };
        let counters = self.counters(64);
        Normed { norm: Norm { kind, weight, bias, eps: 1e-6 }, y, activations: dtype, counters }
    }

    /// int8 rows and their scales that start poisoned, with a tolerance for each.
    pub fn int8_output(&mut self, shape: &[usize], [x, scales]: [Tolerance; 2]) -> Input {
        let rows = shape[..shape.len() - 1].iter().product();
        Input { x: self.output(DType::I8, shape, x), scales: Some(self.output(DType::F32, &[rows], scales)) }
    }

    /// Rows that a product of this format reads, in `-scale..scale`: of `dtype`, or int8.
    pub fn input(&mut self, format: Format, dtype: DType, shape: &[usize], scale: f32) -> Input {
        if format != Format::W8A8 {
            return self.random(dtype, shape, scale).into();
        }
        self.int8(shape, scale)
    }

    /// int8 rows and their scales that stand for numbers in `-scale..scale`.
    pub fn int8(&mut self, shape: &[usize], scale: f32) -> Input {
        let (of_rows, cols) = (&shape[..shape.len() - 1], shape[shape.len() - 1]);
        // Row after row: what a row holds does not depend on how many there are. -128 is no int8 of a row.
        let (mut codes, mut scales) = (Vec::<i8>::new(), Vec::<f32>::new());
        for _ in 0..of_rows.iter().product() {
            scales.push((0.6 + 0.4 * self.rng.uniform().abs()) * scale / 127.0);
            codes.extend((0..cols).map(|_| ((self.rng.next() % 255) as i32 - 127) as i8));
        }
        let x = self.bytes(DType::I8, shape, bytemuck::cast_slice(&codes));
        Input { x, scales: Some(self.bytes(DType::F32, of_rows, bytemuck::cast_slice(&scales))) }
    }

    /// Keys or values of a layer, in `-scale..scale`: as `dtype` or as int8.
    pub fn cache(&mut self, int8: bool, dtype: DType, shape: &[usize], scale: f32) -> Input {
        if int8 { self.int8(shape, scale) } else { self.random(dtype, shape, scale).into() }
    }

    /// The same, where rows of `dtype` that are exact to `of` are kept.
    pub fn updated_cache(&mut self, int8: bool, dtype: DType, shape: &[usize], of: Tolerance) -> Input {
        let cache = self.cache(int8, dtype, shape, 1.0);
        match cache.scales {
            None => self.outputs.push((cache.x, of)),
            Some(scales) => self.outputs.extend([cache.x, scales].into_iter().zip(of.quantized(dtype))),
        }
        cache
    }

    /// An input of given numbers, rounded to its type.
    pub fn floats(&mut self, dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
        with_float!(dtype, T => {
            let values: Vec<T> = values.iter().map(|&x| T::from_f32(x)).collect();
            self.bytes(dtype, shape, bytemuck::cast_slice(&values))
        })
    }

    /// A weight of given numbers.
    pub fn table(&mut self, values: &[f32]) -> WeightId {
        self.weights.push(Weight::table(format!("{} table", self.label), values))
    }

    /// Counters that are zero before and after.
    pub fn counters(&mut self, n: usize) -> Tensor {
        self.zeros(DType::I32, &[n], Tolerance::Exact)
    }

    /// An operand that starts with zeros, and is changed.
    pub fn zeros(&mut self, dtype: DType, shape: &[usize], tolerance: Tolerance) -> Tensor {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        self.changed(dtype, shape, &vec![0; bytes], tolerance)
    }

    /// An operand that starts with given bytes, and is changed.
    pub fn changed(&mut self, dtype: DType, shape: &[usize], bytes: &[u8], tolerance: Tolerance) -> Tensor {
        let t = self.bytes(dtype, shape, bytes);
        self.outputs.push((t, tolerance));
        t
    }

    /// What an f32 input was filled with.
    pub fn values(&self, t: &Tensor) -> Vec<f32> {
        let crate::tensor::Place::At { offset, .. } = t.place else { unreachable!("cases use fixed places") };
        bytemuck::pod_collect_to_vec(&self.image[offset..][..t.bytes()])
    }

    /// A weight of parts `[n, k]` with numbers in `-scale..scale`.
    pub fn weight(&mut self, dtype: DType, parts: &[(usize, usize)], scale: f32) -> WeightId {
        let parts = parts
            .iter()
            .map(|&(n, k)| {
                let data = TensorData::from_bytes(self.random_bytes(dtype, n * k, scale));
                Part { values: Values::Float(data, dtype), n, k }
            })
            .collect();
        self.weights.push(Weight { name: format!("{} weight", self.label), parts })
    }

    /// The same as the operand of a product.
    pub fn matrix(&mut self, dtype: DType, parts: &[(usize, usize)], scale: f32) -> Matrix {
        let id = self.weight(dtype, parts, scale);
        self.weights.matrix(id)
    }

    /// The operand of a product in any format: floats of `dtype`, or codes.
    pub fn operand(&mut self, format: Format, dtype: DType, parts: &[(usize, usize)], scale: f32) -> Matrix {
        match format {
            Format::Float => self.matrix(dtype, parts, scale),
            _ => self.quantized(format, parts, scale),
        }
    }

    /// A quantized weight of parts `[n, k]` whose values are in `-scale..scale`, scales from a fifth of the largest on.
    pub fn quantized(&mut self, format: Format, parts: &[(usize, usize)], scale: f32) -> Matrix {
        let parts = parts
            .iter()
            .map(|&(n, k)| Part { values: Values::Quantized(Arc::new(self.codes(format, n, k, scale))), n, k })
            .collect();
        let id = self.weights.push(Weight { name: format!("{} weight", self.label), parts });
        self.weights.matrix(id)
    }

    fn codes(&mut self, format: Format, n: usize, k: usize, scale: f32) -> Quantized {
        let int8 = Groups { bits: 8, group: k, zeros: false };
        let Groups { bits, group, zeros } = format.groups().unwrap_or(int8);
        let four = bits == 4;
        let bytes: Vec<u8> = (0..n * if four { k / 2 } else { k }).map(|_| self.rng.next() as u8).collect();
        let data = TensorData::from_bytes(bytes);
        let (codes, activations) = match format {
            Format::W8A8 => (Codes::I8(data), Activations::Int8),
            _ if four => (Codes::U4(data), Activations::Float),
            _ => (Codes::U8(data), Activations::Float),
        };
        // Zero points of 4 to 11, or 64 to 191, are at most so far from a code.
        let (low, farthest) = match (four, zeros) {
            (true, true) => (4, 11.0),
            (true, false) => (8, 8.0),
            (false, true) => (64, 191.0),
            (false, false) => (128, 128.0),
        };
        let groups = n * (k / group);
        let scales = (0..groups).map(|_| (0.6 + 0.4 * self.rng.uniform()) * scale / farthest).collect();
        let zeros = zeros.then(|| (0..groups).map(|_| low + (self.rng.next() % (2 * low as u64)) as u8).collect());
        let q = Quantized { n, k, codes, group, scales, zeros, order: None, activations };
        q.check().expect("made to fit");
        q
    }

    /// The finished case for an op without step inputs.
    pub fn finish(self, op: impl Op + 'static) -> Case {
        let none = StepShape { rows: 1, seqs: 1, blocks: 1, samples: 1 };
        self.finish_with_step(op, HostStep::new(none))
    }

    /// The finished case, with the lengths of its step.
    pub fn finish_with_step(self, op: impl Op + 'static, step: HostStep) -> Case {
        self.finish_boxed(Box::new(op), step)
    }

    /// The finished case of an op of any type.
    pub fn finish_boxed(self, op: Box<dyn Op>, step: HostStep) -> Case {
        let CaseBuilder { label, image, weights, outputs, .. } = self;
        Case { label, op, weights, step, outputs, image }
    }

    fn place(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let t = Tensor::at(Region::Arena, self.image.len(), dtype, shape);
        let end = (self.image.len() + t.bytes()).next_multiple_of(64) + RED_ZONE;
        self.image.resize(end, POISON);
        t
    }

    fn fill(&mut self, t: &Tensor, bytes: &[u8]) {
        let crate::tensor::Place::At { offset, .. } = t.place else { unreachable!("cases use fixed places") };
        self.image[offset..][..t.bytes()].copy_from_slice(bytes);
    }

    fn random_bytes(&mut self, dtype: DType, n: usize, scale: f32) -> Vec<u8> {
        with_float!(dtype, T => {
            let values: Vec<T> = (0..n).map(|_| T::from_f32(self.rng.uniform() * scale)).collect();
            bytemuck::cast_slice(&values).to_vec()
        })
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 * 2f32.powi(-23) - 1.0
    }
}
