//! The portable path: arrays, which the compiler vectorises where the target has fused multiply-add (aarch64).

use super::{Kernel, LANES, Simd};
use half::{bf16, f16};
use std::array::from_fn;

#[derive(Clone, Copy)]
pub struct Scalar;

type V = [f32; LANES];
type I = [i32; LANES];

/// Runs a kernel compiled for the target as it is. Not inlined: one copy is enough.
#[inline(never)]
pub fn enter<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Scalar)
}

impl Simd for Scalar {
    type V = V;
    type I = I;
    const TILE: (usize, usize) = (6, 1);
    const DIGITS: bool = false;
    const TURNS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &V) -> V {
        *from
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut V) {
        *to = v;
    }
    #[inline(always)]
    fn load_f32(self, from: &[u8; 64]) -> V {
        from_fn(|i| f32::from_bits(dword(from, i)))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8; 32]) -> V {
        from_fn(|i| bf16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> V {
        from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> V {
        from.map(|x| x as i8 as f32)
    }
    #[inline(always)]
    fn load_u8(self, from: &[u8; 16]) -> I {
        from.map(i32::from)
    }
    #[inline(always)]
    fn store_bf16(self, v: V, to: &mut [u8; 32]) {
        for (to, x) in to.as_chunks_mut::<2>().0.iter_mut().zip(v) {
            *to = bf16::from_f32(x).to_le_bytes();
        }
    }
    #[inline(always)]
    fn store_f16(self, v: V, to: &mut [u8; 32]) {
        for (to, x) in to.as_chunks_mut::<2>().0.iter_mut().zip(v) {
            *to = f16::from_f32(x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn if_less(self, a: V, b: V, x: V, y: V) -> V {
        from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn scale_bits(self, p: V, n: V) -> V {
        from_fn(|i| f32::from_bits(p[i].to_bits().wrapping_add(n[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        let a: [f32; 8] = from_fn(|i| v[i] + v[i + 8]);
        let b: [f32; 4] = from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
    #[inline(always)]
    fn top(self, v: V) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u8; 64]; LANES]) -> [V; LANES] {
        from_fn(|j| from_fn(|i| f32::from_bits(dword(rows[i], j))))
    }
    #[inline(always)]
    fn low_bf16(self, v: V) -> V {
        v.map(|x| f32::from_bits(x.to_bits() << 16))
    }
    #[inline(always)]
    fn high_bf16(self, v: V) -> V {
        v.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000))
    }

    #[inline(always)]
    fn bits(self, v: V) -> I {
        v.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn unbits(self, v: I) -> V {
        v.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn float(self, v: I) -> V {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn mul_i32(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn half_bytes(self, v: I, i: usize) -> I {
        v.map(|x| x >> (4 * i) & 0x0f0f_0f0f)
    }
    #[inline(always)]
    fn factors(self, codes: I) -> [I; 2] {
        [codes.map(|x| x & 0x00ff_00ff), codes.map(|x| x >> 8 & 0x00ff_00ff)]
    }
    #[inline(always)]
    fn dot(self, factor: I, plane: I, sum: I) -> I {
        let product = |a: i32, b: i32| a as i16 as i32 * b as i16 as i32;
        from_fn(|i| {
            let (a, b) = (factor[i], plane[i]);
            sum[i].wrapping_add(product(a, b)).wrapping_add(product(a >> 16, b >> 16))
        })
    }
    #[inline(always)]
    fn total(self, sums: [I; 2]) -> I {
        self.add_i32(sums[0], sums[1])
    }
}

#[inline(always)]
fn dword(bytes: &[u8; 64], i: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
}
