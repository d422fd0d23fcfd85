// Rows as int8: x[k] ~ scale * code[k], with scale = max |x| / 127 and codes rounded to nearest even.
//
// A row of zeros has scale 0 and codes 0 (0 / 0 converts to 0); a row that is not finite has a scale that is not.
#pragma once

#include "common.cuh"

// x rounded to T: rows are, before they are quantized.
template <class T>
__device__ __forceinline__ void round_to(float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const u32 pair = T::pack(x[i], x[i + 1]);
        x[i] = T::low(pair);
        x[i + 1] = T::high(pair);
    }
}

// What orders as |x| does; NaN is above all.
__device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

template <int W>
__device__ __forceinline__ u32 largest(const float (&x)[W], u32 most) {
#pragma unroll
    for (int i = 0; i < W; ++i) most = max(most, magnitude(x[i]));
    return most;
}

// Over eight neighbouring lanes, all of them here.
__device__ __forceinline__ u32 largest_of_eight(u32 most) {
    const u32 eight = 0xffu << lane_id() / 8 * 8;
#pragma unroll
    for (int i = 1; i < 8; i *= 2) most = max(most, __shfl_xor_sync(eight, most, i));
    return most;
}

// Of a row whose largest magnitude is this.
__device__ __forceinline__ float row_scale(u32 most) { return __fdiv_rn(__uint_as_float(most), 127.0f); }

__device__ __forceinline__ u32 quantize_4(const float* x, float scale) {
    int code[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) code[i] = __float2int_rn(__fdiv_rn(x[i], scale));
    return cvt_pack_s8(code[0], code[1], cvt_pack_s8(code[2], code[3], 0));
}

// Eight codes; p is aligned to 8 bytes.
__device__ __forceinline__ void store_codes(s8* p, const float (&x)[8], float scale) {
    *reinterpret_cast<uint2*>(p) = make_uint2(quantize_4(x, scale), quantize_4(x + 4, scale));
}
