//! The ops: each is one struct in one file and means exactly one kernel launch.
//!
//! An op states its contract, its launch, its scalar reference, its fast body, its cost and its test cases; nothing else in the tree knows about it.
//! Adding one: its file, and a line in [`REGISTRY`]. The surprise: references round to the storage type only where the op stores, so a fused
//! op is more precise than its unfused steps.

mod body;
pub mod case;
pub mod embed;
pub mod gate_up;
pub mod gather;
pub mod input;
pub mod kv_copy;
pub mod linear;
pub mod lm_head;
pub mod norm;
pub mod paged_attention;
mod product;
pub mod qkv_mrope;
pub mod qkv_rope_2d;
pub mod quantize_rows;
pub mod reference;
pub mod rope;
pub mod sample;
pub mod vision_attention;
pub mod workload;

use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};
use case::Case;
use std::fmt::Debug;

/// One kernel launch over fixed operands.
pub trait Op: Debug + Send + Sync {
    /// The op's name, that of its file.
    fn name(&self) -> &'static str;

    /// The contract: shapes, dtypes, strides.
    ///
    /// # Errors
    /// [`Error::Contract`] naming the dimension that does not match.
    fn check(&self, weights: &WeightSet) -> Result<()>;

    /// Operands and scalars, in the kernel's order.
    fn launch(&self) -> Launch;

    /// How a device runs it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the shape or type that no kernel takes.
    fn kernel(&self) -> Result<Kernel>;

    /// The scalar reference: f64 accumulation, obvious.
    fn reference(&self, m: &OpMem);

    /// The fast body; the reference where nothing is gained.
    fn cpu(&self, m: &OpMem, cpu: &Cpu);

    /// Least work for the lengths of this step.
    fn cost(&self, step: &HostStep, weights: &WeightSet) -> Cost;

    /// Bytes that the device's kernel asks its caches for: what several tiles read counts as often as they do. The cost, where all is read once.
    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        self.cost(step, weights).bytes
    }
}

/// The least an op must do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Distinct bytes read and written.
    pub bytes: u64,
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

/// A registered op: its name and its test cases.
pub struct Entry {
    pub name: &'static str,
    pub cases: fn() -> Vec<Case>,
}

/// Every op. Parity, costs and benches follow from this list.
pub const REGISTRY: &[Entry] = &[
    Entry { name: "embed", cases: embed::cases },
    Entry { name: "linear", cases: linear::cases },
    Entry { name: "gate_up", cases: gate_up::cases },
    Entry { name: "qkv_mrope", cases: qkv_mrope::cases },
    Entry { name: "qkv_rope_2d", cases: qkv_rope_2d::cases },
    Entry { name: "paged_attention", cases: paged_attention::cases },
    Entry { name: "vision_attention", cases: vision_attention::cases },
    Entry { name: "kv_copy", cases: kv_copy::cases },
    Entry { name: "gather", cases: gather::cases },
    Entry { name: "quantize_rows", cases: quantize_rows::cases },
    Entry { name: "lm_head", cases: lm_head::cases },
    Entry { name: "sample", cases: sample::cases },
];

/// Bytes of the operands and weights that a launch names, each counted once.
fn launch_bytes(launch: &Launch, weights: &WeightSet) -> u64 {
    let operands: usize = launch.operands().map(|(t, _)| t.elements() * t.dtype.size()).sum();
    let weights: usize = launch.weights().map(|(w, _)| weights.get(w).bytes()).sum();
    (operands + weights) as u64
}

/// The work of `[m, k] x [k, n]`.
fn matmul_flops(m: usize, n: usize, k: usize) -> u64 {
    2 * (m * n * k) as u64
}

/// Checks that a device kernel takes what the contract admits.
fn require_kernel(op: &'static str, ok: bool, needs: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::unsupported(format!("{op} with {}", needs()), "run it with --device cpu")) }
}

/// Checks that `ok` holds, and otherwise says why.
fn require(op: &'static str, ok: bool, why: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::contract(op, why())) }
}

/// Checks a dimension by name.
fn require_dim(op: &'static str, what: &str, got: usize, want: usize) -> Result<()> {
    require(op, got == want, || format!("{what} is {got}, expected {want}"))
}

/// Checks a weight's rows, columns and format.
fn require_weight(op: &'static str, weights: &WeightSet, weight: Matrix, n: usize, k: usize) -> Result<()> {
    let w = weights.get(weight.id);
    require(op, w.n() == n && w.k() == k, || format!("{} is [{}, {}], expected [{n}, {k}]", w.name, w.n(), w.k()))?;
    let alike = w.parts.iter().all(|p| p.values.format() == weight.format);
    require(op, alike, || format!("{} is not {} in every part", w.name, weight.format))
}

/// Checks a vector's length; its parts follow each other.
fn require_vector(op: &'static str, weights: &WeightSet, id: WeightId, len: usize) -> Result<()> {
    let w = weights.get(id);
    let have: usize = w.parts.iter().map(|p| p.n * p.k).sum();
    require(op, have == len, || format!("{} has {have} elements, expected {len}", w.name))?;
    require(op, w.format() == Format::Float, || format!("{} is quantized, which vectors are not", w.name))
}

/// Checks that a tensor stores floating-point numbers.
fn require_float(op: &'static str, t: &Tensor) -> Result<()> {
    require(op, t.dtype.is_float(), || format!("{t} is no floating-point tensor"))
}

/// Checks the best tokens of `rows` rows.
fn require_bests(op: &'static str, t: &Tensor, rows: usize) -> Result<()> {
    require(op, t.dtype == DType::I64 && t.elements() == rows, || format!("{t}: expected {rows} i64"))
}

/// Checks an index tensor's dtype and length.
fn require_index(op: &'static str, t: &Tensor, elements: usize) -> Result<()> {
    require(op, t.dtype == DType::I32 && t.elements() == elements && t.is_contiguous(), || {
        format!("{t}: expected {elements} contiguous i32")
    })
}
