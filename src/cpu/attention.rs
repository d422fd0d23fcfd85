//! Attention with an online softmax, over rows or over blocks of a paged cache, with any number of query heads for a kv head.
//!
//! Owns the order of its sums. Tokens come in tiles of [`TILE`] and runs of [`RUN`], both at absolute multiples. Inside a tile a score is one chain over d,
//! and an output one chain over the tokens; a tile rescales what the tiles of its run before it gave; runs are merged in ascending order.
//! The surprise: a row takes these steps wherever it is, in a prefill of any chunking, in an image, or alone in a decode step cut by runs over
//! the threads, so its bits depend on its own query and tokens alone. Masked tokens are zeros at the end of a chain, which change nothing.

use super::gemm::{MAX_ROWS, Outer, row_blocks};
use super::gemv::{Gemv, MAX_ROWS as FEW, padded};
use super::math::exp;
use super::panel::{Pack, PackRows, with_cache};
use super::simd::{Kernel, LANES, Lane16, Simd};
use super::{BLOCK, Cpu, Epilogue, Tile, carve};
use crate::dtype::DType;
use bytemuck::{cast_slice, cast_slice_mut};
use std::marker::PhantomData;
use std::ops::Range;

/// Tokens of a tile: 256 keys and values of 128 floats are 256 KiB, a quarter of L2. Shorter tiles wait more for sums over lanes.
const TILE: usize = 256;
/// Tokens of a run: what one task of a decode step reads.
const RUN: usize = 1024;
/// Rows (tokens times heads of a group) of a task: turning a tile's keys costs as much as 7 rows.
const ROWS: usize = 256;
const TILE_VECTORS: usize = TILE / LANES;
/// Vectors from one panel of values to the next: at [`TILE`] (16 KiB) the parts of a value would all share one set of L1.
const VALUE_PANEL: usize = TILE + 1;

/// The shape of a call.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads, a multiple of `kv`.
    pub query: usize,
    pub kv: usize,
    /// Values of a head, at most 256.
    pub dim: usize,
    /// Floats from one row of queries to the next; head h begins at `h * dim`.
    pub stride: usize,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// Keys and values in their storage (f32, bf16, f16 or int8, at any alignment).
#[derive(Debug, Clone, Copy)]
pub struct Kv<'a> {
    pub keys: &'a [u8],
    pub values: &'a [u8],
    pub dtype: DType,
    /// What int8 keys and values are multiplied with, one for each row of `dim`.
    pub scales: Option<[&'a [f32]; 2]>,
}

/// Where the keys (and, at the same offset, the values) of a sequence's tokens lie.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Token t is row `first + t`, rows are `stride` elements apart, head g begins at `g * dim`.
    Rows { first: usize, stride: usize },
    /// `[block][kv head][token][dim]`, token t in the block `table[t / tokens]`.
    Blocks { table: &'a [i32], tokens: usize },
}

/// Which tokens the rows of a sequence see.
#[derive(Debug, Clone, Copy)]
pub enum Mask {
    /// All rows see this many.
    All(usize),
    /// The first row sees this many, each next row one more.
    Causal(usize),
}

/// Rows of queries that share their keys and values.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    pub rows: Range<usize>,
    pub mask: Mask,
    pub place: Place<'a>,
}

impl Sequence<'_> {
    /// Tokens that a row sees.
    fn seen(&self, row: usize) -> usize {
        match self.mask {
            Mask::All(n) => n,
            Mask::Causal(first) => first + row - self.rows.start,
        }
    }
}

/// Attention of the rows of `q` that `sequences` name. `epilogue(query head, tile)` takes finished rows of one head on the thread that computed
/// them; a row's outputs are handed over once for each head. Every row must see a token.
pub fn attention(cpu: &Cpu, q: &[f32], heads: Heads, kv: Kv, sequences: &[Sequence], epilogue: Epilogue) {
    assert!(heads.dim <= BLOCK && heads.query.is_multiple_of(heads.kv), "{heads:?} is no shape of attention");
    let group = heads.query / heads.kv;
    let mut items = Vec::new();
    for sequence in sequences {
        let rows = sequence.rows.clone();
        assert!(rows.is_empty() || sequence.seen(rows.start) > 0, "a row sees no token");
        let count = rows.len().div_ceil((ROWS / group).max(1));
        for i in 0..count {
            let rows = rows.start + i * rows.len() / count..rows.start + (i + 1) * rows.len() / count;
            items.extend((0..heads.kv).map(|head| Item { cpu, q, heads, kv, sequence, head, rows: rows.clone() }));
        }
    }
    // The longest first, so that all threads end at about the same time.
    items.sort_by_key(|item| std::cmp::Reverse(item.rows.len() * item.tokens()));
    let runs = items.iter().map(Item::runs).max().unwrap_or(0);
    if runs > 1 && items.len() < 2 * cpu.threads() {
        return by_runs(cpu, &items, runs, epilogue);
    }
    cpu.for_each_with(items.len(), |scratch, i, _| {
        let item = &items[i];
        let size = item.state_size();
        let [total, state, work] = carve(scratch, [size, size, item.work_size()]);
        item.scale_queries(work);
        item.run(0, total, work);
        for run in 1..item.runs() {
            item.run(run, state, work);
            item.merge(total, state);
        }
        item.finish(total, epilogue);
    });
}

/// The same with a task for each run of each item, where there are few items, as for a row or two of a decode step.
fn by_runs(cpu: &Cpu, items: &[Item], runs: usize, epilogue: Epilogue) {
    let size = items.iter().map(Item::state_size).max().unwrap_or(0);
    let mut states = vec![Lane16::ZERO; items.len() * runs * size];
    let cells: Vec<_> = states.chunks_exact_mut(size).map(std::sync::Mutex::new).collect();
    cpu.for_each_with(cells.len(), |scratch, i, _| {
        let (item, run) = (&items[i / runs], i % runs);
        if run < item.runs() {
            let [work] = carve(scratch, [item.work_size()]);
            let mut state = cells[i].lock().expect("a task panicked");
            item.scale_queries(work);
            item.run(run, &mut state[..item.state_size()], work);
        }
    });
    drop(cells);
    for (item, states) in items.iter().zip(states.chunks_exact_mut(size * runs)) {
        let (total, states) = states.split_at_mut(size);
        let total = &mut total[..item.state_size()];
        for state in states.chunks_exact(size).take(item.runs() - 1) {
            item.merge(total, &state[..item.state_size()]);
        }
        item.finish(total, epilogue);
    }
}

/// Rows of one sequence, with the query heads of one kv head: `rows.len() * group` rows, ordered by token, then head.
struct Item<'a> {
    cpu: &'a Cpu,
    q: &'a [f32],
    heads: Heads,
    kv: Kv<'a>,
    sequence: &'a Sequence<'a>,
    head: usize,
    rows: Range<usize>,
}

/// What a row has after some tokens: the sum of its values weighted with `e^(score - top)`, and of the weights.
struct State<'a> {
    out: &'a mut [Lane16],
    top: &'a mut [f32],
    sum: &'a mut [f32],
}

impl Item<'_> {
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    fn tokens(&self) -> usize {
        self.sequence.seen(self.rows.end - 1)
    }

    fn runs(&self) -> usize {
        self.tokens().div_ceil(RUN)
    }

    /// Vectors of a head.
    fn vectors(&self) -> usize {
        self.heads.dim.div_ceil(LANES)
    }

    fn row_count(&self) -> usize {
        self.rows.len() * self.group()
    }

    fn state_size(&self) -> usize {
        self.row_count() * self.vectors() + 2 * self.row_count().div_ceil(LANES)
    }

    fn work_size(&self) -> usize {
        self.work_sizes().iter().sum()
    }

    /// Queries, keys as panels, values as panels, scores of a block.
    fn work_sizes(&self) -> [usize; 4] {
        let vectors = self.vectors();
        [
            padded(self.row_count()) * vectors,
            self.heads.dim * TILE_VECTORS,
            vectors * VALUE_PANEL,
            MAX_ROWS * TILE_VECTORS,
        ]
    }

    fn state<'s>(&self, memory: &'s mut [Lane16]) -> State<'s> {
        let rows = self.row_count();
        let (out, rest) = memory.split_at_mut(rows * self.vectors());
        let (top, sum) = cast_slice_mut::<_, f32>(rest).split_at_mut(rows.next_multiple_of(LANES));
        State { out, top: &mut top[..rows], sum: &mut sum[..rows] }
    }

    /// The state after the tokens of one run, from nothing. `work` begins with the scaled queries.
    fn run(&self, run: usize, state: &mut [Lane16], work: &mut [Lane16]) {
        let mut rest = work;
        let [queries, keys, values, scores] =
            self.work_sizes().map(|size| rest.split_off_mut(..size).expect("work has its size"));
        let (isa, depth, few, t) = (self.cpu.isa(), self.heads.dim, self.few(), padded(self.row_count()));
        let queries: &[f32] = cast_slice(queries);
        let mut state = self.state(state);
        state.top.fill(f32::NEG_INFINITY);
        state.sum.fill(0.0);
        state.out.fill(Lane16::ZERO);
        let (first, end) = (run * RUN, self.tokens().min((run + 1) * RUN));
        let (key_rows, value_rows) = self.token_rows(first..end);
        let scales = self.kv.scales.map(|of| of.map(|of| self.token_scales(of, first..end)));
        for start in (first..end).step_by(TILE) {
            let tokens = start..end.min(start + TILE);
            let (key_rows, value_rows) = (&key_rows[start - first..], &value_rows[start - first..]);
            with_cache!(self.kv.dtype, D => {
                let storage = PhantomData::<D>;
                let (rows, next) = key_rows.split_at(tokens.len());
                match few {
                    true => isa.run(Gemv { a: &queries[..t * depth], t, rows, next, c: scores, storage }),
                    false => {
                        let panels = &mut keys[..tokens.len().div_ceil(LANES) * depth];
                        isa.run(Pack { rows: key_rows, first_step: 0, depth, panels, storage })
                    }
                }
                let count = tokens.len();
                isa.run(PackRows { rows: value_rows, count, panels: values, panel: VALUE_PANEL, storage });
            });
            let vector = (start - first) / LANES;
            let tile = Tokens { tokens, scales: scales.as_ref().map(|of| of.each_ref().map(|of| &of[vector..])) };
            match few {
                true => self.weigh(0..self.row_count(), &tile, scores, values, &mut state),
                false => self.score_and_weigh(&tile, queries, keys, values, scores, &mut state),
            }
        }
    }

    /// Whether the keys are turned in registers, as the weights of a decode product.
    fn few(&self) -> bool {
        self.row_count() <= FEW && self.cpu.isa().turns()
    }

    /// Puts queries times the scale where `work` begins: `[row][dim]`, rows `vectors` apart, or interleaved where they are few, `[dim][lanes]`.
    fn scale_queries(&self, work: &mut [Lane16]) {
        let (group, dim, row_step) = (self.group(), self.heads.dim, self.vectors() * LANES);
        let queries: &mut [f32] = cast_slice_mut(&mut work[..self.work_sizes()[0]]);
        let lanes = padded(self.row_count());
        if self.few() {
            queries.fill(0.0);
        }
        for i in 0..self.row_count() {
            let at = (self.rows.start + i / group) * self.heads.stride + (self.head * group + i % group) * dim;
            let scaled = self.q[at..at + dim].iter().map(|q| q * self.heads.scale);
            match self.few() {
                true => queries[i..].iter_mut().step_by(lanes).zip(scaled).for_each(|(to, q)| *to = q),
                false => queries[i * row_step..].iter_mut().zip(scaled).for_each(|(to, q)| *to = q),
            }
        }
    }

    /// The keys and values of some tokens.
    fn token_rows(&self, tokens: Range<usize>) -> (Vec<&[u8]>, Vec<&[u8]>) {
        let size = self.kv.dtype.size();
        let mut keys = Vec::with_capacity(tokens.len());
        let mut values = Vec::with_capacity(tokens.len());
        while keys.len() < tokens.len() {
            let (first, step, length) = self.stretch(tokens.start + keys.len());
            for i in 0..length.min(tokens.len() - keys.len()) {
                let at = (first + i * step) * size;
                keys.push(&self.kv.keys[at..at + self.heads.dim * size]);
                values.push(&self.kv.values[at..at + self.heads.dim * size]);
            }
        }
        (keys, values)
    }

    /// The scales of some tokens, with zeros behind them up to a whole vector.
    fn token_scales(&self, of: &[f32], tokens: Range<usize>) -> Vec<Lane16> {
        let mut scales = vec![Lane16::ZERO; tokens.len().div_ceil(LANES)];
        let to: &mut [f32] = cast_slice_mut(&mut scales);
        to.iter_mut().zip(tokens).for_each(|(to, token)| *to = of[self.stretch(token).0 / self.heads.dim]);
        scales
    }

    fn score_and_weigh(
        &self,
        tile: &Tokens,
        queries: &[f32],
        keys: &[Lane16],
        values: &[Lane16],
        scores: &mut [Lane16],
        state: &mut State,
    ) {
        let tokens = &tile.tokens;
        let (isa, depth, ld) = (self.cpu.isa(), self.heads.dim, tokens.len().div_ceil(LANES));
        for rows in row_blocks(isa, self.row_count()) {
            let mut a: [&[f32]; MAX_ROWS] = [&[]; MAX_ROWS];
            let stride = self.vectors() * LANES;
            a.iter_mut().zip(rows.clone()).for_each(|(a, row)| *a = &queries[row * stride..][..depth]);
            let panels = self.deepest(&rows, tokens).div_ceil(LANES);
            if panels > 0 {
                let panels = &keys[..panels * depth];
                Outer { a: &a[..rows.len()], depth, panels, panel: depth, keep: None, c: scores, ld }.run(isa);
                self.weigh(rows, tile, scores, values, state);
            }
        }
    }

    /// Tokens of a tile that a row sees.
    fn seen(&self, row: usize, tokens: &Range<usize>) -> usize {
        let all = self.sequence.seen(self.rows.start + row / self.group());
        all.saturating_sub(tokens.start).min(tokens.len())
    }

    /// The most that one of the rows sees.
    fn deepest(&self, rows: &Range<usize>, tokens: &Range<usize>) -> usize {
        rows.clone().map(|row| self.seen(row, tokens)).max().unwrap_or(0)
    }

    /// Adds the values of a tile to a block of rows, whose scores are given.
    fn weigh(&self, rows: Range<usize>, tile: &Tokens, scores: &mut [Lane16], values: &[Lane16], state: &mut State) {
        let Tokens { tokens, scales } = tile;
        let (isa, depth, ld) = (self.cpu.isa(), self.deepest(&rows, tokens), tokens.len().div_ceil(LANES));
        let mut seen = [0; MAX_ROWS];
        seen.iter_mut().zip(rows.clone()).for_each(|(seen, row)| *seen = self.seen(row, tokens));
        let (seen, mut keep) = (&seen[..rows.len()], [1.0; MAX_ROWS]);
        let (top, sum) = (&mut state.top[rows.clone()], &mut state.sum[rows.clone()]);
        isa.run(Softmax { scores, ld, scales: *scales, seen, top, sum, keep: &mut keep });
        let scores: &[f32] = cast_slice(scores);
        let mut a: [&[f32]; MAX_ROWS] = [&[]; MAX_ROWS];
        a.iter_mut().zip(scores.chunks(ld * LANES)).take(rows.len()).for_each(|(a, row)| *a = row);
        let c = &mut state.out[rows.start * self.vectors()..];
        let (a, keep) = (&a[..rows.len()], Some(&keep));
        Outer { a, depth, panels: values, panel: VALUE_PANEL, keep, c, ld: self.vectors() }.run(isa);
    }

    /// Where a token's key and value are: element offset, distance to the next token's, and for how many tokens that holds.
    fn stretch(&self, token: usize) -> (usize, usize, usize) {
        let dim = self.heads.dim;
        match self.sequence.place {
            Place::Rows { first, stride } => ((first + token) * stride + self.head * dim, stride, usize::MAX),
            Place::Blocks { table, tokens } => {
                let block = table[token / tokens] as usize * self.heads.kv + self.head;
                ((block * tokens + token % tokens) * dim, dim, tokens - token % tokens)
            }
        }
    }

    /// Adds the state of the next run to `total`.
    fn merge(&self, total: &mut [Lane16], next: &[Lane16]) {
        let mut next = next.to_vec();
        let (a, b) = (self.state(total), self.state(&mut next));
        self.cpu.isa().run(Merge { a, b, vectors: self.vectors() });
    }

    fn finish(&self, total: &mut [Lane16], epilogue: Epilogue) {
        let (group, vectors) = (self.group(), self.vectors());
        let State { out, sum, .. } = self.state(total);
        for (row, sum) in out.chunks_exact_mut(vectors).zip(sum) {
            let scale = 1.0 / *sum;
            row.iter_mut().for_each(|v| v.0.iter_mut().for_each(|x| *x *= scale));
        }
        let out: &mut [f32] = cast_slice_mut(out);
        let (rows, cols, ld) = (self.rows.len(), self.heads.dim, vectors * LANES);
        for h in 0..group {
            let tile = &mut Tile { row0: self.rows.start, rows, cols, data: &mut out[h * ld..], ld: group * ld };
            epilogue(self.head * group + h, tile);
        }
    }
}

/// The tokens of a tile, and what their int8 keys and values are multiplied with.
struct Tokens<'a> {
    tokens: Range<usize>,
    scales: Option<[&'a [Lane16]; 2]>,
}

/// Turns the scores of a block of rows into weights, and says what the earlier outputs are to be multiplied with.
struct Softmax<'a> {
    /// Rows of `ld` vectors.
    scores: &'a mut [Lane16],
    ld: usize,
    /// Of keys, which scores are multiplied with first, and of values, which weights are multiplied with last.
    scales: Option<[&'a [Lane16]; 2]>,
    seen: &'a [usize],
    top: &'a mut [f32],
    sum: &'a mut [f32],
    keep: &'a mut [f32; MAX_ROWS],
}

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, &seen) in self.seen.iter().enumerate() {
            let row = &mut self.scores[r * self.ld..][..self.ld];
            if let Some([keys, _]) = self.scales {
                multiply(s, row, keys);
            }
            cast_slice_mut::<_, f32>(row)[seen..].fill(f32::NEG_INFINITY);
            if seen == 0 {
                row.fill(Lane16::ZERO);
                continue;
            }
            let mut top = s.splat(self.top[r]);
            for v in row.iter() {
                top = s.max(top, s.load(&v.0));
            }
            let top = s.top(top);
            let mut sum = s.splat(0.0);
            for v in row.iter_mut() {
                let weight = exp(s, s.sub(s.load(&v.0), s.splat(top)));
                sum = s.add(sum, weight);
                s.store(weight, &mut v.0);
            }
            let keep = exp_one(s, self.top[r] - top);
            self.keep[r] = keep;
            self.sum[r] = self.sum[r].mul_add(keep, s.sum(sum));
            self.top[r] = top;
            if let Some([_, values]) = self.scales {
                multiply(s, row, values);
            }
        }
    }
}

#[inline(always)]
fn multiply<S: Simd>(s: S, row: &mut [Lane16], by: &[Lane16]) {
    for (v, by) in row.iter_mut().zip(by) {
        s.store(s.mul(s.load(&v.0), s.load(&by.0)), &mut v.0);
    }
}

/// Adds state `b` to state `a`, at the larger top of the two.
struct Merge<'a> {
    a: State<'a>,
    b: State<'a>,
    vectors: usize,
}

impl Kernel for Merge<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Merge { a, b, vectors } = self;
        for r in 0..a.top.len() {
            let top = if b.top[r] > a.top[r] { b.top[r] } else { a.top[r] };
            let (keep, scale) = (exp_one(s, a.top[r] - top), exp_one(s, b.top[r] - top));
            a.top[r] = top;
            a.sum[r] = a.sum[r].mul_add(keep, b.sum[r] * scale);
            let range = r * vectors..(r + 1) * vectors;
            for (to, add) in a.out[range.clone()].iter_mut().zip(&b.out[range]) {
                let add = s.mul(s.load(&add.0), s.splat(scale));
                s.store(s.fma(s.load(&to.0), s.splat(keep), add), &mut to.0);
            }
        }
    }
}

#[inline(always)]
fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}
