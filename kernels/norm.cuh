// The norm of a finished row of the residual stream, by one block of threads.
#pragma once

#include "common.cuh"

// The sum over a block of `threads`, in every thread; one fixed order. `partial` is shared, one float per warp.
template <int threads>
__device__ __forceinline__ float block_sum(float x, float* partial) {
    x = warp_sum(x);
    if (lane_id() == 0) partial[warp_id()] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < threads / WARP; ++i) sum += partial[i];
    __syncthreads();
    return sum;
}

// What a row of D elements becomes: RMSNorm without a bias, LayerNorm with one. Weights are f32.
struct NormWeights {
    const float* weight;
    const float* bias;
    float eps;
};

// y = norm(x) for one row of D elements, read past L1: other blocks may just have written it. Statistics are f32; the sum of squares is
// taken of the differences from the mean, as in the definition.
template <int threads, class T, class S>
__device__ void norm_row(const S* x, int D, const NormWeights& norm, T* y, float* partial) {
    float sum = 0.0f;
    if (norm.bias) {
        for (int i = threadIdx.x; i < D; i += threads) sum += load_l2(x + i);
        sum = block_sum<threads>(sum, partial);
    }
    const float mean = sum / static_cast<float>(D);
    float squares = 0.0f;
    for (int i = threadIdx.x; i < D; i += threads) {
        const float d = load_l2(x + i) - mean;
        squares = fmaf(d, d, squares);
    }
    squares = block_sum<threads>(squares, partial);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(D) + norm.eps);
    for (int i = threadIdx.x; i < D; i += threads) {
        const float z = (load_l2(x + i) - mean) * scale * norm.weight[i];
        store(y + i, norm.bias ? z + norm.bias[i] : z);
    }
}
