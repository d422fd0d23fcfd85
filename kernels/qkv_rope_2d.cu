// The tower's attention input: fused q/k/v projection with bias, q and k turned by the patch's row and column. d = 80.
//
// Entries   qkv_rope_2d_bf16|f16[_w8a8]_narrow|wide; weights, rows and blocks of quantized ones as in linear.cu
// x         T [P, E] read        weight  T [3 H d, E] paired by d / 2 (q, k, v), read        bias  f32 [3 H d] read
// inv_freq  f32 [d / 4] read     positions  i32 [P, 2] read        qkv  T [P, 3 H d] write
// Needs     E a multiple of 8, rows aligned to 16 bytes
// Launch    narrow (P <= 32): 15 H blocks of 32 * slices threads (slices of E: linear.cuh)
//           wide: ceil(15 H / 8) * ceil(P / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
// Numerics  f32 sums in one order per E, angle = position * inv_freq in f32, one rounding to T
// Cost      P E + (P + E) 3 H d elements, 6 P E H d flops
#include "products.cuh"
#include "rope.cuh"

constexpr int HEAD = 80, HALF = HEAD / 2, QUARTER = HEAD / 4;

template <class T>
struct Turn {
    static constexpr int MEMBERS = 2;
    const float *bias, *inv_freq;
    const int* positions;
    T* qkv;
    int H;

    template <int W>
    __device__ __forceinline__ void operator()(int pair, int patch, float (&x)[2][W]) const {
        const int head = pair / HALF, first = pair % HALF;
        add_pair_bias(bias + head * HEAD + first, HALF, x);
        if (head < 2 * H) {
            const int2 at = *reinterpret_cast<const int2*>(positions + 2 * patch);
            float frequency[W];
            frequencies(first, frequency);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                const float position = static_cast<float>(first + j < QUARTER ? at.x : at.y);
                rotate(x[0][j], x[1][j], __fmul_rn(position, frequency[j]));
            }
        }
        T* to = qkv + (static_cast<size_t>(patch) * 3 * H + head) * HEAD + first;
        store(to, x[0]);
        store(to + HALF, x[1]);
    }

    // Of pairs `first`..: a quarter is a multiple of four, not of eight.
    __device__ __forceinline__ void frequencies(int first, float (&x)[1]) const { x[0] = __ldg(inv_freq + first % QUARTER); }
    __device__ __forceinline__ void frequencies(int first, float (&x)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; i += 4) load_constant_4(inv_freq + (first + i) % QUARTER, x + i);
    }
};

#define ENTRY(NAME, SHAPE, FORMAT, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                      \
        NAME(FORMAT##_PARAMS(T), const float* bias, const float* inv_freq, const int* positions, T* qkv, int P, int E,      \
             int H) {                                                                                                       \
        SHAPE::run(FORMAT##_PRODUCT(T, P, 3 * H * HEAD, E), Turn<T>{bias, inv_freq, positions, qkv, H});                    \
    }

#define QKV_ROPE_2D(NAME, T)   \
    SHAPES(NAME, FLOATS, T)    \
    SHAPES_W8A8(NAME##_w8a8, T)

QKV_ROPE_2D(qkv_rope_2d_bf16, bf16)
QKV_ROPE_2D(qkv_rope_2d_f16, f16)
