//! `mma` against a plain product of small integers, and the moves of its operands against their definition per element.

use super::{Kernel, STRIDE, Spelling, noise, random_for, word};
use crate::ptx::forms::tests::values::Random;
use half::{bf16, f16};

const ELEMENTS: &[&str] = &["f16", "bf16", "tf32", "f64", "f32", "s32", "s8", "u8", "s4", "u4", "b1", "e4m3", "e5m2"];

/// Bits of an element.
pub fn width(ty: &str) -> usize {
    match ty {
        "f64" => 64,
        "f32" | "tf32" | "s32" => 32,
        "f16" | "bf16" => 16,
        "s8" | "u8" | "e4m3" | "e5m2" => 8,
        "s4" | "u4" => 4,
        _ => 1,
    }
}

/// A small whole number that the type holds.
pub fn small(random: &mut Random, ty: &str) -> i64 {
    let below = |n: u64, random: &mut Random| (random.bits() % n) as i64;
    match ty {
        "b1" => below(2, random),
        "u8" | "u4" => below(16, random),
        "e5m2" => below(9, random) - 4,
        "s4" => below(16, random) - 8,
        _ => below(17, random) - 8,
    }
}

/// The pattern of a whole number.
pub fn encode(ty: &str, value: i64) -> u64 {
    let sign = u64::from(value < 0) << 7;
    match ty {
        "f64" => (value as f64).to_bits(),
        "f32" | "tf32" => u64::from((value as f32).to_bits()),
        "f16" => u64::from(f16::from_f64(value as f64).to_bits()),
        "bf16" => u64::from(bf16::from_f64(value as f64).to_bits()),
        // 0 to 8 with the exponent's bias of 7 and three bits of fraction, and with 15 and two.
        "e4m3" => sign | [0, 0x38, 0x40, 0x44, 0x48, 0x4a, 0x4c, 0x4e, 0x50][value.unsigned_abs() as usize],
        "e5m2" => sign | [0, 0x3c, 0x40, 0x42, 0x44][value.unsigned_abs() as usize],
        _ => value as u64 & (u64::MAX >> (64 - width(ty))),
    }
}

/// Row and column of element `i` of a lane's fragment of A, with `e` elements in a register.
fn of_a(m: usize, e: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    if m == 8 {
        return (group, thread * e + i);
    }
    (group + if (i / e).is_multiple_of(2) { 0 } else { 8 }, thread * e + i % e + i / (2 * e) * (4 * e))
}

fn of_b(e: usize, lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * e + i % e + i / e * (4 * e), lane >> 2)
}

fn of_c(lane: usize, i: usize) -> (usize, usize) {
    ((lane >> 2) + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + i % 2)
}

pub fn multiply(s: &Spelling<'_>) {
    s.knows(&[ELEMENTS, &["sync", "aligned", "row", "col", "satfinite", "xor", "and", "popc"], &[&s.words[2]]]);
    let random = &mut random_for(s);
    let [m, _, k] = shape(&s.words[2]);
    let types: Vec<&str> = s.words.iter().map(String::as_str).filter(|w| ELEMENTS.contains(w)).collect();
    let [d_ty, a_ty, b_ty, c_ty] = types[..] else { panic!("{}: four types", s.text) };
    let mut fill = |rows: usize, columns: usize, ty| -> Vec<Vec<i64>> {
        (0..rows).map(|_| (0..columns).map(|_| small(random, ty)).collect()).collect()
    };
    let (a, b, mut c) = (fill(m, k, a_ty), fill(k, 8, b_ty), fill(m, 8, c_ty));
    if c_ty == "s32" {
        // Sums that wrap, or stay at the end with `.satfinite`.
        c.iter_mut()
            .step_by(2)
            .flatten()
            .for_each(|c| *c += if *c < 0 { i64::from(i32::MIN) + 8 } else { i64::from(i32::MAX) - 8 });
    }
    let per = |ty| (32 / width(ty)).max(1);
    let mut input = Vec::new();
    for lane in 0..32 {
        let from = input.len();
        let mut put = |ty, registers: usize, value: &dyn Fn(usize) -> i64| {
            for r in 0..registers {
                let bits = (0..per(ty)).fold(0, |bits, i| bits | encode(ty, value(r * per(ty) + i)) << (i * width(ty)));
                input.extend(bits.to_le_bytes());
            }
        };
        put(a_ty, s.names("a").len(), &|i| at(&a, of_a(m, per(a_ty), lane, i)));
        put(b_ty, s.names("b").len(), &|i| at(&b, of_b(per(b_ty), lane, i)));
        put(c_ty, s.names("c").len(), &|i| at(&c, of_c(lane, i)));
        input.resize(from + STRIDE, 0);
    }
    let sources = ["a", "b", "c"].into_iter().flat_map(|name| s.names(name));
    let loads: String =
        sources.enumerate().map(|(i, r)| format!("ld.global.b{} {r}, [%in+{}];\n", bits(r), 8 * i)).collect();
    let results = s.names("d").into_iter().enumerate();
    let stores: String = results.map(|(i, r)| format!("st.global.b{} [%out+{}], {r};\n", bits(r), 8 * i)).collect();
    let got = Kernel::new(format!("{loads}{}\n{stores}", s.text), input).output();
    let term = |a: i64, b: i64| if s.has("xor") { a ^ b } else { a * b };
    for lane in 0..32 {
        for i in 0..s.names("d").len() * per(d_ty) {
            let (row, column) = of_c(lane, i);
            let sum = (0..k).map(|i| term(a[row][i], b[i][column])).sum::<i64>() + c[row][column];
            let sum = if s.has("satfinite") { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
            let register = word(&got, STRIDE, lane, i / per(d_ty) * 8, 8) as u64;
            let got = register >> (i % per(d_ty) * width(d_ty)) & (u64::MAX >> (64 - width(d_ty)));
            assert_eq!(got, encode(d_ty, sum), "{} ({row}, {column})", s.text);
        }
    }
}

fn at(matrix: &[Vec<i64>], (row, column): (usize, usize)) -> i64 {
    matrix[row][column]
}

/// The width of a register by its name.
fn bits(register: &str) -> u32 {
    if register.starts_with("%rd") { 64 } else { 32 }
}

/// `m16n8k16` as numbers.
pub fn shape(word: &str) -> [usize; 3] {
    let numbers: Vec<usize> = word.split(['m', 'n', 'k']).filter_map(|n| n.parse().ok()).collect();
    numbers.try_into().expect("three numbers")
}

/// `ldmatrix`, `stmatrix` and `movmatrix`.
pub fn rearrange(s: &Spelling<'_>) {
    s.knows(&[&["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta"]]);
    let input = noise(&mut random_for(s), 32 * STRIDE);
    let half = |t: usize, at: usize| word(&input, STRIDE, t, at, 2);
    // Half number `i` of a lane in a fragment: its row and column, or turned.
    let place = |lane: usize, i: usize, turned: bool| {
        let (row, column) = (lane / 4, 2 * (lane % 4) + i);
        if turned { (column, row) } else { (row, column) }
    };
    if s.opcode == "movmatrix" {
        let (a, d) = (s.name("a"), s.name("d"));
        let got =
            Kernel::new(format!("ld.global.b32 {a}, [%in]; {} st.global.b32 [%out], {d};", s.text), input.clone())
                .output();
        for (lane, i) in (0..64).map(|n| (n / 2, n % 2)) {
            let (row, column) = place(lane, i, true);
            // Who holds it as it was.
            let expected = half(row * 4 + column / 2, column % 2 * 2);
            assert_eq!(word(&got, STRIDE, lane, 2 * i, 2), expected, "{}", s.text);
        }
        return;
    }
    // Row `lane % 8` of matrix `lane / 8`, 16 bytes, lies where its lane says: not in order.
    let base = s.name("a");
    let generic = if s.words.iter().any(|w| w.starts_with("shared")) { "" } else { "cvta.shared.u64 %y1, %y0;" };
    let address = format!(
        "mov.b64 %y0, tile; mad.lo.u32 %x0, %lane, 5, 3; and.b32 %x0, %x0, 31; mad.wide.u32 %y0, %x0, 16, %y0;
        mov.b64 %y1, %y0; {generic} sub.u64 {base}, %y1, 16;
        ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%in]; st.shared.v4.b32 [%y0], {{%x0, %x1, %x2, %x3}};
        bar.warp.sync -1;\n"
    );
    if s.opcode == "ldmatrix" {
        let stores: String = s
            .names("d")
            .into_iter()
            .enumerate()
            .map(|(i, d)| format!("st.global.b32 [%out+{}], {d};\n", 4 * i))
            .collect();
        let got = Kernel::new(format!("{address}{}\n{stores}", s.text), input.clone()).output();
        for (lane, register, i) in
            (0..32).flat_map(|l| (0..s.names("d").len()).flat_map(move |r| [(l, r, 0), (l, r, 1)]))
        {
            let (row, column) = place(lane, i, s.has("trans"));
            let expected = half(8 * register + row, 2 * column);
            assert_eq!(word(&got, STRIDE, lane, 4 * register + 2 * i, 2), expected, "{} lane {lane}", s.text);
        }
        return;
    }
    let loads: String = s
        .names("b")
        .into_iter()
        .enumerate()
        .map(|(i, b)| format!("ld.global.b32 {b}, [%in+{}];\n", 64 + 4 * i))
        .collect();
    let show = "bar.warp.sync -1; ld.shared.v4.b32 {%x0, %x1, %x2, %x3}, [%y0]; st.global.v4.b32 [%out], {%x0, %x1, %x2, %x3};";
    let got = Kernel::new(format!("{address}{loads}{}\n{show}", s.text), input.clone()).output();
    let mut expected: Vec<Vec<u128>> =
        (0..32).map(|row| (0..8).map(|column| half(row, 2 * column)).collect()).collect();
    for (lane, register, i) in (0..32).flat_map(|l| (0..s.names("b").len()).flat_map(move |r| [(l, r, 0), (l, r, 1)])) {
        let (row, column) = place(lane, i, s.has("trans"));
        expected[8 * register + row][column] = half(lane, 64 + 4 * register + 2 * i);
    }
    for (row, column) in (0..32).flat_map(|row| (0..8).map(move |column| (row, column))) {
        assert_eq!(word(&got, STRIDE, row, 2 * column, 2), expected[row][column], "{} row {row}", s.text);
    }
}
