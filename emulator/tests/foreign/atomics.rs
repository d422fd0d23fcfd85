//! Atomics: `cu/atomics.cu`.

use crate::common::*;
use half::{bf16, f16};

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    random(seed).take(count).map(|r| r as u8).collect()
}

#[test]
fn histograms() {
    let input = bytes(1, 1920);
    let mut expected = vec![0u32; 256];
    input.iter().for_each(|b| expected[*b as usize] += 1);
    each("atomics", |bench| {
        let bins = bench.upload(&[0u32; 256]);
        bench.run("histogram", 10, 192, &[bench.upload(&input), bins.clone()]);
        assert_eq!(bench.download::<u32>(&bins, 256), expected);
    });
}

#[test]
fn words() {
    let input: Vec<u32> = random(2).take(640).map(|r| r as u32 | 4).collect();
    let signed = || input.iter().map(|v| *v as i32);
    let expected = [
        input.iter().fold(0, |a: u32, b| a.wrapping_add(*b)),
        *input.iter().min().expect("some"),
        *input.iter().max().expect("some"),
        input.iter().fold(u32::MAX, |a, b| a & b),
        input.iter().fold(0, |a, b| a | b),
        input.iter().fold(0, |a, b| a ^ b),
        // 0, 1, .., 9, 0: ten values. 0, 6, 5, .., 0: seven.
        640 % 10,
        7 - 640 % 7,
    ];
    let ends = [signed().min(), signed().max()].map(|v| v.expect("some") as u32);
    each("atomics", |bench| {
        let start = [0, u32::MAX, 0, u32::MAX, 0, 0, 0, 0, 0, i32::MAX as u32, i32::MIN as u32];
        let cells = bench.upload(&start);
        bench.run("words", 5, 128, &[bench.upload(&input), cells.clone()]);
        let got = bench.download::<u32>(&cells, 11);
        assert_eq!(got[..8], expected);
        assert!(input.contains(&got[8]), "the last of the exchanges");
        assert_eq!(got[9..], ends);
    });
}

#[test]
fn longs() {
    let input: Vec<u64> = random(3).take(256).collect();
    let signed = || input.iter().map(|v| *v as i64);
    let expected = [
        input.iter().fold(0, |a: u64, b| a.wrapping_add(*b)),
        *input.iter().min().expect("some"),
        *input.iter().max().expect("some"),
        input.iter().fold(u64::MAX, |a, b| a & b),
        input.iter().fold(0, |a, b| a | b),
        input.iter().fold(0, |a, b| a ^ b),
    ];
    let ends = [signed().min(), signed().max()].map(|v| v.expect("some") as u64);
    each("atomics", |bench| {
        let start = [0, u64::MAX, 0, u64::MAX, 0, 0, 0, i64::MAX as u64, i64::MIN as u64];
        let cells = bench.upload(&start);
        bench.run("longs", 4, 64, &[bench.upload(&input), cells.clone()]);
        let got = bench.download::<u64>(&cells, 9);
        assert_eq!(got[..6], expected);
        assert!(input.contains(&got[6]), "the last of the exchanges");
        assert_eq!(got[7..], ends);
    });
}

#[test]
fn sums_of_floats() {
    let input: Vec<i32> = bytes(4, 128).iter().map(|b| i32::from(*b) % 8).collect();
    let sum: i32 = input.iter().sum();
    let odd = input.iter().filter(|v| *v % 2 == 1).count() as f32;
    each("atomics", |bench| {
        let args = [
            bench.upload(&input),
            bench.upload(&[0.5f32]),
            bench.upload(&[0.5f64]),
            bench.upload(&[f16::ZERO]),
            bench.upload(&[bf16::ZERO]),
            bench.upload(&[f16::ZERO; 2]),
        ];
        bench.run("floats", 2, 64, &args);
        assert_eq!(bench.download::<f32>(&args[1], 1), [0.5 + sum as f32 * 0.25]);
        assert_eq!(bench.download::<f64>(&args[2], 1), [0.5 + f64::from(sum) * 0.125]);
        assert_eq!(bench.download::<f16>(&args[3], 1), [f16::from_f32(sum as f32)]);
        assert_eq!(bench.download::<bf16>(&args[4], 1), [bf16::from_f32(odd)]);
        assert_eq!(bench.download::<f16>(&args[5], 2), [sum, -sum].map(|v| f16::from_f32(v as f32)));
    });
}

#[test]
fn old_values_are_all_different() {
    each("atomics", |bench| {
        let args = [bench.upload(&[0u32]), bench.space::<u32>(1000)];
        bench.run("tickets", 10, 100, &args);
        assert_eq!(bench.download::<u32>(&args[1], 1000), [1; 1000]);
        let expected: Vec<i32> = (0..96).map(|i| 100 + 2 * i).collect();
        assert_eq!(bench.output::<i32>("old_values", &shape(1, 96), &[], 96), expected);
    });
}

#[test]
fn compare_and_swap() {
    let floats: Vec<f32> = uniform(5).take(512).collect();
    let input = bytes(6, 512);
    let mut counts = [0u16; 8];
    input.iter().for_each(|b| counts[*b as usize % 8] += 3);
    each("atomics", |bench| {
        let cell = bench.upload(&[-2f32]);
        bench.run("largest", 4, 128, &[bench.upload(&floats), cell.clone()]);
        assert_eq!(bench.download::<f32>(&cell, 1)[0], floats.iter().copied().fold(-2.0, f32::max));
        let cells = bench.upload(&[0u16; 8]);
        bench.run("shorts", 4, 128, &[bench.upload(&input), cells.clone()]);
        assert_eq!(bench.download::<u16>(&cells, 8), counts);
    });
}

#[test]
fn long_sums_in_shared_memory() {
    let input: Vec<u64> = random(7).take(192).map(|r| r >> 1).collect();
    let most = |block: &[u64]| *block.iter().max().expect("some");
    let expected: Vec<u64> =
        input.chunks(64).flat_map(|b| [b.iter().fold(0, |a: u64, v| a.wrapping_add(*v)), most(b)]).collect();
    each("atomics", |bench| {
        assert_eq!(bench.output::<u64>("shared_longs", &shape(3, 64), &[bench.upload(&input)], 6), expected);
    });
}

#[test]
fn locks() {
    each("atomics", |bench| {
        let args = [bench.upload(&[0i32]), bench.upload(&[0i32])];
        bench.run("locked", 50, 64, &args);
        assert_eq!(bench.download::<i32>(&args[1], 1), [50 * 51 / 2]);
        bench.run("lane_lock", 1, 64, &args);
        assert_eq!(bench.download::<i32>(&args[1], 1), [50 * 51 / 2 + 63 * 64 / 2]);
        assert_eq!(bench.download::<i32>(&args[0], 1), [0]);
    });
}
