//! Products with quantized weights, and the rounding of their rows.

use super::{ROUNDING, bits, collect, cpus, noise, whole};
use osprey::cpu::{Codes, Cpu, Isa, Operand, Tile, Unit, int8_row, matmul_codes};
use osprey::data::TensorData;
use osprey::quant::panels::Panels;
use osprey::quant::{self, Activations, Quantized};
use std::sync::Mutex;

/// A quantized weight, by rows and in panels.
struct Weight {
    rows: Quantized,
    panels: Panels,
}

impl std::ops::Deref for Weight {
    type Target = Quantized;
    fn deref(&self) -> &Quantized {
        &self.rows
    }
}

/// How codes are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    U4,
    U8,
    I8,
}

impl Weight {
    /// `extreme` codes are the smallest and largest only.
    fn new(width: Width, [n, k, group]: [usize; 3], zeros: bool, extreme: bool) -> Weight {
        let byte = |x: &f32| {
            if extreme {
                [0x00, 0xff, 0x0f, 0xf0, 0x80, 0x7f][(x.abs() * 99.0) as usize % 6]
            } else {
                (x * 128.0) as i8 as u8
            }
        };
        let row = if width == Width::U4 { k.div_ceil(2) } else { k };
        let bytes = TensorData::from_bytes(noise(n * row, 41).iter().map(byte).collect::<Vec<u8>>());
        let codes = match width {
            Width::U4 => quant::Codes::U4(bytes),
            Width::U8 => quant::Codes::U8(bytes),
            Width::I8 => quant::Codes::I8(bytes),
        };
        let groups = n * (k / group);
        let scales = noise(groups, 42).iter().map(|x| 0.02 + 0.01 * x).collect();
        let top = if width == Width::U4 { 16.0 } else { 256.0 };
        let zero = |x: &f32| {
            if extreme { if *x < 0.0 { 0 } else { (top - 1.0) as u8 } } else { ((x + 1.0) * top / 2.0) as u8 }
        };
        let zeros = zeros.then(|| noise(groups, 43).iter().map(zero).collect());
        Weight::of(Quantized { n, k, codes, group, scales, zeros, order: None, activations: Activations::Float })
    }

    fn of(rows: Quantized) -> Weight {
        rows.check().unwrap();
        Weight { panels: Panels::new(&rows), rows }
    }

    fn codes(&self) -> Codes<'_> {
        let Panels { bits, n, k, group, .. } = self.panels;
        let (codes, scales) = (self.panels.codes(), self.panels.scales());
        Codes { bits, n, k, group, codes, scales, zeros: self.panels.zeros() }
    }

    /// The code of an element less its zero.
    fn distance(&self, n: usize, k: usize) -> i64 {
        (self.rows.code(n, k) - self.rows.zero(n, k / self.group)) as i64
    }

    fn scale(&self, n: usize, k: usize) -> f32 {
        self.scales[n * (self.k / self.group) + k / self.group]
    }

    fn value(&self, n: usize, k: usize) -> f64 {
        self.scale(n, k) as f64 * self.distance(n, k) as f64
    }
}

/// The contract: blocks of x as integers of 16 bits, exact sums with the codes, one chain of fused multiply-adds over the blocks.
fn integer_chain(x: &[f32], w: &Weight, n: usize, full: bool) -> f32 {
    let block = if w.group == w.k { 256 } else { w.group.min(256) };
    let (mut y, mut rest_y) = (0.0f32, 0.0f32);
    for (b, x) in x.chunks(block).enumerate() {
        let mut x = x.to_vec();
        for y in [&mut y, &mut rest_y].into_iter().take(if full { 2 } else { 1 }) {
            let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let (scale, inverse) = if top < 1e-30 { (0.0, 0.0) } else { (top / 32512.0, 32512.0 / top) };
            let mut sum = 0;
            for (i, x) in x.iter_mut().enumerate() {
                let integer = (*x * inverse).round_ties_even();
                sum += integer as i64 * w.distance(n, b * block + i);
                *x = (-integer).mul_add(scale, *x);
            }
            *y = (sum as f32).mul_add(scale * w.scale(n, b * block), *y);
        }
    }
    if full { y + rest_y } else { y }
}

/// Products with quantized weights, as the documented chains have them.
fn check_codes(w: &Weight, t: usize, size: f32) {
    let label = format!("{:?} {t}x{}x{} in {}", w.format(), w.n, w.k, w.group);
    // Extremes: whole blocks of the largest magnitude, of one sign and of both.
    let x: Vec<f32> = noise(t * w.k, 44)
        .iter()
        .enumerate()
        .map(|(i, x)| if i % 512 < 256 { size * x.signum() } else { size * x })
        .collect();
    let units = whole(w.n, 24);
    for (full, operand) in [(false, Operand::Half(&x)), (true, Operand::Full(&x))] {
        let want: Vec<f32> = x.chunks(w.k).flat_map(|x| (0..w.n).map(move |n| integer_chain(x, w, n, full))).collect();
        for cpu in cpus() {
            let got =
                collect(t, &units, |units, epilogue| matmul_codes(&cpu, operand, t, &[w.codes()], units, epilogue));
            assert_eq!(bits(&got), bits(&want), "{label} full {full} {}", cpu.isa().name());
        }
        for (i, got) in want.iter().enumerate() {
            let (x, n) = (&x[i / w.n * w.k..][..w.k], i % w.n);
            let exact: f64 = x.iter().enumerate().map(|(k, x)| *x as f64 * w.value(n, k)).sum();
            // Half a unit of the integers and four roundings of at most 32512; then conversion, product, sum in each block. An f32
            // row's second rounding is 65024 times finer.
            let unit = (0.5 + 4.0 * 32512.0 * ROUNDING) / 32512.0 * size as f64 / if full { 65_024.0 } else { 1.0 };
            let bound: f64 = (0..w.k)
                .map(|k| w.value(n, k).abs() * (unit + 2.0 * size as f64 * (w.k / 32 + 4) as f64 * ROUNDING))
                .sum();
            assert!((*got as f64 - exact).abs() <= bound, "{label}: {got} is not {exact} +- {bound}");
        }
    }
}

#[test]
fn products_with_codes_are_the_documented_chain_on_every_path() {
    for extreme in [false, true] {
        for (t, shape) in [(1, [40, 256, 128]), (2, [17, 160, 32]), (3, [33, 1536, 768]), (13, [50, 640, 64])] {
            for (width, zeros) in
                [(Width::U4, false), (Width::U4, true), (Width::U8, false), (Width::U8, true), (Width::I8, false)]
            {
                check_codes(&Weight::new(width, shape, zeros, extreme), t, if extreme { 3e4 } else { 2.0 });
            }
        }
        // One scale for a row may be for any number of columns.
        for (t, shape) in [(5, [9, 300, 300]), (1, [24, 7, 7]), (27, [16, 1064, 1064])] {
            for width in [Width::U4, Width::U8, Width::I8] {
                check_codes(&Weight::new(width, shape, width != Width::I8, extreme), t, 1e-3);
            }
        }
    }
}

#[test]
fn products_of_int8_with_int8_are_exact_but_for_their_scales() {
    for extreme in [false, true] {
        for (t, n, k) in [(1, 40, 512), (3, 17, 1000), (30, 33, 8960)] {
            let w = Weight::new(Width::I8, [n, k, k], false, extreme);
            let x: Vec<i8> = noise(t * k, 45).iter().map(|x| if extreme { -127 } else { (x * 127.0) as i8 }).collect();
            let scales: Vec<f32> = noise(t, 46).iter().map(|x| 0.1 + x.abs()).collect();
            let rows = x.chunks(k).zip(&scales);
            let want: Vec<f32> = rows
                .flat_map(|(x, scale)| {
                    let w = &w;
                    (0..n).map(move |n| {
                        let sum: i64 = x.iter().enumerate().map(|(k, x)| *x as i64 * w.distance(n, k)).sum();
                        sum as f32 * (scale * w.scale(n, 0))
                    })
                })
                .collect();
            for cpu in cpus() {
                let operand = Operand::Int8 { rows: &x, scales: &scales };
                let got = collect(t, &whole(n, 16), |units, epilogue| {
                    matmul_codes(&cpu, operand, t, &[w.codes()], units, epilogue)
                });
                assert_eq!(bits(&got), bits(&want), "{t}x{n}x{k} {}", cpu.isa().name());
            }
        }
    }
}

#[test]
fn products_with_codes_do_not_depend_on_rows_threads_or_units() {
    let (t, n, k) = (1100, 160, 1024);
    let x = noise(t * k, 47);
    let w = Weight::new(Width::U4, [n, k, 128], true, false);
    let isa = Isa::detect();
    for full in [false, true] {
        let run = |threads: usize, first: usize, count: usize, width: usize| {
            let x = &x[first * k..(first + count) * k];
            let operand = if full { Operand::Full(x) } else { Operand::Half(x) };
            let cpu = Cpu::new(isa, threads);
            collect(count, &whole(n, width), |units, epilogue| {
                matmul_codes(&cpu, operand, count, &[w.codes()], units, epilogue)
            })
        };
        let want = run(2, 0, t, 80);
        for threads in [1, 3] {
            assert_eq!(bits(&run(threads, 0, t, 32)), bits(&want));
        }
        for (first, count) in [(0, 1), (7, 2), (20, 3), (100, 4), (300, 8), (500, 12), (600, 13), (700, 400)] {
            let rows = run(2, first, count, 128);
            assert_eq!(bits(&rows), bits(&want[first * n..(first + count) * n]), "{count} rows");
        }
    }
}

#[test]
fn a_unit_may_take_codes_of_two_parts() {
    let (t, n, k) = (20, 48, 96);
    let x = noise(t * k, 48);
    let gate = Weight::new(Width::U4, [n, k, 32], true, false);
    let other: Vec<u8> = gate.rows.codes.bytes().iter().map(|b| b ^ 0x5a).collect();
    let up = Weight::new(Width::U4, [n, k, 32], true, true).rows;
    let up = Weight::of(Quantized { codes: quant::Codes::U4(TensorData::from_bytes(other)), ..up });
    let parts = [gate.codes(), up.codes()];
    let cpu = Cpu::new(Isa::detect(), 2);
    let run = |parts: &[Codes], rows: usize, units: &[(Unit, usize)]| {
        let operand = Operand::Half(&x[..rows * k]);
        collect(rows, units, |units, epilogue| matmul_codes(&cpu, operand, rows, parts, units, epilogue))
    };
    let [gates, ups] = [0, 1].map(|i| run(&parts[i..=i], t, &whole(n, n)));
    for rows in [1, t] {
        let units: Vec<_> = (0..n).step_by(24).map(|j| (Unit::pair((0, j, 24), (1, j, 24)), 48)).collect();
        for (row, got) in run(&parts, rows, &units).chunks(2 * n).enumerate() {
            for (j, got) in got.chunks(24).enumerate() {
                let from = [&gates, &ups][j % 2];
                assert_eq!(bits(got), bits(&from[row * n + j / 2 * 24..][..24]));
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_give_nan_and_others_do_not() {
    let (n, k) = (20, 512);
    let w = Weight::new(Width::U4, [n, k, 128], false, false);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = noise(3 * k, 49);
        x[k + 300] = bad;
        x[2 * k..].fill(1e-38);
        for (cpu, operand) in cpus().iter().flat_map(|cpu| [(cpu, Operand::Half(&x)), (cpu, Operand::Full(&x))]) {
            let y = collect_any(3, n, |units, epilogue| matmul_codes(cpu, operand, 3, &[w.codes()], units, epilogue));
            assert!(y[..n].iter().all(|y| y.is_finite()) && y[n..2 * n].iter().all(|y| y.is_nan()));
            assert!(y[2 * n..].iter().all(|y| *y == 0.0), "rows of nothing");
        }
        for isa in Isa::available() {
            let mut to = vec![1; k];
            assert!(int8_row(isa, &x[k..2 * k], &mut to).is_nan() && to.iter().all(|x| *x == 0));
            assert!(int8_row(isa, &[0.0; 9], &mut to[..9]) == 0.0 && to.iter().all(|x| *x == 0));
            assert!(int8_row(isa, &x[2 * k..], &mut to) > 0.0 && to.iter().all(|x| *x == 127), "however small");
        }
    }
}

/// The outputs of `n` columns, NaN among them.
fn collect_any(t: usize, n: usize, multiply: impl FnOnce(&[Unit], &(dyn Fn(usize, &mut Tile) + Sync))) -> Vec<f32> {
    let out = Mutex::new(vec![0.5; t * n]);
    multiply(&[Unit::new(0, 0, n)], &|_, tile| {
        let mut out = out.lock().expect("no task panics");
        (0..tile.rows).for_each(|i| out[(tile.row0 + i) * n..][..n].copy_from_slice(tile.row(i)));
    });
    out.into_inner().expect("no task panics")
}

#[test]
fn int8_rows_are_nearest_even_of_the_largest_over_127() {
    for size in [1.0, 1e-20, 1e30] {
        let x: Vec<f32> = noise(333, 50).iter().map(|x| x * size).collect();
        let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        for isa in Isa::available() {
            let mut to = vec![0; x.len()];
            assert_eq!(int8_row(isa, &x, &mut to), top / 127.0);
            let want: Vec<i8> = x.iter().map(|x| (x / (top / 127.0)).round_ties_even() as i8).collect();
            assert_eq!(to, want);
            assert!(to.contains(&127) || to.contains(&-127));
        }
    }
    // Halves: of 127 units, 0.5 and 2.5 go down, 1.5 up.
    let mut to = [0; 5];
    assert_eq!(int8_row(Isa::detect(), &[127.0, 0.5, 1.5, 2.5, -0.5], &mut to), 1.0);
    assert_eq!(to, [127, 0, 2, 2, 0]);
}
