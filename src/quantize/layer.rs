//! One decoder layer in f32: scales move into it, codes are chosen, and what changed comes out.

use super::{Line, Method, Recipe, Scheme};
use crate::checkpoint::StoredTensor;
use crate::checkpoint::lora::Merged;
use crate::data::TensorData;
use crate::dtype::{DType, narrowed, widened};
use crate::error::{Error, Result};
use crate::quant::grid::{Coded, Grid};
use crate::quant::inputs::Inputs;
use crate::quant::{Activations, Quantized, awq, fold, gptq, rtn, smooth};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Who computes a product's inputs, and can give up a scale for each of their channels.
enum Giver {
    Norm(&'static str),
    Linear(&'static str),
}

/// Linears that read the same inputs.
pub(super) struct Product {
    pub linears: &'static [&'static str],
    giver: Giver,
}

const V_PROJ: &str = "self_attn.v_proj";

/// A layer's products. Attention mixes tokens but not channels, and `silu(gate) * up` is linear in `up`: so v and up can give scales.
pub(super) const PRODUCTS: [Product; 4] = [
    Product { linears: &["self_attn.q_proj", "self_attn.k_proj", V_PROJ], giver: Giver::Norm("input_layernorm") },
    Product { linears: &["self_attn.o_proj"], giver: Giver::Linear(V_PROJ) },
    Product { linears: &["mlp.gate_proj", "mlp.up_proj"], giver: Giver::Norm("post_attention_layernorm") },
    Product { linears: &["mlp.down_proj"], giver: Giver::Linear("mlp.up_proj") },
];

/// What replaces a layer's tensors, by canonical name.
#[derive(Default)]
pub(super) struct Changed {
    pub tensors: BTreeMap<String, StoredTensor>,
    /// Under the names that their floats had.
    pub matrices: BTreeMap<String, Arc<Quantized>>,
}

/// A tensor in f32.
pub(super) struct Floats {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The tensors of a layer, by name within it.
struct Layer<'a> {
    recipe: &'a Recipe,
    /// `model.layers.N`
    at: String,
    tensors: BTreeMap<String, Floats>,
    /// Which channel of v each input channel of o comes from.
    heads: Vec<usize>,
}

/// Quantizes a layer from the statistics of its products' inputs, by first linear.
pub(super) fn quantize(
    merged: &Merged,
    layer: usize,
    recipe: &Recipe,
    inputs: &mut BTreeMap<&'static str, Inputs>,
) -> Result<(Changed, Vec<Line>)> {
    let mut layer = Layer::read(merged, layer, recipe)?;
    let folds = recipe.scheme == Scheme::W8A8 || recipe.method == Method::Awq;
    // What is written is what rounding to nearest alone gives: it need not be measured twice.
    let plain = recipe.method == Method::Rtn && !folds;
    let before: Vec<Vec<Option<f64>>> =
        PRODUCTS.iter().filter(|_| !plain).map(|p| layer.plain_errors(p, &inputs[p.linears[0]])).collect();
    if folds {
        for product in &PRODUCTS {
            let mut of = inputs.remove(product.linears[0]).expect("collected for every product");
            let scales = layer.fold(product, &of);
            of = of.scaled(&scales);
            inputs.insert(product.linears[0], of);
        }
    }
    let (mut changed, mut lines) = (Changed::default(), Vec::new());
    for (p, product) in PRODUCTS.iter().enumerate() {
        let inputs = inputs.get_mut(product.linears[0]).expect("collected for every product");
        for (i, (linear, (coded, seconds))) in product.linears.iter().zip(layer.codes(product, inputs)?).enumerate() {
            let (name, floats) = (format!("{}.{linear}", layer.at), &layer.tensors[&weight(linear)]);
            let int8 = recipe.scheme == Scheme::W8A8;
            let error = inputs.error(&floats.values, &coded.values(), int8);
            let codes = Arc::new(coded.pack(recipe.scheme.activations()));
            let bytes = [floats.values.len() * floats.dtype.size(), stored_bytes(&codes)];
            lines.push(Line {
                name: name.clone(),
                error_before: if plain { error } else { before[p][i] },
                error,
                bytes_before: bytes[0],
                bytes: bytes[1],
                seconds,
            });
            changed.matrices.insert(format!("{name}.weight"), codes);
        }
    }
    for (name, floats) in layer.tensors.iter().filter(|(name, _)| !name.contains("_proj.weight")) {
        let name = format!("{}.{name}", layer.at);
        changed.tensors.insert(name.clone(), stored(&name, floats)?);
    }
    Ok((changed, lines))
}

/// Rounds the head to int8, a scale for each row.
pub(super) fn quantize_head(head: &StoredTensor, recipe: &Recipe) -> (Arc<Quantized>, Line) {
    let start = Instant::now();
    let floats = floats(head);
    let grid = Grid { bits: 8, zeros: false, ..recipe.grid(floats.dtype) };
    let k = floats.shape[1];
    let coded = rtn::quantize(&floats.values, k, k, grid, &vec![1.0; k]);
    let codes = Arc::new(coded.pack(Activations::Float));
    let line = Line {
        name: "lm_head".into(),
        error_before: None,
        error: None,
        bytes_before: head.bytes().len(),
        bytes: stored_bytes(&codes),
        seconds: start.elapsed().as_secs_f64(),
    };
    (codes, line)
}

fn weight(linear: &str) -> String {
    format!("{linear}.weight")
}

/// Bytes in a file, where scales take 16 bits.
fn stored_bytes(q: &Quantized) -> usize {
    q.bytes() - 2 * q.scales.len()
}

impl<'a> Layer<'a> {
    fn read(merged: &Merged, layer: usize, recipe: &'a Recipe) -> Result<Layer<'a>> {
        let at = format!("model.layers.{layer}");
        let linears = PRODUCTS.iter().flat_map(|p| p.linears).map(|l| weight(l));
        let norms = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.v_proj.bias"];
        let names = linears.chain(norms.map(String::from));
        let read = |name: String| Ok((name.clone(), floats(&merged.get(&format!("{at}.{name}"))?)));
        let tensors = names.map(read).collect::<Result<_>>()?;
        let c = &merged.config().text;
        let (d, shared) = (c.head_dim, c.num_attention_heads / c.num_key_value_heads);
        let heads = (0..c.q_dim()).map(|j| j / d / shared * d + j % d).collect();
        Ok(Layer { recipe, at, tensors, heads })
    }

    /// What rounding to nearest alone would cost.
    fn plain_errors(&self, product: &Product, inputs: &Inputs) -> Vec<Option<f64>> {
        let int8 = self.recipe.scheme == Scheme::W8A8;
        let error = |linear: &&str| {
            let w = &self.tensors[&weight(linear)];
            let coded = rtn::quantize(
                &w.values,
                inputs.k(),
                self.group(inputs.k()),
                self.recipe.grid(w.dtype),
                &inputs.moments(),
            );
            inputs.error(&w.values, &coded.values(), int8)
        };
        product.linears.iter().map(error).collect()
    }

    fn group(&self, k: usize) -> usize {
        self.recipe.group.unwrap_or(k)
    }

    /// Moves scales from a product's inputs into its weights, and gives what each column of the inputs is divided by.
    fn fold(&mut self, product: &Product, inputs: &Inputs) -> Vec<f32> {
        let k = inputs.k();
        let sources: Vec<usize> = match product.giver {
            Giver::Linear(V_PROJ) => self.heads.clone(),
            _ => (0..k).collect(),
        };
        let joined: Vec<f32> = product.linears.iter().flat_map(|l| &self.tensors[&weight(l)].values).copied().collect();
        let grid = self.recipe.grid(self.tensors[&weight(product.linears[0])].dtype);
        let mut scales = match self.recipe.scheme {
            Scheme::W8A8 => smooth::scales(inputs.max_abs(), &joined, &sources),
            _ => awq::scales(&joined, self.group(k), grid, inputs, &sources),
        };
        let (vector, rows) = match product.giver {
            Giver::Norm(norm) => (format!("{norm}.weight"), None),
            Giver::Linear(linear) => (format!("{linear}.bias"), Some(weight(linear))),
        };
        if let Some(Floats { dtype, values, .. }) = self.tensors.get_mut(&vector) {
            fold::divide(values, &mut scales, *dtype);
        }
        if let Some(w) = rows.and_then(|rows| self.tensors.get_mut(&rows)) {
            fold::divide_rows(&mut w.values, &scales);
        }
        let columns = fold::spread(&scales, &sources);
        for linear in product.linears {
            let w = self.tensors.get_mut(&weight(linear)).expect("read with the layer");
            fold::multiply_columns(&mut w.values, &columns);
        }
        columns
    }

    /// The codes of a product's linears, with the seconds that each took.
    fn codes(&self, product: &Product, inputs: &mut Inputs) -> Result<Vec<(Coded, f64)>> {
        let (k, moments) = (inputs.k(), inputs.moments());
        let mut start = Instant::now();
        let factor = match inputs.take_gram().map(|gram| gram.factor(gptq::DAMPING)).transpose() {
            Ok(factor) => factor,
            Err(why) => return Err(Error::Numerics(format!("{}.{}: {why}", self.at, product.linears[0]))),
        };
        let code = |linear: &&str| {
            let w = &self.tensors[&weight(linear)];
            let (group, grid) = (self.group(k), self.recipe.grid(w.dtype));
            let coded = match &factor {
                Some(r) => gptq::quantize(&w.values, group, grid, r, &moments),
                None => rtn::quantize(&w.values, k, group, grid, &moments),
            };
            let seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
            (coded, seconds)
        };
        Ok(product.linears.iter().map(code).collect())
    }
}

pub(super) fn floats(t: &StoredTensor) -> Floats {
    Floats { dtype: t.dtype(), shape: t.shape().to_vec(), values: widened(t.dtype(), t.bytes()) }
}

pub(super) fn stored(name: &str, floats: &Floats) -> Result<StoredTensor> {
    let bytes = narrowed(floats.dtype, &floats.values);
    StoredTensor::new(name, floats.dtype, &floats.shape, TensorData::from_bytes(bytes))
}
