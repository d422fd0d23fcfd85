//! The codes a group of weights may take, and the search for its scale.
//!
//! The surprise: a scale is rounded to the type that it is stored in before anything is measured with it, so that what was chosen is what a
//! reader computes.

use super::{Activations, Codes, Quantized};
use crate::data::TensorData;
use crate::dtype::{DType, Float};
use half::{bf16, f16};
use std::sync::Arc;

/// How far below the group's full range the search goes, and in how many steps: the least error of a Gaussian group of 128 lies above 0.6.
const SHRUNKEN: f32 = 0.5;
const STEPS: usize = 40;

/// The type of the scales beside codes of weights that are stored as `weights`.
pub fn scale_dtype(weights: DType) -> DType {
    if weights == DType::F16 { DType::F16 } else { DType::Bf16 }
}

/// Codes of a width, and what is stored beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// 4 or 8.
    pub bits: u32,
    /// Each group has a zero point; without, the middle code stands for zero.
    pub zeros: bool,
    /// bf16 or f16: what scales are stored in.
    pub scales: DType,
}

/// Scale and zero point of a group: a code stands for `scale * (code - zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub scale: f32,
    pub zero: u8,
}

impl Grid {
    /// The largest code.
    fn top(&self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    /// The code for zero where groups have no zero points.
    fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// A scale as it will be read: rounded, and never so small that it vanishes.
    fn stored(&self, scale: f32) -> f32 {
        match self.scales {
            DType::F16 => f16::from_f32(scale.min(f16::MAX.to_f32())).to_f32().max(f16::MIN_POSITIVE.to_f32()),
            _ => <bf16 as Float>::from_f32(scale).to_f32().max(f32::MIN_POSITIVE),
        }
    }

    /// The code whose value is nearest.
    pub fn code(&self, step: Step, w: f32) -> u8 {
        ((w / step.scale).round_ties_even() + step.zero as f32).clamp(0.0, self.top()) as u8
    }

    /// What a code stands for.
    pub fn value(step: Step, code: u8) -> f32 {
        step.scale * (code as i32 - step.zero as i32) as f32
    }

    /// The scale with the least squared error over shrunken ranges, each weight's error counted `moments[j]` times; the widest of equals.
    pub fn fit(&self, w: &[f32], moments: &[f32]) -> Step {
        let (low, high) = w.iter().fold((0.0f32, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)));
        if low == high {
            return Step { scale: self.stored(1.0), zero: self.middle() };
        }
        // An outlier is on one side: with zero points each end shrinks alone as well.
        let ends: &[[f32; 2]] = if self.zeros { &[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]] } else { &[[1.0, 1.0]] };
        let mut best = (f32::INFINITY, Step { scale: 1.0, zero: 0 });
        for (i, [down, up]) in (0..STEPS).flat_map(|i| ends.iter().map(move |ends| (i, ends))) {
            let less = SHRUNKEN * i as f32 / STEPS as f32;
            let step = self.step(low * (1.0 - less * down), high * (1.0 - less * up));
            let error = self.error(step, w, moments);
            if error < best.0 {
                best = (error, step);
            }
        }
        best.1
    }

    /// The step whose codes cover the range `low..high`.
    fn step(&self, low: f32, high: f32) -> Step {
        if !self.zeros {
            // The positive side has one code less.
            let scale = self.stored(high.max(-low) / (self.top() / 2.0).floor());
            return Step { scale, zero: self.middle() };
        }
        let scale = self.stored((high - low) / self.top());
        Step { scale, zero: (-low / scale).round_ties_even().clamp(0.0, self.top()) as u8 }
    }

    fn error(&self, step: Step, w: &[f32], moments: &[f32]) -> f32 {
        let (zero, inverse) = (step.zero as f32, 1.0 / step.scale);
        let (least, most) = (-zero, self.top() - zero);
        let of = |(w, m): (&f32, &f32)| {
            // Adding and taking off 1.5 * 2^23 rounds to the nearest integer, ties to even; it vectorises on every machine.
            const ROUND: f32 = 12_582_912.0;
            let code = ((w * inverse).clamp(least, most) + ROUND) - ROUND;
            let off = w - step.scale * code;
            m * off * off
        };
        w.iter().zip(moments).map(of).sum()
    }
}

/// A matrix while its codes are chosen, one in a byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Coded {
    pub n: usize,
    pub k: usize,
    /// Columns of a group.
    pub group: usize,
    pub grid: Grid,
    /// `[N, K]`
    pub codes: Vec<u8>,
    /// `[N, K / group]`
    pub steps: Vec<Step>,
}

impl Coded {
    /// `[N, K]`, nothing chosen yet.
    pub(super) fn new(n: usize, k: usize, group: usize, grid: Grid) -> Coded {
        assert!(group > 0 && k.is_multiple_of(group), "the caller has checked that groups of {group} divide {k}");
        let nothing = Step { scale: 0.0, zero: 0 };
        Coded { n, k, group, grid, codes: vec![0; n * k], steps: vec![nothing; n * (k / group)] }
    }

    /// What the codes stand for, `[N, K]`.
    pub fn values(&self) -> Vec<f32> {
        let groups = self.codes.chunks_exact(self.group).zip(&self.steps);
        groups.flat_map(|(codes, step)| codes.iter().map(|&c| Grid::value(*step, c))).collect()
    }

    /// As a checkpoint and the ops have it. Signed codes for int8 activations.
    pub fn pack(&self, activations: Activations) -> Quantized {
        let bytes = |bytes: Vec<u8>| TensorData::from_bytes(bytes);
        let codes = match (self.grid.bits, activations) {
            (4, _) => {
                let row = |row: &[u8]| row.chunks(2).map(|c| c[0] | c.get(1).unwrap_or(&0) << 4).collect::<Vec<u8>>();
                Codes::U4(bytes(self.codes.chunks_exact(self.k).flat_map(row).collect()))
            }
            (_, Activations::Float) => Codes::U8(bytes(self.codes.clone())),
            (_, Activations::Int8) => {
                Codes::I8(bytes(self.codes.iter().map(|c| c.wrapping_sub(self.grid.middle())).collect()))
            }
        };
        let zeros = self.grid.zeros.then(|| self.steps.iter().map(|s| s.zero).collect::<Arc<[u8]>>());
        let scales = self.steps.iter().map(|s| s.scale).collect();
        Quantized { n: self.n, k: self.k, codes, group: self.group, scales, zeros, order: None, activations }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::sample::{gaussian, normal};

    const GRIDS: [Grid; 4] = [
        Grid { bits: 4, zeros: false, scales: DType::Bf16 },
        Grid { bits: 4, zeros: true, scales: DType::F16 },
        Grid { bits: 8, zeros: false, scales: DType::F16 },
        Grid { bits: 8, zeros: true, scales: DType::Bf16 },
    ];

    /// The nearest of all values, found by trying each.
    fn nearest(grid: Grid, step: Step, w: f32) -> f32 {
        let values = (0..1u32 << grid.bits).map(|c| step.scale * (c as f32 - step.zero as f32));
        values.min_by(|a, b| (a - w).abs().total_cmp(&(b - w).abs())).unwrap()
    }

    #[test]
    fn a_code_is_the_nearest_of_all() {
        for grid in GRIDS {
            let w = gaussian(1, 64);
            let step = grid.fit(&w, &[1.0; 64]);
            for &w in &w {
                let (got, want) = (Grid::value(step, grid.code(step, w)), nearest(grid, step, w));
                // Two values may be equally near.
                assert!((got - w).abs() <= (want - w).abs() * (1.0 + 1e-5), "{grid:?} {w}: {got}, nearest {want}");
            }
        }
    }

    #[test]
    fn scales_are_what_the_file_will_hold() {
        for grid in GRIDS {
            let scale = grid.fit(&gaussian(2, 32), &[1.0; 32]).scale;
            let again = match grid.scales {
                DType::F16 => f16::from_f32(scale).to_f32(),
                _ => bf16::from_f32(scale).to_f32(),
            };
            assert_eq!(scale, again, "{grid:?}");
        }
    }

    #[test]
    fn the_search_beats_the_full_range_where_an_outlier_is() {
        let mut w = gaussian(3, 128);
        w[7] = 9.0;
        // That column hardly counts, so it may be cut off.
        let mut moments = [1.0; 128];
        moments[7] = 0.01;
        for grid in [GRIDS[0], GRIDS[1]] {
            let (low, high) = w.iter().fold((0.0f32, 0.0f32), |(l, h), &w| (l.min(w), h.max(w)));
            let error = |step| grid.error(step, &w, &moments);
            assert!(error(grid.fit(&w, &moments)) < 0.7 * error(grid.step(low, high)), "{grid:?}");
        }
        // A column that matters most is met best.
        let mut heavy = [1.0; 128];
        heavy[7] = 1e4;
        let off = |moments: &[f32]| {
            let step = GRIDS[0].fit(&w, moments);
            (w[7] - Grid::value(step, GRIDS[0].code(step, w[7]))).abs()
        };
        assert!(off(&heavy) < 0.1 * off(&[1.0; 128]));
    }

    #[test]
    fn a_group_of_zeros_and_tiny_weights_have_a_scale() {
        for grid in GRIDS {
            let step = grid.fit(&[0.0; 4], &[1.0; 4]);
            assert_eq!(Grid::value(step, grid.code(step, 0.0)), 0.0);
            let step = grid.fit(&[1e-30, -1e-30], &[1.0; 2]);
            assert!(step.scale > 0.0 && Grid::value(step, grid.code(step, 1e-30)).abs() <= 1e-4, "{grid:?} {step:?}");
        }
    }

    #[test]
    fn packed_codes_have_the_chosen_values() {
        let mut random = normal(4);
        for (grid, activations) in GRIDS.iter().map(|g| (*g, Activations::Float)).chain([(GRIDS[2], Activations::Int8)])
        {
            let (n, k) = (3, 8);
            let group = if activations == Activations::Int8 { k } else { 4 };
            let mut coded = Coded::new(n, k, group, grid);
            coded.codes.iter_mut().for_each(|c| *c = (random() * 1e4) as i64 as u8 & ((1 << grid.bits) - 1) as u8);
            let zero = if grid.zeros { 5 } else { grid.middle() };
            coded.steps.iter_mut().for_each(|s| *s = Step { scale: 0.5, zero });
            let packed = coded.pack(activations);
            packed.check().unwrap();
            let values: Vec<f32> = (0..n * k).map(|i| packed.value(i / k, i % k)).collect();
            assert_eq!(values, coded.values(), "{grid:?} {activations:?}");
        }
    }
}
