// The norm of a finished row of the residual stream, and "then norm": the last block of a launch to finish some rows normalises them.
#pragma once

#include "common.cuh"

// What follows a kernel that completes rows of the residual stream. RMS norm without `bias`, layer norm with it.
template <class T>
struct Norm {
    const float* weight;  // [D]; null: no norm follows
    const float* bias;    // [D] or null
    T* out;               // [rows, D]
    float eps;
};

// Normalises one row of D (a multiple of 8) elements by one warp: f32 sums, one order whatever the kernel; one rounding, to T.
template <class T, class S>
__device__ __forceinline__ void norm_row(const Norm<T>& norm, const S* row, T* out, int D) {
    float x[8], mean = 0.0f, square = 0.0f;
    if (norm.bias) {
        for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
            load(row + i, x);
#pragma unroll
            for (int j = 0; j < 8; ++j) mean = __fadd_rn(mean, x[j]);
        }
        mean = __fdiv_rn(warp_sum(mean), static_cast<float>(D));
    }
#pragma unroll 2
    for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
        load(row + i, x);
#pragma unroll
        for (int j = 0; j < 8; ++j) square = __fmaf_rn(x[j] - mean, x[j] - mean, square);
    }
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(warp_sum(square), static_cast<float>(D)), norm.eps)));
#pragma unroll 2
    for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
        load(row + i, x);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float y = __fmul_rn(__fmul_rn(x[j] - mean, scale), norm.weight[i + j]);
            x[j] = norm.bias ? __fadd_rn(y, norm.bias[i + j]) : y;
        }
        store(out + i, x);
    }
}

// Called by all threads of each of `parts` blocks when their share of the rows is stored. The last of them normalises the rows
// and leaves the counter zero, as it found it.
template <class T, class S>
__device__ __forceinline__ void then_norm(const Norm<T>& norm, const S* y, int first, int rows, int D, int* counter, int parts) {
    if (!norm.weight) return;
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == parts - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int r = warp_id(); r < rows; r += blockDim.x / WARP) {
        const size_t at = static_cast<size_t>(first + r) * D;
        norm_row(norm, y + at, norm.out + at, D);
    }
    if (threadIdx.x == 0) *counter = 0;
}
