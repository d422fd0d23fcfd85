//! AVX2 with FMA and F16C: a vector is two registers.

use super::{Kernel, LANES, Simd};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2(());

type V = [__m256; 2];
type I = [__m256i; 2];

/// Runs a kernel compiled with AVX2.
///
/// # Safety
/// The machine must have the features named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// Methods that only compute on registers, or load and store whole arrays by reference.
macro_rules! methods {
    ($(fn $name:ident(self $(, $arg:ident: $t:ty)*) $(-> $out:ty)? $body:block)*) => {
        // SAFETY (all of them): an `Avx2` is only made inside `enter`, so the machine has the instructions; pointers come from references
        // to arrays of exactly the bytes that the instruction touches, and every load and store is an unaligned one.
        $(#[inline(always)] fn $name(self $(, $arg: $t)*) $(-> $out)? { unsafe { $body } })*
    };
}

impl Simd for Avx2 {
    type V = V;
    type I = I;
    // 12 accumulator registers, 2 of columns and 1 broadcast of 16.
    const TILE: (usize, usize) = (6, 1);
    const DIGITS: bool = false;
    const TURNS: bool = false;

    methods! {
        fn splat(self, x: f32) -> V { [_mm256_set1_ps(x); 2] }
        fn load(self, from: &[f32; LANES]) -> V { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        fn store(self, v: V, to: &mut [f32; LANES]) {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1])
        }
        fn load_f32(self, from: &[u8; 64]) -> V {
            [_mm256_loadu_ps(from.as_ptr().cast()), _mm256_loadu_ps(from.as_ptr().add(32).cast())]
        }
        fn load_bf16(self, from: &[u8; 32]) -> V {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
        fn load_f16(self, from: &[u8; 32]) -> V {
            let low = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_loadu_si128(from.as_ptr().add(16).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
        fn load_i8(self, from: &[u8; 16]) -> V {
            let codes = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_cvtepi8_epi16(_mm_srli_si128::<8>(codes));
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
            [low, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(high))]
        }
        fn load_u8(self, from: &[u8; 16]) -> I {
            let codes = _mm_loadu_si128(from.as_ptr().cast());
            [_mm256_cvtepu8_epi32(codes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes))]
        }
        fn store_bf16(self, v: V, to: &mut [u8; 32]) {
            // The pack works inside 128-bit lanes: put its quarters in order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(round_bf16(v[0]), round_bf16(v[1])));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), packed)
        }
        fn store_f16(self, v: V, to: &mut [u8; 32]) {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(to.as_mut_ptr().add(16).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]))
        }

        fn add(self, a: V, b: V) -> V { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn sub(self, a: V, b: V) -> V { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn mul(self, a: V, b: V) -> V { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn div(self, a: V, b: V) -> V { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        fn fma(self, a: V, b: V, c: V) -> V { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        fn max(self, a: V, b: V) -> V { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        fn if_less(self, a: V, b: V, x: V, y: V) -> V {
            let low = _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]));
            [low, _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]))]
        }
        fn scale_bits(self, p: V, n: V) -> V {
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[1]));
            let low = _mm256_add_epi32(_mm256_castps_si256(p[0]), low);
            let high = _mm256_add_epi32(_mm256_castps_si256(p[1]), high);
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
        fn sum(self, v: V) -> f32 {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn top(self, v: V) -> f32 {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }

        fn transpose(self, rows: [&[u8; 64]; LANES]) -> [V; LANES] {
            let mut out = [[_mm256_setzero_ps(); 2]; LANES];
            for c in 0..4 {
                let low = fours(rows, 0, c);
                let high = fours(rows, 8, c);
                for j in 0..4 {
                    out[4 * c + j] = [low[j], high[j]];
                }
            }
            out
        }
        fn low_bf16(self, v: V) -> V {
            let low = _mm256_slli_epi32::<16>(_mm256_castps_si256(v[0]));
            let high = _mm256_slli_epi32::<16>(_mm256_castps_si256(v[1]));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
        fn high_bf16(self, v: V) -> V {
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_and_ps(v[0], mask), _mm256_and_ps(v[1], mask)]
        }

        fn bits(self, v: V) -> I { [_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1])] }
        fn unbits(self, v: I) -> V { [_mm256_castsi256_ps(v[0]), _mm256_castsi256_ps(v[1])] }
        fn float(self, v: I) -> V { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
        fn splat_i32(self, x: i32) -> I { [_mm256_set1_epi32(x); 2] }
        fn add_i32(self, a: I, b: I) -> I { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
        fn sub_i32(self, a: I, b: I) -> I { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
        fn mul_i32(self, a: I, b: I) -> I { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
        fn half_bytes(self, v: I, i: usize) -> I {
            let mask = _mm256_set1_epi8(0xf);
            match i {
                0 => [_mm256_and_si256(v[0], mask), _mm256_and_si256(v[1], mask)],
                _ => {
                    let high = [_mm256_srli_epi16::<4>(v[0]), _mm256_srli_epi16::<4>(v[1])];
                    [_mm256_and_si256(high[0], mask), _mm256_and_si256(high[1], mask)]
                }
            }
        }
        fn factors(self, codes: I) -> [I; 2] {
            let mask = _mm256_set1_epi16(0xff);
            [
                [_mm256_and_si256(codes[0], mask), _mm256_and_si256(codes[1], mask)],
                [_mm256_srli_epi16::<8>(codes[0]), _mm256_srli_epi16::<8>(codes[1])],
            ]
        }
        fn dot(self, factor: I, plane: I, sum: I) -> I {
            let low = _mm256_add_epi32(sum[0], _mm256_madd_epi16(factor[0], plane[0]));
            [low, _mm256_add_epi32(sum[1], _mm256_madd_epi16(factor[1], plane[1]))]
        }
        fn total(self, sums: [I; 2]) -> I {
            [_mm256_add_epi32(sums[0][0], sums[1][0]), _mm256_add_epi32(sums[0][1], sums[1][1])]
        }
    }
}

/// Transposes the `c`-th 16 bytes of eight rows: vector `j` holds their dword `j`.
///
/// # Safety
/// The machine must have AVX2. (A closure would not do: it may stay a call, without the caller's instruction set.)
#[inline(always)]
unsafe fn fours(rows: [&[u8; 64]; LANES], first: usize, c: usize) -> [__m256; 4] {
    // SAFETY: the caller vouches for the instructions; `c` is below 4, so that the 16 bytes are inside a row.
    unsafe {
        let v0 = two(rows[first], rows[first + 4], c);
        let v1 = two(rows[first + 1], rows[first + 5], c);
        let v2 = two(rows[first + 2], rows[first + 6], c);
        let v3 = two(rows[first + 3], rows[first + 7], c);
        let low01 = _mm256_castps_pd(_mm256_unpacklo_ps(v0, v1));
        let low23 = _mm256_castps_pd(_mm256_unpacklo_ps(v2, v3));
        let high01 = _mm256_castps_pd(_mm256_unpackhi_ps(v0, v1));
        let high23 = _mm256_castps_pd(_mm256_unpackhi_ps(v2, v3));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)),
        ]
    }
}

/// The `c`-th 16 bytes of two rows side by side.
///
/// # Safety
/// As for [`fours`].
#[inline(always)]
unsafe fn two(low: &[u8; 64], high: &[u8; 64], c: usize) -> __m256 {
    // SAFETY: as in `fours`.
    unsafe {
        let low = _mm_loadu_ps(low.as_ptr().add(16 * c).cast());
        let high = _mm_loadu_ps(high.as_ptr().add(16 * c).cast());
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    }
}

/// Rounds to bf16, in the low halves of the dwords; NaN stays NaN.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn round_bf16(v: __m256) -> __m256i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}
