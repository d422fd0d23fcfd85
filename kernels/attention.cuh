// Attention over tiles of 64 keys on mma accumulators, softmax in base 2: what the attention kernels share.
//
// A warp holds the scores of 16 queries x 64 keys as eight accumulators: lane 4g + t has queries g and g + 8 ("its two queries"), keys
// 8j + 2t and 8j + 2t + 1 of each j. c is log2(e) / sqrt(d), so that a weight is 2^(c (s - max)).
#pragma once

#include "common.cuh"

constexpr int KEYS = 64;  // of a tile
constexpr u32 ALL = 0xffffffffu;
// Where a maximum starts: finite, so that no difference of two maxima is a NaN. A masked score is -infinity.
constexpr float LOWEST = -3.402823466e38f;
constexpr float LOG2_E = 1.4426950408889634f;

// The softmax of a lane's two queries over the keys so far; `sum` is over this lane's keys only.
struct Softmax {
    float max[2] = {LOWEST, LOWEST};
    float sum[2] = {0.0f, 0.0f};
};

// Takes a further maximum in; gives the factor of everything summed under the old one.
__device__ __forceinline__ float advance(float& max, float next, float c) {
    const float old = max;
    max = fmaxf(old, next);
    return ex2_approx((old - max) * c);
}

// Two softmaxes over different keys become one: `max` takes `later` in, `before` and `after` are the factors of what either summed.
struct Join {
    float before, after;
    __device__ __forceinline__ Join(float& max, float later, float c) {
        before = advance(max, later, c);
        after = ex2_approx((later - max) * c);
    }
    // Spelled out: the compiler may not choose where to round, since kernels that must agree bit for bit share it.
    __device__ __forceinline__ float operator()(float x, float y) const { return __fmaf_rn(y, after, __fmul_rn(x, before)); }
};

// Over the four lanes of a query, in one fixed order.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

// The largest score of each of a lane's two queries.
__device__ __forceinline__ void tile_max(float (&max)[2], const float (&s)[KEYS / 8][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        max[r] = s[0][2 * r];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) max[r] = fmaxf(fmaxf(max[r], s[j][2 * r]), s[j][2 * r + 1]);
        max[r] = quad_max(max[r]);
    }
}

// Masks all but the first `keys` keys of each of a lane's two queries.
__device__ __forceinline__ void mask(float (&s)[KEYS / 8][4], int keys0, int keys1) {
    const int mine[2] = {keys0 - lane_id() % 4 * 2, keys1 - lane_id() % 4 * 2};
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (8 * j + i % 2 >= mine[i / 2]) s[j][i] = __int_as_float(0xff800000);
        }
    }
}

// Weights of a tile, rounded to T, as A operands of its four k16 steps; `sum` gets the lane's sums of the unrounded ones.
template <class T>
__device__ __forceinline__ void weights(u32 (&p)[KEYS / 16][4], float (&sum)[2], const float (&s)[KEYS / 8][4],
                                        const float (&max)[2], float c) {
    const float shift[2] = {-max[0] * c, -max[1] * c};
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float first = ex2_approx(__fmaf_rn(s[j][2 * r], c, shift[r]));
            const float second = ex2_approx(__fmaf_rn(s[j][2 * r + 1], c, shift[r]));
            sum[r] = (sum[r] + first) + second;
            p[j / 2][2 * (j % 2) + r] = T::pack(first, second);
        }
    }
}

template <int N>
__device__ __forceinline__ void scale(float (&o)[N][4], const float (&factor)[2]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) o[n][i] *= factor[i / 2];
    }
}

// One tile's scores become weights; `factor` is what everything summed before is to be scaled by.
template <class T>
__device__ __forceinline__ void step(Softmax& softmax, u32 (&p)[KEYS / 16][4], float (&factor)[2], const float (&s)[KEYS / 8][4],
                                     float c) {
    float next[2], sum[2];
    tile_max(next, s);
#pragma unroll
    for (int r = 0; r < 2; r++) factor[r] = advance(softmax.max[r], next[r], c);
    weights<T>(p, sum, s, softmax.max, c);
#pragma unroll
    for (int r = 0; r < 2; r++) softmax.sum[r] = __fmaf_rn(softmax.sum[r], factor[r], sum[r]);
}

// Two accumulators side by side, from the four registers of an ldmatrix.
template <class T>
__device__ __forceinline__ void mma_pair(float (&d0)[4], float (&d1)[4], const u32 (&a)[4], const u32 (&b)[4]) {
    const u32 first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    T::mma(d0, a, first);
    T::mma(d1, a, second);
}

// 1 / sum; 0 for a query without keys, whose output is zeros.
__device__ __forceinline__ float inverse(float sum) { return sum > 0.0f ? rcp_approx(sum) : 0.0f; }
