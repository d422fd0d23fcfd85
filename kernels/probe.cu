// probe: as many mma as a multiprocessor can issue, on registers: the ceiling that products are held against.
//
// Entries   probe_bf16, probe_f16
// Operands  out f32 [1], never written; steps
// Launch    any grid of 256 threads: 8 warps with 8 chains each are more than the pipe is deep
// Cost      8 * steps mma.m16n8k16 a warp, 4096 flops each

#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int CHAINS = 8;

template <class T>
__device__ __forceinline__ void probe(float* out, int steps) {
    float d[CHAINS][4] = {};
    const u32 a[4] = {}, b[2] = {};
    for (int i = 0; i < steps; ++i) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) T::mma(d[c], a, b);
    }
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < CHAINS; ++c) sum += d[c][0];
    // Zeros: it only looks as if something were stored.
    if (sum != 0.0f) *out = sum;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS) probe_bf16(float* out, int steps) { probe<bf16>(out, steps); }

extern "C" __global__ void __launch_bounds__(THREADS) probe_f16(float* out, int steps) { probe<f16>(out, steps); }
