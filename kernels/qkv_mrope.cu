// The decoder's attention input: fused q/k/v projection with bias, M-RoPE, and the keys and values to the paged cache. d = 128.
//
// Entries   qkv_mrope_bf16|f16[_kv8][_w4a16|_w8a16|_w8a8]_narrow|wide; weights, rows and blocks of quantized ones as in linear.cu
// x         T [T, D] read        weight  T [(H + 2G) d, D] paired by d / 2 (q, k, v), read        bias  f32 [(H + 2G) d] or null
// inv_freq  f32 [d / 2] read     positions  i32 [3, T] read        slots  i32 [T] read (-1: the row keeps no key and value)
// q         T [T, H d] write     k, v  T [blocks, G, block, d] update
// _kv8      k and v s8, each followed by its scales f32 [blocks, G, block] update; then, null in the wide shape, where the blocks of a head
//           meet: rows T [T, 2 G d] scratch, counters i32 [2 G] update, zero before and after
// section_t, section_h: the pairs that turn by the first and the second position; the rest turn by the third
// Needs     D a multiple of 8, rows aligned to 16 bytes
// Launch    narrow (T <= 32): 8 (H + 2G) blocks of 32 * slices threads (slices of D: linear.cuh)
//           wide: (H + 2G) * ceil(T / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
//           wide with codes (weight u8, codes.cuh): ceil((H + 2G) / 2) * ceil(T / 64) blocks of 256 threads, 99328 bytes
// Numerics  f32 sums in one order per D, angle = position * inv_freq in f32, one rounding to T; int8 is made of that (int8.cuh)
// Cost      T D + (T + D) (H + 2G) d elements, 2 T D (H + 2G) d flops
#include "int8.cuh"
#include "products.cuh"
#include "rope.cuh"

constexpr int HEAD = 128, HALF = HEAD / 2;
constexpr int PARTS = 8;  // blocks that make a head in the narrow shape

// The cache of keys and values as T.
template <class T>
struct Plain {
    T *k, *v;

    // Keeps pairs `first`.. of a row, of keys or of values.
    template <int W>
    __device__ __forceinline__ void keep(int, int, bool key, size_t row, int first, const float (&x)[2][W]) const {
        T* to = (key ? k : v) + row * HEAD + first;
        store(to, x[0]);
        store(to + HALF, x[1]);
    }

    template <class Place>
    __device__ __forceinline__ void finish(int, int, const Place&) const {}
};

// As int8 with a scale for each row. A row's elements are in eight neighbouring lanes (runs of 8), or in as many blocks (runs of 1): there they
// wait for the last block of the head.
template <class T>
struct Int8Cache {
    s8* k;
    float* k_scales;
    s8* v;
    float* v_scales;
    T* rows;  // [T, 2 G, d], or null where no block waits for another
    int* counters;
    int heads;  // 2 G

    __device__ __forceinline__ void keep(int head, int token, bool, size_t, int first, const float (&x)[2][1]) const {
        T* to = waiting(head, token) + first;
        store(to, x[0]);
        store(to + HALF, x[1]);
    }

    __device__ __forceinline__ void keep(int, int, bool key, size_t row, int first, float (&x)[2][8]) const {
        u32 most = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            round_to<T>(x[i]);
            most = largest(x[i], most);
        }
        put(key, row, first, x, row_scale(largest_of_eight(most)));
    }

    // Quantizes the rows of a head if this is the last of its blocks.
    template <class Place>
    __device__ __forceinline__ void finish(int head, int tokens, const Place& place) const {
        if (!rows || !last_of(counters + head, PARTS)) return;
        const int first = threadIdx.x % 8 * 8;
        for (int token = threadIdx.x / 8; token < tokens; token += blockDim.x / 8) {
            bool key;
            size_t row;
            if (!place(token, key, row)) continue;
            float x[2][8];
            const T* from = waiting(head, token) + first;
            load(from, x[0]);
            load(from + HALF, x[1]);
            keep(head, token, key, row, first, x);
        }
    }

private:
    __device__ __forceinline__ T* waiting(int head, int token) const { return rows + (static_cast<size_t>(token) * heads + head) * HEAD; }

    __device__ __forceinline__ void put(bool key, size_t row, int first, const float (&x)[2][8], float scale) const {
        s8* to = (key ? k : v) + row * HEAD + first;
        store_codes(to, x[0], scale);
        store_codes(to + HALF, x[1], scale);
        if (first == 0) (key ? k_scales : v_scales)[row] = scale;
    }
};

template <class T, class Cache>
struct Scatter {
    static constexpr int MEMBERS = 2;
    const float *bias, *inv_freq;
    const int *positions, *slots;
    T* q;
    Cache cache;
    int tokens, H, G, block, section_t, section_h;

    template <int W>
    __device__ __forceinline__ void operator()(u32 pair, int token, float (&x)[2][W]) const {
        const int head = pair / HALF, first = pair % HALF;
        const int slot = head < H ? 0 : slots[token];
        if (slot < 0) return;
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
        if (head < H) {
            T* to = q + (static_cast<size_t>(token) * H + head) * HEAD + first;
            store(to, x[0]);
            store(to + HALF, x[1]);
        } else {
            cache.keep(head - H, token, head < H + G, row(head, slot), first, x);
        }
    }

    // Of the three positions that a pair turns by.
    __device__ __forceinline__ int axis(int pair) const { return (pair >= section_t) + (pair >= section_t + section_h); }

    // The row of the cache that a slot has for a head of keys or values.
    __device__ __forceinline__ size_t row(int head, int slot) const {
        return (static_cast<size_t>(slot / block) * G + head - (head < H + G ? H : H + G)) * block + slot % block;
    }

    // What is left to do when the block has kept its elements.
    __device__ __forceinline__ void finish() const {
        const int head = blockIdx.x / PARTS;
        if (head < H) return;
        cache.finish(head - H, tokens, [&](int token, bool& key, size_t& at) {
            key = head < H + G;
            if (slots[token] < 0) return false;
            at = row(head, slots[token]);
            return true;
        });
    }
};

template <class Shape, class W, class T, class Cache>
__device__ __forceinline__ void project(const Product<W>& p, const Scatter<T, Cache>& scatter) {
    Shape::run(p, scatter);
    scatter.finish();
}

// The parameters of a cache, and the cache of them.
#define PLAIN_PARAMS(T) T *k, T *v
#define PLAIN(TYPE) (Plain<TYPE>{k, v})
#define KV8_PARAMS(T) s8 *k, float *k_scales, s8 *v, float *v_scales, T *rows, int *counters
#define KV8(TYPE) (Int8Cache<TYPE>{k, k_scales, v, v_scales, rows, counters, 2 * G})

#define ENTRY(NAME, SHAPE, FORMAT, TYPE, CACHE)                                                                                        \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                                                 \
        NAME(FORMAT##_PARAMS(TYPE), const float* bias, const float* inv_freq, const int* positions, const int* slots, TYPE* q,         \
             CACHE##_PARAMS(TYPE), int T, int D, int H, int G, int block, int section_t, int section_h) {                              \
        const Scatter<TYPE, decltype(CACHE(TYPE))> scatter{bias, inv_freq, positions, slots, q, CACHE(TYPE), T, H, G, block,           \
                                                           section_t, section_h};                                                      \
        project<SHAPE>(FORMAT##_PRODUCT(TYPE, T, (H + 2 * G) * HEAD, D), scatter);                                                     \
    }

#define QKV_MROPE(NAME, ...)                    \
    SHAPES(NAME, FLOATS, __VA_ARGS__)           \
    SHAPES(NAME##_w4a16, W4A16, __VA_ARGS__)    \
    SHAPES(NAME##_w8a16, W8A16, __VA_ARGS__)    \
    SHAPES_W8A8(NAME##_w8a8, __VA_ARGS__)

QKV_MROPE(qkv_mrope_bf16, bf16, PLAIN)
QKV_MROPE(qkv_mrope_f16, f16, PLAIN)
QKV_MROPE(qkv_mrope_bf16_kv8, bf16, KV8)
QKV_MROPE(qkv_mrope_f16_kv8, f16, KV8)
