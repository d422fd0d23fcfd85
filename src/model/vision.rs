//! The vision tower of Qwen2-VL as a plan: patches in, rows of the decoder's width out.
//!
//! Five launches a block; seven where products read int8, and one more for each product in act-order. Every frame attends within itself; four neighbouring patches, which lie together, become one row.

use super::{Precision, Tap, WeightLoader, input_of, ordered, rows_for};
use crate::checkpoint::VisionConfig;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::input::Input;
use crate::ops::linear::{Activation, Linear, Store};
use crate::ops::norm::{Norm, NormKind, Normed};
use crate::ops::qkv_rope_2d::QkvRope2d;
use crate::ops::rope::{Rope2d, inv_freq};
use crate::ops::vision_attention::VisionAttention;
use crate::plan::{Plan, Recorder};
use crate::tensor::{Region, Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};

/// LayerNorm's epsilon in every block and the merger (transformers, modeling_qwen2_vl.py).
const EPS: f32 = 1e-6;
/// The base of the tower's rotary frequencies.
const THETA: f32 = 10_000.0;

/// A linear layer.
#[derive(Debug)]
struct Affine {
    weight: Matrix,
    bias: WeightId,
}

#[derive(Debug)]
struct LayerNorm {
    weight: WeightId,
    bias: WeightId,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Affine,
    proj: Affine,
    norm2: LayerNorm,
    fc1: Affine,
    fc2: Affine,
}

/// The tower's weights and shape.
#[derive(Debug)]
pub struct VisionTower {
    config: VisionConfig,
    patch_embed: Matrix,
    blocks: Vec<Block>,
    ln_q: LayerNorm,
    mlp0: Affine,
    mlp2: Affine,
    inv_freq: WeightId,
}

/// Where a recorded tower takes its inputs.
#[derive(Debug)]
pub struct VisionIo {
    /// `[P, patch_dim]` in the activations' type
    pub patches: Tensor,
    /// i32 `[P, 2]`
    pub positions: Tensor,
    /// i32 `[t + 1]`
    pub cu_seqlens: Tensor,
    /// The residual stream, `[P, E]`.
    pub stream: Tensor,
    pub taps: Vec<Tap>,
}

impl VisionTower {
    pub(super) fn load(w: &mut WeightLoader, config: &VisionConfig) -> Result<Self> {
        let block = |i: usize, w: &mut WeightLoader| {
            let name = |part: &str| format!("visual.blocks.{i}.{part}");
            Ok(Block {
                norm1: layer_norm(w, name("norm1"))?,
                qkv: affine(w, name("attn.qkv"))?,
                proj: affine(w, name("attn.proj"))?,
                norm2: layer_norm(w, name("norm2"))?,
                fc1: affine(w, name("mlp.fc1"))?,
                fc2: affine(w, name("mlp.fc2"))?,
            })
        };
        Ok(VisionTower {
            config: config.clone(),
            blocks: (0..config.depth).map(|i| block(i, w)).collect::<Result<_>>()?,
            ln_q: layer_norm(w, "visual.merger.ln_q".into())?,
            mlp0: affine(w, "visual.merger.mlp.0".into())?,
            mlp2: affine(w, "visual.merger.mlp.2".into())?,
            patch_embed: w.matrix(&["visual.patch_embed.proj.weight".into()])?,
            inv_freq: w.table("visual.rotary_pos_emb.inv_freq", &inv_freq(THETA, config.head_dim / 2)),
        })
    }

    /// Records the tower for a grid `(t, h, w)` of patches; its rows go to `out`, `[t h w / 4, D]`. `counters` are zeros that kernels count with.
    ///
    /// # Errors
    /// [`Error::Contract`](crate::error::Error::Contract) if the shapes do not fit: a bug, since the checkpoint was verified.
    pub fn record(
        &self,
        weights: &WeightSet,
        precision: Precision,
        grid: [usize; 3],
        out: Tensor,
        counters: Tensor,
    ) -> Result<(Plan, VisionIo)> {
        let [t, h, w] = grid;
        let (patches, width, dtype) = (t * h * w, self.config.embed_dim, precision.activations);
        let mut r = Recorder::new(format!("vision {t}x{h}x{w}"), Region::VisionArena, weights);
        let pixels = r.input(dtype, &[patches, self.config.patch_dim()]);
        let positions = r.input(DType::I32, &[patches, 2]);
        let cu_seqlens = r.input(DType::I32, &[t + 1]);
        let x = r.temp(precision.stream, &[patches, width]);
        let normed = |r: &mut Recorder, (a, reader): (&LayerNorm, Option<Matrix>)| Normed {
            norm: norm_of(a),
            y: match reader {
                Some(weight) => rows_for(r, weight, dtype, &[patches, width]),
                None => r.temp(dtype, &[patches, width]).into(),
            },
            activations: dtype,
            counters,
        };
        let mut next = normed(&mut r, self.norm_before(0));
        let patches_in = input_of(&mut r, self.patch_embed, pixels)?;
        r.push(Linear {
            x: patches_in,
            weight: self.patch_embed,
            bias: None,
            activation: None,
            store: Store::Set,
            y: x,
            normed: Some(next),
        })?;
        let mut taps = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let (qkv, attended) = (r.temp(dtype, &[patches, 3 * width]), r.temp(dtype, &[patches, width]));
            let rows = ordered(&mut r, block.qkv.weight, next.y)?;
            r.push(QkvRope2d {
                x: rows,
                weight: block.qkv.weight,
                bias: block.qkv.bias,
                rope: Rope2d { inv_freq: self.inv_freq },
                positions,
                head_dim: self.config.head_dim,
                qkv,
            })?;
            let pairs = t as u64 * (h as u64 * w as u64).pow(2);
            r.push(VisionAttention { qkv, cu_seqlens, head_dim: self.config.head_dim, pairs, y: attended })?;
            let attended = input_of(&mut r, block.proj.weight, attended)?;
            let between = normed(&mut r, (&block.norm2, Some(block.fc1.weight)));
            r.push(add(attended, &block.proj, x, Some(between)))?;
            let hidden = r.temp(dtype, &[patches, self.config.mlp_dim]);
            let rows = ordered(&mut r, block.fc1.weight, between.y)?;
            r.push(activated(rows, &block.fc1, Activation::QuickGelu, hidden))?;
            let hidden = input_of(&mut r, block.fc2.weight, hidden)?;
            next = normed(&mut r, self.norm_before(i + 1));
            r.push(add(hidden, &block.fc2, x, Some(next)))?;
            taps.push(Tap { name: format!("visual.blocks.{i}"), ops: r.ops() });
        }
        let merge = self.config.spatial_merge_size.pow(2);
        let merged = next.y.x.reshape(&[patches / merge, merge * width]);
        let merged = input_of(&mut r, self.mlp0.weight, merged)?;
        let hidden = r.temp(dtype, &[patches / merge, merge * width]);
        r.push(activated(merged, &self.mlp0, Activation::Gelu, hidden))?;
        let hidden = input_of(&mut r, self.mlp2.weight, hidden)?;
        r.push(Linear { store: Store::Set, ..add(hidden, &self.mlp2, out, None) })?;
        Ok((r.finish()?, VisionIo { patches: pixels, positions, cu_seqlens, stream: x, taps }))
    }

    /// The norm that block `i` begins with, or the merger, and the weight that reads its rows. None does in the merger, where four are one row.
    fn norm_before(&self, i: usize) -> (&LayerNorm, Option<Matrix>) {
        self.blocks.get(i).map_or((&self.ln_q, None), |b| (&b.norm1, Some(b.qkv.weight)))
    }

    /// Row and column of every patch of a grid, in the order patches come in: merge blocks of 2 x 2, row by row, frame after frame.
    pub fn positions(&self, [t, h, w]: [usize; 3]) -> Vec<i32> {
        let m = self.config.spatial_merge_size;
        let mut out = Vec::with_capacity(2 * t * h * w);
        for _ in 0..t {
            for (by, bx) in (0..h / m).flat_map(|by| (0..w / m).map(move |bx| (by, bx))) {
                for (y, x) in (0..m).flat_map(|y| (0..m).map(move |x| (y, x))) {
                    out.extend([(by * m + y) as i32, (bx * m + x) as i32]);
                }
            }
        }
        out
    }

    /// The first patch of every frame, and the end.
    pub fn cu_seqlens([t, h, w]: [usize; 3]) -> Vec<i32> {
        (0..=t).map(|i| (i * h * w) as i32).collect()
    }
}

fn affine(w: &mut WeightLoader, name: String) -> Result<Affine> {
    Ok(Affine { weight: w.matrix(&[format!("{name}.weight")])?, bias: w.one(format!("{name}.bias"))? })
}

fn layer_norm(w: &mut WeightLoader, name: String) -> Result<LayerNorm> {
    Ok(LayerNorm { weight: w.one(format!("{name}.weight"))?, bias: w.one(format!("{name}.bias"))? })
}

fn norm_of(a: &LayerNorm) -> Norm {
    Norm { kind: NormKind::Layer, weight: a.weight, bias: Some(a.bias), eps: EPS }
}

fn activated(x: Input, a: &Affine, activation: Activation, y: Tensor) -> Linear {
    Linear { activation: Some(activation), store: Store::Set, ..add(x, a, y, None) }
}

fn add(x: Input, a: &Affine, y: Tensor, normed: Option<Normed>) -> Linear {
    Linear { x, weight: a.weight, bias: Some(a.bias), activation: None, store: Store::Add, y, normed }
}
