//! The Qwen2 decoder as a plan: five launches a layer, seven where products read int8, nine where weights have an order of their own, then the head and the draw.
//!
//! One plan serves prefill chunks and decode rows: a row is one token of one sequence, and its lengths are read from the step.

use super::{KvLayout, Precision, Tap, WeightLoader, input_of, ordered, rows_for};
use crate::checkpoint::TextConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::embed::Embed;
use crate::ops::gate_up::GateUp;
use crate::ops::input::Input;
use crate::ops::linear::{Linear, Store};
use crate::ops::lm_head::LmHead;
use crate::ops::norm::{Norm, NormKind, Normed};
use crate::ops::paged_attention::{PagedAttention, Splits};
use crate::ops::qkv_mrope::{Meeting, QkvMrope};
use crate::ops::rope::{Mrope, inv_freq};
use crate::ops::sample::Sample;
use crate::plan::{Plan, Recorder};
use crate::quant::Format;
use crate::step::{StepLayout, StepShape};
use crate::tensor::{Region, Tensor, WeightId};
use crate::weights::{Matrix, WeightSet};

#[derive(Debug)]
struct Layer {
    input_norm: WeightId,
    qkv: Matrix,
    qkv_bias: WeightId,
    o: Matrix,
    post_norm: WeightId,
    gate_up: Matrix,
    down: Matrix,
}

/// The decoder's weights and shape.
#[derive(Debug)]
pub struct Decoder {
    config: TextConfig,
    embed: WeightId,
    layers: Vec<Layer>,
    norm: WeightId,
    head: Matrix,
    inv_freq: WeightId,
}

/// How far a plan goes beyond the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tail {
    /// The prompt goes on: nothing is wanted but the KV cache.
    None,
    /// Logits of the sampled rows.
    Logits,
    /// Logits, and a token drawn from each row.
    Sample,
}

/// What lies outside a decoder plan.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    pub kv: KvLayout,
    /// Image rows, `[R, D]`.
    pub images: Tensor,
    /// Seen tokens, u8 `[state rows, V]`.
    pub seen: Tensor,
    /// Zeros that kernels count with, i32.
    pub counters: Tensor,
    /// Zeros that each sampled row's best token passes through, i64 `[S, 1]`.
    pub bests: Tensor,
}

/// Where a recorded decoder step takes its inputs and leaves its results.
#[derive(Debug, Clone)]
pub struct TextIo {
    pub step: StepLayout,
    /// f32 `[S, V]`
    pub logits: Tensor,
    /// i32 `[S]`
    pub ids: Tensor,
    /// The residual stream, `[T, D]`.
    pub stream: Tensor,
    pub taps: Vec<Tap>,
}

/// Where results lie in the `Out` region: sampled ids, then logits.
pub fn outputs(samples: usize, vocab: usize) -> (Tensor, Tensor) {
    let ids = Tensor::at(Region::Out, 0, DType::I32, &[samples]);
    (ids, Tensor::at(Region::Out, ids.bytes().next_multiple_of(64), DType::F32, &[samples, vocab]))
}

impl Decoder {
    pub(super) fn load(w: &mut WeightLoader, config: &TextConfig, tied: bool) -> Result<Self> {
        let embed = w.one("model.embed_tokens.weight".into())?;
        let head = if tied { w.set.matrix(embed) } else { w.matrix(&["lm_head.weight".into()])? };
        if head.format == Format::W8A8 {
            let hint = "it reads floats: leave lm_head as it is when quantizing (ignore: [\"lm_head\"])";
            return Err(Error::unsupported("lm_head.weight with int8 activations", hint));
        }
        let layer = |i: usize, w: &mut WeightLoader| {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let qkv = |kind: &str| ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj.{kind}")));
            Ok(Layer {
                input_norm: w.one(name("input_layernorm.weight"))?,
                qkv: w.matrix(&qkv("weight"))?,
                qkv_bias: w.vector(&qkv("bias"))?,
                o: w.matrix(&[name("self_attn.o_proj.weight")])?,
                post_norm: w.one(name("post_attention_layernorm.weight"))?,
                gate_up: w.matrix(&["gate", "up"].map(|p| name(&format!("mlp.{p}_proj.weight"))))?,
                down: w.matrix(&[name("mlp.down_proj.weight")])?,
            })
        };
        Ok(Decoder {
            config: config.clone(),
            embed,
            layers: (0..config.num_hidden_layers).map(|i| layer(i, w)).collect::<Result<_>>()?,
            norm: w.one("model.norm.weight".into())?,
            head,
            inv_freq: w.table("rotary_emb.inv_freq", &inv_freq(config.rope_theta as f32, config.head_dim)),
        })
    }

    fn rms_norm(&self, weight: WeightId) -> Norm {
        Norm { kind: NormKind::Rms, weight, bias: None, eps: self.config.rms_norm_eps as f32 }
    }

    /// The norm that layer `i` begins with, and the weight that reads it; after the last one the final norm, where someone wants it.
    fn norm_before(&self, i: usize, tail: Tail) -> Option<(WeightId, Matrix)> {
        let layer = self.layers.get(i).map(|l| (l.input_norm, l.qkv));
        layer.or((tail != Tail::None).then_some((self.norm, self.head)))
    }

    /// Records a step of the given shape.
    ///
    /// # Errors
    /// [`Error::Contract`] if the shapes do not fit: a bug, since the checkpoint was verified.
    pub fn record(
        &self,
        weights: &WeightSet,
        precision: Precision,
        shape: StepShape,
        tail: Tail,
        around: &Surroundings,
    ) -> Result<(Plan, TextIo)> {
        let (c, step, dtype) = (&self.config, StepLayout::new(shape), precision.activations);
        let rows = shape.rows;
        let name =
            format!("text rows={rows} seqs={} blocks={} samples={} {tail:?}", shape.seqs, shape.blocks, shape.samples);
        let mut r = Recorder::new(name, Region::Arena, weights);
        let x = r.temp(precision.stream, &[rows, c.hidden_size]);
        let counters = around.counters;
        let normed = |r: &mut Recorder, (weight, reader): (WeightId, Matrix)| Normed {
            norm: self.rms_norm(weight),
            y: rows_for(r, reader, dtype, &[rows, c.hidden_size]),
            activations: dtype,
            counters,
        };
        let mut next = self.norm_before(0, tail).map(|n| normed(&mut r, n));
        let (ids, table) = (step.ids, self.embed);
        r.push(Embed { ids, rows: step.embed_rows, table, images: around.images, y: x, normed: next })?;
        let tokens = shape.blocks * around.kv.block_size;
        let mut taps = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let Some(Normed { y: n, .. }) = next else { unreachable!("every layer begins with a norm") };
            let (k, v) = (around.kv.keys(i), around.kv.values(i));
            let (q, attended) = (r.temp(dtype, &[rows, c.q_dim()]), r.temp(dtype, &[rows, c.q_dim()]));
            let n = ordered(&mut r, layer.qkv, n)?;
            let meeting =
                QkvMrope::meets(&k, rows).then(|| Meeting { rows: r.temp(dtype, &[rows, 2 * c.kv_dim()]), counters });
            r.push(QkvMrope {
                x: n,
                weight: layer.qkv,
                bias: Some(layer.qkv_bias),
                rope: Mrope { inv_freq: self.inv_freq, section: c.mrope_section },
                positions: step.positions,
                slots: step.slots,
                q,
                k,
                v,
                meeting,
            })?;
            let splits = shape.is_decode().then(|| Splits {
                partials: r.temp(DType::F32, &[Splits::partials(rows, c.num_attention_heads, c.head_dim, tokens)]),
                counters,
            });
            r.push(PagedAttention {
                q,
                k,
                v,
                block_tables: step.block_tables,
                seq_of_row: step.seq_of_row,
                visible: step.visible,
                y: attended,
                splits,
            })?;
            let attended = input_of(&mut r, layer.o, attended)?;
            let after = normed(&mut r, (layer.post_norm, layer.gate_up));
            r.push(add(attended, layer.o, x, Some(after)))?;
            let hidden = r.temp(dtype, &[rows, c.intermediate_size]);
            let n = ordered(&mut r, layer.gate_up, after.y)?;
            r.push(GateUp { x: n, weight: layer.gate_up, y: hidden })?;
            let hidden = input_of(&mut r, layer.down, hidden)?;
            next = self.norm_before(i + 1, tail).map(|n| normed(&mut r, n));
            r.push(add(hidden, layer.down, x, next))?;
            taps.push(Tap { name: format!("model.layers.{i}"), ops: r.ops() });
        }
        let (ids, logits) = outputs(shape.samples, c.vocab_size);
        if let Some(n) = next {
            let bests = (tail == Tail::Sample).then_some(around.bests.row_range(0, shape.samples));
            let x = ordered(&mut r, self.head, n.y)?.x;
            r.push(LmHead { x, rows: step.sample_rows, weight: self.head, logits, bests })?;
        }
        if tail == Tail::Sample {
            let (reals, ints, seen) = (step.sample_f32, step.sample_i32, around.seen);
            r.push(Sample { logits, bests: around.bests.row_range(0, shape.samples), reals, ints, seen, ids })?;
        }
        Ok((r.finish()?, TextIo { step, logits, ids, stream: x, taps }))
    }
}

fn add(x: Input, weight: Matrix, y: Tensor, normed: Option<Normed>) -> Linear {
    Linear { x, weight, bias: None, activation: None, store: Store::Add, y, normed }
}
