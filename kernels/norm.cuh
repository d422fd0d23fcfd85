// The norm of a finished row of the residual stream, and "then norm": the last block of a launch to finish some rows normalises them.
#pragma once

#include "int8.cuh"

// What follows a kernel that completes rows of the residual stream. RMS norm without `bias`, layer norm with it.
template <class T>
struct Norm {
    const float* weight;  // [D]; null: no norm follows
    const float* bias;    // [D] or null
    void* out;            // T [rows, D], or s8 where there are scales
    float* scales;        // [rows] or null
    float eps;
};

// Normalises row r of `rows`, D (a multiple of 8) elements each, by one warp: f32 sums, one order whatever the kernel; one rounding, to T,
// and one to int8 if that is wanted.
template <class T, class S>
__device__ __forceinline__ void norm_row(const Norm<T>& norm, const S* rows, size_t r, int D) {
    const S* row = rows + r * D;
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
    auto normalise = [&](int i) {
        load(row + i, x);
        float weight[8], bias[8] = {};
        load_constant(norm.weight + i, weight);
        if (norm.bias) load_constant(norm.bias + i, bias);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float y = __fmul_rn(__fmul_rn(x[j] - mean, scale), weight[j]);
            x[j] = norm.bias ? __fadd_rn(y, bias[j]) : y;
        }
    };
    if (!norm.scales) {
#pragma unroll 2
        for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
            normalise(i);
            store(static_cast<T*>(norm.out) + r * D + i, x);
        }
        return;
    }
    u32 most = 0;
    for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
        normalise(i);
        round_to<T>(x);
        most = largest(x, most);
    }
    const float by = row_scale(__reduce_max_sync(0xffffffffu, most));
    for (int i = 8 * lane_id(); i < D; i += 8 * WARP) {
        normalise(i);
        round_to<T>(x);
        store_codes(static_cast<s8*>(norm.out) + r * D + i, x, by);
    }
    if (lane_id() == 0) norm.scales[r] = by;
}

// Called by all threads of each of `parts` blocks when their share of the rows is stored. The last of them normalises the rows.
template <class T, class S>
__device__ __forceinline__ void then_norm(const Norm<T>& norm, const S* y, int first, int rows, int D, int* counter, int parts) {
    if (!norm.weight || !last_of(counter, parts)) return;
    for (int r = warp_id(); r < rows; r += blockDim.x / WARP) norm_row(norm, y, first + r, D);
}
