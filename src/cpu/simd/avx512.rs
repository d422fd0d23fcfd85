//! AVX-512: a vector is one register.

use super::{Kernel, LANES, Simd};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx512<const VNNI: bool>(());

/// Runs a kernel compiled with AVX-512.
///
/// # Safety
/// The machine must have the features named here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel compiled with VNNI too.
///
/// # Safety
/// The machine must have the features named here.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512::<true>(()))
}

/// Methods that only compute on registers, or load and store whole arrays by reference.
macro_rules! methods {
    ($(fn $name:ident(self $(, $arg:ident: $t:ty)*) $(-> $out:ty)? $body:block)*) => {
        // SAFETY (all of them): an `Avx512` is only made inside `enter` and `enter_vnni`, so the machine has the instructions; pointers come from references
        // to arrays of exactly the bytes that the instruction touches, and every load and store is an unaligned one.
        $(#[inline(always)] fn $name(self $(, $arg: $t)*) $(-> $out)? { unsafe { $body } })*
    };
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type V = __m512;
    type I = __m512i;
    // 24 accumulators, 2 columns and 1 broadcast of 32 registers.
    const TILE: (usize, usize) = (12, 2);
    const DIGITS: bool = VNNI;
    const TURNS: bool = true;

    methods! {
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(self, from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn store(self, v: __m512, to: &mut [f32; LANES]) { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        fn load_f32(self, from: &[u8; 64]) -> __m512 { _mm512_loadu_ps(from.as_ptr().cast()) }
        fn load_bf16(self, from: &[u8; 32]) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn load_f16(self, from: &[u8; 32]) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
        fn load_i8(self, from: &[u8; 16]) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
        }
        fn load_u8(self, from: &[u8; 16]) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
        fn store_bf16(self, v: __m512, to: &mut [u8; 32]) {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(high))
        }
        fn store_f16(self, v: __m512, to: &mut [u8; 32]) {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }

        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn if_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), x)
        }
        fn scale_bits(self, p: __m512, n: __m512) -> __m512 {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n))
        }
        fn sum(self, v: __m512) -> f32 {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn top(self, v: __m512) -> f32 { _mm512_reduce_max_ps(v) }

        fn transpose(self, rows: [&[u8; 64]; LANES]) -> [__m512; LANES] {
            let [a, b, c, d] = [fours(rows, 0), fours(rows, 4), fours(rows, 8), fours(rows, 12)];
            let mut out = [_mm512_setzero_ps(); LANES];
            for j in 0..4 {
                let ab_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a[j], b[j]);
                let ab_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a[j], b[j]);
                let cd_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(c[j], d[j]);
                let cd_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(c[j], d[j]);
                out[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
                out[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
                out[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
                out[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
            }
            out
        }
        fn low_bf16(self, v: __m512) -> __m512 { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v))) }
        fn high_bf16(self, v: __m512) -> __m512 {
            _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000_u32 as i32)))
        }

        fn bits(self, v: __m512) -> __m512i { _mm512_castps_si512(v) }
        fn unbits(self, v: __m512i) -> __m512 { _mm512_castsi512_ps(v) }
        fn float(self, v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn splat_i32(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn add_i32(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_i32(self, a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn mul_i32(self, a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn half_bytes(self, v: __m512i, i: usize) -> __m512i {
            let mask = _mm512_set1_epi8(0xf);
            _mm512_and_si512(if i == 0 { v } else { _mm512_srli_epi16::<4>(v) }, mask)
        }
        fn factors(self, codes: __m512i) -> [__m512i; 2] {
            if VNNI { [codes; 2] } else { [_mm512_and_si512(codes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(codes)] }
        }
        fn dot(self, factor: __m512i, plane: __m512i, sum: __m512i) -> __m512i {
            if VNNI { dpbusd(sum, factor, plane) } else { _mm512_add_epi32(sum, _mm512_madd_epi16(factor, plane)) }
        }
        fn total(self, sums: [__m512i; 2]) -> __m512i {
            _mm512_add_epi32(if VNNI { _mm512_slli_epi32::<8>(sums[0]) } else { sums[0] }, sums[1])
        }
    }
}

/// Transposes the 4x4 blocks of four rows: in 128-bit lane `c` of vector `j`, dword `4c + j` of the rows.
///
/// # Safety
/// The machine must have AVX-512F. (A closure would not do: it may stay a call, without the caller's instruction set.)
#[inline(always)]
unsafe fn fours(rows: [&[u8; 64]; LANES], first: usize) -> [__m512; 4] {
    // SAFETY: the caller vouches for the instructions; a row is the 64 bytes that are loaded.
    unsafe {
        let v0 = _mm512_loadu_ps(rows[first].as_ptr().cast());
        let v1 = _mm512_loadu_ps(rows[first + 1].as_ptr().cast());
        let v2 = _mm512_loadu_ps(rows[first + 2].as_ptr().cast());
        let v3 = _mm512_loadu_ps(rows[first + 3].as_ptr().cast());
        let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v0, v1));
        let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v2, v3));
        let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v0, v1));
        let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v2, v3));
        [
            _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)),
        ]
    }
}

/// The instruction itself: as an intrinsic it is split into a product and a sum, since the compiler values a short chain above free ports.
///
/// # Safety
/// The machine must have AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dpbusd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the instruction, which only touches these registers.
    unsafe {
        std::arch::asm!(
            "vpdpbusd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
