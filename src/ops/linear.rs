//! The linear layer with what follows it: bias and activation, added to the residual or stored, and the norm of the finished rows.
//!
//! Serves patch embedding, projections, both layers of the tower's MLP and the merger: `y = act(x Wᵀ + b)`, or `y += ...`.

use super::body::{self, Dest};
use super::case::{Case, CaseBuilder, Tolerance, product_error};
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
        let family = format!("linear_{activation}{store}{dtypes}");
        let launch = product::launch(family, &self.x, self.weight, None).maybe_vector(self.bias);
        let launch = match self.store {
            Store::Set => launch.write(&self.y),
            Store::Add => launch.update(&self.y),
        };
        norm::operands(launch, self.normed.as_ref())
            .i32(self.x.rows())
            .i32(self.y.cols())
            .i32(self.x.cols())
            .f32(norm::eps(self.normed.as_ref()))
    }

    fn kernel(&self) -> Result<Kernel> {
        let x = self.activations();
        let stream = x.stream();
        let stored = match (self.activation, self.store) {
            (None, Store::Set) => self.y.dtype == x || self.y.dtype == stream,
            (None, Store::Add) => self.y.dtype == stream,
            (Some(_), Store::Set) => self.y.dtype == x,
            (Some(_), Store::Add) => false,
        };
        // Codes are the decoder's: stored as they are, or added.
        let plain = self.activation.is_none() && (self.store == Store::Add || self.y.dtype == x);
        let coded = self.weight.format.groups().is_some();
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

/// What a case has beside its sizes.
#[derive(Clone, Copy)]
struct Form {
    /// The type of the activations, also where they are int8.
    x: DType,
    /// The type of weights that are floats.
    weight: DType,
    format: Format,
    bias: bool,
    activation: Option<Activation>,
    store: Store,
    y: DType,
    /// The norm that follows, and the format of the product that reads it.
    norm: Option<(NormKind, Format)>,
}

/// The plain product.
fn plain(x: DType) -> Form {
    let (activation, store, norm) = (None, Store::Set, None);
    Form { x, weight: x, format: Format::Float, bias: false, activation, store, y: x, norm }
}

fn fused(x: DType, activation: Option<Activation>, store: Store) -> Form {
    Form { bias: true, activation, store, ..plain(x) }
}

/// With the norm of what was stored, as the residual stream is.
fn followed(x: DType, store: Store, kind: NormKind) -> Form {
    Form { bias: kind == NormKind::Layer, store, y: x.stream(), norm: Some((kind, Format::Float)), ..plain(x) }
}

/// Floats whose norm is read as int8, as after the tower's first layer.
fn before_int8(x: DType, kind: NormKind) -> Form {
    Form { y: x.stream(), norm: Some((kind, Format::W8A8)), ..plain(x) }
}

/// int8 with int8.
fn int8(x: DType, activation: Option<Activation>) -> Form {
    Form { format: Format::W8A8, ..fused(x, activation, Store::Set) }
}

/// int8 into the residual stream.
fn int8_stream(x: DType, store: Store, kind: NormKind) -> Form {
    Form { store, y: x.stream(), norm: Some((kind, Format::W8A8)), ..int8(x, None) }
}

/// Codes of 4 or 8 bits, as the decoder has them: stored, or added and then normalised.
fn coded(x: DType, format: Format, store: Store) -> Form {
    let added = followed(x, store, NormKind::Rms);
    Form { format, bias: true, ..if store == Store::Add { added } else { plain(x) } }
}

/// Weights are small enough that neither the product nor the activation leaves -8..8; no activation's slope reaches 2.
fn case(form: Form, [m, n, k]: [usize; 3]) -> Case {
    let Form { x: dtype, weight, format, bias, activation, store, y, norm } = form;
    let bias_text = if bias { " + b" } else { "" };
    let mut b = CaseBuilder::new(format!(
        "{dtype} x {weight} as {format:?}{bias_text} {activation:?} {store:?} {y} {norm:?} M={m} N={n} K={k}"
    ));
    let x = b.input(format, dtype, &[m, k], 1.0);
    let weight = b.operand(format, weight, &[(n, k)], 0.1);
    let bias = bias.then(|| b.weight(dtype, &[(n, 1)], 0.5));
    let slope = if activation.is_some() { 2.0 } else { 1.0 };
    let tolerance = Tolerance::rounded(slope * product_error(format, dtype, k, 1.0, 0.1));
    let y = match store {
        Store::Set => b.output(y, &[m, n], tolerance),
        Store::Add => b.updated(y, &[m, n], 1.0, tolerance),
    };
    let normed = norm.map(|(kind, reader)| b.normed(kind, dtype, reader, &y, tolerance));
    b.finish(Linear { x, weight, bias, activation, store, y, normed })
}

/// Every form on odd sizes, decode and prefill row counts, several K blocks.
pub fn cases() -> Vec<Case> {
    use Activation::*;
    use DType::*;
    use NormKind::*;
    use Store::*;
    let int4 = |group, zeros| Format::W4A16 { group, zeros };
    let int8_groups = |group, zeros| Format::W8A16 { group, zeros };
    let forms = [
        (plain(F32), [1, 7, 5]),
        (Form { weight: Bf16, ..plain(F32) }, [1, 130, 600]),
        (plain(Bf16), [3, 64, 256]),
        (Form { weight: F16, ..plain(F32) }, [5, 33, 300]),
        (plain(F16), [17, 96, 80]),
        (Form { weight: Bf16, ..plain(F32) }, [61, 160, 1176]),
        (fused(F32, Some(QuickGelu), Set), [19, 100, 144]),
        (fused(Bf16, Some(Gelu), Set), [2, 48, 80]),
        (fused(F32, None, Add), [1, 72, 520]),
        (fused(Bf16, None, Add), [40, 128, 256]),
        (fused(F16, None, Add), [4, 31, 257]),
        (followed(F32, Set, Layer), [12, 40, 24]),
        (followed(F32, Add, Rms), [1, 144, 300]),
        (followed(Bf16, Add, Rms), [5, 256, 96]),
        (followed(F16, Add, Layer), [35, 80, 160]),
        // What only devices have: two shapes of a block, borders of slices, steps and tiles cut by each dimension.
        (plain(Bf16), [33, 136, 1176]),
        (plain(F16), [130, 152, 808]),
        (fused(Bf16, Some(QuickGelu), Set), [16, 104, 144]),
        (fused(Bf16, Some(QuickGelu), Set), [48, 104, 144]),
        (fused(F16, Some(QuickGelu), Set), [9, 40, 776]),
        (fused(F16, Some(QuickGelu), Set), [34, 40, 776]),
        (fused(Bf16, Some(Gelu), Set), [36, 48, 80]),
        (fused(F16, Some(Gelu), Set), [1, 8, 8]),
        (fused(F16, Some(Gelu), Set), [33, 8, 8]),
        (followed(Bf16, Add, Rms), [140, 264, 200]),
        (followed(F16, Set, Layer), [8, 160, 120]),
        (followed(F16, Set, Layer), [40, 160, 1544]),
        (followed(F16, Add, Rms), [32, 72, 6200]),
        (before_int8(F32, Rms), [3, 40, 24]),
        (before_int8(Bf16, Layer), [35, 264, 200]),
        (before_int8(F16, Rms), [5, 80, 160]),
        (int8(F32, None), [3, 7, 5]),
        (int8_stream(F32, Add, Rms), [35, 72, 300]),
        (int8(Bf16, None), [1, 40, 80]),
        (int8(Bf16, None), [33, 136, 1168]),
        (int8(F16, None), [9, 24, 784]),
        (int8(F16, None), [130, 152, 16]),
        (int8_stream(F16, Set, Layer), [8, 160, 128]),
        (int8_stream(F16, Set, Layer), [40, 160, 1552]),
        (int8_stream(Bf16, Add, Rms), [17, 264, 1552]),
        (int8_stream(Bf16, Add, Rms), [140, 264, 208]),
        (int8_stream(F16, Add, Rms), [32, 72, 6208]),
        (int8_stream(F16, Add, Layer), [36, 72, 6208]),
        (int8(Bf16, Some(QuickGelu)), [16, 104, 144]),
        (int8(Bf16, Some(QuickGelu)), [48, 104, 144]),
        (int8(F16, Some(QuickGelu)), [5, 40, 768]),
        (int8(F16, Some(QuickGelu)), [34, 40, 768]),
        (int8(Bf16, Some(Gelu)), [2, 48, 80]),
        (int8(Bf16, Some(Gelu)), [36, 48, 80]),
        (int8(F16, Some(Gelu)), [1, 8, 16]),
        (int8(F16, Some(Gelu)), [33, 8, 16]),
        (coded(F32, int4(128, true), Set), [1, 72, 640]),
        (coded(F32, int8_groups(64, false), Add), [19, 40, 320]),
        (coded(Bf16, int4(128, false), Set), [1, 24, 256]),
        (coded(Bf16, int4(32, true), Set), [70, 264, 160]),
        (coded(F16, int4(64, true), Set), [9, 40, 192]),
        (coded(F16, int4(200, false), Set), [33, 24, 200]),
        (coded(Bf16, int4(32, false), Add), [32, 72, 1632]),
        (coded(Bf16, int4(128, true), Add), [130, 72, 1536]),
        (coded(F16, int4(128, false), Add), [17, 40, 6272]),
        (coded(F16, int4(64, false), Add), [65, 24, 1600]),
        (coded(Bf16, int8_groups(328, false), Set), [16, 24, 328]),
        (coded(Bf16, int8_groups(64, true), Set), [40, 40, 192]),
        (coded(F16, int8_groups(128, true), Set), [20, 24, 384]),
        (coded(F16, int8_groups(32, false), Set), [33, 72, 96]),
        (coded(Bf16, int8_groups(1544, false), Add), [8, 40, 1544]),
        (coded(Bf16, int8_groups(128, false), Add), [40, 136, 3200]),
        (coded(F16, int8_groups(32, true), Add), [5, 24, 1568]),
        (coded(F16, int8_groups(64, false), Add), [34, 40, 768]),
    ];
    forms.into_iter().map(|(form, size)| case(form, size)).collect()
}
