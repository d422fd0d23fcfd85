//! `mma` of every shape against a plain product. The layout here is the ISA's, written per element with groupID and
//! threadID_in_group; `cuda_emulator` states it per register.
// A lane or a place indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

mod lanes;

use cuda_emulator::isa::{MatTy, Mma, Reg};
use cuda_emulator::machine::matrix;
use cuda_emulator::registers::Registers;
use half::{bf16, f16};
use lanes::Random;

/// Bits of an element.
fn width(ty: MatTy) -> usize {
    match ty {
        MatTy::F64 => 64,
        MatTy::F32 | MatTy::TF32 | MatTy::S32 => 32,
        MatTy::F16 | MatTy::BF16 => 16,
        MatTy::S8 | MatTy::U8 | MatTy::E4M3 | MatTy::E5M2 => 8,
        MatTy::S4 | MatTy::U4 => 4,
        MatTy::B1Xor | MatTy::B1And => 1,
    }
}

/// Element `i` of a lane's fragment of A: the ISA's conditions on `i`, with `e` elements to a register.
fn a_at(m: usize, e: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    if m == 8 {
        return (group, thread * e + i);
    }
    let row = if (i / e).is_multiple_of(2) { group } else { group + 8 };
    (row, thread * e + i % e + i / (2 * e) * (4 * e))
}

fn b_at(e: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (thread * e + i % e + i / e * (4 * e), group)
}

fn c_at(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + i % 2)
}

/// The pattern of a small number, or of any where the type allows.
fn encode(ty: MatTy, x: f64) -> u64 {
    match ty {
        MatTy::F64 => x.to_bits(),
        MatTy::F32 | MatTy::TF32 => (x as f32).to_bits() as u64,
        MatTy::F16 => f16::from_f64(x).to_bits() as u64,
        MatTy::BF16 => bf16::from_f64(x).to_bits() as u64,
        MatTy::E5M2 => f16::from_f64(x).to_bits() as u64 >> 8,
        // Integers up to 15 have few enough bits: 2^e * (1 + f / 8), bias 7.
        MatTy::E4M3 if x == 0.0 => 0,
        MatTy::E4M3 => {
            let e = x.abs().log2().floor();
            ((x < 0.0) as u64) << 7 | ((e + 7.0) as u64) << 3 | ((x.abs() / e.exp2() - 1.0) * 8.0) as u64
        }
        _ => x as i64 as u64 & (u64::MAX >> (64 - width(ty))),
    }
}

fn decode(ty: MatTy, bits: u64) -> f64 {
    match ty {
        MatTy::F64 => f64::from_bits(bits),
        MatTy::F32 => f32::from_bits(bits as u32) as f64,
        MatTy::F16 => f16::from_bits(bits as u16).to_f64(),
        _ => bits as u32 as i32 as f64,
    }
}

struct Problem {
    op: Mma,
    a: Vec<Vec<f64>>,
    b: Vec<Vec<f64>>,
    c: Vec<Vec<f64>>,
}

const SHAPES: [(MatTy, usize, &[usize]); 18] = [
    (MatTy::F16, 16, &[8, 16]),
    (MatTy::BF16, 16, &[8, 16]),
    (MatTy::TF32, 16, &[4, 8]),
    (MatTy::F64, 8, &[4]),
    (MatTy::F64, 16, &[4, 8, 16]),
    (MatTy::S8, 8, &[16]),
    (MatTy::S8, 16, &[16, 32]),
    (MatTy::U8, 8, &[16]),
    (MatTy::U8, 16, &[16, 32]),
    (MatTy::S4, 8, &[32]),
    (MatTy::S4, 16, &[32, 64]),
    (MatTy::U4, 8, &[32]),
    (MatTy::U4, 16, &[32, 64]),
    (MatTy::B1Xor, 8, &[128]),
    (MatTy::B1And, 16, &[128, 256]),
    (MatTy::B1Xor, 16, &[128, 256]),
    (MatTy::E4M3, 16, &[16, 32]),
    (MatTy::E5M2, 16, &[16, 32]),
];

impl Problem {
    fn new(ty: MatTy, b_ty: MatTy, sum: MatTy, m: usize, k: usize, mut value: impl FnMut(MatTy) -> f64) -> Problem {
        let count = |elements: usize, ty: MatTy| elements * width(ty) / 32 / width(ty).max(32);
        let regs = |from: u32, n: usize| (0..n as u32).map(|i| Reg(from + 2 * i)).collect::<Box<[Reg]>>();
        let op = Mma {
            m: m as u32,
            n: 8,
            k: k as u32,
            a_ty: ty,
            b_ty,
            c_ty: sum,
            d_ty: sum,
            satfinite: false,
            d: regs(0, count(m * 8, sum)),
            a: regs(16, count(m * k, ty)),
            b: regs(48, count(k * 8, b_ty)),
            c: regs(80, count(m * 8, sum)),
        };
        let mut fill = |rows, columns, ty| (0..rows).map(|_| (0..columns).map(|_| value(ty)).collect()).collect();
        let (a, b, c) = (fill(m, k, ty), fill(k, 8, b_ty), fill(m, 8, sum));
        Problem { op, a, b, c }
    }

    /// Runs it; D as numbers.
    fn run(&self) -> Vec<Vec<f64>> {
        let op = &self.op;
        matrix::check(op).unwrap();
        let (m, ea) = (op.m as usize, (32 / width(op.a_ty)).max(1));
        let mut registers = Registers::new(128, 0, &[]);
        put(&mut registers, &op.a, op.a_ty, |lane, i| a_at(m, ea, lane, i), &self.a);
        put(&mut registers, &op.b, op.b_ty, |lane, i| b_at(ea, lane, i), &self.b);
        put(&mut registers, &op.c, op.c_ty, c_at, &self.c);
        matrix::mma(op, &mut registers);
        let mut d = vec![vec![f64::NAN; 8]; m];
        let per = (32 / width(op.d_ty)).max(1);
        for lane in 0..32 {
            for i in 0..op.d.len() * per {
                let reg = op.d[i / per];
                let whole =
                    if op.d_ty == MatTy::F64 { registers.b64(reg)[lane] } else { registers.b32(reg)[lane] as u64 };
                let (row, column) = c_at(lane, i);
                d[row][column] = decode(op.d_ty, whole >> (i % per * width(op.d_ty)));
            }
        }
        d
    }

    fn expect(&self, row: usize, column: usize) -> f64 {
        let term = |k: usize| match (self.op.a_ty, self.a[row][k], self.b[k][column]) {
            (MatTy::B1Xor, a, b) => (a != b) as u32 as f64,
            (_, a, b) => a * b,
        };
        (0..self.op.k as usize).map(term).sum::<f64>() + self.c[row][column]
    }
}

fn put(
    registers: &mut Registers,
    regs: &[Reg],
    ty: MatTy,
    at: impl Fn(usize, usize) -> (usize, usize),
    values: &[Vec<f64>],
) {
    let per = (32 / width(ty)).max(1);
    for (r, &reg) in regs.iter().enumerate() {
        let whole: [u64; 32] = std::array::from_fn(|lane| {
            (0..per).fold(0, |whole, e| {
                let (row, column) = at(lane, r * per + e);
                whole | encode(ty, values[row][column]) << (e * width(ty))
            })
        });
        if width(ty) == 64 {
            registers.set_b64(reg, u32::MAX, &whole);
        } else {
            registers.set_b32(reg, u32::MAX, &whole.map(|x| x as u32));
        }
    }
}

/// Small integers: exact in every type.
fn small(random: &mut Random, ty: MatTy) -> f64 {
    match ty {
        MatTy::B1Xor | MatTy::B1And => random.below(2) as f64,
        MatTy::U4 | MatTy::U8 => random.below(16) as f64,
        // E5M2 has two bits of fraction.
        MatTy::E5M2 => random.below(9) as f64 - 4.0,
        MatTy::S4 => random.below(16) as f64 - 8.0,
        _ => random.below(17) as f64 - 8.0,
    }
}

#[test]
fn small_integers_are_exact_in_every_shape() {
    let mut random = Random(1);
    for (ty, m, ks) in SHAPES {
        let sums: &[MatTy] = match ty {
            MatTy::F64 => &[MatTy::F64],
            MatTy::F16 | MatTy::E4M3 | MatTy::E5M2 => &[MatTy::F32, MatTy::F16],
            MatTy::BF16 | MatTy::TF32 => &[MatTy::F32],
            _ => &[MatTy::S32],
        };
        let others: &[MatTy] = match ty {
            MatTy::S8 | MatTy::U8 => &[MatTy::S8, MatTy::U8],
            MatTy::S4 | MatTy::U4 => &[MatTy::S4, MatTy::U4],
            MatTy::E4M3 | MatTy::E5M2 => &[MatTy::E4M3, MatTy::E5M2],
            _ => &[ty],
        };
        for &k in ks {
            for (&b_ty, &sum) in others.iter().flat_map(|b| sums.iter().map(move |s| (b, s))) {
                for _ in 0..20 {
                    let problem = Problem::new(ty, b_ty, sum, m, k, |ty| small(&mut random, ty));
                    let d = problem.run();
                    for row in 0..m {
                        for column in 0..8 {
                            // f16 sums: at most 8 * 8 * 16 + 8 = 1032 for f16, up to 2056 for fp8, where they round.
                            let exact = problem.expect(row, column);
                            let want = if sum == MatTy::F16 { f16::from_f64(exact).to_f64() } else { exact };
                            assert_eq!(d[row][column], want, "{ty:?} {b_ty:?} {sum:?} m{m} k{k} ({row},{column})");
                        }
                    }
                }
            }
        }
    }
}

/// k fused steps of f32 err by at most k units of half the sum of magnitudes: |error| <= k 2^-24 (1 + k 2^-24) S.
#[test]
fn real_numbers_stay_within_the_bound_of_the_chain() {
    let mut random = Random(2);
    for (ty, k) in [(MatTy::BF16, 16), (MatTy::F16, 16), (MatTy::TF32, 8), (MatTy::F64, 16)] {
        for _ in 0..100 {
            let problem = Problem::new(ty, ty, if ty == MatTy::F64 { ty } else { MatTy::F32 }, 16, k, |ty| {
                let x = (random.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
                // Numbers that the type holds.
                match ty {
                    MatTy::BF16 => bf16::from_f64(x).to_f64(),
                    MatTy::F16 => f16::from_f64(x).to_f64(),
                    MatTy::TF32 => f32::from_bits((x as f32).to_bits() & !0x1fff) as f64,
                    MatTy::F32 => x as f32 as f64,
                    _ => x,
                }
            });
            let d = problem.run();
            let unit = if ty == MatTy::F64 { 2f64.powi(-52) } else { 2f64.powi(-24) };
            for row in 0..16 {
                for column in 0..8 {
                    let size: f64 = (0..k).map(|i| (problem.a[row][i] * problem.b[i][column]).abs()).sum::<f64>()
                        + problem.c[row][column].abs();
                    // Of f64 the reference errs as much again.
                    let bound = k as f64 * unit * (1.0 + k as f64 * unit) * size + k as f64 * 2f64.powi(-52) * size;
                    assert!((d[row][column] - problem.expect(row, column)).abs() <= bound, "{ty:?}");
                }
            }
        }
    }
}

#[test]
fn tf32_ignores_the_low_bits_and_nan_is_canonical() {
    let mut problem = Problem::new(MatTy::TF32, MatTy::TF32, MatTy::F32, 16, 8, |_| 1.0);
    problem.a[3][2] = f32::from_bits(0x3f80_1fff) as f64;
    assert_eq!(problem.run()[3][5], 9.0);
    let ty = MatTy::BF16;
    let problem = Problem::new(ty, ty, MatTy::F32, 16, 8, |_| f64::INFINITY);
    let mut registers = Registers::new(128, 0, &[]);
    put(&mut registers, &problem.op.a, ty, |lane, i| a_at(16, 2, lane, i), &problem.a);
    matrix::mma(&problem.op, &mut registers);
    assert_eq!(registers.b32(problem.op.d[0])[9], 0x7fff_ffff);
}

#[test]
fn integers_wrap_or_clamp() {
    for (satfinite, want) in [(false, -2147483648.0 + 15.0), (true, 2147483647.0)] {
        let mut problem =
            Problem::new(
                MatTy::S8,
                MatTy::S8,
                MatTy::S32,
                8,
                16,
                |ty| if ty == MatTy::S32 { 2147483647.0 } else { 1.0 },
            );
        problem.op.satfinite = satfinite;
        assert_eq!(problem.run()[4][4], want);
    }
}

#[test]
fn unknown_shapes_are_refused() {
    let mut op = Problem::new(MatTy::F16, MatTy::F16, MatTy::F32, 16, 8, |_| 0.0).op;
    matrix::check(&op).unwrap();
    op.k = 4;
    assert!(matrix::check(&op).unwrap_err().contains("m16n8k4"));
    op.k = 16;
    assert!(matrix::check(&op).unwrap_err().contains("A of this mma has 4 registers, not 2"));
    (op.k, op.d_ty) = (8, MatTy::F16);
    assert!(matrix::check(&op).is_err());
}

/// Element (row, column) of the tile is the 16-bit number `16 row + column`.
#[test]
fn tiles_to_lanes_and_back() {
    let tile: matrix::Tile = std::array::from_fn(|row| {
        std::array::from_fn(|byte| if byte % 2 == 0 { (16 * row + byte / 2) as u8 } else { 0 })
    });
    for transposed in [false, true] {
        let register = matrix::ldmatrix(&tile, transposed);
        for lane in 0..32u32 {
            let (major, minor) = (lane >> 2, 2 * (lane % 4));
            let element = |i: u32| if transposed { 16 * (minor + i) + major } else { 16 * major + minor + i };
            assert_eq!(register[lane as usize], element(0) | element(1) << 16);
        }
        assert_eq!(matrix::stmatrix(&register, transposed), tile);
    }
    let plain = matrix::ldmatrix(&tile, false);
    assert_eq!(matrix::movmatrix(&plain), matrix::ldmatrix(&tile, true));
}
