//! Tiled kernels: `cu/tiles.cu`. Bounds follow from the number of operations and the size of what is added.

use crate::common::*;
use cuda_emulator::gpu::{Arg, Shape};
use half::bf16;

/// Half a unit in the last place of a single at 1.
const HALF_UNIT: f64 = 1.0 / (1u64 << 24) as f64;

fn floats(seed: u64, count: usize) -> Vec<f32> {
    uniform(seed).take(count).collect()
}

fn bfloats(seed: u64, count: usize) -> Vec<bf16> {
    uniform(seed).take(count).map(bf16::from_f32).collect()
}

/// A block shape and grid of two dimensions.
fn plane(grid: [u32; 2], block: [u32; 2]) -> Shape {
    Shape { grid: [grid[0], grid[1], 1], block: [block[0], block[1], 1], ..shape(1, 1) }
}

fn run(bench: &Bench, name: &str, shape: &Shape, args: &[Arg]) {
    bench.try_run(name, shape, args).unwrap_or_else(|fault| panic!("{}: {fault}", bench.arch));
}

#[test]
fn transpose() {
    let (rows, columns) = (70, 100);
    let input = floats(1, rows * columns);
    let expected: Vec<f32> = (0..rows * columns).map(|i| input[i % rows * columns + i / rows]).collect();
    each("tiles", |bench| {
        let out = bench.space::<f32>(input.len());
        let args = [bench.upload(&input), out.clone(), Arg::S32(rows as i32), Arg::S32(columns as i32)];
        run(bench, "transpose", &plane([4, 3], [32, 8]), &args);
        assert_eq!(bench.download::<f32>(&out, input.len()), expected);
    });
}

#[test]
fn reduce() {
    let input = floats(2, 20 * 256);
    each("tiles", |bench| {
        let out = bench.output::<f32>("reduce", &shape(20, 256), &[bench.upload(&input)], 20);
        for (got, block) in out.iter().zip(input.chunks(256)) {
            let exact: f64 = block.iter().map(|x| f64::from(*x)).sum();
            // Eight roundings on the way of every number.
            let bound = 8.0 * HALF_UNIT * block.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            assert!((f64::from(*got) - exact).abs() <= bound, "{got}, exact {exact}");
        }
    });
}

#[test]
fn gemm() {
    let (m, n, k) = (128, 192, 96);
    let (a, b) = (bfloats(3, m * k), bfloats(4, k * n));
    each("tiles", |bench| {
        let out = bench.space::<f32>(m * n);
        let args = [bench.upload(&a), bench.upload(&b), out.clone(), Arg::S32(n as i32), Arg::S32(k as i32)];
        let kernel = cuda_emulator::gpu::kernel(&bench.module, "gemm").expect("there");
        let packed = cuda_emulator::gpu::pack(&kernel.params, &args);
        let counters =
            bench.gpu.run(kernel, &plane([3, 2], [128, 1]), &packed).unwrap_or_else(|fault| panic!("{fault}"));
        // A product of 16 x 8 x 16 per instruction.
        assert_eq!(counters.mma.values().sum::<u64>(), (m * n * k / (16 * 8 * 16)) as u64);
        for (i, got) in bench.download::<f32>(&out, m * n).into_iter().enumerate() {
            let terms = (0..k).map(|t| a[i / n * k + t].to_f64() * b[t * n + i % n].to_f64());
            let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            // Products are exact; tensor cores may cut every sum instead of rounding it: a whole unit each.
            assert!(
                (f64::from(got) - exact).abs() <= 2.0 * HALF_UNIT * k as f64 * size,
                "element {i}: {got}, exact {exact}"
            );
        }
    });
}

fn softmax_of(row: &[f64]) -> Vec<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all: Vec<f64> = row.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.iter().map(|x| x / sum).collect()
}

#[test]
fn softmax() {
    let (rows, columns) = (5, 300);
    let input: Vec<f32> = floats(5, rows * columns).iter().map(|x| x * 8.0).collect();
    each("tiles", |bench| {
        let out = bench.space::<f32>(input.len());
        run(bench, "softmax", &shape(rows as u32, 128), &[bench.upload(&input), out.clone(), Arg::S32(columns as i32)]);
        let out = bench.download::<f32>(&out, input.len());
        for (got, row) in out.chunks(columns).zip(input.chunks(columns)) {
            let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            for (got, exact) in got.iter().zip(softmax_of(&row)) {
                // The difference (at most 16) is rounded before its exponential, which is off by 1.5 units; a sum has 3 + 5 + 3
                // roundings and the quotient one.
                let relative = 2.0 * (16.0 + 3.0) + 11.0 + 1.0;
                assert!((f64::from(*got) - exact).abs() <= relative * HALF_UNIT * exact, "{got}, exact {exact}");
            }
        }
    });
}

#[test]
fn attention() {
    let (queries, keys, width, scale) = (64, 96, 64, 0.125f32);
    let (q, k, v) = (bfloats(6, queries * width), bfloats(7, keys * width), bfloats(8, keys * width));
    let dot =
        |i: usize, j: usize| (0..width).map(|d| q[i * width + d].to_f64() * k[j * width + d].to_f64()).sum::<f64>();
    each("tiles", |bench| {
        let out = bench.space::<f32>(queries * width);
        let args =
            [bench.upload(&q), bench.upload(&k), bench.upload(&v), out.clone(), Arg::S32(keys as i32), Arg::F32(scale)];
        run(bench, "attention", &shape(1, 128), &args);
        let out = bench.download::<f32>(&out, queries * width);
        for i in 0..queries {
            let scores: Vec<f64> = (0..keys).map(|j| dot(i, j) * f64::from(scale)).collect();
            for (d, got) in out[i * width..][..width].iter().enumerate() {
                let terms = softmax_of(&scores).into_iter().enumerate().map(|(j, p)| p * v[j * width + d].to_f64());
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                // A weight is rounded to bf16: 2^-9 of it. What single precision loses is less than a tenth of that: sums
                // of 64 and 96 products by a unit each, scores below 8.
                assert!((f64::from(*got) - exact).abs() <= 1.1 / 512.0 * size, "query {i}, {d}: {got}, exact {exact}");
            }
        }
    });
}
