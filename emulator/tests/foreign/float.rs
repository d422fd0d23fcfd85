//! Floating point: `cu/float.cu`. What IEEE 754 defines must be exact; what CUDA's library computes must be within the
//! errors that the CUDA programming guide states ("Mathematical Functions": standard and intrinsic functions).
//!
//! The reference is the host's f64 function. For single precision it is exact beside the bounds; for double precision
//! its own error (glibc: at most 1 unit in the last place for these) is added to the bound.

use crate::common::*;

const COUNT: usize = 4096;

type Unary<T> = fn(T) -> T;
type Binary<T> = fn(T, T) -> T;

/// The distance of neighbouring numbers of `digits` bits of significand at `x`, subnormals included.
fn unit(x: f64, digits: i32, least: i32) -> f64 {
    let exponent = if x == 0.0 { least } else { ((x.abs().to_bits() >> 52) as i32 - 1023).max(least) };
    two_to(exponent - digits + 1)
}

fn unit_f32(x: f64) -> f64 {
    unit(x, 24, -126)
}

fn unit_f64(x: f64) -> f64 {
    unit(x, 53, -1022)
}

/// Numbers of `low` to `high`, half of them close to zero or `low`, whatever is larger.
fn between(seed: u64, low: f64, high: f64) -> Vec<f64> {
    let part = |r: u64| (r >> 11) as f64 / (1u64 << 53) as f64;
    let wide = random(seed).map(|r| low + (high - low) * part(r));
    let near =
        random(seed + 1000).map(|r| (2.0 * part(r) - 1.0).powi(3)).map(|x| if low < -1.0 { x } else { low + x.abs() });
    wide.take(COUNT / 2).chain(near.take(COUNT / 2)).collect()
}

fn singles(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|x| *x as f32).collect()
}

/// Numbers with every exponent, the special ones among them.
fn every(seed: u64) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        -f32::INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-40,
        0.5,
        1.5,
        2.5,
    ];
    let pairs = special.iter().flat_map(|x| special.iter().map(move |y| if seed.is_multiple_of(2) { *x } else { *y }));
    let any = random(seed).map(|r| f32::from_bits(r as u32));
    pairs.chain(any).take(COUNT).collect()
}

fn every_double(seed: u64) -> Vec<f64> {
    let special = [0.0, -0.0, 1.0, -3.0, f64::INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE, 5e-324, -1e-310];
    let pairs = special.iter().flat_map(|x| special.iter().map(move |y| if seed.is_multiple_of(2) { *x } else { *y }));
    // Exponents that often let products and sums be finite.
    let any = random(seed).map(|r| f64::from_bits(r & !(1 << 62) | (r & 1 << 60) << 1 | 1 << 61));
    pairs.chain(any).take(COUNT).collect()
}

fn run<T: Element>(bench: &Bench, name: &str, inputs: &[&[T]]) -> Vec<T> {
    let args: Vec<_> = inputs.iter().map(|input| bench.upload(input)).collect();
    bench.output::<T>(name, &shape(COUNT as u32 / 128, 128), &args, COUNT)
}

/// Single precision within `allowed(x, reference)`.
fn near(name: &str, input: &[f64], reference: fn(f64) -> f64, allowed: impl Fn(f64, f64) -> f64) {
    let input = singles(input);
    each("float", |bench| {
        for (x, got) in input.iter().zip(run(bench, name, &[&input])) {
            let exact = reference(f64::from(*x));
            let error = (f64::from(got) - exact).abs();
            // A result beyond the range is infinite.
            let overflow = got.is_infinite() && exact.abs() > f64::from(f32::MAX);
            assert!(
                overflow || error <= allowed(f64::from(*x), exact),
                "{name}({x:e}) = {got:e}, exact {exact:e} ({})",
                bench.arch
            );
        }
    });
}

/// The guide's maximum errors in units in the last place are against the rounded result: half a unit more against the exact one.
fn ulps(count: f64) -> impl Fn(f64, f64) -> f64 {
    move |_, exact| (count + 0.5) * unit_f32(exact)
}

#[test]
fn library_functions_of_one_number() {
    near("f_exp", &between(1, -104.0, 89.0), f64::exp, ulps(1.0));
    near("f_exp2", &between(2, -126.0, 128.0), f64::exp2, ulps(2.0));
    near("f_log", &between(3, 1e-30, 1e6), f64::ln, ulps(1.0));
    near("f_log2", &between(4, 1e-30, 1e6), f64::log2, ulps(1.0));
    near("f_log1p", &between(5, -0.99, 100.0), f64::ln_1p, ulps(1.0));
    near("f_expm1", &between(6, -20.0, 80.0), f64::exp_m1, ulps(1.0));
    // Beyond 105615 the argument is reduced with more bits, in a table of local memory.
    for range in [100.0, 1e6, 1e30] {
        near("f_sin", &between(7, -range, range), f64::sin, ulps(2.0));
        near("f_cos", &between(8, -range, range), f64::cos, ulps(2.0));
        near("f_tan", &between(9, -range, range), f64::tan, ulps(4.0));
    }
    near("f_tanh", &between(10, -12.0, 12.0), f64::tanh, ulps(2.0));
    near("f_erf", &between(11, -5.0, 5.0), erf, ulps(2.0));
    near("f_atan", &between(12, -1000.0, 1000.0), f64::atan, ulps(2.0));
    near("f_cbrt", &between(13, -1e9, 1e9), f64::cbrt, ulps(1.0));
    near("f_rsqrt", &between(14, 1e-30, 1e30), |x| 1.0 / x.sqrt(), ulps(2.0));
}

/// The error function: its Taylor series for small arguments, else the complement's continued fraction.
fn erf(x: f64) -> f64 {
    let (scale, a) = (2.0 / std::f64::consts::PI.sqrt(), x.abs());
    if a < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return scale * sum;
    }
    let tail = (1..=200).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (a + tail));
    (1.0 - scale / 2.0 * (-a * a).exp() / (a + tail)).copysign(x)
}

#[test]
fn intrinsic_functions() {
    near("fast_exp", &between(21, -80.0, 80.0), f64::exp, |x, e| (2.5 + (1.173 * x).abs().floor()) * unit_f32(e));
    near("fast_log", &between(22, 0.5, 2.0), f64::ln, |_, _| 2f64.powf(-21.41));
    near(
        "fast_log",
        &between(23, 2.0, 1e9),
        f64::ln,
        |x, e| if x < 2.0 { 2f64.powf(-21.41) } else { 3.5 * unit_f32(e) },
    );
    let pi = std::f64::consts::PI;
    near("fast_sin", &between(24, -pi, pi), f64::sin, |_, _| 2f64.powf(-21.41));
    near("fast_cos", &between(25, -pi, pi), f64::cos, |_, _| 2f64.powf(-21.19));
    // PTX ISA: the maximum relative error of tanh.approx.f32 is 2^-11.
    near("tanh_approx", &between(26, -10.0, 10.0), f64::tanh, |_, e| two_to(-11) * e.abs());
}

/// `got` is the exact result rounded once, NaN for NaN.
fn same(name: &str, got: f32, expected: f32, x: f32, y: f32) {
    let alike = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
    assert!(alike, "{name}({x:e}, {y:e}) = {got:e}, not {expected:e}");
}

#[test]
fn ieee_single_precision() {
    let (a, b) = (every(30), every(31));
    let two: [(&str, Binary<f32>); 7] = [
        ("f_add", |x, y| x + y),
        ("f_mul", |x, y| x * y),
        ("f_div", |x, y| x / y),
        ("f_fmod", |x, y| x % y),
        ("f_fma", |x, y| x.mul_add(y, x - y)),
        ("f_copysign", |x, y| x.abs().copysign(y)),
        ("f_sqrt", |x, _| x.sqrt()),
    ];
    let one: [(&str, Unary<f32>); 6] = [
        ("f_rcp", |x| 1.0 / x),
        ("f_floor", f32::floor),
        ("f_ceil", f32::ceil),
        ("f_trunc", f32::trunc),
        ("f_rint", f32::round_ties_even),
        ("f_round", f32::round),
    ];
    each("float", |bench| {
        for (name, model) in two {
            let inputs: &[&[f32]] = if name == "f_sqrt" { &[&a] } else { &[&a, &b] };
            let out = run(bench, name, inputs);
            (0..COUNT).for_each(|i| same(name, out[i], model(a[i], b[i]), a[i], b[i]));
        }
        for (name, model) in one {
            let out = run(bench, name, &[&a]);
            (0..COUNT).for_each(|i| same(name, out[i], model(a[i]), a[i], 0.0));
        }
        // A NaN loses; of two zeros the sign is free in C, and -0 < +0 in PTX.
        for (name, model) in [("f_min", f32::min as fn(f32, f32) -> f32), ("f_max", f32::max)] {
            let out = run(bench, name, &[&a, &b]);
            for i in (0..COUNT).filter(|i| a[*i] != b[*i]) {
                same(name, out[i], model(a[i], b[i]), a[i], b[i]);
            }
        }
    });
}

/// Rounds in a direction: -1 down, 0 towards zero, 1 up. `x` is the result rounded to nearest and `error` (of any size)
/// what is missing to the exact one.
fn directed(x: f32, error: f64, direction: i32) -> f32 {
    let toward = if direction == 0 { -(x.total_cmp(&0.0) as i32) } else { direction };
    match toward {
        1 if error > 0.0 => x.next_up(),
        -1 if error < 0.0 => x.next_down(),
        _ => x,
    }
}

#[test]
fn directed_rounding() {
    // Exponents at which products and remainders are exact in f64, sums need care.
    let [a, b] = [32, 33].map(|seed| -> Vec<f32> { uniform(seed).map(|x| x * 1024.0 + 0.001).take(COUNT).collect() });
    each("float", |bench| {
        for (name, direction) in [("f_add_down", -1), ("f_add_up", 1), ("f_mul_zero", 0), ("f_div_up", 1)] {
            let out = run(bench, name, &[&a, &b]);
            for i in 0..COUNT {
                let (x, y) = (f64::from(a[i]), f64::from(b[i]));
                let (nearest, error) = match name {
                    "f_mul_zero" => ((x * y) as f32, x * y - f64::from((x * y) as f32)),
                    // The sign of the remainder over the divisor's is the error's.
                    "f_div_up" => (a[i] / b[i], (x - f64::from(a[i] / b[i]) * y) * y.signum()),
                    _ => (a[i] + b[i], x + y - f64::from(a[i] + b[i])),
                };
                same(name, out[i], directed(nearest, error, direction), a[i], b[i]);
            }
        }
    });
}

#[test]
fn functions_of_two_numbers() {
    let (base, power) = (singles(&between(34, 0.001, 30.0)), singles(&between(35, -8.0, 8.0)));
    let base: Vec<f32> = base.iter().map(|x| x.abs()).collect();
    let (a, b) = (singles(&between(36, -1e10, 1e10)), singles(&between(37, -1e10, 1e10)));
    each("float", |bench| {
        let within = |name: &str, x: &[f32], y: &[f32], reference: fn(f64, f64) -> f64, count: f64| {
            for (i, got) in run(bench, name, &[x, y]).into_iter().enumerate() {
                let exact = reference(x[i].into(), y[i].into());
                let overflow = got.is_infinite() && exact.abs() > f64::from(f32::MAX);
                let fine = overflow || (f64::from(got) - exact).abs() <= (count + 0.5) * unit_f32(exact);
                assert!(fine, "{name}({:e}, {:e}) = {got:e}, exact {exact:e}", x[i], y[i]);
            }
        };
        within("f_pow", &base, &power, f64::powf, 4.0);
        within("f_hypot", &a, &b, f64::hypot, 3.0);
        within("fast_div", &a, &b, |x, y| x / y, 2.0);
    });
}

#[test]
fn library_functions_of_double_precision() {
    let cases: [(&str, Vec<f64>, Unary<f64>, f64); 5] = [
        ("d_exp", between(40, -700.0, 700.0), f64::exp, 1.0),
        ("d_log", between(41, 1e-300, 1e300), f64::ln, 1.0),
        ("d_sin", between(42, -1e6, 1e6), f64::sin, 2.0),
        ("d_cos", between(43, -1e6, 1e6), f64::cos, 2.0),
        ("d_tanh", between(44, -20.0, 20.0), f64::tanh, 2.0),
    ];
    // The reference is rounded too: half a unit, within the one that its library may be off.
    let fine = |got: f64, reference: f64, bound: f64| (got - reference).abs() <= (bound + 1.0) * unit_f64(reference);
    each("float", |bench| {
        for (name, input, reference, bound) in &cases {
            for (x, got) in input.iter().zip(run(bench, name, &[input])) {
                assert!(fine(got, reference(*x), *bound), "{name}({x:e}) = {got:e}, reference {:e}", reference(*x));
            }
        }
        let (x, y) = (between(45, 0.001, 100.0), between(46, -20.0, 20.0));
        let x: Vec<f64> = x.iter().map(|x| x.abs()).collect();
        for (i, got) in run(bench, "d_pow", &[&x, &y]).into_iter().enumerate() {
            assert!(fine(got, x[i].powf(y[i]), 2.0), "pow({:e}, {:e}) = {got:e}", x[i], y[i]);
        }
    });
}

#[test]
fn ieee_double_precision() {
    let (a, b) = (every_double(50), every_double(51));
    let cases: [(&str, bool, Binary<f64>); 4] = [
        ("d_sqrt", false, |x, _| x.sqrt()),
        ("d_rcp", false, |x, _| 1.0 / x),
        ("d_div", true, |x, y| x / y),
        ("d_fma", true, |x, y| x.mul_add(y, x + y)),
    ];
    each("float", |bench| {
        for (name, binary, model) in cases {
            let inputs: &[&[f64]] = if binary { &[&a, &b] } else { &[&a] };
            for (i, got) in run(bench, name, inputs).into_iter().enumerate() {
                let expected = model(a[i], b[i]);
                let alike = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(alike, "{name}({:e}, {:e}) = {got:e}, not {expected:e}", a[i], b[i]);
            }
        }
    });
}

#[test]
fn floats_to_integers() {
    let mut input = every(60);
    input[COUNT / 2..].iter_mut().zip(uniform(61)).for_each(|(to, x)| *to = (x * 4096.0).round() / 2.0);
    // PTX: a NaN becomes 0 if neither type has 64 bits, else the most negative number; out of range is clamped.
    let long = |x: f32| if x.is_nan() { i64::MIN } else { x as i64 };
    let unsigned = |x: f32| if x.is_nan() { i64::MIN } else { x.round_ties_even() as u64 as i64 };
    let model = |x: f32| {
        let nearest = x.round_ties_even();
        let up = i64::from(x.ceil() as u32);
        let double = i64::from(if x.is_nan() { i32::MIN } else { nearest as i32 });
        [
            x as i32 as i64,
            nearest as i32 as i64,
            x.floor() as i32 as i64,
            up,
            long(x),
            unsigned(x),
            double,
            long(nearest),
        ]
    };
    each("float", |bench| {
        let out =
            bench.output::<i64>("to_integers", &shape(COUNT as u32 / 128, 128), &[bench.upload(&input)], COUNT * 8);
        for (x, got) in input.iter().zip(out.chunks(8)) {
            assert_eq!(got, model(*x), "of {x:e}");
        }
    });
}

#[test]
fn integers_to_floats() {
    let mut numbers = random(62);
    let mut next = || numbers.next().expect("endless");
    let input: Vec<i64> = (0..COUNT).map(|_| (next() as i64) >> (next() % 64)).collect();
    each("float", |bench| {
        let out =
            bench.output::<f32>("from_integers", &shape(COUNT as u32 / 128, 128), &[bench.upload(&input)], COUNT * 6);
        for (&x, got) in input.iter().zip(out.chunks(6)) {
            let low = x as u32;
            let down = directed(low as f32, f64::from(low) - f64::from(low as f32), -1);
            // The nearest, or its neighbour above if it is too small.
            let up = if (x as f32) as i128 >= i128::from(x) { x as f32 } else { (x as f32).next_up() };
            assert_eq!(got, [x as f32, x as u64 as f32, x as i32 as f32, down, up, (x as f64 * 0.5) as f32], "of {x}");
        }
    });
}
