//! The one `unsafe` call of preprocessing: running plain loops with AVX2 code generation.
//!
//! Owns: the feature check. Refuses: intrinsics; the loops stay plain Rust and give the same bits either way.
//! Surprises: a [`Kernel`] is compiled twice, and only what is inlined into `run` gets the wider vectors. That is why this is a trait and
//! not a closure: nothing can force a closure to be inlined, and one that was not got no AVX2.

/// A loop nest over borrowed data. `run` and all that it calls must be `#[inline(always)]`.
pub(super) trait Kernel {
    fn run(self);
}

/// Runs `kernel`, compiled for AVX2 where the CPU has it.
#[inline]
pub(super) fn widest(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has just been found to have AVX2, the only thing that `with_avx2` asks of its caller.
        return unsafe { with_avx2(kernel) };
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(kernel: impl Kernel) {
    kernel.run();
}
