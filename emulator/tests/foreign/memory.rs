//! Memory: `cu/memory.cu`.

use crate::common::*;
use cuda_emulator::gpu::{Arg, Shape};

const COUNT: usize = 256;

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    random(seed).take(count).map(|r| r as u8).collect()
}

#[test]
fn variables_of_a_module() {
    const WEIGHTS: [f32; 16] =
        [0.5, -1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 144.0, 233.0, 377.0, 610.0, 987.0];
    let model = |i: usize| {
        let sum: f32 = (0..=i).map(|k| WEIGHTS[k * 7 % 16]).sum();
        // In the kernel's order: float sums, then double.
        f64::from(sum + 3.0) + [1.25, -2.5][i % 2] + f64::from([1, 2, 3, 0, 0, 0][i % 6]) + 17.0
    };
    each("memory", |bench| {
        let out = bench.output::<f64>("variables", &shape(2, 32), &[], 64);
        assert_eq!(out, (0..64).map(model).collect::<Vec<_>>());
        bench.run("bump", 3, 10, &[]);
        assert_eq!(bench.output::<i32>("read_counter", &shape(1, 2), &[], 2), [17 + 3 * 45; 2]);
        bench.run("set_flags", 1, 32, &[Arg::S32(250)]);
        assert_eq!(bench.output::<i32>("get_flags", &shape(1, 6), &[], 6), [250, 251, 252, 253, 254, 255]);
    });
}

#[test]
fn every_width() {
    let widths = [
        ("uint8_t", 1),
        ("uint16_t", 2),
        ("uint32_t", 4),
        ("uint64_t", 8),
        ("uchar4", 4),
        ("short2", 4),
        ("int2", 8),
        ("float4", 16),
        ("double2", 16),
        ("longlong2", 16),
    ];
    each("memory", |bench| {
        for (name, width) in widths {
            let input = bytes(1, COUNT * width);
            let out = bench.space::<u8>(input.len());
            bench.run(&format!("reverse_{name}"), 4, 64, &[bench.upload(&input), out.clone(), Arg::S32(COUNT as i32)]);
            let expected: Vec<u8> = input.chunks(width).rev().flatten().copied().collect();
            assert_eq!(bench.download::<u8>(&out, input.len()), expected, "{name}");
        }
    });
}

#[test]
fn loads_with_cache_hints() {
    // Small integers: sums are exact.
    let input: Vec<f32> = bytes(2, COUNT * 4).iter().map(|b| f32::from(*b)).collect();
    let small = bytes(3, COUNT);
    let model = |i: usize| {
        let v = &input[i * 4..][..4];
        v[0] + v[1] * 10.0 + v[2] * 100.0 + v[3] * 1000.0 + f32::from(small[i]) * 3.0
    };
    each("memory", |bench| {
        let args = [bench.upload(&input), bench.upload(&small)];
        let out = bench.output::<f32>("through_cache", &shape(4, 64), &args, COUNT);
        assert_eq!(out, (0..COUNT).map(model).collect::<Vec<_>>());
    });
}

#[test]
fn generic_addresses() {
    let input: Vec<i32> = bytes(4, 64).iter().map(|b| i32::from(*b)).collect();
    let all: i32 = input.iter().sum();
    let model = |i: usize| match i % 3 {
        0 => all + 100_000,
        1 => all + 200_000,
        _ => (0..4).map(|k| input[(i + k) % 64] * 3).sum::<i32>() + 300_000,
    };
    each("memory", |bench| {
        let out = bench.output::<i32>("generic", &shape(1, 64), &[bench.upload(&input)], 64);
        assert_eq!(out, (0..64).map(model).collect::<Vec<_>>());
    });
}

#[test]
fn dynamic_shared_memory() {
    let n = 96;
    let input: Vec<f32> = bytes(5, n).iter().map(|b| f32::from(*b)).collect();
    let model =
        |i: usize| f64::from(input[n - 1 - i] * 2.0 + input[(i + 1) % n] + 1.0) + f64::from(((i + 2) % n * 3) as u8);
    each("memory", |bench| {
        let out = bench.space::<f64>(n);
        let shape = Shape { shared: 13 * n as u32, ..shape(1, n as u32) };
        let args = [bench.upload(&input), out.clone(), Arg::S32(n as i32)];
        bench.try_run("dynamic", &shape, &args).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(bench.download::<f64>(&out, n), (0..n).map(model).collect::<Vec<_>>());
    });
}

#[test]
fn structures_as_parameters() {
    let input: Vec<f32> = bytes(6, 64).iter().map(|b| f32::from(*b)).collect();
    let (shift, add) = ([9u8, 8, 7, 6, 5], [1i64, -20, 300, -4000, 50_000, 6, 7]);
    // As C lays it out: a float, five bytes, seven more to align the numbers of eight.
    let mut big = [4f32.to_le_bytes().to_vec(), shift.to_vec(), vec![0; 7]].concat();
    add.iter().for_each(|v| big.extend(v.to_le_bytes()));
    let model = |i: usize| input[i] * 4.0 + f32::from(shift[i % 5]) + add[i % 7] as f32 + 200.0;
    each("memory", |bench| {
        let args = [bench.upload(&input), Arg::Bytes(big.clone()), Arg::Bytes(vec![200])];
        let out = bench.output::<f32>("by_value", &shape(2, 32), &args, 64);
        assert_eq!(out, (0..64).map(model).collect::<Vec<_>>());
    });
}

#[test]
fn asynchronous_copies() {
    let tiles = 7;
    let input: Vec<f32> = bytes(7, tiles * 256).iter().map(|b| f32::from(*b)).collect();
    let model =
        |i: usize| -> f32 { (0..tiles * 4).map(|n| input[n / 4 * 256 + (i + 64 * (n % 4) + n / 4) % 256]).sum() };
    let words: Vec<u32> = random(8).take(256).map(|r| r as u32).collect();
    let partial = |i: usize| {
        let sum = (0..4)
            .fold(0u32, |sum, k| sum.wrapping_mul(3).wrapping_add(if 4 - k > i % 5 { words[i * 4 + k] } else { 0 }));
        let (first, second) = (words[i * 2], words[i * 2 + 1]);
        sum.wrapping_add(words[i]).wrapping_add(second.wrapping_mul(7)).wrapping_add(first.wrapping_mul(5))
    };
    each("memory", |bench| {
        assert!(ptx("memory", bench.arch).contains("cp.async.cg.shared.global"), "without registers in between");
        let out = bench.space::<f32>(64);
        bench.run("staged", 1, 64, &[bench.upload(&input), out.clone(), Arg::S32(tiles as i32)]);
        assert_eq!(bench.download::<f32>(&out, 64), (0..64).map(model).collect::<Vec<_>>());
        let out = bench.output::<u32>("partial_copies", &shape(1, 64), &[bench.upload(&words)], 64);
        assert_eq!(out, (0..64).map(partial).collect::<Vec<_>>());
    });
}
