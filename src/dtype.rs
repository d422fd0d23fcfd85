//! Element types of tensors, as safetensors names them.
//!
//! Quantized storage is a weight format, not a dtype.

use half::{bf16, f16};
use std::fmt;

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    Bf16,
    F16,
    I64,
    I32,
    I8,
    U8,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }

    /// The short name that kernels, plans and flags use.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
        }
    }

    /// True for the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::Bf16 | DType::F16)
    }

    /// True for the types of activations that kernels take.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::Bf16 | DType::F16)
    }

    /// The type of the residual stream between activations of this type: f16 has no room for what adds up there.
    pub const fn stream(self) -> DType {
        if matches!(self, DType::F16) { DType::F32 } else { self }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of a tensor.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its dtype.
    const DTYPE: DType;
}

/// A floating-point element: arithmetic is always done in f32.
pub trait Float: Element {
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest even.
    fn from_f32(x: f32) -> Self;
}

macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f32 => F32, bf16 => Bf16, f16 => F16, i64 => I64, i32 => I32, i8 => I8, u8 => U8);

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
}

/// Runs `$body` with `$t` as the storage type that `$dtype` names; contracts admit floating-point types only.
macro_rules! with_float {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::dtype::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $t = half::f16;
                $body
            }
            other => unreachable!("{other} is no storage type: the contract admits f32, bf16 and f16"),
        }
    };
}
pub(crate) use with_float;

/// The values of little-endian, possibly unaligned bytes of a floating-point type.
pub fn widened(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    with_float!(dtype, T => bytes.chunks_exact(dtype.size()).map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f32()).collect())
}

/// Values as little-endian bytes of a floating-point type, rounded to nearest even.
pub fn narrowed(dtype: DType, values: &[f32]) -> Vec<u8> {
    with_float!(dtype, T => {
        let rounded: Vec<T> = values.iter().map(|&x| T::from_f32(x)).collect();
        bytemuck::cast_slice(&rounded).to_vec()
    })
}
