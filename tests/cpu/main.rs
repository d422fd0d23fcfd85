//! The CPU bodies against f64 references with derived bounds, and bit for bit between instruction sets, row counts, threads and cuts.

mod codes;

use half::{bf16, f16};
use osprey::cpu::{Cpu, Heads, Isa, Kv, Mask, Place, Rows, Sequence, Tile, Unit, attention, math, matmul, norm, rows};
use osprey::dtype::DType;
use std::ops::Range;
use std::sync::Mutex;

/// Rounding error of one f32 operation.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Values in -1..1 with zeros among them, from a fixed sequence.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if x.is_multiple_of(31) { 0.0 } else { (x >> 40) as f32 / (1 << 23) as f32 - 1.0 }
    };
    (0..n).map(|_| next()).collect()
}

/// The bytes of `x` in `dtype`, after `skip` bytes that misalign them.
fn store(x: &[f32], dtype: DType, skip: usize) -> Vec<u8> {
    let mut bytes = vec![0; skip];
    for &x in x {
        match dtype {
            DType::Bf16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
            _ => bytes.extend(x.to_le_bytes()),
        }
    }
    bytes
}

/// What is stored, as f32.
fn load(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::Bf16 => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::F16 => bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn cpus() -> Vec<Cpu> {
    Isa::available().into_iter().map(|isa| Cpu::new(isa, 2)).collect()
}

/// `[t, columns]`: the columns of all units side by side. Fails where an output is not written exactly once.
fn product(cpu: &Cpu, a: &[f32], t: usize, parts: &[Rows], units: &[(Unit, usize)]) -> Vec<f32> {
    collect(t, units, |units, epilogue| matmul(cpu, a, t, parts, units, epilogue))
}

/// The same of a product that is called with units and an epilogue.
fn collect(
    t: usize,
    units: &[(Unit, usize)],
    multiply: impl FnOnce(&[Unit], &(dyn Fn(usize, &mut Tile) + Sync)),
) -> Vec<f32> {
    let starts: Vec<usize> = units.iter().scan(0, |at, (_, cols)| Some(std::mem::replace(at, *at + cols))).collect();
    let n = units.iter().map(|(_, cols)| cols).sum::<usize>();
    let out = Mutex::new(vec![f32::NAN; t * n]);
    let only: Vec<Unit> = units.iter().map(|(unit, _)| *unit).collect();
    multiply(&only, &|unit, tile| {
        let mut out = out.lock().expect("no task panics");
        assert_eq!(tile.cols, units[unit].1);
        for i in 0..tile.rows {
            let to = &mut out[(tile.row0 + i) * n + starts[unit]..][..tile.cols];
            assert!(to.iter().all(|x| x.is_nan()), "written twice");
            to.copy_from_slice(tile.row(i));
        }
    });
    let out = out.into_inner().expect("no task panics");
    assert!(out.iter().all(|x| !x.is_nan()), "not all written");
    out
}

fn whole(n: usize, width: usize) -> Vec<(Unit, usize)> {
    (0..n).step_by(width).map(|at| (Unit::new(0, at, width.min(n - at)), width.min(n - at))).collect()
}

/// The contract itself: chains of 256, added in order.
fn chain(a: &[f32], w: &[f32]) -> f32 {
    let blocks = a.chunks(256).zip(w.chunks(256));
    let sums = blocks.map(|(a, w)| a.iter().zip(w).fold(0.0f32, |sum, (a, w)| a.mul_add(*w, sum)));
    sums.reduce(|sum, block| sum + block).expect("k > 0")
}

#[test]
fn products_are_the_documented_chain_on_every_path() {
    let shapes = [
        (1, 40, 80, 40),
        (2, 17, 1176, 17),
        (3, 72, 31, 24),
        (5, 104, 512, 104),
        (8, 33, 257, 16),
        (9, 80, 300, 80),
        (37, 50, 1, 25),
    ];
    for (t, n, k, width) in shapes {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            let a = noise(t * k, 1);
            let bytes = store(&noise(n * k, 2), dtype, 3);
            let w = load(&bytes[3..], dtype);
            let want: Vec<f32> = a.chunks(k).flat_map(|a| w.chunks(k).map(|w| chain(a, w))).collect();
            for cpu in cpus() {
                let parts = [Rows { bytes: &bytes[3..], dtype, n, k }];
                let got = product(&cpu, &a, t, &parts, &whole(n, width));
                assert_eq!(bits(&got), bits(&want), "{t}x{n}x{k} {dtype} {}", cpu.isa().name());
            }
        }
    }
}

#[test]
fn products_do_not_depend_on_rows_threads_or_units() {
    let (t, n, k) = (1100, 160, 1024);
    let a = noise(t * k, 3);
    let bytes = store(&noise(n * k, 4), DType::Bf16, 0);
    let parts = [Rows { bytes: &bytes, dtype: DType::Bf16, n, k }];
    let isa = Isa::detect();
    let want = product(&Cpu::new(isa, 2), &a, t, &parts, &whole(n, 80));
    for threads in [1, 3] {
        assert_eq!(bits(&product(&Cpu::new(isa, threads), &a, t, &parts, &whole(n, 32))), bits(&want));
    }
    let cpu = Cpu::new(isa, 2);
    for (first, count) in
        [(0, 1), (7, 2), (20, 3), (100, 4), (300, 8), (500, 9), (600, 13), (620, 16), (640, 17), (700, 400)]
    {
        let rows = product(&cpu, &a[first * k..(first + count) * k], count, &parts, &whole(n, 128));
        assert_eq!(bits(&rows), bits(&want[first * n..(first + count) * n]), "{count} rows");
    }
    for (row, want) in want.chunks(n).enumerate().step_by(211) {
        for (j, &want) in want.iter().enumerate() {
            let w = load(&bytes[j * k * 2..(j + 1) * k * 2], DType::Bf16);
            let a = &a[row * k..(row + 1) * k];
            let exact: f64 = a.iter().zip(&w).map(|(a, w)| *a as f64 * *w as f64).sum();
            let size: f64 = a.iter().zip(&w).map(|(a, w)| (*a as f64 * *w as f64).abs()).sum();
            // 256 roundings in a chain and 4 sums of blocks.
            assert!((want as f64 - exact).abs() <= size * 260.0 * ROUNDING, "{want} is not {exact}");
        }
    }
}

#[test]
fn a_unit_may_take_rows_of_two_parts() {
    let (t, n, k) = (20, 48, 96);
    let a = noise(t * k, 5);
    let (gate, up) = (store(&noise(n * k, 6), DType::Bf16, 1), store(&noise(n * k, 7), DType::Bf16, 5));
    let parts = [&gate[1..], &up[5..]].map(|bytes| Rows { bytes, dtype: DType::Bf16, n, k });
    let cpu = Cpu::new(Isa::detect(), 2);
    let [gates, ups] = [0, 1].map(|i| product(&cpu, &a, t, &parts[i..=i], &whole(n, n)));
    for rows in [1, t] {
        let units: Vec<_> = (0..n).step_by(24).map(|j| (Unit::pair((0, j, 24), (1, j, 24)), 48)).collect();
        let got = product(&cpu, &a[..rows * k], rows, &parts, &units);
        for (row, got) in got.chunks(2 * n).enumerate() {
            for (j, got) in got.chunks(24).enumerate() {
                let from = [&gates, &ups][j % 2];
                assert_eq!(bits(got), bits(&from[row * n + j / 2 * 24..][..24]));
            }
        }
    }
}

/// One case of attention: queries, keys and values, in their storage.
struct Case {
    heads: Heads,
    q: Vec<f32>,
    keys: Vec<u8>,
    values: Vec<u8>,
    dtype: DType,
}

impl Case {
    fn new(heads: Heads, rows: usize, elements: usize, dtype: DType) -> Case {
        let q = noise(rows * heads.stride, 11).iter().map(|x| x * 4.0).collect();
        let (keys, values) = (store(&noise(elements, 12), dtype, 1), store(&noise(elements, 13), dtype, 1));
        Case { heads, q, keys, values, dtype }
    }

    /// `[rows, heads, dim]`; rows that no sequence names stay NaN.
    fn run(&self, cpu: &Cpu, sequences: &[Sequence]) -> Vec<f32> {
        let Heads { query, dim, stride, .. } = self.heads;
        let out = Mutex::new(vec![f32::NAN; self.q.len() / stride * query * dim]);
        let kv = Kv { keys: &self.keys[1..], values: &self.values[1..], dtype: self.dtype, scales: None };
        attention(cpu, &self.q, self.heads, kv, sequences, &|head, tile| {
            let mut out = out.lock().expect("no task panics");
            for i in 0..tile.rows {
                out[((tile.row0 + i) * query + head) * dim..][..dim].copy_from_slice(tile.row(i));
            }
        });
        out.into_inner().expect("no task panics")
    }

    /// Compares a row of a head with softmax in f64; `offset` says where token t is.
    fn check(&self, row: usize, head: usize, got: &[f32], seen: usize, offset: impl Fn(usize) -> usize) {
        let Heads { dim, stride, scale, .. } = self.heads;
        let size = self.dtype.size();
        let vector = |bytes: &[u8], t: usize| load(&bytes[1 + offset(t) * size..][..dim * size], self.dtype);
        let q = &self.q[row * stride + head * dim..][..dim];
        let score = |t: usize| {
            let key = vector(&self.keys, t);
            q.iter().zip(key).map(|(q, k)| *q as f64 * k as f64).sum::<f64>() * scale as f64
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut want = vec![0.0; dim];
        for (t, weight) in weights.iter().enumerate() {
            want.iter_mut().zip(vector(&self.values, t)).for_each(|(want, v)| *want += weight / sum * v as f64);
        }
        // A score is off by dim + 1 roundings of the sum of its magnitudes, at most 4 * dim * scale; e^x is off by as much
        // relatively, and by 2 ulp. Weights and outputs add at most a rounding for each of the tokens and tiles.
        let bound = (2.0 * 4.0 * (dim * (dim + 1)) as f64 * scale as f64 + 8.0 + 2.0 * seen as f64) * ROUNDING;
        for (j, (&got, want)) in got.iter().zip(want).enumerate() {
            assert!((got as f64 - want).abs() <= bound, "row {row} head {head} [{j}]: {got} is not {want} +- {bound}");
        }
    }
}

#[test]
fn attention_over_segments_is_softmax() {
    let shapes = [
        (80, DType::Bf16),
        (72, DType::F32),
        (128, DType::F16),
        (16, DType::Bf16),
        (40, DType::F32),
        (256, DType::F32),
    ];
    for (dim, dtype) in shapes {
        let heads = Heads { query: 2, kv: 2, dim, stride: 2 * dim + 3, scale: 1.0 / (dim as f32).sqrt() };
        let segments = [0..1, 1..18, 18..150, 150..200];
        let case = Case::new(heads, 200, 200 * 2 * dim, dtype);
        let sequences = segments.clone().map(|rows| {
            let place = Place::Rows { first: rows.start, stride: 2 * dim };
            Sequence { mask: Mask::All(rows.len()), rows, place }
        });
        let outs: Vec<_> = cpus().iter().map(|cpu| case.run(cpu, &sequences)).collect();
        for out in &outs {
            assert_eq!(bits(out), bits(&outs[0]), "paths differ at dim {dim}");
        }
        for segment in segments {
            for row in segment.clone().step_by(7) {
                for head in 0..2 {
                    let got = &outs[0][(row * 2 + head) * dim..][..dim];
                    case.check(row, head, got, segment.len(), |t| ((segment.start + t) * 2 + head) * dim);
                }
            }
        }
        let alone = case.run(&Cpu::new(Isa::detect(), 3), &sequences[2..3]);
        let range = 18 * 2 * dim..150 * 2 * dim;
        assert_eq!(bits(&alone[range.clone()]), bits(&outs[0][range]));
    }
}

#[test]
fn paged_attention_has_the_same_bits_in_any_chunking() {
    // 2600 tokens are three runs; blocks of 48 cut across tiles.
    for (tokens, dim, dtype, query, kv) in [(32, 128, DType::Bf16, 6, 2), (48, 40, DType::F32, 7, 1)] {
        let heads = Heads { query, kv, dim, stride: query * dim, scale: 0.125 };
        let length = 2600usize;
        let blocks = length.div_ceil(tokens);
        let table: Vec<i32> = (0..blocks).map(|i| (blocks - 1 - i) as i32).collect();
        let case = Case::new(heads, length, blocks * kv * tokens * dim, dtype);
        let place = Place::Blocks { table: &table, tokens };
        let part = |rows: Range<usize>| Sequence { mask: Mask::Causal(rows.start + 1), rows, place };
        let isa = Isa::detect();
        let (two, eight) = (Cpu::new(isa, 2), Cpu::new(isa, 8));
        let want = case.run(&two, &[part(0..length)]);
        assert!(want.iter().all(|x| x.is_finite()));
        let same = |out: Vec<f32>, rows: Range<usize>, how: &str| {
            let range = rows.start * query * dim..rows.end * query * dim;
            assert_eq!(bits(&out[range.clone()]), bits(&want[range]), "rows {rows:?} {how}");
        };
        same(case.run(&eight, &[part(0..700), part(700..701), part(701..length)]), 0..length, "in chunks");
        for row in [0, 1, 127, 128, 255, 256, 1023, 1024, 1500, 2047, 2048, 2599] {
            same(case.run(&two, &[part(row..row + 1)]), row..row + 1, "alone");
            // So few rows for so many threads are cut by runs.
            same(case.run(&eight, &[part(row..row + 1)]), row..row + 1, "alone on 8 threads");
        }
        for row in [0, 5, 31, 32, 200, 1024, 2599] {
            for head in 0..query {
                let got = &want[(row * query + head) * dim..][..dim];
                let offset =
                    |t: usize| ((table[t / tokens] as usize * kv + head * kv / query) * tokens + t % tokens) * dim;
                case.check(row, head, got, row + 1, offset);
            }
        }
        for cpu in cpus() {
            same(case.run(&cpu, &[part(300..305)]), 300..305, cpu.isa().name());
        }
    }
}

/// Largest error of `f`, in ulp of the exact result where that is normal. All paths must agree.
fn worst_ulp(x: &[f32], f: impl Fn(Isa, &mut [f32]), exact: impl Fn(f64) -> f64) -> f64 {
    let run = |isa| {
        let mut y = x.to_vec();
        f(isa, &mut y);
        y
    };
    let y = run(Isa::detect());
    for isa in Isa::available() {
        assert_eq!(bits(&run(isa)), bits(&y), "{} differs", isa.name());
    }
    let errors = x.iter().zip(y).map(|(&x, y)| {
        let want = exact(x as f64);
        let near = (want as f32).abs();
        let ulp = f32::from_bits(near.to_bits() + 1) as f64 - near as f64;
        if near < 2e-38 || !ulp.is_finite() { 0.0 } else { (y as f64 - want).abs() / ulp }
    });
    errors.fold(0.0, f64::max)
}

/// erfc in f64, by its Taylor series or continued fraction.
fn erfc(x: f64) -> f64 {
    if x < 2.5 {
        let terms = (0..80).scan(x, |term, n| {
            let value = *term / (2 * n + 1) as f64;
            *term *= -x * x / (n + 1) as f64;
            Some(value)
        });
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * terms.sum::<f64>();
    }
    let fraction = (1..200).rev().fold(x, |f, n| x + n as f64 / 2.0 / f);
    (-x * x).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

#[test]
fn activations_are_accurate_and_the_same_on_every_path() {
    let wide = (-90_000..90_007).map(|i| i as f32 * 1e-3);
    let x: Vec<f32> = wide.chain((-900..900).map(|i| i as f32 * 1e-5)).collect();
    let near: Vec<f32> = x.iter().copied().filter(|x| x.abs() < 8.0).collect();
    let exp = worst_ulp(&x, math::exp_in_place, f64::exp);
    // Where e^-x overflows, the result is 0.
    let below: Vec<f32> = x.iter().copied().filter(|x| *x > -88.7).collect();
    let silu = worst_ulp(&below, math::silu, |x| x / (1.0 + (-x).exp()));
    let quick = worst_ulp(&near, math::quick_gelu, |x| x / (1.0 + (-(1.702f32 as f64) * x).exp()));
    let gelu = worst_ulp(&x, math::gelu, |x| x.max(0.0) - x.abs() * erfc(x.abs() / std::f64::consts::SQRT_2) / 2.0);
    println!("ulp: exp {exp:.2} silu {silu:.2} quick_gelu {quick:.2} gelu {gelu:.2}");
    assert!(exp <= 1.5 && silu <= 4.0 && quick <= 12.0 && gelu <= 9.0);
}

#[test]
fn activations_end_well() {
    for isa in Isa::available() {
        let mut x = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, -0.0, 88.72, 89.0, f32::INFINITY, f32::NAN];
        math::exp_in_place(isa, &mut x);
        assert_eq!(x[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
        assert!(x[5].is_finite() && x[6] == f32::INFINITY && x[7] == f32::INFINITY && x[8].is_nan());
        for f in [math::silu, math::quick_gelu, math::gelu] {
            let mut x = [-1e4, -100.0, 0.0, 100.0, 1e4, f32::NAN];
            f(isa, &mut x);
            assert!(x[0].abs() < 1e-30 && x[1].abs() < 1e-30 && x[2..5] == [0.0, 100.0, 1e4] && x[5].is_nan());
        }
    }
    let (mut gate, up) = ([1.0, -2.0], [3.0, 4.0]);
    math::swiglu(Isa::detect(), &mut gate, &up);
    assert!((gate[0] - 3.0 / (1.0 + (-1.0f32).exp())).abs() < 1e-6 && gate[1] < 0.0);
}

#[test]
fn norms_are_accurate_and_the_same_on_every_path() {
    for n in [1, 15, 80, 1280, 1536, 3584, 4099] {
        let (w, b) = (noise(n, 22), noise(n, 23));
        let x: Vec<f32> = noise(n, 21).iter().map(|x| x * 3.0 + 0.5).collect();
        let mean = x.iter().map(|x| *x as f64).sum::<f64>() / n as f64;
        let square = x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / n as f64;
        let variance = x.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / n as f64;
        let run = |isa| {
            let (mut rms, mut layer) = (vec![0.0; n], vec![0.0; n]);
            norm::rms_norm(isa, &x, &w, 1e-6, &mut rms);
            norm::layer_norm(isa, &x, &w, &b, 1e-6, &mut layer);
            (rms, layer)
        };
        let (rms, layer) = run(Isa::detect());
        for isa in Isa::available() {
            let other = run(isa);
            assert_eq!((bits(&other.0), bits(&other.1)), (bits(&rms), bits(&layer)));
        }
        // Sums have n / 64 + 8 roundings; an error of the mean is scaled as the values are.
        let bound = (n as f64 / 64.0 + 16.0) * ROUNDING;
        for i in 0..n {
            let want = x[i] as f64 / (square + 1e-6).sqrt() * w[i] as f64;
            assert!((rms[i] as f64 - want).abs() <= bound * want.abs());
            let centred = (x[i] as f64 - mean) / (variance + 1e-6).sqrt();
            let want = centred * w[i] as f64 + b[i] as f64;
            let scale = 4.0 * (1.0 + centred.abs()) / (variance + 1e-6).sqrt().min(1.0);
            assert!((layer[i] as f64 - want).abs() <= bound * scale, "{n} [{i}]: {} is not {want}", layer[i]);
        }
    }
}

#[test]
fn rows_convert_as_the_half_crate_does() {
    let mut x = noise(77, 31);
    x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, -0.0]);
    // Ties of f16 at its largest value, and of bf16 both ways.
    x.extend([65_519.0, 65_520.0, 1.003_906_3, 1.011_718_8]);
    for isa in Isa::available() {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            let want = store(&x, dtype, 0);
            let mut bytes = vec![0xa5; want.len() + 1];
            rows::narrow(isa, &x, dtype, &mut bytes[1..]);
            let mut wide = vec![0.0; x.len()];
            rows::widen(isa, &bytes[1..], dtype, &mut wide);
            for (got, want) in wide.iter().zip(load(&want, dtype)) {
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{dtype}: {got} is not {want}"
                );
            }
        }
    }
}
