//! Votes, shuffles, reductions of warps and parts of warps: `cu/warp.cu`.

use crate::common::*;

const ALL: u32 = u32::MAX;

fn numbers(seed: u64, below: u64, count: usize) -> Vec<i32> {
    random(seed).take(count).map(|r| (r % below) as i32).collect()
}

/// The lanes for which `holds`, as a mask.
fn mask(holds: impl Fn(usize) -> bool) -> u32 {
    (0..32).map(|lane| u32::from(holds(lane)) << lane).sum()
}

#[test]
fn votes_and_matches() {
    // The second warp agrees on v / 8.
    let input: Vec<i32> = numbers(1, 16, 32).into_iter().chain(numbers(2, 8, 32)).collect();
    let mut expected = Vec::new();
    for (i, &v) in input.iter().enumerate() {
        let warp = &input[i / 32 * 32..][..32];
        let same = mask(|lane| warp[lane] == v);
        let agreed = warp.iter().all(|w| w / 8 == v / 8);
        let odd = mask(|lane| warp[lane] % 2 == 1);
        let uniform = if agreed { ALL } else { 0 };
        let any = warp.iter().any(|w| *w > 6).into();
        let active = if v % 2 == 1 { odd } else { 0 };
        expected.extend([mask(|lane| warp[lane] > 3), 1, any, same, uniform, agreed.into(), same, active]);
    }
    each("warp", |bench| {
        assert_eq!(bench.output::<u32>("votes", &shape(1, 64), &[bench.upload(&input)], 64 * 8), expected);
    });
}

#[test]
fn shuffles() {
    let input = numbers(3, 1 << 20, 64);
    let mut expected = Vec::new();
    for i in 0..64 {
        let (warp, lane) = (&input[i / 32 * 32..][..32], i % 32);
        let (v, at) = (warp[lane], |lane: usize| warp[lane % 32]);
        let wide = |lane: usize| ((i64::from(at(lane)) << 33 | (i / 32 * 32 + lane % 32) as i64) >> 31) as i32;
        expected.extend([
            at(i * 7 + 3),
            if lane >= 5 { at(lane - 5) } else { v },
            if lane + 9 < 32 { at(lane + 9) } else { v },
            at(lane ^ 21),
            at(lane / 8 * 8 + (lane + 1) % 8),
            if lane % 4 >= 1 { at(lane - 1) } else { v },
            if lane % 16 + 3 < 16 { at(lane + 3) } else { v },
            at(lane ^ 1),
            wide(lane ^ 16),
            (f64::from(if lane < 31 { at(lane + 1) } else { v }) * 0.5) as i32,
        ]);
    }
    each("warp", |bench| {
        assert_eq!(bench.output::<i32>("shuffles", &shape(1, 64), &[bench.upload(&input)], 640), expected);
    });
}

#[test]
fn reductions_in_one_instruction() {
    let input: Vec<i32> = random(4).take(96).map(|r| r as i32).collect();
    let mut expected = Vec::new();
    for i in 0..96 {
        let warp = &input[i / 32 * 32..][..32];
        let unsigned = || warp.iter().map(|v| *v as u32);
        let signed = [warp.iter().min(), warp.iter().max()].map(|v| *v.expect("32 lanes") as u32);
        expected.push(unsigned().fold(0, u32::wrapping_add));
        expected.extend(signed);
        expected.extend([unsigned().min(), unsigned().max()].map(|v| v.expect("32 lanes")));
        expected.extend([unsigned().fold(ALL, |a, b| a & b), unsigned().fold(0, |a, b| a | b)]);
        expected.push(unsigned().fold(0, |a, b| a ^ b));
    }
    each("warp", |bench| {
        assert!(ptx("warp", bench.arch).contains("redux.sync.add"), "in one instruction");
        assert_eq!(bench.output::<u32>("reductions", &shape(1, 96), &[bench.upload(&input)], 96 * 8), expected);
    });
}

#[test]
fn parts_of_a_warp_on_different_paths() {
    let input = numbers(5, 6, 64);
    let alone = |i: usize| {
        let (warp, lane, v) = (&input[i / 32 * 32..][..32], i % 32, input[i]);
        match lane {
            0..8 => warp[..8].iter().sum(),
            8..20 => *warp[8..20].iter().max().expect("some"),
            _ if v % 2 == 1 => warp[20..lane].iter().filter(|w| *w % 2 == 1).count() as i32,
            _ => -(21 + warp[20..].iter().position(|w| *w == v).expect("itself") as i32),
        }
    };
    let expected: Vec<i32> = (0..64).map(|i| alone(i) + alone(i / 32 * 32 + 31 - i % 32)).collect();
    each("warp", |bench| {
        assert_eq!(bench.output::<i32>("parts", &shape(1, 64), &[bench.upload(&input)], 64), expected);
    });
}

#[test]
fn sums_over_a_block() {
    // Small integers: every order of additions gives the same.
    let input: Vec<f32> = numbers(6, 100, 512).iter().map(|v| *v as f32).collect();
    let expected: Vec<f32> = (1..=512).map(|n| input[..n].iter().sum()).collect();
    each("warp", |bench| {
        assert_eq!(bench.output::<f32>("scan", &shape(1, 512), &[bench.upload(&input)], 512), expected);
    });
}

#[test]
fn a_warp_exchanges_through_shared_memory() {
    let input = numbers(7, 1 << 30, 4 * 1024);
    let expected: Vec<i32> = (0..4096).map(|i| input[i / 1024 * 1024 + i % 32 * 32 + i / 32 % 32]).collect();
    each("warp", |bench| {
        assert_eq!(bench.output::<i32>("warp_tile", &shape(1, 128), &[bench.upload(&input)], 4096), expected);
    });
}

#[test]
fn lanes_that_drop_out_of_a_loop() {
    let input = numbers(8, 40, 64);
    let left = |i: usize, k: i32| input[i / 32 * 32..][..32].iter().filter(|n| k < **n).count() as i32;
    let expected: Vec<i32> = (0..64).map(|i| (0..input[i]).map(|k| left(i, k)).sum()).collect();
    each("warp", |bench| {
        assert_eq!(bench.output::<i32>("survivors", &shape(1, 64), &[bench.upload(&input)], 64), expected);
    });
}

#[test]
fn dot_products_of_bytes() {
    let (a, b): (Vec<i32>, Vec<i32>) = random(9).take(64).map(|r| (r as i32, (r >> 32) as i32)).unzip();
    let mut expected = Vec::new();
    for (&a, &b) in a.iter().zip(&b) {
        let signed = |v: i32, k| i32::from(v.to_le_bytes()[k] as i8);
        let unsigned = |v: i32, k| i32::from(v.to_le_bytes()[k]);
        let half = |v: i32, k: i32| i32::from((v >> (16 * k)) as i16);
        expected.push((0..4).fold(1000, |sum, k| sum + signed(a, k) * signed(b, k)));
        expected.push((0..4).fold(1000, |sum, k| sum + unsigned(a, k) * unsigned(b, k)));
        expected.push((0..2).fold(-5, |sum, k| sum + half(a, k as i32) * signed(b, k)));
        expected.push((0..2).fold(5, |sum: i32, k| {
            sum.wrapping_add((half(a, k as i32) as u16 as i32).wrapping_mul(unsigned(b, k + 2)))
        }));
    }
    each("warp", |bench| {
        let args = [bench.upload(&a), bench.upload(&b)];
        assert_eq!(bench.output::<i32>("dots", &shape(1, 64), &args, 256), expected);
    });
}
