// The product Y = X W^T of all linear kernels, in two shapes with the same bits: Narrow streams weights past few rows (decode), Wide
// tiles features x tokens (prefill, vision).
//
// Weight rows are the M side of mma.m16n8k16, tokens the N side. K is cut in slices that depend on K alone: a slice is summed in ascending
// k, then the slices are added in index order. So a row's bits depend neither on the row count nor on the shape.
//
// A weight operand W (floats.cuh, codes.cuh, w8a8.cuh) owns how weights lie in memory and what becomes of a slice:
//   Type, Sum, TURN_K     the types of rows and of sums; slices end at multiples of TURN_K
//   log_slices(K)         for Wide: their number, a power of two; Narrow has a warp for each
//   slice<BLOCKS>(p, sum) for Narrow: a warp's slice of one strip, 8 * BLOCKS tokens
//   Tile                  for Wide: what a block makes
//   sum<MEMBERS>(p, ...)  its finished sums, staged as Tile wants
// (int8 has a Wide of its own, and both of its shapes multiply sums with scales before the epilogue.)
// Weights are packed in strips of 16 rows, a strip in tiles of 32 k, two mma each. Lane 4g + t holds rows g and g + 8, of the tile's k 8t.. and
// 8t + 2.. for the first mma, 8t + 4.. and 8t + 6.. for the second; so a lane's B operands of both are k 8t.. of its token, one 16-byte load
// from row-major X. (This permutes k inside a tile, equally on both sides.)
//
// An epilogue E takes finished sums: with MEMBERS = 1 as e(i, token, v), v[0][..] being features i.. of a token; with MEMBERS = 2 (weights
// packed in pairs) v[0][..] are the first, v[1][..] the second members of pairs i... It takes runs of 1 and of 8, and must spell out
// its roundings: the compiler may not fuse them in one shape and not in the other.
#pragma once

#include "common.cuh"

constexpr int STRIP = 16;  // features
constexpr int TILE_K = 32;
constexpr int MOST_SLICES = 8;

// The operands. M tokens, N features; K is a multiple of 8.
template <class W>
struct Product {
    using T = typename W::Type;
    const T* x;  // [M, K], or what `rows` picks from
    W weight;
    int M, N, K;
    const int* rows = nullptr;  // [M]

    __device__ int turns() const { return ceil_div<u32>(K, W::TURN_K); }
    // The first turn of a slice.
    __device__ int border(int slice) const { return turns() * slice >> W::log_slices(K); }
    // The same in the narrow shape, whose block has a warp for each slice.
    __device__ int border_of_warp(int warp) const { return turns() * warp >> (31 - __clz(blockDim.x / WARP)); }
    // Beyond the end: the last. Its sums are thrown away.
    __device__ const T* row(int token) const {
        const int m = min(token, M - 1);
        return x + static_cast<size_t>(rows ? rows[m] : m) * K;
    }
    __device__ int strips() const { return ceil_div<u32>(N, STRIP); }
    __device__ int strip(int s) const { return min(s, strips() - 1); }
};

// The rows that a block has a share of, and how many blocks share them.
struct Share {
    int index, first, rows, parts;
};

// Adds one of the two mma of a tile to the sums of 16 features x 8 tokens, or begins them with it.
template <class T, class Sum>
__device__ __forceinline__ void multiply(Sum (&sum)[4], const uint4& w, const uint4& x, int half) {
    const u32 a[4] = {w.x, w.y, w.z, w.w};
    const u32 b[2] = {half ? x.z : x.x, half ? x.w : x.y};
    T::mma(sum, a, b);
}
template <class T>
__device__ __forceinline__ void multiply_first(float (&sum)[4], const uint4& w, const uint4& x) {
    const u32 a[4] = {w.x, w.y, w.z, w.w}, b[2] = {x.x, x.y};
    T::mma_first(sum, a, b);
}

// Sums of two slices.
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ int plus(int a, int b) { return a + b; }

// At most 32 tokens. A block is one strip: a warp for each slice.
struct Narrow {
    static constexpr int THREADS = MOST_SLICES * WARP, BLOCKS_PER_SM = 2;

    template <class W, class E>
    static __device__ __forceinline__ Share run(const Product<W>& p, const E& epilogue) {
        __shared__ typename W::Sum sums[MOST_SLICES][4][SUMS];
        if (p.M <= 8) {
            slice<1>(p, sums[warp_id()]);
        } else if (p.M <= 16) {
            slice<2>(p, sums[warp_id()]);
        } else {
            slice<4>(p, sums[warp_id()]);
        }
        __syncthreads();
        const Share share{0, 0, p.M, static_cast<int>(gridDim.x)};
        constexpr u32 COLUMNS = STRIP / E::MEMBERS;
        // Unsigned, since such divisions are shifts. A thread keeps its column.
        const u32 M = p.M, column = threadIdx.x % COLUMNS, at = blockIdx.x * COLUMNS + column;
        if (at >= static_cast<u32>(p.N) / E::MEMBERS) return share;
        const typename W::Sum* mine = &sums[0][0][place(column / 8 * 2, column % 8 * 4)];
        for (u32 token = threadIdx.x / COLUMNS; token < M; token += blockDim.x / COLUMNS) {
            typename W::Sum total[E::MEMBERS] = {};
            // The second member's feature is 8 higher: its sum is of plane 1.
            const typename W::Sum* from = mine + token / 8 * SUMS + place(token % 2, token % 8 / 2);
            u32 left = blockDim.x / WARP;
#pragma unroll 1
            do {
#pragma unroll
                for (int member = 0; member < E::MEMBERS; ++member) total[member] = plus(total[member], from[member * place(2, 0)]);
                from += sizeof(sums[0]) / sizeof(*from);
            } while (--left > 0);
            float v[E::MEMBERS][1];
#pragma unroll
            for (int member = 0; member < E::MEMBERS; ++member) v[member][0] = static_cast<float>(total[member]);
            epilogue(at, token, v);
        }
        return share;
    }

private:
    // Where a lane's sum i of 8 tokens lies: neither the stores nor the loads of neighbouring features and tokens conflict.
    static constexpr int SUMS = 4 * WARP + 7;
    static constexpr __device__ __forceinline__ u32 place(u32 i, u32 lane) { return i / 2 * 69 + i % 2 * 34 + lane; }

    template <int BLOCKS, class W>
    static __device__ __forceinline__ void slice(const Product<W>& p, typename W::Sum (&sums)[4][SUMS]) {
        typename W::Sum sum[BLOCKS][4] = {};
        W::template slice<BLOCKS>(p, sum);
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; ++i) sums[i / 4][place(i % 4, lane_id())] = sum[i / 4][i % 4];
    }
};

// What a block of the wide shape makes: so many features x tokens, of which a warp has STRIPS_ strips and 8 * BLOCKS_ tokens.
template <int FEATURES_, int TOKENS_, int STRIPS_, int BLOCKS_>
struct Tile {
    static constexpr int FEATURES = FEATURES_, TOKENS = TOKENS_, STRIPS = STRIPS_, BLOCKS = BLOCKS_;
    using Sums = float[STRIPS][BLOCKS][4];

    // Where a warp's part of the tile begins.
    static __device__ __forceinline__ int warp_strip() { return warp_id() % ACROSS * STRIPS; }
    static __device__ __forceinline__ int warp_token() { return warp_id() / ACROSS * BLOCKS * 8; }

    // Sums lie staged as [token][features] in units of 8 features; the two halves of all units stand apart, so that neither the stores by
    // lane 4g + t nor the 16-byte loads of neighbouring units conflict.
    static constexpr int HALVES = FEATURES / 2 + 4, TOKEN = 2 * HALVES - 4, STAGED = TOKENS * TOKEN;
    static_assert(TOKEN % WARP == 4, "neighbouring tokens lie in other banks");

    static __device__ __forceinline__ int place(int token, int unit, int i) {
        return token * TOKEN + unit * 4 + i / 4 * HALVES + i % 4;
    }

    // Calls f(place, sum i, j, k) for the sums of this lane.
    template <int MEMBERS, class F>
    static __device__ __forceinline__ void each(F f) {
        const int g = lane_id() / 4, t = lane_id() % 4, strip = warp_strip(), token = warp_token();
#pragma unroll
        for (int i = 0; i < STRIPS * BLOCKS * 4; ++i) {
            const int a = i / (BLOCKS * 4), b = i / 4 % BLOCKS, plane = i / 2 % 2;
            f(place(token + b * 8 + 2 * t + i % 2, unit<MEMBERS>(strip + a, plane), g), a, b, i % 4);
        }
    }

    // Gives the staged sums of 8 features, or pairs, and a token to the epilogue, for all of them.
    template <class W, class E>
    static __device__ __forceinline__ void finish(const Product<W>& p, const float* staged, int first_strip, int first_token, const E& epilogue) {
        constexpr int COLUMNS = 2 * ALL_STRIPS / E::MEMBERS;
        const int column = threadIdx.x % COLUMNS, at = (first_strip * 2 / E::MEMBERS + column) * 8;
        if (at >= p.N / E::MEMBERS) return;
        const int tokens = min(TOKENS, p.M - first_token);
        for (int token = threadIdx.x / COLUMNS; token < tokens; token += blockDim.x / COLUMNS) {
            float v[E::MEMBERS][8];
#pragma unroll
            for (int member = 0; member < E::MEMBERS; ++member) {
#pragma unroll
                for (int h = 0; h < 8; h += 4) {
                    const float4 q = *reinterpret_cast<const float4*>(staged + place(token, column + member * ALL_STRIPS, h));
                    v[member][h] = q.x;
                    v[member][h + 1] = q.y;
                    v[member][h + 2] = q.z;
                    v[member][h + 3] = q.w;
                }
            }
            epilogue(at, first_token + token, v);
        }
    }

private:
    static constexpr int ALL_STRIPS = FEATURES / STRIP, ACROSS = ALL_STRIPS / STRIPS;

    // The unit of a strip's plane: pairs stand apart, single features in order.
    template <int MEMBERS>
    static __device__ __forceinline__ int unit(int strip, int plane) {
        return MEMBERS == 2 ? plane * ALL_STRIPS + strip : strip * 2 + plane;
    }
};

// What a block of the wide shape is to make, of how many along the features.
struct Block {
    int strip, token, token_block, feature_blocks;

    template <class Tile, class W>
    static __device__ __forceinline__ Block of(const Product<W>& p) {
        const int features = ceil_div(p.N, Tile::FEATURES), tokens = ceil_div(p.M, Tile::TOKENS);
        // Groups of token blocks: those that run together share both weights and rows in L2.
        constexpr int GROUP = 8;
        const int group = blockIdx.x / (GROUP * features) * GROUP, height = min(GROUP, tokens - group);
        const int inside = blockIdx.x % (GROUP * features), token_block = group + inside % height;
        return {inside / height * (Tile::FEATURES / STRIP), token_block * Tile::TOKENS, token_block, features};
    }

    template <class Tile, class W>
    __device__ __forceinline__ Share share(const Product<W>& p) const {
        return {token_block, token, min(Tile::TOKENS, p.M - token), feature_blocks};
    }
};

// Any number of tokens. A block of 8 warps makes one tile.
struct Wide {
    static constexpr int THREADS = 8 * WARP, BLOCKS_PER_SM = 1;

    template <class W, class E>
    static __device__ __forceinline__ Share run(const Product<W>& p, const E& epilogue) {
        using Tile = typename W::Tile;
        static_assert(Tile::FEATURES / STRIP / Tile::STRIPS * (Tile::TOKENS / 8 / Tile::BLOCKS) == THREADS / WARP, "each warp has a part");
        const Block block = Block::of<Tile>(p);
        extern __shared__ uint4 pool[];
        const float* staged = W::template sum<E::MEMBERS>(p, pool, block.strip, block.token);
        __syncthreads();
        Tile::finish(p, staged, block.strip, block.token, epilogue);
        return block.share<Tile>(p);
    }
};
