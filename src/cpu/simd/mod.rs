//! Sixteen f32 lanes on every machine: the only place with intrinsics.
//!
//! Owns the vector type, the run-time choice of instruction set and all `unsafe` of this module.
//! Refuses to know what is computed with it. The surprise: a vector has 16 lanes everywhere (one AVX-512 register, two AVX2 registers,
//! four NEON registers, or an array), so a kernel written once rounds in the same order, to the same bits, on every path.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen f32 in memory, one cache line.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Lane16(pub [f32; LANES]);

impl Lane16 {
    pub const ZERO: Lane16 = Lane16([0.0; LANES]);
}

/// An instruction set that this machine has. It cannot be made any other way, which is what makes [`Isa::run`] safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With VNNI, which only dot products of integers use.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// Code written over [`Simd`], compiled once for each instruction set. `run` must be `#[inline(always)]`.
pub trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// What a set says of itself.
struct Facts {
    rows: usize,
    turns: bool,
    digits: bool,
}

impl Isa {
    /// The sets this machine has, best first; always ends with the portable one.
    pub fn available() -> Vec<Isa> {
        let mut isas = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 && is_x86_feature_detected!("avx512vnni") {
                isas.push(Isa(Level::Avx512Vnni));
            }
            if avx2 && avx512 {
                isas.push(Isa(Level::Avx512));
            }
            if avx2 {
                isas.push(Isa(Level::Avx2));
            }
        }
        isas.push(Isa(Level::Scalar));
        isas
    }

    /// The best set this machine has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => "AVX-512 VNNI",
        }
    }

    /// Whether `Simd::TURNS`.
    pub fn turns(self) -> bool {
        self.facts().turns
    }

    /// The rows of `Simd::TILE`.
    pub fn tile_rows(self) -> usize {
        self.facts().rows
    }

    /// `Simd::DIGITS`.
    pub fn digits(self) -> bool {
        self.facts().digits
    }

    fn facts(self) -> Facts {
        struct Ask;
        impl Kernel for Ask {
            type Out = Facts;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> Facts {
                Facts { rows: S::TILE.0, turns: S::TURNS, digits: S::DIGITS }
            }
        }
        self.run_integers(Ask)
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Level::Scalar => scalar::enter(kernel),
            // SAFETY: `available` made this value, so the machine has the features `enter` is compiled with.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => unsafe { avx512::enter(kernel) },
        }
    }

    /// The same for a kernel of `Simd::dot`, which alone is worth another copy.
    #[inline(always)]
    pub fn run_integers<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => unsafe { avx512::enter_vnni(kernel) },
            _ => self.run(kernel),
        }
    }
}

/// Asks for the cache line at `at` in L2. Any address will do.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint, part of every x86-64, and does not fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The operations of one instruction set on 16 lanes. A value of the type is the proof that the machine has it.
pub trait Simd: Copy {
    type V: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Rows and vectors of the largest outer-product tile whose accumulators stay in registers.
    const TILE: (usize, usize);
    /// How integers of 16 bits are spelt that are multiplied with codes: two planes of bytes, the high ones first, or two of pairs of integers.
    const DIGITS: bool;
    /// Whether 16 turned vectors and some accumulators fit the registers.
    const TURNS: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Little-endian bytes of 16 f32, bf16, f16, widened exactly.
    fn load_f32(self, from: &[u8; 64]) -> Self::V;
    fn load_bf16(self, from: &[u8; 32]) -> Self::V;
    fn load_f16(self, from: &[u8; 32]) -> Self::V;
    /// 16 signed bytes, exactly.
    fn load_i8(self, from: &[u8; 16]) -> Self::V;
    /// 16 unsigned bytes.
    fn load_u8(self, from: &[u8; 16]) -> Self::I;
    /// Rounds to nearest even; NaN stays NaN.
    fn store_bf16(self, v: Self::V, to: &mut [u8; 32]);
    fn store_f16(self, v: Self::V, to: &mut [u8; 32]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? x : y`: `y` where one is NaN.
    fn if_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The bits of `p` plus the bits of `n` shifted left by 23: `p * 2^n` where `n` holds an integer in its low mantissa bits.
    fn scale_bits(self, p: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, in the order of a binary tree: `i + (i + 8)`, then 4, 2, 1 apart.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane.
    fn top(self, v: Self::V) -> f32;

    /// Dword `j` of the 16 rows, as lanes of vector `j`.
    fn transpose(self, rows: [&[u8; 64]; LANES]) -> [Self::V; LANES];
    /// The bf16 in the low halves of the dwords, widened; and those in the high halves.
    fn low_bf16(self, v: Self::V) -> Self::V;
    fn high_bf16(self, v: Self::V) -> Self::V;

    /// The bits of floats as integers, and back.
    fn bits(self, v: Self::V) -> Self::I;
    fn unbits(self, v: Self::I) -> Self::V;
    /// The nearest floats.
    fn float(self, v: Self::I) -> Self::V;
    fn splat_i32(self, x: i32) -> Self::I;
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low halves of the products.
    fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low half bytes of all bytes (`i` 0), or the high ones.
    fn half_bytes(self, v: Self::I, i: usize) -> Self::I;
    /// What meets each plane of integers, of codes in unsigned bytes.
    fn factors(self, codes: Self::I) -> [Self::I; 2];
    /// `sum` plus, in each dword, the products of a factor with a plane.
    fn dot(self, factor: Self::I, plane: Self::I, sum: Self::I) -> Self::I;
    /// The sum of the products, of the sums of both planes.
    fn total(self, sums: [Self::I; 2]) -> Self::I;
}
