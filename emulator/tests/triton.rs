//! PTX that Triton compiled (`triton/make.py`), against the same computation in f64.
//!
//! Bounds are sums of the roundings that a kernel makes, with the errors that the PTX ISA allows its approximations:
//! 2 ulp for `ex2.approx` and `div.full`, 2^-22.9 for `rsqrt.approx`. Integers and atomics are exact.

#[path = "triton/harness.rs"]
mod harness;

use cuda_emulator::device::A100;
use cuda_emulator::fault::FaultKind;
use cuda_emulator::gpu::Arg;
use half::{bf16, f16};
use harness::{BF16, F16, F32, Kernel, Numbers, file, load, near};

/// Relative error of a result that is 2 ulp off.
const ULPS_2: f64 = 4.0 * F32;

fn int(value: usize) -> Arg {
    Arg::S32(value as i32)
}

/// Of a sum by `threads` threads of `count` values: additions on the longest way.
fn depth(count: usize, threads: usize) -> f64 {
    (count.div_ceil(threads) + threads.ilog2() as usize) as f64
}

fn softmax(name: &str) {
    const ROWS: usize = 5;
    const COLS: usize = 1000;
    const STRIDE: usize = 1003;
    let kernel = Kernel::new(name);
    let mut numbers = Numbers(1);
    let x: Vec<f32> = (0..ROWS * STRIDE).map(|_| numbers.real(-8.0, 8.0) as f32).collect();
    let y = kernel.room::<f32>(ROWS * STRIDE);
    let args = [("x", &kernel.upload(&x)), ("y", &y), ("cols", &int(COLS)), ("stride", &int(STRIDE))];
    let counters = kernel.run([ROWS as u32, 1, 1], &args);
    let y = kernel.download::<f32>(&y, ROWS * STRIDE);
    for row in 0..ROWS {
        let x = &x[row * STRIDE..][..COLS];
        let top = x.iter().fold(f32::MIN, |a, &b| a.max(b));
        let power = |v: f32| (f64::from(v) - f64::from(top)).exp();
        let sum: f64 = x.iter().map(|&v| power(v)).sum();
        // The exponent is rounded thrice (difference, constant, product), so it is off by 3 u (x - top); then `ex2`.
        let exponent = |v: f32| 3.0 * F32 * f64::from(top - v) + ULPS_2;
        let norm = x.iter().map(|&v| power(v) * exponent(v)).sum::<f64>() / sum + depth(1024, 128) * F32;
        for (i, &v) in x.iter().enumerate() {
            let want = power(v) / sum;
            // 1.01 covers products of errors.
            near("softmax", y[row * STRIDE + i], want, 1.01 * want * (exponent(v) + norm + ULPS_2));
        }
    }
    // Distinct bytes: the columns that the mask lets through, both ways.
    assert_eq!(counters.global_bytes_read, (ROWS * COLS * 4) as u64);
    assert_eq!(counters.global_bytes_written, (ROWS * COLS * 4) as u64);
}

#[test]
fn softmax_on_a100() {
    softmax("softmax_sm80");
}

#[test]
fn softmax_on_h100() {
    softmax("softmax_sm90");
}

#[test]
fn layer_norm() {
    const ROWS: usize = 3;
    const COLS: usize = 777;
    const EPS: f32 = 1e-5;
    let kernel = Kernel::new("layer_norm_sm80");
    let mut numbers = Numbers(2);
    let mut some =
        |count, low, high| -> Vec<bf16> { (0..count).map(|_| bf16::from_f64(numbers.real(low, high))).collect() };
    let (x, weight, bias) = (some(ROWS * COLS, -3.0, 4.0), some(COLS, 0.5, 1.5), some(COLS, -1.0, 1.0));
    let y = kernel.room::<bf16>(ROWS * COLS);
    let (on_x, on_weight, on_bias) = (kernel.upload(&x), kernel.upload(&weight), kernel.upload(&bias));
    let (cols, eps) = (int(COLS), Arg::F32(EPS));
    let args = [("x", &on_x), ("weight", &on_weight), ("bias", &on_bias), ("y", &y), ("cols", &cols), ("eps", &eps)];
    kernel.run([ROWS as u32, 1, 1], &args);
    let y = kernel.download::<bf16>(&y, ROWS * COLS);
    let n = COLS as f64;
    for row in 0..ROWS {
        let x: Vec<f64> = x[row * COLS..][..COLS].iter().map(|v| v.to_f64()).collect();
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let scale = (variance + f64::from(EPS)).sqrt().recip();
        let sum = depth(1024, 128) * F32;
        let mean_off = sum * x.iter().map(|v| v.abs()).sum::<f64>() / n + ULPS_2 * mean.abs();
        let centred_off = |v: f64| mean_off + F32 * (v - mean).abs();
        let squares_off: f64 = x.iter().map(|&v| 2.0 * (v - mean).abs() * centred_off(v) / n).sum();
        // Half of the relative error of what stands under the root: squares, sum, quotient, sum with eps.
        let scale_off = 0.5 * (squares_off / variance + sum + ULPS_2 + 2.0 * F32) + 2f64.powf(-22.9);
        for (i, &v) in x.iter().enumerate() {
            let (w, b) = (weight[i].to_f64(), bias[i].to_f64());
            let product = (v - mean) * scale * w;
            let off = scale * w.abs() * centred_off(v) + product.abs() * (scale_off + 2.0 * F32);
            let want = product + b;
            near("layer_norm", y[row * COLS + i], want, 1.01 * off + (BF16 + 2.0 * F32) * (want.abs() + off));
        }
    }
}

/// Sizes of a product and of the tiles that it was compiled for.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    /// Elements from row to row.
    strides: [usize; 3],
    tile: [usize; 2],
}

impl Product {
    /// Multiplies matrices of `a` and `b` elements, whose values `random` makes; checks every element of the result by
    /// `check(got, exact sum, sum of magnitudes)`.
    fn run<A, C>(&self, name: &str, mut random: impl FnMut() -> A, check: impl Fn(C, f64, f64)) -> Vec<(String, u64)>
    where
        A: harness::Element + Into<f64>,
        C: harness::Element,
    {
        let Product { m, n, k, strides: [lda, ldb, ldc], tile } = *self;
        let kernel = Kernel::new(name);
        let a: Vec<A> = (0..m * lda).map(|_| random()).collect();
        let b: Vec<A> = (0..k * ldb).map(|_| random()).collect();
        let (on_a, on_b, on_c) = (kernel.upload(&a), kernel.upload(&b), kernel.room::<C>(m * ldc));
        let sizes = [m, n, k, lda, ldb, ldc].map(int);
        let named = ["m", "n", "k", "lda", "ldb", "ldc"].into_iter().zip(&sizes);
        let args: Vec<_> = [("a", &on_a), ("b", &on_b), ("c", &on_c)].into_iter().chain(named).collect();
        let counters = kernel.run([m.div_ceil(tile[0]) as u32, n.div_ceil(tile[1]) as u32, 1], &args);
        let c = kernel.download::<C>(&on_c, m * ldc);
        for row in 0..m {
            for col in 0..n {
                let products = (0..k).map(|i| a[row * lda + i].into() * b[i * ldb + col].into());
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p: f64| (sum + p, size + p.abs()));
                check(c[row * ldc + col], sum, size);
            }
        }
        counters.mma.into_iter().collect()
    }

    /// The error of k additions, each of which may truncate.
    fn additions(&self) -> f64 {
        self.k as f64 * 2.0 * F32
    }
}

fn product_of_bf16(name: &str) -> Vec<(String, u64)> {
    let product = Product { m: 96, n: 112, k: 80, strides: [96, 128, 112], tile: [64, 64] };
    let mut numbers = Numbers(3);
    let bound = product.additions();
    let random = || bf16::from_f64(numbers.real(-2.0, 2.0));
    product.run(name, random, |c: bf16, sum, size| {
        near("bf16 product", c, sum, bound * size + BF16 * (sum.abs() + bound * size));
    })
}

#[test]
fn product_of_bf16_by_warps() {
    // 2 x 2 tiles of 64 x 64, 3 steps of 32: 4 x 8 x 2 instructions each.
    assert_eq!(product_of_bf16("matmul_bf16_sm80"), [("m16n8k16.bf16.bf16.f32".to_owned(), 4 * 3 * 64)]);
}

#[test]
fn product_of_bf16_by_a_warpgroup() {
    // 2 x 2 tiles, 3 steps of two instructions, each by four warps.
    assert_eq!(product_of_bf16("matmul_bf16_sm90"), [("m64n64k16.bf16.bf16.f32".to_owned(), 4 * 3 * 2 * 4)]);
}

#[test]
fn product_of_f16() {
    let product = Product { m: 160, n: 80, k: 112, strides: [112, 80, 96], tile: [128, 64] };
    let mut numbers = Numbers(4);
    let bound = product.additions();
    let random = || f16::from_f64(numbers.real(-2.0, 2.0));
    let mma = product.run("matmul_f16_sm80", random, |c: f16, sum, size| {
        near("f16 product", c, sum, bound * size + F16 * (sum.abs() + bound * size));
    });
    // 2 x 2 tiles of 128 x 64, 4 steps of 32: 8 x 8 x 2 instructions each.
    assert_eq!(mma, [("m16n8k16.f16.f16.f32".to_owned(), 4 * 4 * 128)]);
}

#[test]
fn product_of_i8() {
    let product = Product { m: 67, n: 61, k: 131, strides: [133, 63, 61], tile: [64, 64] };
    let mut numbers = Numbers(5);
    let mma = product.run(
        "matmul_i8_sm80",
        || numbers.integer(-128, 127) as i8,
        |c: i32, sum, _| {
            assert_eq!(f64::from(c), sum);
        },
    );
    // 2 x 1 tiles of 64 x 64, 3 steps of 64: 4 x 8 x 2 instructions each.
    assert_eq!(mma, [("m16n8k32.s8.s8.s32".to_owned(), 2 * 3 * 64)]);
}

#[test]
fn product_of_tf32() {
    let product = Product { m: 33, n: 47, k: 75, strides: [77, 47, 51], tile: [32, 32] };
    let mut numbers = Numbers(6);
    let bound = product.additions();
    // Eleven bits, so that tf32 holds them.
    let random = || numbers.integer(-1023, 1023) as f32 / 512.0;
    let mma = product.run("matmul_tf32_sm80", random, |c: f32, sum, size| near("tf32 product", c, sum, bound * size));
    // 2 x 2 tiles of 32 x 32, 3 steps of 32: 2 x 4 x 4 instructions each.
    assert_eq!(mma, [("m16n8k8.tf32.tf32.f32".to_owned(), 4 * 3 * 32)]);
}

#[test]
fn causal_attention() {
    const HEADS: usize = 2;
    const LENGTH: usize = 100;
    const HEAD: usize = 64;
    let kernel = Kernel::new("attention_sm80");
    let mut numbers = Numbers(7);
    let mut some =
        || -> Vec<bf16> { (0..HEADS * LENGTH * HEAD).map(|_| bf16::from_f64(numbers.real(-2.0, 2.0))).collect() };
    let (q, k, v) = (some(), some(), some());
    let scale = 0.125f32;
    let (on_q, on_k, on_v) = (kernel.upload(&q), kernel.upload(&k), kernel.upload(&v));
    let o = kernel.room::<bf16>(q.len());
    let (length, on_scale) = (int(LENGTH), Arg::F32(scale));
    let args = [("q", &on_q), ("k", &on_k), ("v", &on_v), ("o", &o), ("length", &length), ("scale", &on_scale)];
    kernel.run([LENGTH.div_ceil(64) as u32, HEADS as u32, 1], &args);
    let o = kernel.download::<bf16>(&o, q.len());
    for head in 0..HEADS {
        let at = |data: &[bf16], row: usize, d: usize| data[(head * LENGTH + row) * HEAD + d].to_f64();
        for row in 0..LENGTH {
            let scores: Vec<(f64, f64)> = (0..=row)
                .map(|key| {
                    let products = (0..HEAD).map(|d| at(&q, row, d) * at(&k, key, d) * f64::from(scale));
                    products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
                })
                .collect();
            let top = scores.iter().fold(f64::MIN, |top, s| top.max(s.0));
            let sum: f64 = scores.iter().map(|s| (s.0 - top).exp()).sum();
            // A score: truncated additions, three roundings of scaling; the same for the top; their difference.
            let off = |(score, size): (f64, f64)| (HEAD as f64 * 2.0 * size + 4.0 * (score.abs() + top.abs())) * F32;
            let off = 2.0 * scores.iter().map(|&s| off(s)).fold(0.0, f64::max);
            // A weight: its exponent, `ex2`, and what fading does for each of at most four steps.
            let steps = row.div_ceil(32) as f64 + 1.0;
            let weight_off = off * steps + (ULPS_2 + F32) * steps;
            for d in 0..HEAD {
                let terms = scores.iter().enumerate().map(|(key, s)| (s.0 - top).exp() / sum * at(&v, key, d));
                let (want, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                let additions = (row + 1) as f64 * 2.0 * F32 + depth(32, 4) * steps * F32;
                // Weights are rounded to bf16 for the product, not for the norm.
                let bound = size * (BF16 + 2.0 * weight_off + 2.0 * additions + ULPS_2) * 1.01;
                let got = o[(head * LENGTH + row) * HEAD + d];
                near("attention", got, want, bound + BF16 * (want.abs() + bound));
            }
        }
    }
}

#[test]
fn histogram() {
    const N: usize = 3000;
    let kernel = Kernel::new("histogram_sm80");
    let mut numbers = Numbers(8);
    // Small values more often, so that threads of a warp meet.
    let x: Vec<i32> = (0..N).map(|_| numbers.integer(0, 63).min(numbers.integer(0, 63))).collect();
    let bins = kernel.upload(&[100i32; 64]);
    kernel.run([N.div_ceil(512) as u32, 1, 1], &[("x", &kernel.upload(&x)), ("bins", &bins), ("n", &int(N))]);
    let mut want = vec![100; 64];
    x.iter().for_each(|&v| want[v as usize] += 1);
    assert_eq!(kernel.download::<i32>(&bins, 64), want);
}

#[test]
fn scattered_atomics() {
    const N: usize = 1000;
    const PLACES: usize = 37;
    let kernel = Kernel::new("scatter_sm80");
    let mut numbers = Numbers(9);
    // Whole numbers: their f32 sums are exact in any order.
    let x: Vec<f32> = (0..N).map(|_| numbers.integer(-999, 999) as f32).collect();
    let at: Vec<i32> = (0..N).map(|_| numbers.integer(0, PLACES as i32 - 1)).collect();
    let (sums, tops) = (kernel.upload(&[0.5f32; PLACES]), kernel.upload(&[-1i32; PLACES]));
    let (on_x, on_at, n) = (kernel.upload(&x), kernel.upload(&at), int(N));
    let args = [("x", &on_x), ("at", &on_at), ("sums", &sums), ("tops", &tops), ("n", &n)];
    kernel.run([N.div_ceil(256) as u32, 1, 1], &args);
    let (mut want_sums, mut want_tops) = (vec![0.5; PLACES], vec![-1; PLACES]);
    for (i, (x, at)) in x.iter().zip(&at).enumerate() {
        want_sums[*at as usize] += x;
        want_tops[*at as usize] = i as i32;
    }
    assert_eq!(kernel.download::<f32>(&sums, PLACES), want_sums);
    assert_eq!(kernel.download::<i32>(&tops, PLACES), want_tops);
}

fn reduce(name: &str) {
    const ROWS: usize = 24;
    const COLS: usize = 200;
    let kernel = Kernel::new(name);
    let mut numbers = Numbers(10);
    // Few values, so that the largest occurs more than once; one row of what masked places hold.
    let mut x: Vec<i32> = (0..ROWS * COLS).map(|_| numbers.integer(-20, 20)).collect();
    x[3 * COLS..4 * COLS].fill(i32::MIN);
    let (sums, best, places) = (kernel.room::<i32>(ROWS), kernel.room::<i32>(ROWS), kernel.room::<i32>(ROWS));
    let (on_x, cols) = (kernel.upload(&x), int(COLS));
    let args = [("x", &on_x), ("sums", &sums), ("best", &best), ("where", &places), ("cols", &cols)];
    kernel.run([ROWS as u32 / 8, 1, 1], &args);
    let rows = || x.chunks_exact(COLS);
    let want_sums: Vec<i32> = rows().map(|row| row.iter().fold(0, |a: i32, &b| a.wrapping_add(b))).collect();
    let want_best: Vec<i32> = rows().map(|row| *row.iter().max().unwrap()).collect();
    let want_places: Vec<i32> =
        rows().zip(&want_best).map(|(row, best)| row.iter().position(|v| v == best).unwrap() as i32).collect();
    assert_eq!(kernel.download::<i32>(&sums, ROWS), want_sums);
    assert_eq!(kernel.download::<i32>(&best, ROWS), want_best);
    assert_eq!(kernel.download::<i32>(&places, ROWS), want_places);
}

#[test]
fn reduction_on_a100() {
    reduce("reduce_sm80");
}

#[test]
fn reduction_on_h100() {
    reduce("reduce_sm90");
}

#[test]
fn sort_and_running_sums() {
    const ROWS: usize = 3;
    const COLS: usize = 200;
    let kernel = Kernel::new("running_sm80");
    let mut numbers = Numbers(11);
    let x: Vec<i32> = (0..ROWS * COLS).map(|_| numbers.integer(-1_000_000, 1_000_000)).collect();
    let y = kernel.room::<i32>(ROWS * COLS);
    kernel.run([ROWS as u32, 1, 1], &[("x", &kernel.upload(&x)), ("y", &y), ("cols", &int(COLS))]);
    let sums = |row: &[i32]| {
        let mut row = row.to_vec();
        row.sort_unstable();
        row.into_iter().scan(0, |sum, v| {
            *sum += v;
            Some(*sum)
        })
    };
    let want: Vec<i32> = x.chunks_exact(COLS).flat_map(sums).collect();
    assert_eq!(kernel.download::<i32>(&y, ROWS * COLS), want);
}

#[test]
fn elementary_functions() {
    const N: usize = 1000;
    let kernel = Kernel::new("elementary_sm80");
    let mut numbers = Numbers(12);
    // Logarithmic: most angles need the exact reduction by pi, in local memory.
    let x: Vec<f32> = (0..N).map(|_| numbers.real(-20.0, 60.0).exp2() as f32).collect();
    let rooms = [(); 4].map(|()| kernel.room::<f32>(N));
    let [roots, sines, cosines, logs] = &rooms;
    let (on_x, n) = (kernel.upload(&x), int(N));
    let args = [("x", &on_x), ("roots", roots), ("sines", sines), ("cosines", cosines), ("logs", logs), ("n", &n)];
    let counters = kernel.run([N.div_ceil(256) as u32, 1, 1], &args);
    assert!(counters.local_bytes > 0);
    let [roots, sines, cosines, logs] = rooms.map(|room| kernel.download::<f32>(&room, N));
    for (i, &x) in x.iter().enumerate() {
        assert_eq!(roots[i], x.sqrt() / 3.0, "{x}");
        let exact = f64::from(x);
        // The CUDA programming guide: 2 ulp for sine and cosine, 1 for the logarithm.
        near("sin", sines[i], exact.sin(), 2.0 * ulp(exact.sin()));
        near("cos", cosines[i], exact.cos(), 2.0 * ulp(exact.cos()));
        near("log", logs[i], exact.ln(), ulp(exact.ln()));
    }
}

/// Distance of neighbouring f32 at the magnitude of a value.
fn ulp(value: f64) -> f64 {
    2f64.powi(value.abs().log2().floor() as i32 - 23)
}

#[test]
fn device_assertions() {
    let kernel = Kernel::new("guarded_sm80");
    let mut x: Vec<i32> = (1..=200).collect();
    let good = kernel.upload(&x);
    kernel.run([2, 1, 1], &[("x", &good), ("n", &int(200))]);
    assert_eq!(kernel.download::<i32>(&good, 200), (1..=200).map(|v| 2 * v).collect::<Vec<_>>());

    x[150] = 0;
    let fault = kernel.launch([2, 1, 1], &[("x", &kernel.upload(&x)), ("n", &int(200))]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Assert);
    assert_eq!(fault.thread.map(|t| (t.block, t.thread)), Some(([1, 0, 0], [22, 0, 0])));
    assert!(fault.why.contains("not positive") && fault.why.contains("kernels.py"), "{fault}");
}

#[test]
fn newer_targets_are_refused() {
    let error = load("softmax_sm90", A100).err().expect("an A100 cannot run sm_90");
    assert!(file("softmax_sm90.ptx").lines().nth(error.line as usize - 1).unwrap().contains(".target"), "{error}");
}
