//! `StepInputs`: everything that changes between two steps of the decoder, in one region that one copy overwrites.
//!
//! A plan holds tensors into this region; it never holds a length, a position or a slot itself. A row is one token of one sequence.
//! Padding rows have `visible` 0 and `slot` -1: they write nothing.

use crate::dtype::DType;
use crate::tensor::{Region, Tensor};

/// How many rows, sequences, table entries and sampled rows a step has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// Token rows `T`.
    pub rows: usize,
    /// Sequences `B`.
    pub seqs: usize,
    /// Block-table entries per sequence.
    pub blocks: usize,
    /// Rows whose logits are wanted `S`.
    pub samples: usize,
}

impl StepShape {
    /// True if every sequence has one row: a decode step, or a prompt's last token alone.
    pub fn is_decode(&self) -> bool {
        self.rows == self.seqs
    }
}

/// Sampling parameters of one sampled row, as the device reads them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSampling {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    /// 0 is no limit.
    pub top_k: i32,
    /// Which row of seen tokens in `State` belongs to the sequence.
    pub state_row: i32,
    pub seed: u64,
    /// Counts the tokens drawn by this request: one random number each.
    pub counter: i32,
}

impl RowSampling {
    /// True if the most probable token is taken, whatever the other parameters say.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.top_k == 1
    }

    /// The row as the device reads it: `[4]` reals and `[5]` integers of the step.
    pub fn from_device(reals: &[f32], ints: &[i32]) -> Self {
        RowSampling {
            temperature: reals[0],
            top_p: reals[1],
            min_p: reals[2],
            repetition_penalty: reals[3],
            top_k: ints[0],
            state_row: ints[1],
            seed: (ints[3] as u32 as u64) << 32 | ints[2] as u32 as u64,
            counter: ints[4],
        }
    }
}

impl Default for RowSampling {
    fn default() -> Self {
        RowSampling {
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            top_k: 0,
            state_row: 0,
            seed: 0,
            counter: 0,
        }
    }
}

/// The tensors of a step inside the `Step` region, fixed by its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLayout {
    pub shape: StepShape,
    /// Token ids, i32 `[T]`.
    pub ids: Tensor,
    /// Row of the `Embeds` region that replaces the token's embedding, or -1; i32 `[T]`.
    pub embed_rows: Tensor,
    /// M-RoPE positions (t, h, w), i32 `[3, T]`.
    pub positions: Tensor,
    /// KV slot (block x block size + offset) that the row writes, or -1; i32 `[T]`.
    pub slots: Tensor,
    /// The row's sequence, i32 `[T]`.
    pub seq_of_row: Tensor,
    /// KV tokens the row sees, itself included; i32 `[T]`.
    pub visible: Tensor,
    /// KV block ids, i32 `[B, blocks]`.
    pub block_tables: Tensor,
    /// Rows whose logits are wanted, i32 `[S]`.
    pub sample_rows: Tensor,
    /// Temperature, top-p, min-p, repetition penalty; f32 `[S, 4]`.
    pub sample_f32: Tensor,
    /// Top-k, state row, seed low, seed high, counter; i32 `[S, 5]`.
    pub sample_i32: Tensor,
}

impl StepLayout {
    /// Places the arrays of a step one after the other.
    pub fn new(shape: StepShape) -> Self {
        let mut end = 0;
        let mut place = |dtype: DType, dims: &[usize]| {
            let t = Tensor::at(Region::Step, end, dtype, dims);
            end = (end + t.bytes()).next_multiple_of(64);
            t
        };
        let StepShape { rows, seqs, blocks, samples } = shape;
        StepLayout {
            shape,
            ids: place(DType::I32, &[rows]),
            embed_rows: place(DType::I32, &[rows]),
            positions: place(DType::I32, &[3, rows]),
            slots: place(DType::I32, &[rows]),
            seq_of_row: place(DType::I32, &[rows]),
            visible: place(DType::I32, &[rows]),
            block_tables: place(DType::I32, &[seqs, blocks]),
            sample_rows: place(DType::I32, &[samples]),
            sample_f32: place(DType::F32, &[samples, 4]),
            sample_i32: place(DType::I32, &[samples, 5]),
        }
    }

    /// Bytes of the whole step.
    pub fn bytes(&self) -> usize {
        offset(&self.sample_i32) + self.sample_i32.bytes()
    }
}

fn offset(t: &Tensor) -> usize {
    match t.place {
        crate::tensor::Place::At { offset, .. } => offset,
        crate::tensor::Place::Temp { .. } => unreachable!("step tensors are fixed"),
    }
}

/// The host's copy of a step, in the layout of its [`StepLayout`].
#[derive(Debug, Clone)]
pub struct HostStep {
    pub layout: StepLayout,
    words: Vec<u64>,
}

impl HostStep {
    /// A step of padding rows only.
    pub fn new(shape: StepShape) -> Self {
        let layout = StepLayout::new(shape);
        let mut step = HostStep { layout, words: vec![0; layout.bytes().div_ceil(8)] };
        step.i32s_mut(&layout.slots).fill(-1);
        step.i32s_mut(&layout.embed_rows).fill(-1);
        step
    }

    /// The bytes to copy into the `Step` region.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.layout.bytes()]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }

    /// One of the layout's i32 arrays.
    pub fn i32s(&self, t: &Tensor) -> &[i32] {
        bytemuck::cast_slice(&self.bytes()[offset(t)..offset(t) + t.bytes()])
    }

    /// One of the layout's i32 arrays, to fill.
    pub fn i32s_mut(&mut self, t: &Tensor) -> &mut [i32] {
        bytemuck::cast_slice_mut(&mut self.bytes_mut()[offset(t)..offset(t) + t.bytes()])
    }

    /// One of the layout's f32 arrays.
    pub fn f32s(&self, t: &Tensor) -> &[f32] {
        bytemuck::cast_slice(&self.bytes()[offset(t)..offset(t) + t.bytes()])
    }

    /// Sets how sampled row `i` is drawn.
    pub fn set_sampling(&mut self, i: usize, s: &RowSampling) {
        let f = self.layout.sample_f32;
        let reals: &mut [f32] = bytemuck::cast_slice_mut(&mut self.bytes_mut()[offset(&f)..offset(&f) + f.bytes()]);
        reals[i * 4..][..4].copy_from_slice(&[s.temperature, s.top_p, s.min_p, s.repetition_penalty]);
        let ints = [s.top_k, s.state_row, s.seed as i32, (s.seed >> 32) as i32, s.counter];
        let t = self.layout.sample_i32;
        self.i32s_mut(&t)[i * 5..][..5].copy_from_slice(&ints);
    }
}
