// The decoder's attention input: fused q/k/v projection with bias, M-RoPE, and the keys and values to the paged cache. d = 128.
//
// Entries   qkv_mrope_bf16|f16[_w4a16|_w8a16|_w8a8]_narrow|wide; weights, rows and blocks of quantized ones as in linear.cu
// x         T [T, D] read        weight  T [(H + 2G) d, D] paired by d / 2 (q, k, v), read        bias  f32 [(H + 2G) d] or null
// inv_freq  f32 [d / 2] read     positions  i32 [3, T] read        slots  i32 [T] read (-1: the row keeps no key and value)
// q         T [T, H d] write     k, v  T [blocks, G, block, d] update
// section_t, section_h: the pairs that turn by the first and the second position; the rest turn by the third
// Needs     D a multiple of 8, rows aligned to 16 bytes
// Launch    narrow (T <= 32): 8 (H + 2G) blocks of 32 * slices threads (slices of D: linear.cuh)
//           wide: (H + 2G) * ceil(T / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
//           wide with codes (weight u8, codes.cuh): ceil((H + 2G) / 2) * ceil(T / 64) blocks of 256 threads, 99328 bytes
// Numerics  f32 sums in one order per D, angle = position * inv_freq in f32, one rounding to T
// Cost      T D + (T + D) (H + 2G) d elements, 2 T D (H + 2G) d flops
#include "codes.cuh"
#include "floats.cuh"
#include "rope.cuh"
#include "w8a8.cuh"

constexpr int HEAD = 128, HALF = HEAD / 2;

template <class T>
struct Scatter {
    static constexpr int MEMBERS = 2;
    const float *bias, *inv_freq;
    const int *positions, *slots;
    T *q, *k, *v;
    int tokens, H, G, block, section_t, section_h;

    template <int W>
    __device__ __forceinline__ void operator()(int pair, int token, float (&x)[2][W]) const {
        const int head = pair / HALF, first = pair % HALF;
        T* to = place(head, token);
        if (!to) return;
        if (bias) add_pair_bias(bias + head * HEAD + first, HALF, x);
        if (head < H + G) {
            float frequency[W], position;
            load_constant(inv_freq + first, frequency);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                // Neighbours mostly turn by the same position.
                if (j == 0 || axis(first + j) != axis(first + j - 1)) position = static_cast<float>(positions[axis(first + j) * tokens + token]);
                rotate(x[0][j], x[1][j], __fmul_rn(position, frequency[j]));
            }
        }
        store(to + first, x[0]);
        store(to + HALF + first, x[1]);
    }

    // Of the three positions that a pair turns by.
    __device__ __forceinline__ int axis(int pair) const { return (pair >= section_t) + (pair >= section_t + section_h); }

    // Where a head of a token goes; null: nowhere.
    __device__ __forceinline__ T* place(int head, int token) const {
        if (head < H) return q + (static_cast<size_t>(token) * H + head) * HEAD;
        const int slot = slots[token];
        if (slot < 0) return nullptr;
        const int group = (head - H) % G;
        return (head < H + G ? k : v) + ((static_cast<size_t>(slot / block) * G + group) * block + slot % block) * HEAD;
    }
};

#define ENTRY(NAME, SHAPE, TYPE)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                                 \
        NAME(const TYPE* x, const TYPE* weight, const float* bias, const float* inv_freq, const int* positions, const int* slots,     \
             TYPE* q, TYPE* k, TYPE* v, int T, int D, int H, int G, int block, int section_t, int section_h) {                        \
        SHAPE::run(Product<Floats<TYPE>>{x, nullptr, {weight}, T, (H + 2 * G) * HEAD, D},                                                        \
                   Scatter<TYPE>{bias, inv_freq, positions, slots, q, k, v, T, H, G, block, section_t, section_h});                    \
    }

#define ENTRY_CODES(NAME, SHAPE, BITS, TYPE)                                                                                           \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                                 \
        NAME(const TYPE* x, const u8* weight, const float* bias, const float* inv_freq, const int* positions, const int* slots,       \
             TYPE* q, TYPE* k, TYPE* v, int T, int D, int H, int G, int block, int section_t, int section_h, int group, int zeros) {   \
        SHAPE::run(Product<Codes<TYPE, BITS>>{x, nullptr, {weight, group, zeros}, T, (H + 2 * G) * HEAD, D},                           \
                   Scatter<TYPE>{bias, inv_freq, positions, slots, q, k, v, T, H, G, block, section_t, section_h});                    \
    }

ENTRY(qkv_mrope_bf16_narrow, Narrow, bf16)
ENTRY(qkv_mrope_bf16_wide, Wide, bf16)
ENTRY(qkv_mrope_f16_narrow, Narrow, f16)
ENTRY(qkv_mrope_f16_wide, Wide, f16)
ENTRY_CODES(qkv_mrope_bf16_w4a16_narrow, Narrow, 4, bf16)
ENTRY_CODES(qkv_mrope_bf16_w4a16_wide, Wide, 4, bf16)
ENTRY_CODES(qkv_mrope_bf16_w8a16_narrow, Narrow, 8, bf16)
ENTRY_CODES(qkv_mrope_bf16_w8a16_wide, Wide, 8, bf16)
ENTRY_CODES(qkv_mrope_f16_w4a16_narrow, Narrow, 4, f16)
ENTRY_CODES(qkv_mrope_f16_w4a16_wide, Wide, 4, f16)
ENTRY_CODES(qkv_mrope_f16_w8a16_narrow, Narrow, 8, f16)
ENTRY_CODES(qkv_mrope_f16_w8a16_wide, Wide, 8, f16)

#define ENTRY_INT8(NAME, SHAPE, TYPE)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                                 \
        NAME(const i8* x, const float* x_scales, const u8* weight, const float* bias, const float* inv_freq, const int* positions,    \
             const int* slots, TYPE* q, TYPE* k, TYPE* v, int T, int D, int H, int G, int block, int section_t, int section_h) {      \
        SHAPE::run(Product<Int8>{x, nullptr, {weight}, T, (H + 2 * G) * HEAD, D}, x_scales,                                            \
                   Scatter<TYPE>{bias, inv_freq, positions, slots, q, k, v, T, H, G, block, section_t, section_h});                    \
    }

ENTRY_INT8(qkv_mrope_bf16_w8a8_narrow, NarrowInt8, bf16)
ENTRY_INT8(qkv_mrope_bf16_w8a8_wide, WideInt8, bf16)
ENTRY_INT8(qkv_mrope_f16_w8a8_narrow, NarrowInt8, f16)
ENTRY_INT8(qkv_mrope_f16_w8a8_wide, WideInt8, f16)
