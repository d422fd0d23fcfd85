//! Draws the next token of every sampled row: penalty, temperature, top-k, top-p, min-p, in transformers' order.
//!
//! A row's random number depends on its seed and its token count alone (Philox 4x32-10, Salmon et al. 2011), so a request draws the same tokens
//! in any batch. The surprise: unusable logits are reported as id -1, not as an error; an op has no way to fail.

use super::case::{Case, CaseBuilder, Tolerance};
use super::{Cost, Op, Result, require, require_dim, require_index};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::hostmem::OpMem;
use crate::launch::{Kernel, Launch};
use crate::step::{HostStep, RowSampling, StepShape};
use crate::tensor::Tensor;
use crate::weights::WeightSet;

/// `ids[s]` drawn from `logits[s]`, or -1 if a logit is NaN or infinite; marks the token as seen.
#[derive(Debug)]
pub struct Sample {
    /// f32 `[S, V]`
    pub logits: Tensor,
    /// i64 `[S]`: each row's best token as [`LmHead`](super::lm_head::LmHead) found it; zero after.
    pub bests: Tensor,
    /// f32 `[S, 4]`, see [`StepLayout`](crate::step::StepLayout).
    pub reals: Tensor,
    /// i32 `[S, 5]`
    pub ints: Tensor,
    /// 1 where a state row has seen a token, u8 `[state rows, V]`.
    pub seen: Tensor,
    /// i32 `[S]`
    pub ids: Tensor,
}

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn check(&self, _: &WeightSet) -> Result<()> {
        let (name, s) = (self.name(), self.logits.rows());
        require(name, self.logits.dtype == DType::F32, || format!("{}: logits are f32", self.logits))?;
        require(name, self.reals.dtype == DType::F32 && self.reals.shape() == [s, 4], || format!("{}", self.reals))?;
        require(name, self.seen.dtype == DType::U8, || format!("{}: one byte a token", self.seen))?;
        super::require_bests(name, &self.bests, s)?;
        require_dim(name, "V of seen", self.seen.cols(), self.logits.cols())?;
        require_index(name, &self.ints, 5 * s)?;
        require_index(name, &self.ids, s)
    }

    fn launch(&self) -> Launch {
        Launch::new("sample")
            .read(&self.logits)
            .update(&self.bests)
            .read(&self.reals)
            .read(&self.ints)
            .update(&self.seen)
            .write(&self.ids)
            .i32(self.logits.cols())
    }

    /// A block of 1024 threads per row.
    fn kernel(&self) -> Result<Kernel> {
        Ok(Kernel { entry: "sample".into(), grid: [self.logits.rows() as u32, 1, 1], block: 1024, smem: 0 })
    }

    fn reference(&self, m: &OpMem) {
        self.fill(m, |_, logits, seen, row| draw(logits, seen, row));
        m.write::<i64>(&self.bests).fill(0);
    }

    fn cpu(&self, m: &OpMem, _: &Cpu) {
        let bests = m.write::<i64>(&self.bests);
        self.fill(m, |s, logits, seen, row| match row.is_greedy() && row.repetition_penalty == 1.0 {
            true => best_id(bests[s]),
            false => draw(logits, seen, row),
        });
        bests.fill(0);
    }

    fn cost(&self, step: &HostStep, _: &WeightSet) -> Cost {
        let bytes: usize = self.readings(step).map(|(times, bytes)| times.min(1) * bytes).sum();
        Cost { bytes: (bytes + self.ids.elements() * 4) as u64, flops: 0 }
    }

    fn tiled_bytes(&self, step: &HostStep, _: &WeightSet) -> u64 {
        let bytes: usize = self.readings(step).map(|(times, bytes)| times * bytes).sum();
        (bytes + self.ids.elements() * 4) as u64
    }
}

impl Sample {
    /// Gives every row the token that `pick` finds from its number, its logits, the tokens it has seen and its parameters.
    fn fill(&self, m: &OpMem, pick: impl Fn(usize, &[f32], &[u8], &RowSampling) -> i32) {
        let (logits, v) = (m.read::<f32>(&self.logits), self.logits.cols());
        let (reals, ints) = (m.read::<f32>(&self.reals), m.read::<i32>(&self.ints));
        let (seen, ids) = (m.write::<u8>(&self.seen), m.write::<i32>(&self.ids));
        for (s, id) in ids.iter_mut().enumerate() {
            let row = RowSampling::from_device(&reals[4 * s..][..4], &ints[5 * s..][..5]);
            let seen = &mut seen[row.state_row as usize * v..][..v];
            *id = pick(s, &logits[s * v..][..v], seen, &row);
            if let Ok(token) = usize::try_from(*id) {
                seen[token] = 1;
            }
        }
    }

    /// For each row of a step: how often a device reads its logits, and the bytes of one reading, with the marks that a penalty asks for.
    fn readings(&self, step: &HostStep) -> impl Iterator<Item = (usize, usize)> {
        let (v, l) = (self.logits.cols(), &step.layout);
        let rows = step.f32s(&l.sample_f32).chunks(4).zip(step.i32s(&l.sample_i32).chunks(5));
        rows.map(move |(reals, ints)| {
            let row = RowSampling::from_device(reals, ints);
            let penalised = row.repetition_penalty != 1.0;
            (usize::from(penalised) + passes(&row, v), v * if penalised { 5 } else { 4 })
        })
    }
}

/// How often a device reads a row's logits to draw from them: three times for each place in their order, once for each sum and for the id.
fn passes(row: &RowSampling, v: usize) -> usize {
    if row.is_greedy() {
        return 0;
    }
    let top_k = if (1..v as i32).contains(&row.top_k) { 3 } else { 0 };
    let top_p = if row.top_p < 1.0 { 3 } else { 0 };
    // The sum of what top-k keeps, the drawn place, and the id at it.
    top_k + 1 + top_p + usize::from(row.min_p > 0.0) + 3 + 1
}

/// One row's token, or -1.
fn draw(logits: &[f32], seen: &[u8], row: &RowSampling) -> i32 {
    if logits.iter().any(|x| !x.is_finite()) {
        return -1;
    }
    let penalised = logits.iter().zip(seen).map(|(&x, &seen)| penalise(x, seen != 0, row.repetition_penalty));
    choose(penalised.zip(0..), row).map_or(-1, |id| id as i32)
}

/// The token that a row draws among `candidates`, each with its logit after all penalties, by ascending id; none if there is no candidate.
/// Where the host draws, it draws with this.
pub fn choose(candidates: impl Iterator<Item = (f32, u32)>, row: &RowSampling) -> Option<u32> {
    if row.is_greedy() {
        return argmax(candidates);
    }
    // In f64 a tiny temperature does not turn finite logits into infinities.
    let mut kept: Vec<(f64, u32)> = candidates.map(|(x, id)| (f64::from(x) / row.temperature as f64, id)).collect();
    // Most probable first, ties by id: the order that every later step depends on.
    kept.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    keep_top_k(&mut kept, row.top_k as usize);
    soften(&mut kept);
    keep_top_p(&mut kept, row.top_p as f64);
    let threshold = row.min_p as f64 * kept.first()?.0;
    kept.retain(|(p, _)| *p >= threshold);
    Some(pick(&kept, uniform(row.seed, row.counter as u32)))
}

/// Keskar et al. 2019, as transformers applies it, in f32: positive logits are divided, negative ones multiplied.
pub fn penalise(x: f32, seen: bool, penalty: f32) -> f32 {
    match (seen, x > 0.0) {
        (false, _) => x,
        (true, true) => x / penalty,
        (true, false) => x * penalty,
    }
}

/// The first of the largest.
fn argmax(candidates: impl Iterator<Item = (f32, u32)>) -> Option<u32> {
    candidates.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, id)| id)
}

/// Keeps the `k` largest and what equals the last of them, as transformers does; 0 keeps all.
fn keep_top_k(kept: &mut Vec<(f64, u32)>, k: usize) {
    if let Some(&(last, _)) = k.checked_sub(1).and_then(|i| kept.get(i)) {
        kept.truncate(kept.partition_point(|(x, _)| *x >= last));
    }
}

/// Turns sorted logits into probabilities.
fn soften(kept: &mut [(f64, u32)]) {
    let top = kept.first().map_or(0.0, |k| k.0);
    kept.iter_mut().for_each(|k| k.0 = (k.0 - top).exp());
    let total: f64 = kept.iter().map(|k| k.0).sum();
    kept.iter_mut().for_each(|k| k.0 /= total);
}

/// Keeps the fewest most probable tokens whose sum reaches `p`, at least one.
fn keep_top_p(kept: &mut Vec<(f64, u32)>, p: f64) {
    if p >= 1.0 {
        return;
    }
    let mut sum = 0.0;
    let enough = kept.iter().position(|k| {
        sum += k.0;
        sum >= p
    });
    kept.truncate(enough.map_or(kept.len(), |i| i + 1));
}

fn pick(kept: &[(f64, u32)], u: f64) -> u32 {
    let target = u * kept.iter().map(|k| k.0).sum::<f64>();
    let mut sum = 0.0;
    let found = kept.iter().find(|k| {
        sum += k.0;
        sum > target
    });
    found.unwrap_or(&kept[kept.len() - 1]).1
}

/// A number in 0..1 from the first two words of Philox 4x32-10.
fn uniform(seed: u64, counter: u32) -> f64 {
    let [a, b, ..] = philox([counter, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    (((a as u64) << 32 | b as u64) >> 11) as f64 * 2f64.powi(-53)
}

/// Philox 4x32 with ten rounds (Salmon et al. 2011, section 3.3).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = counter[0] as u64 * 0xD251_1F53;
        let b = counter[2] as u64 * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// What `lm_head` leaves of a row's logits, of which these begin at id `first`: the order of the best one above, its id's complement below (`candidate`
/// in `kernels/common.cuh`).
pub fn best(first: usize, logits: &[f32]) -> u64 {
    let ordered = |x: f32| if x.is_sign_negative() { !x.to_bits() } else { x.to_bits() | 1 << 31 };
    let key = |x: f32| if x.is_finite() { ordered(x) } else { u32::MAX };
    let candidates = logits.iter().zip(first as u32..).map(|(&x, id)| u64::from(key(x)) << 32 | u64::from(!id));
    candidates.max().unwrap_or(0)
}

/// The id in what [`best`] packed, or -1 if a logit was unusable.
fn best_id(best: i64) -> i32 {
    if (best as u64 >> 32) as u32 == u32::MAX { -1 } else { !(best as u32) as i32 }
}

/// Greedy, every filter, and unusable logits.
pub fn cases() -> Vec<Case> {
    let case = |label: &str, rows: &[RowSampling], poison: Option<f32>| {
        let v = 97;
        let mut b = CaseBuilder::new(label);
        let mut step = HostStep::new(StepShape { rows: 1, seqs: 1, blocks: 1, samples: rows.len() });
        rows.iter().enumerate().for_each(|(i, r)| step.set_sampling(i, r));
        let logits = match poison {
            None => b.random(DType::F32, &[rows.len(), v], 4.0),
            Some(x) => b.bytes(DType::F32, &[rows.len(), v], bytemuck::cast_slice(&vec![x; rows.len() * v])),
        };
        let bests: Vec<i64> = b.values(&logits).chunks(v).map(|row| best(0, row) as i64).collect();
        let bests = b.changed(DType::I64, &[rows.len()], bytemuck::cast_slice(&bests), Tolerance::Exact);
        let layout = step.layout;
        let reals = b.bytes(DType::F32, &[rows.len(), 4], bytemuck::cast_slice(step.f32s(&layout.sample_f32)));
        let ints = b.bytes(DType::I32, &[rows.len(), 5], bytemuck::cast_slice(step.i32s(&layout.sample_i32)));
        let marks: Vec<u8> = (0..3 * v).map(|i| u8::from(i % 3 == 0)).collect();
        let seen = b.bytes(DType::U8, &[3, v], &marks);
        let ids = b.output(DType::I32, &[rows.len()], Tolerance::Exact);
        b.finish_with_step(Sample { logits, bests, reals, ints, seen, ids }, step)
    };
    let hot = RowSampling { temperature: 0.8, seed: 7, ..RowSampling::default() };
    vec![
        case("greedy", &[RowSampling::default()], None),
        case("penalty", &[RowSampling { repetition_penalty: 1.5, state_row: 2, ..RowSampling::default() }], None),
        case(
            "filters",
            &[RowSampling { top_k: 20, top_p: 0.9, min_p: 0.05, ..hot }, RowSampling { state_row: 1, ..hot }],
            None,
        ),
        case("top-k", &[RowSampling { top_k: 5, repetition_penalty: 1.2, counter: 3, ..hot }], None),
        case("top-p", &[RowSampling { top_p: 0.5, counter: 9, ..hot }, RowSampling { top_p: 0.0, ..hot }], None),
        case("min-p", &[RowSampling { min_p: 0.3, temperature: 2.0, counter: 11, ..hot }], None),
        // Every logit alike: the order is that of the ids.
        case("ties", &[RowSampling { top_p: 0.35, counter: 4, ..hot }], Some(1.5)),
        case("nan", &[hot], Some(f32::NAN)),
        case("infinite", &[RowSampling::default()], Some(f32::INFINITY)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' library (Random123, kat_vectors, philox4x32-10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|x: &f32| (*x as f64).exp()).sum();
        let n = 20_000;
        let mut counts = [0.0; 4];
        for counter in 0..n {
            let row = RowSampling { temperature: 1.0, counter, seed: 3, ..RowSampling::default() };
            counts[draw(&logits, &[0; 4], &row) as usize] += 1.0;
        }
        for (count, x) in counts.iter().zip(logits) {
            let p = (x as f64).exp() / total;
            // Four standard deviations of a binomial count.
            let slack = 4.0 * (n as f64 * p * (1.0 - p)).sqrt();
            assert!((count - n as f64 * p).abs() < slack, "{count} of {n}, expected {p}");
        }
    }

    #[test]
    fn top_k_keeps_what_equals_the_last() {
        let mut kept = vec![(3.0, 5), (2.0, 1), (2.0, 4), (1.0, 0)];
        keep_top_k(&mut kept, 2);
        assert_eq!(kept, [(3.0, 5), (2.0, 1), (2.0, 4)]);
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_does_not_overflow() {
        let row = RowSampling { temperature: 1e-38, repetition_penalty: 0.01, ..RowSampling::default() };
        assert_eq!(draw(&[3.0, 4.0, -2.0], &[0; 3], &row), 1);
        assert_eq!(draw(&[3.0, 4.0, -2.0], &[1; 3], &row), 1);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_border() {
        let mut kept = vec![(0.5, 3), (0.3, 1), (0.2, 0)];
        keep_top_p(&mut kept, 0.6);
        assert_eq!(kept.len(), 2);
        keep_top_p(&mut kept, 0.0);
        assert_eq!(kept.len(), 1);
    }
}
