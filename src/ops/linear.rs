//! The linear layer with what follows it: bias and activation, added to the residual or stored, and the norm of the finished rows.
//!
//! Serves patch embedding, projections, both layers of the tower's MLP and the merger: `y = act(x Wᵀ + b)`, or `y += ...`.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance, dot_error, product_error};
use super::input::Input;
use super::norm::{self, NormKind, Normed};
use super::reference::{edit, load_input, project, store_normed, vector, weight};
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, product, require_dim, require_float, require_kernel, require_vector,
};
use crate::cpu::{Cpu, Tile, math};
use crate::dtype::{DType, with_float};
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::quant::Format;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};

/// The function after the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)` (Hendrycks and Gimpel 2016, section 2; CLIP's choice).
    QuickGelu,
    /// `x Φ(x)` with the error function.
    Gelu,
}

/// What happens to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Set,
    /// The destination is the residual stream.
    Add,
}

/// `y = act(x Wᵀ + b)`, or added to `y`; then the norm of `y`.
#[derive(Debug)]
pub struct Linear {
    /// `[M, K]`
    pub x: Input,
    /// `[N, K]`
    pub weight: Matrix,
    /// `[N]`
    pub bias: Option<WeightId>,
    pub activation: Option<Activation>,
    pub store: Store,
    /// `[M, N]`
    pub y: Tensor,
    pub normed: Option<Normed>,
}

impl Linear {
    /// The type of the activations around it, which int8 rows do not tell.
    fn activations(&self) -> DType {
        match (self.x.scales, self.normed, self.y.dtype) {
            (None, ..) => self.x.x.dtype,
            (_, Some(normed), _) => normed.activations,
            // The residual stream of f16 is f32.
            (_, None, DType::F32) => DType::F16,
            (_, None, dtype) => dtype,
        }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.y)?;
        require_dim(name, "M of y", self.y.rows(), self.x.rows())?;
        self.x.check_product(name, weights, self.weight, self.y.cols())?;
        self.bias.map_or(Ok(()), |b| require_vector(name, weights, b, self.y.cols()))?;
        self.normed.map_or(Ok(()), |n| n.check(name, weights, &self.y))
    }

    fn launch(&self) -> Launch {
        let activation = match self.activation {
            Some(Activation::QuickGelu) => "quick_gelu_",
            Some(Activation::Gelu) => "gelu_",
            None => "",
        };
        let store = match self.store {
            Store::Set => "",
            Store::Add => "add_",
        };
        let (x, y) = (self.activations(), self.y.dtype);
        let dtypes = if x == y { format!("{y}") } else { format!("{x}_{y}") };
        let family = product::family(format!("linear_{activation}{store}{dtypes}"), self.weight);
        let launch = (self.x.read(Launch::new(family)))
            .weight(self.weight.id, product::layout(self.weight, self.x.x.dtype, None))
            .maybe_vector(self.bias);
        let launch = match self.store {
            Store::Set => launch.write(&self.y),
            Store::Add => launch.update(&self.y),
        };
        let launch =
            norm::operands(launch, self.normed.as_ref()).i32(self.x.rows()).i32(self.y.cols()).i32(self.x.cols());
        product::groups(launch, self.weight).f32(norm::eps(self.normed.as_ref()))
    }

    fn kernel(&self) -> Result<Kernel> {
        let x = self.activations();
        let stream = if x == DType::F16 { DType::F32 } else { x };
        let stored = match (self.activation, self.store) {
            (None, Store::Set) => self.y.dtype == x || self.y.dtype == stream,
            (None, Store::Add) => self.y.dtype == stream,
            (Some(_), Store::Set) => self.y.dtype == x,
            (Some(_), Store::Add) => false,
        };
        // Codes are the decoder's: stored as they are, or added.
        let plain = self.activation.is_none() && (self.store == Store::Add || self.y.dtype == x);
        let coded = matches!(self.weight.format, Format::W4A16 { .. } | Format::W8A16 { .. });
        require_kernel(self.name(), stored && (plain || !coded) && self.y.is_contiguous(), || {
            format!("{} to {}: {}", self.x, self.y, self.launch().entry)
        })?;
        let counted = |n: &Normed| {
            n.activations == x && self.y.rows() <= product::rows_per_counter(self.weight) * n.counters.elements()
        };
        require_kernel(self.name(), self.normed.is_none_or(|n| counted(&n)), || {
            format!("a norm of {} rows after {x} products", self.y.rows())
        })?;
        let family = self.launch().entry;
        product::kernel(self.name(), &family, &self.x, x, self.weight, self.x.rows(), self.y.cols())
    }

    fn reference(&self, m: &OpMem) {
        let w = weight(m, self.weight.id);
        let bias = self.bias.map(|b| vector(m, b));
        let products: Vec<Vec<f64>> = load_input(m, &self.x).iter().map(|row| project(row, &w)).collect();
        let y = edit(m, &self.y, |r, c, old| {
            let z = products[r][c] + bias.as_ref().map_or(0.0, |b| b[c]);
            let z = self.activation.map_or(z, |a| activate(a, z));
            if self.store == Store::Add { old + z } else { z }
        });
        store_normed(m, self.normed.as_ref(), &y);
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (w, bias) = (m.weight(self.weight.id), self.bias.map(|b| body::vector(m.weight(b))));
        let x = body::operand(m, cpu, &self.x);
        with_float!(self.y.dtype, Y => {
            let y = Dest::<Y>::new(m, cpu, &self.y);
            body::product(cpu, &x, self.x.rows(), w, &body::even_units(w.n()), &|unit, tile| {
                let column = body::even_column(unit);
                bias.iter().for_each(|b| body::add_bias(tile, &b[column..]));
                self.activation.iter().for_each(|a| activate_tile(cpu, *a, tile));
                match self.store {
                    Store::Set => y.set(tile, column),
                    Store::Add => y.add(tile, column),
                }
            });
            body::store_normed(m, cpu, self.normed.as_ref(), &y);
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        let again = if self.store == Store::Add { self.y.elements() * self.y.dtype.size() } else { 0 };
        Cost {
            bytes: launch_bytes(&self.launch(), weights) + again as u64,
            flops: matmul_flops(self.x.rows(), self.y.cols(), self.x.cols()),
        }
    }

    fn tiled_bytes(&self, step: &HostStep, weights: &WeightSet) -> u64 {
        let product = product::again(&self.x, self.weight, self.x.rows(), self.y.cols(), 1, self.bias.is_some());
        let results = product::results_again(&self.y) * if self.store == Store::Add { 2 } else { 1 };
        self.cost(step, weights).bytes + product + results + self.normed.map_or(0, |n| n.again(&self.y))
    }
}

fn activate(a: Activation, x: f64) -> f64 {
    match a {
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// The error function by its Maclaurin series (Abramowitz and Stegun 7.1.6), which converges for every x; 1 beyond 6.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    let mut n = 1.0;
    while term.abs() > 1e-17 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn activate_tile(cpu: &Cpu, a: Activation, tile: &mut Tile) {
    for i in 0..tile.rows {
        match a {
            Activation::QuickGelu => math::quick_gelu(cpu.isa(), tile.row(i)),
            Activation::Gelu => math::gelu(cpu.isa(), tile.row(i)),
        }
    }
}

struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

fn plain(store_as: DType, weight: DType, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{store_as} x {weight} M={m} N={n} K={k}"));
    let x = b.random(store_as, &[m, k], 1.0);
    let weight = b.matrix(weight, &[(n, k)], 0.1);
    let y = b.output(store_as, &[m, n], Tolerance::rounded(dot_error(k, 1.0, 0.1)));
    b.finish(Linear { x: x.into(), weight, bias: None, activation: None, store: Store::Set, y, normed: None })
}

/// Weights small enough that neither the product nor the activation leaves -8..8, so that an error counts at most twice.
fn fused(dtype: DType, activation: Option<Activation>, store: Store, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{dtype} {activation:?} {store:?} M={m} N={n} K={k}"));
    let x = b.random(dtype, &[m, k], 1.0);
    let weight = b.matrix(dtype, &[(n, k)], 0.1);
    let bias = Some(b.weight(dtype, &[(n, 1)], 0.5));
    let tolerance = Tolerance::rounded(2.0 * dot_error(k, 1.0, 0.1));
    let y = match store {
        Store::Set => b.output(dtype, &[m, n], tolerance),
        Store::Add => b.updated(dtype, &[m, n], 1.0, tolerance),
    };
    b.finish(Linear { x: x.into(), weight, bias, activation, store, y, normed: None })
}

/// With the norm of what was stored, as the residual stream is: f32 where the activations are f16.
fn followed(dtype: DType, kind: NormKind, store: Store, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{dtype} {store:?}, then {kind:?} M={m} N={n} K={k}"));
    let stream = if dtype == DType::F16 { DType::F32 } else { dtype };
    let x = b.random(dtype, &[m, k], 1.0);
    let weight = b.matrix(dtype, &[(n, k)], 0.1);
    let bias = (kind == NormKind::Layer).then(|| b.weight(dtype, &[(n, 1)], 0.5));
    let tolerance = Tolerance::rounded(dot_error(k, 1.0, 0.1));
    let y = match store {
        Store::Set => b.output(stream, &[m, n], tolerance),
        Store::Add => b.updated(stream, &[m, n], 1.0, tolerance),
    };
    let normed = Some(b.normed(kind, dtype, &y, tolerance));
    b.finish(Linear { x: x.into(), weight, bias, activation: None, store, y, normed })
}

/// int8 with int8, in every form that a model has. Without a norm `y` is `stored`.
fn int8(
    dtype: DType,
    stored: DType,
    form: (Option<Activation>, Store, Option<NormKind>),
    Shape { m, n, k }: Shape,
) -> Case {
    let (activation, store, norm) = form;
    let mut b = CaseBuilder::new(format!("w8a8 {dtype} to {stored} {form:?} M={m} N={n} K={k}"));
    let x = b.input(Format::W8A8, dtype, &[m, k], 1.0);
    let weight = b.quantized(Format::W8A8, &[(n, k)], 0.1);
    let bias = Some(b.weight(dtype, &[(n, 1)], 0.5));
    let tolerance = Tolerance::rounded(2.0 * dot_error(k, 1.0, 0.1));
    let y = match store {
        Store::Set => b.output(stored, &[m, n], tolerance),
        Store::Add => b.updated(stored, &[m, n], 1.0, tolerance),
    };
    let normed = norm.map(|kind| b.normed_int8(kind, dtype, &y, tolerance));
    b.finish(Linear { x, weight, bias, activation, store, y, normed })
}

/// Floats whose norm is read as int8, as after the tower's first layer.
fn before_int8(dtype: DType, kind: NormKind, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{dtype}, then int8 of {kind:?} M={m} N={n} K={k}"));
    let stream = if dtype == DType::F16 { DType::F32 } else { dtype };
    let x = b.random(dtype, &[m, k], 1.0).into();
    let weight = b.matrix(dtype, &[(n, k)], 0.1);
    let tolerance = Tolerance::rounded(dot_error(k, 1.0, 0.1));
    let y = b.output(stream, &[m, n], tolerance);
    let normed = Some(b.normed_int8(kind, dtype, &y, tolerance));
    b.finish(Linear { x, weight, bias: None, activation: None, store: Store::Set, y, normed })
}

/// Codes of 4 or 8 bits, as the decoder has them: stored, or added and then normalised.
fn coded(dtype: DType, format: Format, store: Store, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{format:?} {dtype} {store:?} M={m} N={n} K={k}"));
    let x = b.random(dtype, &[m, k], 1.0).into();
    let weight = b.quantized(format, &[(n, k)], 0.1);
    let bias = Some(b.weight(dtype, &[(n, 1)], 0.5));
    let tolerance = Tolerance::rounded(product_error(format, dtype, k, 1.0, 0.1));
    let stream = if dtype == DType::F16 { DType::F32 } else { dtype };
    let y = match store {
        Store::Set => b.output(dtype, &[m, n], tolerance),
        Store::Add => b.updated(stream, &[m, n], 1.0, tolerance),
    };
    let normed = (store == Store::Add).then(|| b.normed(NormKind::Rms, dtype, &y, tolerance));
    b.finish(Linear { x, weight, bias, activation: None, store, y, normed })
}

/// Every form on odd sizes, decode and prefill row counts, several K blocks.
pub fn cases() -> Vec<Case> {
    use Activation::*;
    use DType::*;
    let s = |m, n, k| Shape { m, n, k };
    let int4 = |group, zeros| Format::W4A16 { group, zeros };
    let int8_groups = |group, zeros| Format::W8A16 { group, zeros };
    vec![
        plain(F32, F32, s(1, 7, 5)),
        plain(F32, Bf16, s(1, 130, 600)),
        plain(Bf16, Bf16, s(3, 64, 256)),
        plain(F32, F16, s(5, 33, 300)),
        plain(F16, F16, s(17, 96, 80)),
        plain(F32, Bf16, s(61, 160, 1176)),
        fused(F32, Some(QuickGelu), Store::Set, s(19, 100, 144)),
        fused(Bf16, Some(Gelu), Store::Set, s(2, 48, 80)),
        fused(F32, None, Store::Add, s(1, 72, 520)),
        fused(Bf16, None, Store::Add, s(40, 128, 256)),
        fused(F16, None, Store::Add, s(4, 31, 257)),
        followed(F32, NormKind::Layer, Store::Set, s(12, 40, 24)),
        followed(F32, NormKind::Rms, Store::Add, s(1, 144, 300)),
        followed(Bf16, NormKind::Rms, Store::Add, s(5, 256, 96)),
        followed(F16, NormKind::Layer, Store::Add, s(35, 80, 160)),
        // What only devices have: two shapes of a block, borders of slices, steps and tiles cut by each dimension.
        plain(Bf16, Bf16, s(33, 136, 1176)),
        plain(F16, F16, s(130, 152, 808)),
        fused(Bf16, Some(QuickGelu), Store::Set, s(16, 104, 144)),
        fused(Bf16, Some(QuickGelu), Store::Set, s(48, 104, 144)),
        fused(F16, Some(QuickGelu), Store::Set, s(9, 40, 776)),
        fused(F16, Some(QuickGelu), Store::Set, s(34, 40, 776)),
        fused(Bf16, Some(Gelu), Store::Set, s(36, 48, 80)),
        fused(F16, Some(Gelu), Store::Set, s(1, 8, 8)),
        fused(F16, Some(Gelu), Store::Set, s(33, 8, 8)),
        followed(Bf16, NormKind::Rms, Store::Add, s(140, 264, 200)),
        followed(F16, NormKind::Layer, Store::Set, s(8, 160, 120)),
        followed(F16, NormKind::Layer, Store::Set, s(40, 160, 1544)),
        followed(F16, NormKind::Rms, Store::Add, s(32, 72, 6200)),
        before_int8(F32, NormKind::Rms, s(3, 40, 24)),
        before_int8(Bf16, NormKind::Layer, s(35, 264, 200)),
        before_int8(F16, NormKind::Rms, s(5, 80, 160)),
        int8(F32, F32, (None, Store::Set, None), s(3, 7, 5)),
        int8(F32, F32, (None, Store::Add, Some(NormKind::Rms)), s(35, 72, 300)),
        int8(Bf16, Bf16, (None, Store::Set, None), s(1, 40, 80)),
        int8(Bf16, Bf16, (None, Store::Set, None), s(33, 136, 1168)),
        int8(F16, F16, (None, Store::Set, None), s(9, 24, 784)),
        int8(F16, F16, (None, Store::Set, None), s(130, 152, 16)),
        int8(F16, F32, (None, Store::Set, Some(NormKind::Layer)), s(8, 160, 128)),
        int8(F16, F32, (None, Store::Set, Some(NormKind::Layer)), s(40, 160, 1552)),
        int8(Bf16, Bf16, (None, Store::Add, Some(NormKind::Rms)), s(17, 264, 1552)),
        int8(Bf16, Bf16, (None, Store::Add, Some(NormKind::Rms)), s(140, 264, 208)),
        int8(F16, F32, (None, Store::Add, Some(NormKind::Rms)), s(32, 72, 6208)),
        int8(F16, F32, (None, Store::Add, Some(NormKind::Layer)), s(36, 72, 6208)),
        int8(Bf16, Bf16, (Some(QuickGelu), Store::Set, None), s(16, 104, 144)),
        int8(Bf16, Bf16, (Some(QuickGelu), Store::Set, None), s(48, 104, 144)),
        int8(F16, F16, (Some(QuickGelu), Store::Set, None), s(5, 40, 768)),
        int8(F16, F16, (Some(QuickGelu), Store::Set, None), s(34, 40, 768)),
        int8(Bf16, Bf16, (Some(Gelu), Store::Set, None), s(2, 48, 80)),
        int8(Bf16, Bf16, (Some(Gelu), Store::Set, None), s(36, 48, 80)),
        int8(F16, F16, (Some(Gelu), Store::Set, None), s(1, 8, 16)),
        int8(F16, F16, (Some(Gelu), Store::Set, None), s(33, 8, 16)),
        coded(F32, int4(128, true), Store::Set, s(1, 72, 640)),
        coded(F32, int8_groups(64, false), Store::Add, s(19, 40, 320)),
        coded(Bf16, int4(128, false), Store::Set, s(1, 24, 256)),
        coded(Bf16, int4(32, true), Store::Set, s(70, 264, 160)),
        coded(F16, int4(64, true), Store::Set, s(9, 40, 192)),
        coded(F16, int4(200, false), Store::Set, s(33, 24, 200)),
        coded(Bf16, int4(32, false), Store::Add, s(32, 72, 1632)),
        coded(Bf16, int4(128, true), Store::Add, s(130, 72, 1536)),
        coded(F16, int4(128, false), Store::Add, s(17, 40, 6272)),
        coded(F16, int4(64, false), Store::Add, s(65, 24, 1600)),
        coded(Bf16, int8_groups(328, false), Store::Set, s(16, 24, 328)),
        coded(Bf16, int8_groups(64, true), Store::Set, s(40, 40, 192)),
        coded(F16, int8_groups(128, true), Store::Set, s(20, 24, 384)),
        coded(F16, int8_groups(32, false), Store::Set, s(33, 72, 96)),
        coded(Bf16, int8_groups(1544, false), Store::Add, s(8, 40, 1544)),
        coded(Bf16, int8_groups(128, false), Store::Add, s(40, 136, 3200)),
        coded(F16, int8_groups(32, true), Store::Add, s(5, 24, 1568)),
        coded(F16, int8_groups(64, false), Store::Add, s(34, 40, 768)),
    ]
}
