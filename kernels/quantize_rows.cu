// quantize_rows: rows of floats to int8 rows with a scale each.
//
// Entries   quantize_rows_bf16|f16
// x         T [M, K] read        y  s8 [M, K] write        scales  f32 [M] write
// Needs     K a multiple of 8, rows of x aligned to 16 bytes, of y to 8
// Launch    M blocks of 256 threads: one for a row
// Numerics  scale = max |x| / 127, y = x / scale to nearest even, both quotients in f32 (int8.cuh)
// Cost      M K elements of both types; x comes from L2 a second time
#include "int8.cuh"

constexpr int THREADS = 256;

template <class T>
__device__ __forceinline__ void quantize_row(const T* x, s8* y, float* scale, int K) {
    __shared__ u32 of_warp[THREADS / WARP];
    float v[8];
    u32 most = 0;
    for (int i = 8 * threadIdx.x; i < K; i += 8 * THREADS) {
        load(x + i, v);
        most = largest(v, most);
    }
    most = __reduce_max_sync(0xffffffffu, most);
    if (lane_id() == 0) of_warp[warp_id()] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < THREADS / WARP; ++w) most = max(most, of_warp[w]);
    const float by = row_scale(most);
    for (int i = 8 * threadIdx.x; i < K; i += 8 * THREADS) {
        load(x + i, v);
        store_codes(y + i, v, by);
    }
    if (threadIdx.x == 0) *scale = by;
}

#define ENTRY(NAME, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const T* x, s8* y, float* scales, int K) {               \
        const size_t row = static_cast<size_t>(blockIdx.x) * K;                                                         \
        quantize_row(x + row, y + row, scales + blockIdx.x, K);                                                         \
    }

ENTRY(quantize_rows_bf16, bf16)
ENTRY(quantize_rows_f16, f16)
