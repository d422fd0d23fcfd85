// What every kernel shares: storage types, rows of 16 bytes, reductions.
//
// Dimensions are single letters, as in tensor.rs: T tokens, D hidden, H query heads, G kv heads, d head dim, F ffn width, V vocab,
// P patches, S sampled rows, M N K of a matrix product.
#pragma once

#include "ptx.cuh"

// Storage types. Arithmetic is f32; `pack` rounds to nearest even.
struct bf16 {
    u16 bits;
    static __device__ __forceinline__ float widen(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }
    static __device__ __forceinline__ u32 pack(float low, float high) { return cvt_bf16x2(low, high); }
    static __device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
    static __device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_bf16(d, a, b);
    }
};

struct f16 {
    u16 bits;
    static __device__ __forceinline__ float widen(u16 bits) { return cvt_f32_f16(bits); }
    static __device__ __forceinline__ u32 pack(float low, float high) { return cvt_f16x2(low, high); }
    static __device__ __forceinline__ float low(u32 pair) { return cvt_f32_f16(static_cast<u16>(pair)); }
    static __device__ __forceinline__ float high(u32 pair) { return cvt_f32_f16(static_cast<u16>(pair >> 16)); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_f16(d, a, b);
    }
};

// One element of any storage type as f32, and back.
template <class T>
__device__ __forceinline__ float load(const T* p) {
    return T::widen(p->bits);
}
template <>
__device__ __forceinline__ float load<float>(const float* p) {
    return *p;
}
template <class T>
__device__ __forceinline__ void store(T* p, float x) {
    p->bits = static_cast<u16>(T::pack(x, 0.0f));
}
template <>
__device__ __forceinline__ void store<float>(float* p, float x) {
    *p = x;
}

// As load, past L1: for what other blocks wrote during this launch.
template <class T>
__device__ __forceinline__ float load_l2(const T* p) {
    return T::widen(__ldcg(&p->bits));
}
template <>
__device__ __forceinline__ float load_l2<float>(const float* p) {
    return __ldcg(p);
}

constexpr int WARP = 32;

__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / WARP; }

// The sum over a warp, in every lane; one fixed order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

template <class T>
constexpr __device__ __host__ T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}
