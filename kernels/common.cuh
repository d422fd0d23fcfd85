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
    static __device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) { return fma_bf16x2(a, b, c); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_bf16(d, a, b);
    }
    static __device__ __forceinline__ void mma_first(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_bf16_first(d, a, b);
    }
};

struct f16 {
    u16 bits;
    static __device__ __forceinline__ float widen(u16 bits) { return cvt_f32_f16(bits); }
    static __device__ __forceinline__ u32 pack(float low, float high) { return cvt_f16x2(low, high); }
    static __device__ __forceinline__ float low(u32 pair) { return cvt_f32_f16(static_cast<u16>(pair)); }
    static __device__ __forceinline__ float high(u32 pair) { return cvt_f32_f16(static_cast<u16>(pair >> 16)); }
    static __device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) { return fma_f16x2(a, b, c); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_f16(d, a, b);
    }
    static __device__ __forceinline__ void mma_first(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        mma_m16n8k16_f16_first(d, a, b);
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

// Eight elements as f32, past L1, and back: 16 bytes of T or 32 of float. p is aligned to 16 bytes.
template <class T>
__device__ __forceinline__ void load(const T* p, float (&x)[8]) {
    const uint4 q = ld_global_l2(p);
    const u32 pairs[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x[2 * i] = T::low(pairs[i]);
        x[2 * i + 1] = T::high(pairs[i]);
    }
}
template <>
__device__ __forceinline__ void load<float>(const float* p, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const uint4 q = ld_global_l2(p + i);
        x[i] = __uint_as_float(q.x);
        x[i + 1] = __uint_as_float(q.y);
        x[i + 2] = __uint_as_float(q.z);
        x[i + 3] = __uint_as_float(q.w);
    }
}
template <class T>
__device__ __forceinline__ void store(T* p, const float (&x)[8]) {
    st_global(p, make_uint4(T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(x[4], x[5]), T::pack(x[6], x[7])));
}
template <>
__device__ __forceinline__ void store<float>(float* p, const float (&x)[8]) {
    float4* to = reinterpret_cast<float4*>(p);
    to[0] = make_float4(x[0], x[1], x[2], x[3]);
    to[1] = make_float4(x[4], x[5], x[6], x[7]);
}

// A run of one.
template <class T>
__device__ __forceinline__ void load(const T* p, float (&x)[1]) {
    x[0] = load(p);
}
template <class T>
__device__ __forceinline__ void store(T* p, const float (&x)[1]) {
    store(p, x[0]);
}

// Floats that nobody writes during the launch, such as a bias: four or eight at a multiple of 16 bytes, or one.
__device__ __forceinline__ void load_constant_4(const float* p, float* x) {
    const float4 q = __ldg(reinterpret_cast<const float4*>(p));
    x[0] = q.x;
    x[1] = q.y;
    x[2] = q.z;
    x[3] = q.w;
}
__device__ __forceinline__ void load_constant(const float* p, float (&x)[1]) { x[0] = __ldg(p); }
__device__ __forceinline__ void load_constant(const float* p, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) load_constant_4(p + i, x + i);
}

constexpr int WARP = 32;

// A token's logit and its id in one integer that grows with the logit, and for equal ones with a lower id. What is not finite is above all
// that is: its upper half is UNUSABLE.
constexpr u32 UNUSABLE = 0xffffffffu;

// Unsigned integers in the order of the floats.
__device__ __forceinline__ u32 ordered(float x) {
    const u32 bits = __float_as_uint(x);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float from_ordered(u32 key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu)); }

__device__ __forceinline__ u64 candidate(float x, int id) {
    const u32 key = isfinite(x) ? ordered(x) : UNUSABLE;
    return static_cast<u64>(key) << 32 | ~static_cast<u32>(id);
}

__device__ __forceinline__ int candidate_id(u64 c) { return static_cast<int>(~static_cast<u32>(c)); }

__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / WARP; }

// The sum over a warp, in every lane; one fixed order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

// Whether this block is the last of `parts` to come here; if so, it sees what all of them wrote before. All threads call it, once in a kernel.
// The counter is zero before and after.
__device__ __forceinline__ bool last_of(int* counter, int parts) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1) == parts - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

template <class T>
constexpr __device__ __host__ T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}
