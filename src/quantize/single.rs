//! A model with one of its linears rounded to nearest, and everything else as it is: what that one alone costs.
//!
//! The surprise: q, k and v (gate and up) are one product, which takes no codes beside floats. So a linear gets the values of its codes in f32, as its
//! neighbours get theirs. Where activations are int8 too, neighbours read the same rows and become codes together.

use super::layer::{Changed, Floats, PRODUCTS, Product, floats, stored};
use super::{Recipe, Scheme, weights};
use crate::checkpoint::Weights;
use crate::checkpoint::lora::Merged;
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::grid::Coded;
use crate::quant::rtn;
use std::sync::Arc;

/// What is rounded at a time.
#[derive(Clone, Copy)]
pub struct Unit {
    pub layer: usize,
    product: &'static Product,
    /// One of the product's, or all of them.
    linears: &'static [&'static str],
}

impl Unit {
    /// The linear within its layer; several are joined by `+`.
    pub fn kind(&self) -> String {
        let others = self.linears[1..].iter().filter_map(|linear| linear.split('.').next_back());
        std::iter::once(self.linears[0]).chain(others).collect::<Vec<_>>().join("+")
    }
}

/// All of a model's decoder, in the order of a forward pass.
///
/// # Errors
/// [`Error::Request`](crate::error::Error::Request) naming the flag and the linear if groups do not divide its columns.
pub fn units(merged: &Merged, recipe: &Recipe) -> Result<Vec<Unit>> {
    recipe.check(merged)?;
    let together = recipe.scheme == Scheme::W8A8;
    let of_product =
        |product: &'static Product| product.linears.chunks(if together { product.linears.len() } else { 1 });
    let of_layer = |layer| {
        let pairs = PRODUCTS.iter().flat_map(move |product| of_product(product).map(move |linears| (product, linears)));
        pairs.map(move |(product, linears)| Unit { layer, product, linears })
    };
    Ok((0..merged.config().text.num_hidden_layers).flat_map(of_layer).collect())
}

/// The model's weights with that unit rounded.
///
/// # Errors
/// Naming the tensor.
pub fn rounded(merged: &Merged, recipe: &Recipe, unit: &Unit) -> Result<Weights> {
    let mut changed = Changed::default();
    for linear in unit.product.linears {
        let name = format!("model.layers.{}.{linear}.weight", unit.layer);
        let mut floats = floats(&merged.get(&name)?);
        let chosen = unit.linears.contains(linear);
        if recipe.scheme == Scheme::W8A8 {
            changed.matrices.insert(name, Arc::new(coded(&floats, recipe).pack(recipe.scheme.activations())));
            continue;
        }
        if chosen {
            floats.values = coded(&floats, recipe).values();
        }
        floats.dtype = DType::F32;
        changed.tensors.insert(name.clone(), stored(&name, &floats)?);
    }
    weights(merged, merged.config(), &changed, str::to_string)
}

/// The nearest codes, where every column counts the same.
fn coded(w: &Floats, recipe: &Recipe) -> Coded {
    let k = w.shape[1];
    rtn::quantize(&w.values, k, recipe.group.unwrap_or(k), recipe.grid(w.dtype), &vec![1.0; k])
}
