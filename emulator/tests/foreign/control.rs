//! Control flow: `cu/control.cu`.

use crate::common::*;
use cuda_emulator::gpu::{Arg, Shape};

fn numbers(seed: u64, below: u64, count: usize) -> Vec<i32> {
    random(seed).take(count).map(|r| (r % below) as i32).collect()
}

#[test]
fn nested_divergence() {
    let input = numbers(1, 100, 192);
    let mut expected = vec![0i32; 192 * 8];
    for (i, &v) in input.iter().enumerate() {
        expected[i] = match (v % 2, v / 2 % 2) {
            (1, 1) => v * 3,
            (1, _) => {
                (0..v % 8).for_each(|k| expected[i + 192 * k as usize] = v - k);
                expected[i]
            }
            _ if v % 3 == 0 && v % 5 == 0 => 0,
            _ if v % 3 == 0 => v % 5 - 5,
            _ => -1,
        };
        if v % 2 == 1 && v / 4 % 2 == 1 {
            expected[i] = !v;
        }
    }
    each("control", |bench| {
        let (from, to) = (bench.upload(&input), bench.upload(&vec![0i32; 192 * 8]));
        bench.run("nested", 3, 64, &[from, to.clone()]);
        assert_eq!(bench.download::<i32>(&to, 192 * 8), expected);
    });
}

#[test]
fn loops_of_different_lengths() {
    let input: Vec<i32> = numbers(2, 3000, 96).iter().map(|v| v + 1).collect();
    let steps = |&v: &i32| {
        std::iter::successors(Some(i64::from(v)), |v| Some(if v % 2 == 1 { 3 * v + 1 } else { v / 2 }))
            .position(|v| v == 1)
    };
    let expected: Vec<i32> = input.iter().map(|v| steps(v).expect("all reach 1") as i32).collect();
    each("control", |bench| {
        assert_eq!(bench.output::<i32>("trips", &shape(3, 32), &[bench.upload(&input)], 96), expected)
    });
}

#[test]
fn break_and_continue() {
    let input = numbers(3, 300, 64);
    let prime = |n: &i32| (2..*n).all(|d| n % d != 0);
    let expected: Vec<i32> = input.iter().map(|&n| (2..n).filter(prime).count() as i32).collect();
    each("control", |bench| {
        assert_eq!(bench.output::<i32>("primes", &shape(1, 64), &[bench.upload(&input)], 64), expected)
    });
}

#[test]
fn switches() {
    let input = numbers(4, 11, 64);
    let opaque = |v: i32| v * 5 + 1;
    let mut expected = [vec![0; 64], vec![-5; 64]];
    for (i, &v) in input.iter().enumerate() {
        let (r, also) = match v {
            0 => (1, None),
            1 => (16, Some(16)),
            2 => (opaque(opaque(2)) + 7, Some(opaque(opaque(2)) + 7)),
            3 => (7, Some(7)),
            4 => ((0..i as i32).fold(0, |r, k| r ^ opaque(k)), None),
            5 => (-5, None),
            6 => (31 / 3, Some(31 / 3)),
            8 => (8, Some(9)),
            _ => (opaque(i as i32), None),
        };
        expected[0][i] = r;
        expected[1][i] = also.unwrap_or(-5);
    }
    each("control", |bench| {
        let to = bench.upload(&[-5i32; 128]);
        bench.run("choose", 1, 64, &[bench.upload(&input), to.clone()]);
        assert_eq!(bench.download::<i32>(&to, 128), expected.concat());
    });
}

#[test]
fn tables_of_branches() {
    let input = numbers(7, 4, 96);
    let expected: Vec<i32> = (0..).zip(&input).map(|(i, v)| [i + 1000, -3 * i, -i, i + 1000][*v as usize]).collect();
    each("control", |bench| {
        assert_eq!(bench.output::<i32>("indexed", &shape(3, 32), &[bench.upload(&input)], 96), expected)
    });
}

#[derive(Clone, Copy)]
struct Pair {
    a: i32,
    b: f64,
    c: [i16; 3],
}

fn twist(p: Pair, n: i32) -> Pair {
    let mut q = Pair { a: p.a + n, ..p };
    match n {
        0 => return p,
        _ if n % 2 == 1 => q.b *= 2.0,
        _ => q.c[(n % 3) as usize] = (q.a + i32::from(p.c[2])) as i16,
    }
    q
}

fn total(p: Pair, n: i32) -> f64 {
    if n > 20 {
        return -1.0;
    }
    let q = if n > 10 { twist(twist(p, n), n - 10) } else { twist(p, n) };
    f64::from(q.a) + q.b + f64::from(q.c[0]) * 100.0 + f64::from(q.c[1]) * 10.0 + f64::from(q.c[2])
}

#[test]
fn calls_with_structures() {
    let input = numbers(5, 1000, 64);
    let expected: Vec<f64> = (0..64)
        .map(|i| {
            let p = Pair { a: input[i as usize], b: f64::from(i) * 0.5, c: [1, 2, 3] };
            let first = if i & 8 != 0 { total(p, i) } else { 0.0 };
            first + if i % 2 == 1 { total(p, i % 5) } else { 0.0 }
        })
        .collect();
    each("control", |bench| {
        assert!(ptx("control", bench.arch).contains("call.uni"), "the functions are to be called");
        assert_eq!(bench.output::<f64>("calls", &shape(2, 32), &[bench.upload(&input)], 64), expected);
    });
}

#[test]
fn local_arrays_by_dynamic_index() {
    let input = numbers(6, 1 << 30, 48 * 16);
    let mut expected = input.clone();
    expected.chunks_mut(16).for_each(|c| c.sort());
    each("control", |bench| {
        let out = bench.output::<i32>("sort_local", &shape(1, 48), &[bench.upload(&input)], input.len());
        assert_eq!(out, expected);
    });
}

#[test]
fn threads_that_leave_before_a_barrier() {
    each("control", |bench| {
        for n in [256, 100, 33, 7, 1] {
            let out = bench.output::<i32>("leave", &shape(1, 256), &[Arg::S32(n)], n as usize);
            assert_eq!(out, (0..n).rev().collect::<Vec<_>>());
        }
    });
}

#[test]
fn grids_of_three_dimensions() {
    let shape = Shape { grid: [3, 2, 4], block: [5, 7, 2], ..shape(1, 1) };
    let mut expected = Vec::new();
    for (bz, by, bx) in (0..24).map(|b| (b / 6, b / 3 % 2, b % 3)) {
        expected.extend((0..70).flat_map(|t| [t % 5, t / 5 % 7 * 100 + t / 35, bx, by * 100 + bz]));
    }
    each("control", |bench| assert_eq!(bench.output::<i32>("places", &shape, &[], expected.len()), expected));
}
