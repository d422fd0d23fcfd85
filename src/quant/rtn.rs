//! Round to nearest: every weight takes the nearest code, with scales from the clipping search.

use super::grid::{Coded, Grid};
use rayon::prelude::*;

/// Chooses codes for `w`, `[N, K]`, in groups of `group` columns that divide K. `moments`, `[K]`, are the inputs' second moments: what an error in that column
/// costs in the output. Ones where nothing is known.
pub fn quantize(w: &[f32], k: usize, group: usize, grid: Grid, moments: &[f32]) -> Coded {
    let mut coded = Coded::new(w.len() / k, k, group, grid);
    let groups = coded.codes.par_chunks_mut(group).zip(&mut coded.steps).zip(w.par_chunks(group)).enumerate();
    groups.for_each(|(i, ((codes, step), w))| {
        let from = i * group % k;
        *step = grid.fit(w, &moments[from..from + group]);
        codes.iter_mut().zip(w).for_each(|(code, &w)| *code = grid.code(*step, w));
    });
    coded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::quant::sample::gaussian;

    #[test]
    fn every_group_is_fitted_to_its_own_weights_and_moments() {
        let (n, k, group) = (3, 12, 4);
        let grid = Grid { bits: 4, zeros: true, scales: DType::Bf16 };
        let w = gaussian(1, n * k);
        let moments: Vec<f32> = gaussian(2, k).iter().map(|x| x * x).collect();
        let coded = quantize(&w, k, group, grid, &moments);
        for row in 0..n {
            for g in 0..k / group {
                let (at, columns) = (row * k + g * group, g * group..(g + 1) * group);
                let step = grid.fit(&w[at..at + group], &moments[columns]);
                assert_eq!(coded.steps[row * (k / group) + g], step);
                let codes: Vec<u8> = w[at..at + group].iter().map(|&w| grid.code(step, w)).collect();
                assert_eq!(coded.codes[at..at + group], codes);
            }
        }
    }
}
