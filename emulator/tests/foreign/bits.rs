//! Integers and bits: `cu/bits.cu`.

use crate::common::*;

const COUNT: usize = 1024;

/// Numbers of every length, with the extremes among them.
fn wide(seed: u64) -> Vec<u64> {
    let mut random = random(seed);
    let mut next = || random.next().expect("endless");
    let mut all = vec![0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 31, (1 << 31) - 1, u64::from(u32::MAX)];
    all.resize_with(COUNT, || next() >> (next() % 64));
    all
}

fn narrow(seed: u64) -> Vec<u32> {
    let mut random = random(seed);
    let mut next = || random.next().expect("endless");
    let mut all = vec![0, 1, u32::MAX, 1 << 31, (1 << 31) - 1];
    all.resize_with(COUNT, || (next() as u32) >> (next() % 32));
    all
}

/// Runs a kernel over inputs and compares what it makes of every index.
fn check<T: Element, U: Element + PartialEq + std::fmt::Debug>(
    name: &str,
    inputs: &[&[T]],
    model: impl Fn(usize) -> Vec<U>,
) {
    let expected: Vec<U> = (0..COUNT).flat_map(model).collect();
    let each_makes = expected.len() / COUNT;
    each("bits", |bench| {
        let args: Vec<_> = inputs.iter().map(|input| bench.upload(input)).collect();
        let out = bench.output::<U>(name, &shape(COUNT as u32 / 64, 64), &args, expected.len());
        for i in 0..COUNT {
            let range = i * each_makes..(i + 1) * each_makes;
            assert_eq!(out[range.clone()], expected[range], "{name} of index {i} for {}", bench.arch);
        }
    });
}

#[test]
fn counts() {
    let input = wide(1);
    check("bit_counts", &[&input], |i| {
        let (w, v) = (input[i], input[i] as u32);
        let first = |v: u64| (0..64).find(|k| v >> k & 1 == 1).map_or(0, |k| k + 1);
        let third = (5..32).filter(|k| v >> k & 1 == 1).nth(2).unwrap_or(u32::MAX);
        let log = if v == 0 { 77 } else { f64::from(v).log2().floor() as u32 };
        let swapped = w.reverse_bits();
        let (ones, more) = (v.count_ones(), w.count_ones());
        let (zeros, many) = (v.leading_zeros(), w.leading_zeros());
        let halves = [swapped as u32, (swapped >> 32) as u32];
        vec![
            ones,
            zeros,
            v.reverse_bits(),
            first(v.into()),
            more,
            many,
            halves[0],
            halves[1],
            first(w),
            third,
            log,
            v.leading_ones(),
        ]
    });
}

#[test]
fn functions_of_three_bits() {
    let [a, b, c] = [narrow(2), narrow(3), narrow(4)];
    check("logic", &[&a, &b, &c], |i| {
        let of = |table: u32| {
            let bit = |k: u32| table >> ((a[i] >> k & 1) * 4 + (b[i] >> k & 1) * 2 + (c[i] >> k & 1)) & 1;
            (0..32).map(|k| bit(k) << k).sum::<u32>()
        };
        [0x00, 0x1b, 0x96, 0xe8, 0x2d, 0xca].map(of).to_vec()
    });
}

#[test]
fn bytes_and_funnels() {
    let [a, b, c] = [narrow(5), narrow(6), narrow(7)];
    check("bytes", &[&a, &b, &c], |i| {
        let both = u64::from(b[i]) << 32 | u64::from(a[i]);
        let byte = |k: u32| (both >> (8 * k)) as u8;
        let pick = |selector: u32| {
            let one = |k: u32| match selector >> (4 * k) & 15 {
                n @ 0..8 => byte(n),
                n => {
                    if byte(n - 8) > 127 {
                        255
                    } else {
                        0
                    }
                }
            };
            u32::from_le_bytes([one(0), one(1), one(2), one(3)])
        };
        let forward = c[i] & 3;
        let f4e = u32::from_le_bytes([0, 1, 2, 3].map(|k| byte(forward + k)));
        let (wrap, clamp) = (c[i] % 32, c[i].min(32));
        let left = |n: u32| ((u128::from(both) << n) >> 32) as u32;
        let right = |n: u32| (both >> n) as u32;
        vec![pick(c[i] & 0x7777), pick(c[i]), f4e, left(wrap), right(wrap), left(clamp), right(clamp)]
    });
}

/// `bfe` by the ISA: the field, above its end (or the register's) zeros or copies of its highest bit.
fn extract(x: u64, bits: u32, at: u32, length: u32, signed: bool) -> u64 {
    let top = (at + length).saturating_sub(1).min(bits - 1);
    let sign = if signed && length > 0 { x >> top & 1 } else { 0 };
    (0..bits)
        .map(|k| if k < length && at + k < bits { x >> (at + k) & 1 } else { sign })
        .zip(0..)
        .map(|(bit, k)| bit << k)
        .sum()
}

#[test]
fn fields() {
    let ([a, b], mut c) = ([narrow(8), narrow(9)], narrow(10));
    // Mostly places and lengths that lie inside.
    c.iter_mut().skip(COUNT / 4).for_each(|c| *c = *c & 0x1f1f | (*c >> 3 & 0x2020));
    check("fields", &[&a, &b, &c], |i| {
        let (at, length) = (c[i] & 255, c[i] >> 8 & 255);
        let insert = |k: u32| if k >= at && k - at < length { a[i] >> (k - at) & 1 } else { b[i] >> k & 1 };
        let inserted = (0..32).map(|k| insert(k) << k).sum();
        let wide = extract(u64::from(a[i]) << 32 | u64::from(b[i]), 64, at, length, true);
        let of = |signed| extract(a[i].into(), 32, at, length, signed) as u32;
        vec![of(false), of(true), inserted, wide as u32 ^ (wide >> 32) as u32]
    });
}

#[test]
fn divisions() {
    macro_rules! divisions {
        ($name:literal, $ty:ty, $a:expr, $b:expr) => {{
            let (a, b): (Vec<$ty>, Vec<$ty>) =
                ($a.iter().map(|v| *v as $ty).collect(), $b.iter().map(|v| *v as $ty).collect());
            // C++ leaves a division by zero, and the one that overflows, undefined.
            let b: Vec<$ty> = a.iter().zip(&b).map(|(a, b)| if a.checked_div(*b).is_some() { *b } else { 3 }).collect();
            check($name, &[&a, &b], |i| vec![a[i] / b[i], a[i] % b[i]]);
        }};
    }
    divisions!("divide_s32", i32, narrow(11), narrow(12));
    divisions!("divide_u32", u32, narrow(13), narrow(14));
    divisions!("divide_s64", i64, wide(15), wide(16));
    divisions!("divide_u64", u64, wide(17), wide(18));
    divisions!("divide_s16", i16, narrow(19), narrow(20));
}

#[test]
fn divisions_by_known_numbers() {
    let input = wide(21);
    check("divide_known", &[&input], |i| {
        let (u, s, v) = (input[i], input[i] as i64, input[i] as i32);
        vec![
            u / 1_000_003,
            u % 10,
            (s / 7) as u64,
            i64::from(v / 13) as u64,
            u64::from(v as u32 / 641),
            i64::from(v % 100) as u64,
        ]
    });
}

#[test]
fn products() {
    let (a, b) = (wide(22), wide(23));
    check("products", &[&a, &b], |i| {
        let (x, y) = (a[i], b[i]);
        let full = u128::from(x) * u128::from(y);
        let signed = i128::from(x as i64) * i128::from(y as i64);
        let sum = full + u128::from(x);
        let (low, other) = (x as i32, y as i32);
        let of_24 = |v: i32| i64::from(v << 8 >> 8);
        let unsigned_24 = (x & 0xff_ffff) * (y & 0xff_ffff);
        vec![
            full as u64,
            (full >> 64) as u64,
            (signed >> 64) as u64,
            (u64::from(x as u32) * u64::from(y as u32)) >> 32,
            u64::from(((i64::from(low) * i64::from(other)) >> 32) as u32),
            u64::from((of_24(low) * of_24(other)) as u32),
            u64::from(unsigned_24 as u32),
            (i64::from(low) * i64::from(other)).wrapping_add(y as i64) as u64,
            sum as u64,
            (sum >> 64) as u64,
        ]
    });
}

#[test]
fn shifts() {
    let (a, by) = (wide(24), narrow(25));
    let by: Vec<u32> = by.iter().enumerate().map(|(i, n)| if i % 8 == 0 { *n } else { n % 70 }).collect();
    let expected: Vec<u64> = (0..COUNT)
        .flat_map(|i| {
            let (x, n) = (a[i], by[i]);
            let low = x as u32;
            let sum = i64::from((x >> 8) as i8) + i64::from(x as i16) + i64::from((x >> 24) as u8);
            [
                x.checked_shl(n).unwrap_or(0),
                x.checked_shr(n).unwrap_or(0),
                (x as i64 >> n.min(63)) as u64,
                low.checked_shl(n).unwrap_or(0).into(),
                u64::from((low as i32 >> n.min(31)) as u32),
                sum as u64,
            ]
        })
        .collect();
    each("bits", |bench| {
        let args = [bench.upload(&a), bench.upload(&by)];
        assert_eq!(bench.output::<u64>("shifts", &shape(COUNT as u32 / 64, 64), &args, COUNT * 6), expected);
    });
}

#[test]
fn least_and_averages() {
    let [a, b] = [26, 27].map(|seed| narrow(seed).iter().map(|v| *v as i32).collect::<Vec<_>>());
    check("small_things", &[&a, &b], |i| {
        let ((x, y), (u, v)) = ((a[i], b[i]), (a[i] as u32, b[i] as u32));
        let mean = |up| ((i64::from(x) + i64::from(y) + up) >> 1) as i32;
        let away = 9u32.wrapping_add(x.abs_diff(y)) as i32;
        let unsigned_away = 9u32.wrapping_add(u.abs_diff(v)) as i32;
        let order = i32::from(x > y) + 2 * i32::from(u > v) + 4 * i32::from(x == y);
        vec![x.min(y), x.max(y), x.wrapping_abs(), u.min(v) as i32, away, unsigned_away, mean(0), mean(1), order]
    });
}

#[test]
fn several_numbers_in_a_register() {
    let [a, b] = [narrow(28), narrow(29)];
    check("packed", &[&a, &b], |i| {
        let by_byte = |f: fn(u8, u8) -> u8| {
            let (x, y) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            u32::from_le_bytes(std::array::from_fn(|k| f(x[k], y[k])))
        };
        let half = |k: u32| u32::from(((a[i] >> k) as u16).wrapping_add((b[i] >> k) as u16)) << k;
        vec![
            by_byte(u8::wrapping_add),
            by_byte(u8::saturating_sub),
            by_byte(|x, y| (x as i8).max(y as i8) as u8),
            by_byte(u8::wrapping_sub),
            by_byte(|x, y| if x > y { 255 } else { 0 }),
            half(0) | half(16),
        ]
    });
}
