//! Every op at the sizes of a real model: decoded rows, a chunk of a prompt, a picture.
//!
//! What benches and the test of memory traffic run. A workload is a [`Case`] with random numbers; it stands for one of the model's layers. The
//! surprise: products have weights that shrink with K, so that their results stay below 8 whatever the width.

use super::Op;
use super::case::{Case, CaseBuilder, Tolerance, product_error};
use super::embed::Embed;
use super::gate_up::GateUp;
use super::gather::{Gather, scattered};
use super::linear::{Activation, Linear, Store};
use super::lm_head::LmHead;
use super::norm::NormKind;
use super::paged_attention::{PagedAttention, Splits, cached_tolerance};
use super::qkv_mrope::QkvMrope;
use super::qkv_rope_2d::QkvRope2d;
use super::quantize_rows::QuantizeRows;
use super::rope::{Mrope, Rope2d, inv_freq};
use super::sample::Sample;
use super::vision_attention::{VisionAttention, attention_tolerance};
use crate::checkpoint::{Config, TextConfig, VisionConfig};
use crate::dtype::DType;
use crate::quant::Format;
use crate::step::{HostStep, RowSampling, StepShape};

/// Tokens that a decoded row sees.
const CONTEXT: usize = 1024;
/// Rows of decode steps: alone, and a full mma tile.
const DECODED: [usize; 2] = [1, 8];
/// Rows of a prompt's chunk.
const CHUNK: usize = 512;
/// Patches of a picture's side: 448 pixels.
const SIDE: usize = 32;
/// Tokens of a KV block.
const BLOCK: usize = 32;
/// Rows of the embedding table. Only rows that are looked up are read, so a short table costs the same.
const TABLE: usize = 4096;

/// Queries of the decoder are below this: some keys then count much more than others.
const QUERIES: f32 = 4.0;

/// Which part of a request an op works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Decode,
    Prefill,
    Vision,
}

impl Phase {
    pub const ALL: [Phase; 3] = [Phase::Decode, Phase::Prefill, Phase::Vision];

    /// As the flag spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Decode => "decode",
            Phase::Prefill => "prefill",
            Phase::Vision => "vision",
        }
    }
}

/// Builds one op with operands of its own.
type Build = fn(&Shape, &mut CaseBuilder) -> Box<dyn Op>;

/// One op of a model at one size.
pub struct Workload {
    /// The op's name.
    pub op: &'static str,
    /// What the model uses it for.
    pub role: &'static str,
    pub phase: Phase,
    /// Tokens or patches.
    pub rows: usize,
    /// How many launches of it a pass through the model has.
    pub launches: usize,
    shape: Shape,
    build: Build,
}

impl Workload {
    /// The workload as a test case.
    pub fn case(&self) -> Case {
        let (case, _) = self.rotation(1);
        case
    }

    /// The same with keys and values of int8.
    pub fn with_int8_cache(mut self) -> Workload {
        self.shape.int8_cache = true;
        self
    }

    /// A case whose memory holds operands for so many copies of its op, and the copies beyond the first: run in turn, none finds its operands in
    /// a cache.
    pub fn rotation(&self, copies: usize) -> (Case, Vec<Box<dyn Op>>) {
        let mut b = CaseBuilder::new(format!("{} {} {}", self.phase.name(), self.rows, self.role));
        let op = (self.build)(&self.shape, &mut b);
        let others = (1..copies).map(|_| (self.build)(&self.shape, &mut b)).collect();
        (b.finish_boxed(op, self.shape.step.clone()), others)
    }
}

/// The sizes that a workload is built from.
#[derive(Clone)]
struct Shape {
    text: TextConfig,
    vision: VisionConfig,
    dtype: DType,
    /// Of the layers' products.
    format: Format,
    /// Whether keys and values are int8.
    int8_cache: bool,
    rows: usize,
    /// The lengths and indices of the text rows.
    step: HostStep,
}

/// All workloads of a model in a storage type, the weights of its layers in a format.
pub fn workloads(config: &Config, dtype: DType, format: Format) -> Vec<Workload> {
    let shape = |rows: usize, step: HostStep| Shape {
        text: config.text.clone(),
        vision: config.vision.clone(),
        dtype,
        format,
        int8_cache: false,
        rows,
        step,
    };
    let mut all = Vec::new();
    for rows in DECODED {
        let shape = shape(rows, decode_step(rows, config.text.vocab_size));
        all.extend(text(&shape, Phase::Decode));
        all.push(Workload {
            op: "sample",
            role: "sample",
            phase: Phase::Decode,
            rows,
            launches: 1,
            shape,
            build: sample,
        });
    }
    all.extend(text(&shape(CHUNK, prefill_step(config.text.vocab_size)), Phase::Prefill));
    all.extend(vision(&shape(SIDE * SIDE, HostStep::new(StepShape { rows: 0, seqs: 0, blocks: 0, samples: 0 }))));
    all
}

fn text(shape: &Shape, phase: Phase) -> Vec<Workload> {
    let layers = shape.text.num_hidden_layers;
    let mut ops: Vec<(_, _, _, Build)> = vec![
        ("embed", "embed", 1, embed),
        ("qkv_mrope", "qkv", layers, qkv_mrope),
        ("paged_attention", "attention", layers, paged_attention),
        ("linear", "o", layers, o_proj),
        ("gate_up", "gate, up", layers, gate_up),
        ("linear", "down", layers, down_proj),
        ("lm_head", "lm_head", 1, lm_head),
    ];
    if shape.format == Format::W8A8 {
        ops.insert(5, ("quantize_rows", "SwiGLU", layers, quantize_ffn));
        ops.insert(3, ("quantize_rows", "attention", layers, quantize_attended));
    }
    if shape.format.groups().is_some() {
        // Only weights in act-order have one, which these are not.
        ops.insert(5, ("gather", "act-order of down", 0, gather_ffn));
    }
    assemble(shape, phase, &ops)
}

fn vision(shape: &Shape) -> Vec<Workload> {
    let depth = shape.vision.depth;
    let mut ops: Vec<(_, _, _, Build)> = vec![
        ("linear", "patches", 1, patch_embed),
        ("qkv_rope_2d", "qkv", depth, qkv_rope_2d),
        ("vision_attention", "attention", depth, vision_attention),
        ("linear", "proj", depth, vision_proj),
        ("linear", "fc1", depth, fc1),
        ("linear", "fc2", depth, fc2),
        ("linear", "merger 0", 1, merger0),
        ("linear", "merger 2", 1, merger2),
    ];
    if shape.format == Format::W8A8 {
        ops.insert(7, ("quantize_rows", "GELU of the merger", 1, quantize_merger));
        ops.insert(6, ("quantize_rows", "merged norms", 1, quantize_merger));
        ops.insert(5, ("quantize_rows", "GELU", depth, quantize_mlp));
        ops.insert(3, ("quantize_rows", "attention", depth, quantize_patches));
    }
    assemble(shape, Phase::Vision, &ops)
}

fn assemble(shape: &Shape, phase: Phase, ops: &[(&'static str, &'static str, usize, Build)]) -> Vec<Workload> {
    let one = |&(op, role, launches, build)| Workload {
        op,
        role,
        phase,
        rows: shape.rows,
        launches,
        shape: shape.clone(),
        build,
    };
    ops.iter().map(one).collect()
}

/// `rows` sequences of [`CONTEXT`] tokens that each get one more token.
fn decode_step(rows: usize, vocab: usize) -> HostStep {
    let blocks = CONTEXT / BLOCK;
    let mut step = HostStep::new(StepShape { rows, seqs: rows, blocks, samples: rows });
    let l = step.layout;
    step.i32s_mut(&l.positions).fill(CONTEXT as i32 - 1);
    step.i32s_mut(&l.visible).fill(CONTEXT as i32);
    for row in 0..rows {
        step.i32s_mut(&l.ids)[row] = token(row, vocab);
        step.i32s_mut(&l.seq_of_row)[row] = row as i32;
        step.i32s_mut(&l.slots)[row] = slot_of(rows, row, CONTEXT - 1) as i32;
        step.i32s_mut(&l.sample_rows)[row] = row as i32;
        // What Qwen's own generation settings ask for.
        let how = RowSampling {
            temperature: 0.7,
            top_p: 0.8,
            top_k: 20,
            repetition_penalty: 1.05,
            state_row: row as i32,
            seed: row as u64,
            ..RowSampling::default()
        };
        step.set_sampling(row, &how);
    }
    fill_tables(&mut step);
    step
}

/// The first [`CHUNK`] tokens of a prompt; every other one is a row of a picture.
fn prefill_step(vocab: usize) -> HostStep {
    let mut step = HostStep::new(StepShape { rows: CHUNK, seqs: 1, blocks: CHUNK / BLOCK, samples: 1 });
    let l = step.layout;
    for row in 0..CHUNK {
        step.i32s_mut(&l.ids)[row] = token(row, vocab);
        step.i32s_mut(&l.embed_rows)[row] = if row % 2 == 1 { (row / 2) as i32 } else { -1 };
        (0..3).for_each(|axis| step.i32s_mut(&l.positions)[axis * CHUNK + row] = row as i32);
        step.i32s_mut(&l.visible)[row] = row as i32 + 1;
        step.i32s_mut(&l.slots)[row] = slot_of(1, 0, row) as i32;
    }
    step.i32s_mut(&l.sample_rows)[0] = CHUNK as i32 - 1;
    fill_tables(&mut step);
    step
}

/// Any token of a short table, all different.
fn token(row: usize, vocab: usize) -> i32 {
    (row * 7 % TABLE.min(vocab)) as i32
}

/// Blocks of all sequences lie interleaved, as they come when sequences grow together.
fn block_of(seqs: usize, seq: usize, block: usize) -> usize {
    block * seqs + seq
}

fn slot_of(seqs: usize, seq: usize, token: usize) -> usize {
    block_of(seqs, seq, token / BLOCK) * BLOCK + token % BLOCK
}

fn fill_tables(step: &mut HostStep) {
    let (tables, StepShape { seqs, blocks, .. }) = (step.layout.block_tables, step.layout.shape);
    for (i, entry) in step.i32s_mut(&tables).iter_mut().enumerate() {
        *entry = block_of(seqs, i / blocks, i % blocks) as i32;
    }
}

/// Weights for products of `k` terms whose deviation is 2/3.
fn scale(k: usize) -> f32 {
    2.0 / (k as f32).sqrt()
}

impl Shape {
    /// The cache of one layer, `[blocks, G, block, d]`.
    fn kv_cache(&self) -> [usize; 4] {
        let StepShape { seqs, blocks, .. } = self.step.layout.shape;
        [seqs * blocks, self.text.num_key_value_heads, BLOCK, self.text.head_dim]
    }

    /// A linear layer of `rows` rows.
    fn linear(&self, b: &mut CaseBuilder, rows: usize, form: Form) -> Box<dyn Op> {
        let Form { n, k, bias, activation, store, norm, format } = form;
        let x = b.input(format, self.dtype, &[rows, k], 1.0);
        let weight = b.operand(format, self.dtype, &[(n, k)], scale(k));
        let bias = bias.then(|| b.weight(self.dtype, &[(n, 1)], 0.5));
        // No activation's slope reaches 2.
        let tolerance = self.rounded(format, k, 2.0);
        let stream = if norm.is_some() { self.dtype.stream() } else { self.dtype };
        let y = match store {
            Store::Set => b.output(stream, &[rows, n], tolerance),
            Store::Add => b.updated(stream, &[rows, n], 1.0, tolerance),
        };
        let normed = norm.map(|kind| b.normed(kind, self.dtype, self.format, &y, tolerance));
        Box::new(Linear { x, weight, bias, activation, store, y, normed })
    }

    /// Of results whose error is at most so many times that of a product of `k` inputs below 1 with weights of a format below [`scale`].
    fn rounded(&self, format: Format, k: usize, slope: f64) -> Tolerance {
        Tolerance::rounded(slope * product_error(format, self.dtype, k, 1.0, scale(k) as f64))
    }

    /// Rows of so many columns as int8.
    fn quantized(&self, b: &mut CaseBuilder, rows: usize, k: usize) -> Box<dyn Op> {
        let x = b.random(self.dtype, &[rows, k], 1.0);
        Box::new(QuantizeRows { x, y: b.int8_output(&[rows, k], [Tolerance::Exact; 2]) })
    }

    /// A linear layer that completes the decoder's residual stream.
    fn text_add(&self, b: &mut CaseBuilder, k: usize) -> Box<dyn Op> {
        let (n, norm) = (self.text.hidden_size, Some(NormKind::Rms));
        self.linear(
            b,
            self.rows,
            Form { n, k, bias: false, activation: None, store: Store::Add, norm, format: self.format },
        )
    }

    /// A linear layer that completes the tower's residual stream.
    fn vision_add(&self, b: &mut CaseBuilder, k: usize) -> Box<dyn Op> {
        let (n, norm) = (self.vision.embed_dim, Some(NormKind::Layer));
        self.linear(
            b,
            self.rows,
            Form { n, k, bias: true, activation: None, store: Store::Add, norm, format: self.format },
        )
    }

    fn merged_rows(&self) -> usize {
        self.rows / self.vision.spatial_merge_size.pow(2)
    }
}

/// What a linear layer does.
struct Form {
    n: usize,
    k: usize,
    bias: bool,
    activation: Option<Activation>,
    store: Store,
    norm: Option<NormKind>,
    format: Format,
}

fn embed(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (l, d) = (&s.step.layout, s.text.hidden_size);
    let (ids, rows) = (b.indices(s.step.i32s(&l.ids)), b.indices(s.step.i32s(&l.embed_rows)));
    let table = b.weight(s.dtype, &[(TABLE.min(s.text.vocab_size), d)], 1.0);
    let images = b.random(s.dtype, &[s.rows.div_ceil(2), d], 1.0);
    let y = b.output(s.dtype.stream(), &[s.rows, d], Tolerance::Exact);
    let normed = Some(b.normed(NormKind::Rms, s.dtype, s.format, &y, Tolerance::Exact));
    Box::new(Embed { ids, rows, table, images, y, normed })
}

fn qkv_mrope(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (l, c) = (&s.step.layout, &s.text);
    let x = b.input(s.format, s.dtype, &[s.rows, c.hidden_size], 1.0);
    let parts = [c.q_dim(), c.kv_dim(), c.kv_dim()];
    let weight = b.operand(s.format, s.dtype, &parts.map(|n| (n, c.hidden_size)), scale(c.hidden_size));
    let bias = Some(b.weight(s.dtype, &parts.map(|n| (n, 1)), 0.5));
    let positions = b.indices(s.step.i32s(&l.positions));
    let slots = b.indices(s.step.i32s(&l.slots));
    // As in the cases of the op.
    let tolerance = s.rounded(s.format, c.hidden_size, 4.0);
    let q = b.output(s.dtype, &[s.rows, c.q_dim()], tolerance);
    let [k, v] = [(); 2].map(|()| b.updated_cache(s.int8_cache, s.dtype, &s.kv_cache(), tolerance));
    let meeting = QkvMrope::meets(&k, s.rows).then(|| b.meeting(s.dtype, s.rows, c.num_key_value_heads, c.head_dim));
    let rope = Mrope { inv_freq: b.table(&inv_freq(c.rope_theta as f32, c.head_dim)), section: c.mrope_section };
    Box::new(QkvMrope { x, weight, bias, rope, positions, slots, q, k, v, meeting })
}

fn paged_attention(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (l, c) = (&s.step.layout, &s.text);
    let StepShape { seqs, blocks, .. } = l.shape;
    let q = b.random(s.dtype, &[s.rows, c.q_dim()], QUERIES);
    let [k, v] = [(); 2].map(|()| b.cache(s.int8_cache, s.dtype, &s.kv_cache(), 1.0));
    let block_tables = b.bytes(DType::I32, &[seqs, blocks], bytemuck::cast_slice(s.step.i32s(&l.block_tables)));
    let seq_of_row = b.indices(s.step.i32s(&l.seq_of_row));
    let visible = b.indices(s.step.i32s(&l.visible));
    let y = b.output(
        s.dtype,
        &[s.rows, c.q_dim()],
        cached_tolerance(s.int8_cache, s.dtype, c.head_dim, [QUERIES, 1.0, 1.0], blocks * BLOCK),
    );
    let splits = (s.rows == seqs).then(|| {
        let partials = Splits::partials(s.rows, c.num_attention_heads, c.head_dim, blocks * BLOCK);
        let partials = b.output(DType::F32, &[partials], Tolerance::Anything);
        Splits { partials, counters: b.counters(s.rows * c.num_key_value_heads) }
    });
    Box::new(PagedAttention { q, k, v, block_tables, seq_of_row, visible, y, splits })
}

fn o_proj(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.text_add(b, s.text.q_dim())
}

fn quantize_attended(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.quantized(b, s.rows, s.text.q_dim())
}

fn quantize_ffn(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.quantized(b, s.rows, s.text.intermediate_size)
}

fn gather_ffn(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let shape = [s.rows, s.text.intermediate_size];
    let (x, order) = (b.random(s.dtype, &shape, 1.0), b.table(&scattered(shape[1])));
    Box::new(Gather { x, order, y: b.output(s.dtype, &shape, Tolerance::Exact) })
}

fn quantize_patches(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.quantized(b, s.rows, s.vision.embed_dim)
}

fn quantize_mlp(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.quantized(b, s.rows, s.vision.mlp_dim)
}

fn quantize_merger(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.quantized(b, s.merged_rows(), s.vision.merged_dim())
}

fn gate_up(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (d, f) = (s.text.hidden_size, s.text.intermediate_size);
    let x = b.input(s.format, s.dtype, &[s.rows, d], 1.0);
    let weight = b.operand(s.format, s.dtype, &[(f, d), (f, d)], scale(d));
    // As in the cases of the op.
    let y = b.output(s.dtype, &[s.rows, f], s.rounded(s.format, d, 8.0));
    Box::new(GateUp { x, weight, y })
}

fn down_proj(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.text_add(b, s.text.intermediate_size)
}

fn lm_head(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (l, d, v) = (&s.step.layout, s.text.hidden_size, s.text.vocab_size);
    let x = b.random(s.dtype, &[s.rows, d], 1.0);
    let rows = b.indices(s.step.i32s(&l.sample_rows));
    let format = if matches!(s.format, Format::W8A16 { .. }) { s.format } else { Format::Float };
    let weight = b.operand(format, s.dtype, &[(v, d)], scale(d));
    let logits = b.output(DType::F32, &[l.shape.samples, v], s.rounded(format, d, 1.0));
    let bests = Some(b.zeros(DType::I64, &[l.shape.samples], Tolerance::Anything));
    Box::new(LmHead { x, rows, weight, logits, bests })
}

fn sample(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (l, v) = (&s.step.layout, s.text.vocab_size);
    let logits = b.random(DType::F32, &[s.rows, v], 8.0);
    let reals = b.bytes(DType::F32, &[s.rows, 4], bytemuck::cast_slice(s.step.f32s(&l.sample_f32)));
    let ints = b.bytes(DType::I32, &[s.rows, 5], bytemuck::cast_slice(s.step.i32s(&l.sample_i32)));
    let marks: Vec<u8> = (0..s.rows * v).map(|i| u8::from(i % 1000 == 0)).collect();
    let seen = b.bytes(DType::U8, &[s.rows, v], &marks);
    let ids = b.output(DType::I32, &[s.rows], Tolerance::Exact);
    // Not read where there is a penalty.
    let bests = b.zeros(DType::I64, &[s.rows], Tolerance::Exact);
    Box::new(Sample { logits, bests, reals, ints, seen, ids })
}

fn patch_embed(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (n, k, norm) = (s.vision.embed_dim, s.vision.patch_dim(), Some(NormKind::Layer));
    // Its inputs are pixels: it stays as it is.
    let format = Format::Float;
    s.linear(b, s.rows, Form { n, k, bias: false, activation: None, store: Store::Set, norm, format })
}

fn qkv_rope_2d(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (width, d) = (s.vision.embed_dim, s.vision.head_dim);
    let x = b.input(s.format, s.dtype, &[s.rows, width], 1.0);
    let weight = b.operand(s.format, s.dtype, &[(3 * width, width)], scale(width));
    let bias = b.weight(s.dtype, &[(3 * width, 1)], 0.5);
    let positions: Vec<i32> = (0..s.rows).flat_map(|i| [(i / SIDE) as i32, (i % SIDE) as i32]).collect();
    let positions = b.indices(&positions);
    // As in the cases of the op.
    let qkv = b.output(s.dtype, &[s.rows, 3 * width], s.rounded(s.format, width, 4.0));
    let rope = Rope2d { inv_freq: b.table(&inv_freq(1e4, d / 2)) };
    Box::new(QkvRope2d { x, weight, bias, rope, positions, head_dim: d, qkv })
}

fn vision_attention(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (width, head_dim) = (s.vision.embed_dim, s.vision.head_dim);
    let qkv = b.random(s.dtype, &[s.rows, 3 * width], 1.0);
    let cu_seqlens = b.indices(&[0, s.rows as i32]);
    let y = b.output(s.dtype, &[s.rows, width], attention_tolerance(s.dtype, head_dim, [1.0; 3], s.rows));
    Box::new(VisionAttention { qkv, cu_seqlens, head_dim, pairs: (s.rows as u64).pow(2), y })
}

fn vision_proj(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.vision_add(b, s.vision.embed_dim)
}

fn fc1(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (n, k, activation) = (s.vision.mlp_dim, s.vision.embed_dim, Some(Activation::QuickGelu));
    s.linear(b, s.rows, Form { n, k, bias: true, activation, store: Store::Set, norm: None, format: s.format })
}

fn fc2(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    s.vision_add(b, s.vision.mlp_dim)
}

fn merger0(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (k, activation) = (s.vision.merged_dim(), Some(Activation::Gelu));
    s.linear(
        b,
        s.merged_rows(),
        Form { n: k, k, bias: true, activation, store: Store::Set, norm: None, format: s.format },
    )
}

fn merger2(s: &Shape, b: &mut CaseBuilder) -> Box<dyn Op> {
    let (n, k) = (s.vision.hidden_size, s.vision.merged_dim());
    s.linear(
        b,
        s.merged_rows(),
        Form { n, k, bias: true, activation: None, store: Store::Set, norm: None, format: s.format },
    )
}
