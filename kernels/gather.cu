// gather: columns of rows in another order, y[m, j] = x[m, order[j]].
//
// Entries   gather_bf16|f16
// x         T [M, K] read        order  f32 [K]        y  T [M, K] write
// Needs     K a multiple of 8, rows aligned to 16 bytes, K elements of shared memory
// Launch    M blocks of 256 threads: one for a row
// Numerics  exact
// Cost      M K elements twice; the order once for each row
#include "common.cuh"

constexpr int THREADS = 256;

template <class T>
__device__ __forceinline__ void gather(const T* x, const float* order, T* y, int K) {
    extern __shared__ uint4 staged[];
    for (int i = threadIdx.x; i < K / 8; i += THREADS) staged[i] = ld_global_l2(x + 8 * i);
    __syncthreads();
    const T* row = reinterpret_cast<const T*>(staged);
    for (int i = 8 * threadIdx.x; i < K; i += 8 * THREADS) {
        float from[8], v[8];
        load_constant(order + i, from);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = load(row + static_cast<int>(from[j]));
        store(y + i, v);
    }
}

#define ENTRY(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const T* x, const float* order, T* y, int K) {        \
        const size_t row = static_cast<size_t>(blockIdx.x) * K;                                                      \
        gather(x + row, order, y + row, K);                                                                          \
    }

ENTRY(gather_bf16, bf16)
ENTRY(gather_f16, f16)
