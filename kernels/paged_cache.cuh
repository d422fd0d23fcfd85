// The paged cache of keys and values, d = 128, as attention reads it: floats T, or int8 with a scale for each token and head.
//
// Both come as tiles of 64 rows of T in shared memory, in 16 chunks of 16 bytes that are turned row by row, so that no reader has bank
// conflicts. Of int8, keys are their codes, exact in T, and scores are multiplied with the keys' scales in f32; values are code * scale,
// rounded to T.
// A cache also says where in a row a lane's elements lie, as `first` and `offset` in bytes: of each 32 elements of its order lane 4g + t has
// eight, which serve as two k16 steps.
#pragma once

#include "attention.cuh"

constexpr int HEAD = 128;
constexpr int ROW = HEAD * 2;  // of T
constexpr int TILE = KEYS * ROW;
constexpr int STAGE = 2 * TILE;
constexpr int SPLIT = 256;  // keys of a decode CTA

// Where the keys, and likewise the values, of one sequence and kv head lie: a key's row, in bytes.
template <int BYTES>
struct Pages {
    const int* table;
    int shift;  // log2(block)
    u32 stride, start;

    __device__ __forceinline__ Pages(const int* table, int block, int groups, int group)
        : table(table), shift(__ffs(block) - 1), stride(groups * block * BYTES), start(group * block * BYTES) {}

    __device__ __forceinline__ u64 row(int key) const {
        const u64 block = static_cast<u32>(table[key >> shift]);
        return block * stride + (start + (key & ((1 << shift) - 1)) * BYTES);
    }
};

// From a turned address to the chunk `bytes` further right, where that is an or of chunk numbers.
__device__ __forceinline__ u32 right(u32 at, int bytes) { return (at ^ bytes % 128) + (bytes & 128); }

template <class T>
struct FloatCache {
    using Rows = Pages<ROW>;
    static constexpr int STAGES = 2 * STAGE;      // bytes of shared memory for the tiles of prefill,
    static constexpr int VALUES = SPLIT * ROW;    // and for the values of decode

    const u8 *k, *v;

    __device__ __forceinline__ FloatCache(const T* k, const T* v) : k(reinterpret_cast<const u8*>(k)), v(reinterpret_cast<const u8*>(v)) {}

    // Chunk c of row r lies at c ^ the last three bits of r reversed: neither four chunks of rows 2i and 2i + 1 (copies, keys) nor one chunk
    // of eight rows (values) meet in a bank. Tiles are aligned to rows.
    static __device__ __forceinline__ u32 turned(int row, int chunk) { return row * ROW + (chunk ^ (__brev(row) >> 29)) * 16; }

    static __device__ __forceinline__ int first() { return lane_id() % 4 * 16; }
    static __device__ __forceinline__ constexpr int offset(int i) { return 64 * i; }

    // Starts to copy keys and values from key `from` on.
    __device__ __forceinline__ void fetch(u8* shared, int stage, const Rows& rows, int from, int end) const {
        copy(shared_address(shared) + stage * STAGE, k, rows, from, end);
        copy(shared_address(shared) + stage * STAGE + TILE, v, rows, from, end);
    }

    // Gives the tile of keys, which that of values follows, once all threads' copies are there.
    __device__ __forceinline__ u32 open(u8* shared, int stage) const { return shared_address(shared) + stage * STAGE; }

    __device__ __forceinline__ void scale(float (&)[KEYS / 8][4], const u8*, int) const {}

    // Starts to copy the values of a split.
    __device__ __forceinline__ void fetch_values(u8* shared, const Rows& rows, int keys) const {
        for (int tile = 0; tile < ceil_div(keys, KEYS); tile++) copy(shared_address(shared) + tile * TILE, v, rows, tile * KEYS, keys);
    }

    // Gives a tile of values, of which a warp may use its 32 columns.
    __device__ __forceinline__ u32 open_values(u8* shared, int tile) const { return shared_address(shared) + tile * TILE; }

    // This lane's elements of a tile of keys, each read once; `sees` keys count, from key `from` on.
    struct Keys {
        uint4 keys[KEYS / 8][HEAD / 32];

        __device__ __forceinline__ Keys(const FloatCache& cache, const Rows& rows, int from, int sees) {
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
                const u8* row = cache.k + rows.row(from + min(8 * j + lane_id() / 4, sees - 1)) + first();
#pragma unroll
                for (int i = 0; i < HEAD / 32; i++) keys[j][i] = ld_global_once(row + offset(i));
            }
        }

        __device__ __forceinline__ uint4 operator()(int j, int i) const { return keys[j][i]; }
        __device__ __forceinline__ void scale(float (&)[KEYS / 8][4]) const {}
    };

private:
    // 64 rows from key `from` on. From key `end` on stands the last one again: its weight will be 0, and 0 times it is 0.
    static __device__ __forceinline__ void copy(u32 to, const u8* source, const Rows& rows, int from, int end) {
        const int row = threadIdx.x / 4, column = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < KEYS; i += 32) {
            const u8* at = source + rows.row(min(from + row + i, end - 1)) + column * 16;
#pragma unroll
            for (int j = 0; j < 4; j++) cp_async_16(to + right(turned(row, column), 64 * j) + i * ROW, at + 64 * j, 16);
        }
    }
};

// Eight codes times a scale, rounded to T. A float of 2^23 + (code + 128) has this sum in its last byte.
template <class T>
__device__ __forceinline__ uint4 widened(u32 low, u32 high, float scale) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 codes = (i < 4 ? low : high) ^ 0x80808080u;
        const float shifted = __uint_as_float(__byte_perm(codes, 0x4b000000u, 0x7440 + i % 4));
        x[i] = __fmul_rn(__fsub_rn(shifted, 8388736.0f), scale);
    }
    return {T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(x[4], x[5]), T::pack(x[6], x[7])};
}

// Scores times the scales of their keys, of which lane l has those of keys l and l + 32.
__device__ __forceinline__ void scale_scores(float (&s)[KEYS / 8][4], float low, float high) {
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float by = __shfl_sync(ALL, j < 4 ? low : high, j % 4 * 8 + lane_id() % 4 * 2 + i);
            s[j][i] = __fmul_rn(s[j][i], by);
            s[j][i + 2] = __fmul_rn(s[j][i + 2], by);
        }
    }
}

template <class T>
struct Int8Cache {
    static constexpr int CODES = HEAD;  // bytes of a row
    using Rows = Pages<CODES>;
    // A tile each of keys and values as T, their codes, and the scales of two stages.
    static constexpr int STAGES = STAGE + 2 * KEYS * CODES + 4 * KEYS * sizeof(float);
    // A tile of values as T, codes and scales of all.
    static constexpr int VALUES = TILE + SPLIT * CODES + SPLIT * sizeof(float);

    const s8* k;
    const float* k_scales;
    const s8* v;
    const float* v_scales;

    // Chunk c of row r lies at c ^ the last three bits of r: neither every other of eight chunks of rows 2i and 2i + 1 (keys), nor one chunk of
    // eight rows (values), nor chunks c and c + 2 of rows i, i + 1, i + 4, i + 5 (widening) meet in a bank.
    static __device__ __forceinline__ u32 turned(int row, int chunk) { return row * ROW + (chunk ^ row % 8) * 16; }

    // 16 codes are a lane's elements of two rounds.
    static __device__ __forceinline__ int first() { return lane_id() % 4 * 32; }
    static __device__ __forceinline__ constexpr int offset(int i) { return 128 * (i / 2) + 16 * (i % 2); }

    __device__ __forceinline__ void fetch(u8* shared, int stage, const Rows& rows, int from, int end) const {
        copy(codes(shared), k, rows, from, end);
        copy(codes(shared) + KEYS * CODES, v, rows, from, end);
        const int key = threadIdx.x % KEYS;
        const float* scales = threadIdx.x < KEYS ? k_scales : v_scales;
        cp_async_4(shared_address(scale_of(shared, stage, threadIdx.x)), scales + rows.row(min(from + key, end - 1)) / CODES);
    }

    __device__ __forceinline__ u32 open(u8* shared, int stage) const {
        widen(shared, codes(shared), [](int) { return 1.0f; });
        widen(shared + TILE, codes(shared) + KEYS * CODES, [&](int row) { return *scale_of(shared, stage, KEYS + row); });
        __syncthreads();
        return shared_address(shared);
    }

    __device__ __forceinline__ void scale(float (&s)[KEYS / 8][4], u8* shared, int stage) const {
        scale_scores(s, *scale_of(shared, stage, lane_id()), *scale_of(shared, stage, lane_id() + WARP));
    }

    __device__ __forceinline__ void fetch_values(u8* shared, const Rows& rows, int keys) const {
        const int tiles = ceil_div(keys, KEYS);
        for (int tile = 0; tile < tiles; tile++) copy(split_codes(shared, tile), v, rows, tile * KEYS, keys);
        for (int key = threadIdx.x; key < tiles * KEYS; key += blockDim.x) {
            cp_async_4(shared_address(split_scale(shared, key)), v_scales + rows.row(min(key, keys - 1)) / CODES);
        }
    }

    // A warp widens its columns for itself.
    __device__ __forceinline__ u32 open_values(u8* shared, int tile) const {
        __syncwarp();
        widen(shared, split_codes(shared, tile), [&](int row) { return *split_scale(shared, tile * KEYS + row); });
        __syncwarp();
        return shared_address(shared);
    }

    struct Keys {
        uint4 codes[KEYS / 8][HEAD / 64];
        float scales[2];

        __device__ __forceinline__ Keys(const Int8Cache& cache, const Rows& rows, int from, int sees) {
#pragma unroll
            for (int h = 0; h < 2; h++) scales[h] = cache.k_scales[rows.row(from + min(lane_id() + h * WARP, sees - 1)) / CODES];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
                const s8* row = cache.k + rows.row(from + min(8 * j + lane_id() / 4, sees - 1)) + first() / 2;
#pragma unroll
                for (int i = 0; i < HEAD / 64; i++) codes[j][i] = ld_global_once(row + 64 * i);
            }
        }

        __device__ __forceinline__ uint4 operator()(int j, int i) const {
            const uint4& c = codes[j][i / 2];
            return i % 2 ? widened<T>(c.z, c.w, 1.0f) : widened<T>(c.x, c.y, 1.0f);
        }
        __device__ __forceinline__ void scale(float (&s)[KEYS / 8][4]) const { scale_scores(s, scales[0], scales[1]); }
    };

private:
    // Codes are turned so that neither eight chunks of a row (copies) nor two of rows i, i + 1, i + 4, i + 5 (widening) meet in a bank.
    static __device__ __forceinline__ u32 code_at(int row, int chunk) { return row * CODES + (chunk ^ (row % 2 * 2 | (row & 4))) * 16; }

    static __device__ __forceinline__ u32 codes(u8* shared) { return shared_address(shared) + STAGE; }
    static __device__ __forceinline__ float* scale_of(u8* shared, int stage, int i) {
        return reinterpret_cast<float*>(shared + STAGE + 2 * KEYS * CODES) + stage * 2 * KEYS + i;
    }
    static __device__ __forceinline__ u32 split_codes(u8* shared, int tile) { return shared_address(shared) + TILE + tile * KEYS * CODES; }
    static __device__ __forceinline__ float* split_scale(u8* shared, int key) {
        return reinterpret_cast<float*>(shared + TILE + SPLIT * CODES) + key;
    }

    static __device__ __forceinline__ void copy(u32 to, const s8* source, const Rows& rows, int from, int end) {
        const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < KEYS; i += 16) {
            cp_async_16(to + code_at(row, chunk) + i * CODES, source + rows.row(min(from + row + i, end - 1)) + chunk * 16, 16);
        }
    }

    // A warp's 32 columns of a tile.
    template <class Scale>
    static __device__ __forceinline__ void widen(u8* to, u32 codes, const Scale& scale) {
        const int lane = lane_id(), chunk = warp_id() * 2 + lane % 2;
        const int row = (lane / 2 % 2) | (lane & 4) | (lane / 8 % 2 * 2) | (lane / 16 * 8);
#pragma unroll
        for (int i = row; i < KEYS + row; i += 16) {
            const uint4 c = ld_shared(codes + code_at(row, chunk) + (i - row) * CODES);
            const float by = scale(i);
            u8* at = to + (i - row) * ROW;
            *reinterpret_cast<uint4*>(at + turned(row, 2 * chunk)) = widened<T>(c.x, c.y, by);
            *reinterpret_cast<uint4*>(at + turned(row, 2 * chunk + 1)) = widened<T>(c.z, c.w, by);
        }
    }
};
