//! The one `unsafe` call of preprocessing: running plain loops with AVX2 code generation.
//!
//! Owns: the feature check. Refuses: intrinsics; the loops stay plain Rust and give the same bits either way.
//! Surprises: the closure is compiled twice, and only what is inlined into it gets the wider vectors.

/// Runs `f`, compiled for AVX2 where the CPU has it.
#[inline]
pub(super) fn widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has just been found to have AVX2, the only thing that `with_avx2` asks of its caller.
        return unsafe { with_avx2(f) };
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}
