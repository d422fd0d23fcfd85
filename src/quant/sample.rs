//! Random numbers for the tests of this module.

/// Standard normal numbers (Box and Muller 1958) from a linear congruence.
pub fn normal(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 + 0.5) / (1u64 << 24) as f64
    };
    move || ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32
}

/// So many of them.
pub fn gaussian(seed: u64, count: usize) -> Vec<f32> {
    let mut next = normal(seed);
    (0..count).map(|_| next()).collect()
}

/// Rows `[T, K]` whose columns are correlated and of very different size, as activations are.
pub fn correlated(seed: u64, t: usize, k: usize) -> Vec<f32> {
    let mut next = normal(seed);
    let mix: Vec<f32> = (0..k * k).map(|_| next() / (k as f32).sqrt()).collect();
    let mut rows = Vec::with_capacity(t * k);
    for _ in 0..t {
        let source: Vec<f32> = (0..k).map(|j| next() * if j % 8 == 0 { 3.0 } else { 0.5 }).collect();
        rows.extend((0..k).map(|j| {
            let mixed: f32 = source.iter().zip(&mix[j * k..]).map(|(s, m)| s * m).sum();
            (mixed + 0.3 * source[j]) * if j % 11 == 3 { 6.0 } else { 1.0 }
        }));
    }
    rows
}
