// y = act(x W^T + b), or y += it; then the norm of y where it completes the residual stream.
//
// Entries  linear[_add|_quick_gelu|_gelu]_<x>[_<y>]_narrow|wide, listed below; _w4a16, _w8a16: codes.cuh; _w8a8: w8a8.cuh, where x is s8 with
//          scales f32 [M] behind it, K a multiple of 16, and a wide block has 128 threads and 49152 bytes
// x        T [M, K] read        weight  T [N, K] tiled, read        bias  f32 [N] or null
// y        Y [M, N] write (add: update)
// norm     weight f32 [N] or null, bias f32 [N] or null (null: RMS), out T or s8 [M, N] write or null, scales f32 [M] write (of s8) or null
// counters i32 [ceil(M / 128)] (codes: 64) or null, zero before and after
// Needs    K and N multiples of 8, rows aligned to 16 bytes
// Launch   narrow (M <= 32): ceil(N / 16) blocks of 32 * slices threads (slices of K: linear.cuh)
//          wide: ceil(N / 128) * ceil(M / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
//          wide with codes (weight u8, codes.cuh): ceil(N / 256) * ceil(M / 64) blocks of 256 threads, 99328 bytes of dynamic shared memory
// Numerics f32 sums in one order per K (linear.cuh), f32 epilogue, one rounding to Y; norm: f32 statistics of the rounded y
// Cost     M K + M N + N K elements, 2 M N K flops
#include "norm.cuh"
#include "products.cuh"

// x sigmoid(1.702 x)
struct QuickGelu {
    static __device__ __forceinline__ float of(float x) {
        const float e = ex2_approx(__fmul_rn(x, -1.702f * 1.44269504f));
        return __fmul_rn(x, rcp_approx(__fadd_rn(1.0f, e)));
    }
};

// x (1 + erf(x / sqrt 2)) / 2
struct Gelu {
    static __device__ __forceinline__ float of(float x) {
        const float half = __fmul_rn(0.5f, x);
        return __fmaf_rn(half, erff(__fmul_rn(x, 0.70710678f)), half);
    }
};

struct Identity {
    static __device__ __forceinline__ float of(float x) { return x; }
};

template <class Y, class Act, bool ADD>
struct Store {
    static constexpr int MEMBERS = 1;
    const float* bias;
    Y* y;
    int N;

    template <int W>
    __device__ __forceinline__ void operator()(int i, int token, float (&v)[1][W]) const {
        Y* to = y + static_cast<size_t>(token) * N + i;
        float old[W], b[W];
        if (ADD) load(to, old);
        if (bias) load_constant(bias + i, b);
#pragma unroll
        for (int j = 0; j < W; ++j) {
            const float x = Act::of(bias ? __fadd_rn(v[0][j], b[j]) : v[0][j]);
            v[0][j] = ADD ? __fadd_rn(old[j], x) : x;
        }
        store(to, v[0]);
    }
};

template <class Shape, class Y, class Act, bool ADD, class W, class T>
__device__ __forceinline__ void linear(const Product<W>& p, const float* bias, Y* y, const Norm<T>& norm, int* counters) {
    const Share share = Shape::run(p, Store<Y, Act, ADD>{bias, y, p.N});
    then_norm(norm, y, share.first, share.rows, p.N, counters + share.index, share.parts);
}

#define ENTRY(NAME, SHAPE, FORMAT, T, Y, ACT, ADD)                                                                                     \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                                 \
        NAME(FORMAT##_PARAMS(T), const float* bias, Y* y, const float* norm_weight, const float* norm_bias, void* out, float* scales,  \
             int* counters, int M, int N, int K, float eps) {                                                                          \
        linear<SHAPE, Y, ACT, ADD>(FORMAT##_PRODUCT(T, M, N, K), bias, y, Norm<T>{norm_weight, norm_bias, out, scales, eps}, counters);  \
    }

#define LINEAR(NAME, ...)                \
    SHAPES(NAME, FLOATS, __VA_ARGS__)    \
    SHAPES_W8A8(NAME##_w8a8, __VA_ARGS__)

LINEAR(linear_bf16, bf16, bf16, Identity, false)
LINEAR(linear_f16, f16, f16, Identity, false)
LINEAR(linear_f16_f32, f16, float, Identity, false)
LINEAR(linear_add_bf16, bf16, bf16, Identity, true)
LINEAR(linear_add_f16_f32, f16, float, Identity, true)
LINEAR(linear_quick_gelu_bf16, bf16, bf16, QuickGelu, false)
LINEAR(linear_quick_gelu_f16, f16, f16, QuickGelu, false)
LINEAR(linear_gelu_bf16, bf16, bf16, Gelu, false)
LINEAR(linear_gelu_f16, f16, f16, Gelu, false)

#define LINEAR_CODES(NAME, ...)                   \
    SHAPES(NAME##_w4a16, W4A16, __VA_ARGS__)      \
    SHAPES(NAME##_w8a16, W8A16, __VA_ARGS__)

LINEAR_CODES(linear_bf16, bf16, bf16, Identity, false)
LINEAR_CODES(linear_f16, f16, f16, Identity, false)
LINEAR_CODES(linear_add_bf16, bf16, bf16, Identity, true)
LINEAR_CODES(linear_add_f16_f32, f16, float, Identity, true)
