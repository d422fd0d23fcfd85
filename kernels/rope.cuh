// Rotary positions: pairs with their bias, turned by an f32 angle.
#pragma once

#include "common.cuh"

// |x| <= 1e5. Cody and Waite's reduction with fused steps: k pi/2 is taken off in three parts; the first has 23 bits, so that
// step is exact, and the second is rounded once. The polynomials are the minimax ones on [-pi/4, pi/4] (Remez; relative errors
// 2^-28 and 2^-33). At most 2 ulp off. Every step is spelled as one rounding: the bits do not depend on the kernel around it.
__device__ __forceinline__ void sin_cos(float x, float& sin, float& cos) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, found in the lowest bits
    const float shifted = __fmaf_rn(x, 0x1.45f306p-1f, ROUND);
    const float k = __fsub_rn(shifted, ROUND);
    float r = __fmaf_rn(k, -0x1.921fb4p+0f, x);
    r = __fmaf_rn(k, -0x1.4442d2p-24f, r);
    r = __fmaf_rn(k, 0x1.ee59dap-50f, r);
    const float s = __fmul_rn(r, r);
    float p = __fmaf_rn(s, -0.00019515153f, 0.008332159f);
    p = __fmaf_rn(s, p, -0.16666655f);
    p = __fmaf_rn(__fmul_rn(r, s), p, r);
    float q = __fmaf_rn(s, 2.4433008e-05f, -0.0013887315f);
    q = __fmaf_rn(s, q, 0.041666646f);
    q = __fmaf_rn(s, __fmaf_rn(s, q, -0.5f), 1.0f);
    const u32 quadrant = __float_as_uint(shifted);
    const bool odd = quadrant & 1;
    sin = __uint_as_float(__float_as_uint(odd ? q : p) ^ (quadrant & 2) << 30);
    cos = __uint_as_float(__float_as_uint(odd ? p : q) ^ (quadrant + 1 & 2) << 30);
}

// Adds the bias of pairs whose members are `half` apart: x[0] are the first members, x[1] the second.
template <int W>
__device__ __forceinline__ void add_pair_bias(const float* bias, int half, float (&x)[2][W]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float b[W];
        load_constant(bias + i * half, b);
#pragma unroll
        for (int j = 0; j < W; ++j) x[i][j] = __fadd_rn(x[i][j], b[j]);
    }
}

// Turns the pair (a, b) by the angle.
__device__ __forceinline__ void rotate(float& a, float& b, float angle) {
    float sin, cos;
    sin_cos(angle, sin, cos);
    const float turned = __fmaf_rn(a, cos, -__fmul_rn(b, sin));
    b = __fmaf_rn(b, cos, __fmul_rn(a, sin));
    a = turned;
}
