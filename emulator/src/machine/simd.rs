//! Compiles a function twice: for any processor, and for those with AVX2, FMA and F16C. The choice is made at run time.
//!
//! There are no intrinsics: loops over all lanes have fixed lengths and the compiler vectorises them. The surprise: only
//! what is inlined into the wrapped function gets the wider instructions, so its helpers are `#[inline(always)]`.

/// Whether the processor has AVX2, FMA and F16C. The standard library caches the answer.
#[inline]
pub fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Wraps a function so that it runs its AVX2 twin where it can. Without FMA, `mul_add` is a library call: slow, same bits.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            if $crate::machine::simd::wide() {
                // SAFETY: the processor has these features.
                return unsafe { avx2($($arg),*) };
            }
            portable($($arg),*)
        }
    };
}

pub(crate) use vectorised;
