//! The linear layer with what surrounds it: a norm before, bias and activation after, added to the residual or stored.
//!
//! Serves patch embedding, projections, both layers of the tower's MLP and the merger: `y = act(norm(x) Wᵀ + b)`, or `y += ...`.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance, dot_error};
use super::norm::{Norm, NormKind};
use super::reference::{edit, load, norm, project, vector, weight};
use super::{
    Cost, Op, Result, launch_bytes, matmul_flops, require_dim, require_float, require_vector, require_weight,
    with_float,
};
use crate::cpu::{Cpu, Tile, math, matmul};
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::Launch;
use crate::step::HostStep;
use crate::tensor::{Tensor, WeightId};
use crate::weights::WeightSet;

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

/// `y = act(norm(x) Wᵀ + b)`, or added to `y`.
#[derive(Debug)]
pub struct Linear {
    /// `[M, K]`
    pub x: Tensor,
    pub norm: Option<Norm>,
    /// `[N, K]`
    pub weight: WeightId,
    /// `[N]`
    pub bias: Option<WeightId>,
    pub activation: Option<Activation>,
    pub store: Store,
    /// `[M, N]`
    pub y: Tensor,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn check(&self, weights: &WeightSet) -> Result<()> {
        let name = self.name();
        require_float(name, &self.x)?;
        require_float(name, &self.y)?;
        require_dim(name, "M of y", self.y.rows(), self.x.rows())?;
        require_weight(name, weights, self.weight, self.y.cols(), self.x.cols())?;
        self.bias.map_or(Ok(()), |b| require_vector(name, weights, b, self.y.cols()))?;
        self.norm.map_or(Ok(()), |n| n.check(name, weights, self.x.cols()))
    }

    fn launch(&self) -> Launch {
        let mut entry = String::new();
        if let Some(n) = &self.norm {
            entry += match n.kind {
                NormKind::Rms => "rms_norm_",
                NormKind::Layer => "layer_norm_",
            };
        }
        entry += "linear_";
        entry += match self.activation {
            Some(Activation::QuickGelu) => "quick_gelu_",
            Some(Activation::Gelu) => "gelu_",
            None => "",
        };
        entry += match self.store {
            Store::Set => "",
            Store::Add => "add_",
        };
        let mut launch = Launch::new(format!("{entry}{}", self.y.dtype)).read(&self.x);
        if let Some(n) = &self.norm {
            launch = launch.weight(n.weight).maybe_weight(n.bias).i32(n.width).f32(n.eps);
        }
        launch = launch.weight(self.weight).maybe_weight(self.bias);
        match self.store {
            Store::Set => launch.write(&self.y),
            Store::Add => launch.update(&self.y),
        }
    }

    fn reference(&self, m: &OpMem) {
        let w = weight(m, self.weight);
        let bias = self.bias.map(|b| vector(m, b));
        let x = load(m, &self.x).into_iter().map(|row| self.norm.map_or(row.clone(), |n| norm(m, &n, &row)));
        let products: Vec<Vec<f64>> = x.map(|row| project(&row, &w)).collect();
        edit(m, &self.y, |r, c, old| {
            let z = products[r][c] + bias.as_ref().map_or(0.0, |b| b[c]);
            let z = self.activation.map_or(z, |a| activate(a, z));
            if self.store == Store::Add { old + z } else { z }
        });
    }

    fn cpu(&self, m: &OpMem, cpu: &Cpu) {
        let (w, bias) = (m.weight(self.weight), self.bias.map(|b| body::vector(m.weight(b))));
        let x = body::load_normed(m, cpu, &self.x, self.norm.as_ref());
        with_float!(self.y.dtype, Y => {
            let y = Dest::<Y>::new(m, cpu, &self.y);
            matmul(cpu, &x, self.x.rows(), &body::parts(w), &body::even_units(w.n()), &|unit, tile| {
                let column = body::even_column(unit);
                bias.iter().for_each(|b| body::add_bias(tile, &b[column..]));
                self.activation.iter().for_each(|a| activate_tile(cpu, *a, tile));
                match self.store {
                    Store::Set => y.set(tile, column),
                    Store::Add => y.add(tile, column),
                }
            });
        })
    }

    fn cost(&self, _: &HostStep, weights: &WeightSet) -> Cost {
        let again = if self.store == Store::Add { self.y.elements() * self.y.dtype.size() } else { 0 };
        Cost {
            bytes: launch_bytes(&self.launch(), weights) + again as u64,
            flops: matmul_flops(self.x.rows(), self.y.cols(), self.x.cols()),
        }
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
    let w = b.weight(weight, &[(n, k)], 0.1);
    let y = b.output(store_as, &[m, n], Tolerance::Rounded { abs: dot_error(k, 1.0, 0.1) });
    b.finish(Linear { x, norm: None, weight: w, bias: None, activation: None, store: Store::Set, y })
}

/// A norm scales a row of uniform numbers to at most `sqrt(width)` times the weight; nearly always below 4.
fn fused(dtype: DType, kind: NormKind, activation: Option<Activation>, store: Store, Shape { m, n, k }: Shape) -> Case {
    let mut b = CaseBuilder::new(format!("{dtype} {kind:?} {activation:?} {store:?} M={m} N={n} K={k}"));
    let x = b.random(dtype, &[m, k], 1.0);
    let norm_weight = b.weight(dtype, &[(k, 1)], 1.0);
    let norm_bias = (kind == NormKind::Layer).then(|| b.weight(dtype, &[(k, 1)], 0.1));
    let weight = b.weight(dtype, &[(n, k)], 0.1);
    let bias = Some(b.weight(dtype, &[(n, 1)], 0.5));
    let tolerance = Tolerance::Rounded { abs: 4.0 * dot_error(k, 4.0, 0.1) };
    let y = match store {
        Store::Set => b.output(dtype, &[m, n], tolerance),
        Store::Add => b.updated(dtype, &[m, n], 1.0, tolerance),
    };
    let norm = Norm { kind, weight: norm_weight, bias: norm_bias, eps: 1e-6, width: k };
    b.finish(Linear { x, norm: Some(norm), weight, bias, activation, store, y })
}

/// Four patches merged into a row, each normalised alone.
fn merged() -> Case {
    let (patches, width, n) = (12, 40, 24);
    let mut b = CaseBuilder::new("merger");
    let x = b.random(DType::F32, &[patches / 4, 4 * width], 1.0);
    let norm_weight = b.weight(DType::Bf16, &[(width, 1)], 1.0);
    let norm_bias = Some(b.weight(DType::Bf16, &[(width, 1)], 0.1));
    let weight = b.weight(DType::Bf16, &[(n, 4 * width)], 0.1);
    let bias = Some(b.weight(DType::Bf16, &[(n, 1)], 0.5));
    let y = b.output(DType::F32, &[patches / 4, n], Tolerance::Rounded { abs: 4.0 * dot_error(4 * width, 4.0, 0.1) });
    let norm = Norm { kind: NormKind::Layer, weight: norm_weight, bias: norm_bias, eps: 1e-6, width };
    b.finish(Linear { x, norm: Some(norm), weight, bias, activation: Some(Activation::Gelu), store: Store::Set, y })
}

/// Every form on odd sizes, decode and prefill row counts, several K blocks.
pub fn cases() -> Vec<Case> {
    use Activation::*;
    use DType::*;
    let s = |m, n, k| Shape { m, n, k };
    vec![
        plain(F32, F32, s(1, 7, 5)),
        plain(F32, Bf16, s(1, 130, 600)),
        plain(Bf16, Bf16, s(3, 64, 256)),
        plain(F32, F16, s(5, 33, 300)),
        plain(F16, F16, s(17, 96, 80)),
        plain(F32, Bf16, s(61, 160, 1176)),
        fused(F32, NormKind::Layer, Some(QuickGelu), Store::Set, s(19, 100, 144)),
        fused(Bf16, NormKind::Layer, Some(Gelu), Store::Set, s(2, 48, 80)),
        fused(F32, NormKind::Rms, None, Store::Add, s(1, 72, 520)),
        fused(Bf16, NormKind::Rms, None, Store::Add, s(40, 128, 256)),
        fused(F16, NormKind::Rms, None, Store::Add, s(4, 31, 257)),
        merged(),
    ]
}
