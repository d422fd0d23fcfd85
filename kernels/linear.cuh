// The product Y = X W^T of all linear kernels, in two shapes with the same bits: Narrow streams weights past few rows (decode), Wide
// tiles 128 features x 128 tokens (prefill, vision).
//
// Weight rows are the M side of mma.m16n8k16, tokens the N side. K is cut in slices that depend on K alone: in a slice one mma chain in
// ascending k, then the slices are added in index order. So a row's bits depend neither on the row count nor on the shape.
//
// W is packed in strips of 16 rows, a strip in tiles of 32 k, a tile in two planes of 8 rows x 32 k, rows and k padded with zeros. Lane
// 4g + t reads 16 bytes, elements 8t.. of row g: pairs 0 and 1 belong to the first of two mma, 2 and 3 to the second. X is read
// likewise. This permutes k inside a tile, equally on both sides.
//
// An epilogue E takes finished sums: with PLANES = 1 as e(i, token, v), v[0][..] being features i.. of a token; with PLANES = 2 (weights
// packed in pairs) v[0][..] are the first, v[1][..] the second members of pairs i... It takes runs of 1 and of 8, and must spell out
// its roundings: the compiler may not fuse them in one shape and not in the other.
#pragma once

#include "common.cuh"

constexpr int STRIP = 16;             // features
constexpr int TILE_K = 32;
constexpr int TILE = STRIP * TILE_K;  // elements
constexpr int PLANE = TILE / 2;
constexpr int STEP_K = 64;            // slices end at multiples of it
constexpr int MOST_SLICES = 8;

// The operands. M tokens, N features; K is a multiple of 8.
template <class T>
struct Product {
    const T* x;       // [M, K], or what `rows` picks from
    const int* rows;  // [M] or null
    const T* weight;
    int M, N, K;

    __device__ int tiles() const { return ceil_div(K, TILE_K); }
    __device__ int steps() const { return ceil_div(K, STEP_K); }
    __device__ int slices() const { return K < 768 ? 1 : K < 1536 ? 2 : K < 3072 ? 4 : MOST_SLICES; }
    // The first step of a slice.
    __device__ int border(int slice) const { return steps() * slice / slices(); }
    // Beyond the end: the last. Its sums are thrown away.
    __device__ const T* row(int token) const {
        const int m = min(token, M - 1);
        return x + static_cast<size_t>(rows ? rows[m] : m) * K;
    }
    __device__ const T* strip(int s) const { return weight + static_cast<size_t>(min(s, ceil_div(N, STRIP) - 1)) * tiles() * TILE; }
};

// The rows that a block has a share of, and how many blocks share them.
struct Share {
    int index, first, rows, parts;
};

// One of the two k16 steps of a tile: sums of 16 features x 8 tokens.
template <class T>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint4 (&w)[2], const uint4& x, int step) {
    if (step == 0) {
        T::mma(sum, {w[0].x, w[1].x, w[0].y, w[1].y}, {x.x, x.y});
    } else {
        T::mma(sum, {w[0].z, w[1].z, w[0].w, w[1].w}, {x.z, x.w});
    }
}

// At most 32 tokens. A block is one strip: a warp for each slice. Weights go from memory to registers, `DEPTH` tiles ahead.
struct Narrow {
    static constexpr int THREADS = MOST_SLICES * WARP, BLOCKS_PER_SM = 2;

    template <class T, class E>
    static __device__ __forceinline__ Share run(const Product<T>& p, const E& epilogue) {
        alignas(16) __shared__ float sums[MOST_SLICES][4][WARP][4];
        if (p.M <= 8) {
            slice<T, 1, 8>(p, sums[warp_id()]);
        } else if (p.M <= 16) {
            slice<T, 2, 4>(p, sums[warp_id()]);
        } else {
            slice<T, 4, 3>(p, sums[warp_id()]);
        }
        __syncthreads();
        constexpr int COLUMNS = STRIP / E::PLANES;
        for (int i = threadIdx.x; i < p.M * COLUMNS; i += blockDim.x) {
            const int token = i / COLUMNS, column = i % COLUMNS, at = blockIdx.x * COLUMNS + column;
            float v[E::PLANES][1];
#pragma unroll
            for (int plane = 0; plane < E::PLANES; ++plane) {
                v[plane][0] = total(sums, p.slices(), column + 8 * plane, token);
            }
            if (at < p.N / E::PLANES) epilogue(at, token, v);
        }
        return {0, 0, p.M, static_cast<int>(gridDim.x)};
    }

private:
    // The sums of a warp's slice for 8 * BLOCKS tokens.
    template <class T, int BLOCKS, int DEPTH>
    static __device__ __forceinline__ void slice(const Product<T>& p, float (&sums)[4][WARP][4]) {
        const int lane = lane_id(), g = lane / 4, k = lane % 4 * 8;
        const int end = min(p.border(warp_id() + 1) * (STEP_K / TILE_K), p.tiles());
        int tile = p.border(warp_id()) * (STEP_K / TILE_K);
        const T* weight = p.strip(blockIdx.x) + lane * 8;
        const T* row[BLOCKS];
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) row[b] = p.row(8 * b + g) + k;

        uint4 w[DEPTH][2], x[DEPTH][BLOCKS];
        auto fetch = [&](int slot, int tile) {
            w[slot][0] = ld_global_stream(weight + tile * TILE);
            w[slot][1] = ld_global_stream(weight + tile * TILE + PLANE);
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) {
                x[slot][b] = make_uint4(0, 0, 0, 0);
                if (tile * TILE_K + k < p.K) x[slot][b] = *reinterpret_cast<const uint4*>(row[b] + tile * TILE_K);
            }
        };
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            if (tile + d < end) fetch(d, tile + d);
        }
        float sum[BLOCKS][4] = {};
        for (; tile < end; tile += DEPTH) {
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                if (tile + d >= end) break;
#pragma unroll
                for (int step = 0; step < 2; ++step) {
#pragma unroll
                    for (int b = 0; b < BLOCKS; ++b) multiply<T>(sum[b], w[d], x[d][b], step);
                }
                if (tile + d + DEPTH < end) fetch(d, tile + d + DEPTH);
            }
        }
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            *reinterpret_cast<float4*>(sums[b][lane]) = make_float4(sum[b][0], sum[b][1], sum[b][2], sum[b][3]);
        }
    }

    static __device__ __forceinline__ float total(const float (&sums)[MOST_SLICES][4][WARP][4], int slices, int feature, int token) {
        float total = 0.0f;
        for (int s = 0; s < slices; ++s) {
            total = __fadd_rn(total, sums[s][token / 8][feature % 8 * 4 + token % 8 / 2][feature / 8 * 2 + token % 2]);
        }
        return total;
    }
};

// Any number of tokens. A block of 8 warps makes 128 features x 128 tokens, a warp 64 x 32; a ring of steps is filled by cp.async.
struct Wide {
    static constexpr int THREADS = 8 * WARP, BLOCKS_PER_SM = 1;
    static constexpr int FEATURES = 128, TOKENS = 128;
    static constexpr int STAGES = 3;

    template <class T, class E>
    static __device__ __forceinline__ Share run(const Product<T>& p, const E& epilogue) {
        const int features = ceil_div(p.N, FEATURES), tokens = ceil_div(p.M, TOKENS);
        // Groups of token blocks: those that run together share both weights and rows in L2.
        const int group = blockIdx.x / (GROUP * features) * GROUP, height = min(GROUP, tokens - group);
        const int inside = blockIdx.x % (GROUP * features);
        const int feature_block = inside / height, token_block = group + inside % height;
        const int first_strip = feature_block * (FEATURES / STRIP), first_token = token_block * TOKENS;

        extern __shared__ uint4 pool[];
        float total[4][4][4] = {};
        sum(p, reinterpret_cast<T*>(pool), first_strip, first_token, total);
        __syncthreads();
        float* staged = reinterpret_cast<float*>(pool);
        stage<E::PLANES>(staged, total);
        __syncthreads();
        finish(p, staged, first_strip, first_token, epilogue);
        return {token_block, first_token, min(TOKENS, p.M - first_token), features};
    }

private:
    static constexpr int GROUP = 8;
    static constexpr int STRIPS = FEATURES / STRIP, BLOCKS = TOKENS / 8;
    static constexpr int W_STEP = FEATURES * STEP_K, X_STEP = TOKENS * STEP_K, STAGE = W_STEP + X_STEP;  // elements
    static_assert(STRIPS == THREADS / WARP && BLOCKS == 2 * STRIPS, "a warp copies one strip and two blocks of tokens");

    // Steps s of weights [strip][tile][plane][row][k] and tokens [block of 8][tile][row][k] lie in the ring; every read is of
    // lane * 16 bytes.
    template <class T>
    static __device__ __forceinline__ void sum(const Product<T>& p, T* ring, int first_strip, int first_token, float (&total)[4][4][4]) {
        const int lane = lane_id(), warp = warp_id(), k = lane % 4 * 8;
        const T* weight = p.strip(first_strip + warp) + lane * 8;
        const T* row0 = p.row(first_token + warp * 8 + lane / 4) + k;
        const T* row1 = p.row(first_token + warp * 8 + lane / 4 + TOKENS / 2) + k;
        const u32 to = shared_address(ring) + lane * 16;
        auto fetch = [&](int step) {
            const u32 stage = to + step % STAGES * STAGE * sizeof(T);
            const u32 w = stage + warp * 2 * TILE * sizeof(T);
            const u32 x = stage + (W_STEP + warp * 8 * STEP_K) * sizeof(T);
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
                const int at = step * STEP_K + tile * TILE_K;
                const u32 bytes = at + k < p.K ? 16 : 0;
                const T* from = weight + at * STRIP;
                cp_async_16(w + tile * TILE * sizeof(T), from, bytes);
                cp_async_16(w + (tile * TILE + PLANE) * sizeof(T), from + PLANE, bytes);
                cp_async_16(x + tile * PLANE * sizeof(T), row0 + at, bytes);
                cp_async_16(x + (tile * PLANE + X_STEP / 2) * sizeof(T), row1 + at, bytes);
            }
            cp_async_commit();
        };
        for (int s = 0; s < STAGES - 1; ++s) fetch(s);

        const T* my_w = ring + warp % 2 * 4 * 2 * TILE + lane * 8;
        const T* my_x = ring + W_STEP + warp / 2 * 4 * 2 * PLANE + lane * 8;
        float acc[4][4][4] = {};
        const int steps = p.steps();
        int slice = 1, border = p.border(1);
        for (int step = 0; step < steps; ++step) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            fetch(step + STAGES - 1);
            const int stage = step % STAGES * STAGE;
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
                uint4 w[4][2], x[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    x[i] = *reinterpret_cast<const uint4*>(my_x + stage + (i * 2 + tile) * PLANE);
                    w[i][0] = *reinterpret_cast<const uint4*>(my_w + stage + (i * 2 + tile) * TILE);
                    w[i][1] = *reinterpret_cast<const uint4*>(my_w + stage + (i * 2 + tile) * TILE + PLANE);
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
#pragma unroll
                        for (int j = 0; j < 4; ++j) multiply<T>(acc[i][j], w[i], x[j], half);
                    }
                }
            }
            if (step + 1 == border) {
                fold(total, acc);
                border = p.border(++slice);
            }
        }
        cp_async_wait<0>();
    }

    static __device__ __forceinline__ void fold(float (&total)[4][4][4], float (&acc)[4][4][4]) {
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            float& sum = acc[i / 16][i / 4 % 4][i % 4];
            float& to = total[i / 16][i / 4 % 4][i % 4];
            to = __fadd_rn(to, sum);
            sum = 0.0f;
        }
    }

    // Sums lie as [token][128 features] in units of 8 features; the two halves of all units stand apart, so that neither the stores by
    // lane 4g + t nor the 16-byte loads of neighbouring units conflict.
    static constexpr int HALVES = FEATURES / 2 + 4, TOKEN = 2 * HALVES - 4;
    static_assert(TOKEN % WARP == 4 && TOKENS * TOKEN * sizeof(float) <= STAGES * STAGE * sizeof(u16), "fits the ring");

    static __device__ __forceinline__ int place(int token, int unit, int i) {
        return token * TOKEN + unit * 4 + i / 4 * HALVES + i % 4;
    }

    // The unit of a strip's plane: pairs stand apart, single features in order.
    template <int PLANES>
    static __device__ __forceinline__ int unit(int strip, int plane) {
        return PLANES == 2 ? plane * STRIPS + strip : strip * 2 + plane;
    }

    template <int PLANES>
    static __device__ __forceinline__ void stage(float* staged, const float (&total)[4][4][4]) {
        const int g = lane_id() / 4, t = lane_id() % 4, strip = warp_id() % 2 * 4, token = warp_id() / 2 * 32;
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            const int a = i / 16, b = i / 4 % 4, plane = i / 2 % 2;
            staged[place(token + b * 8 + 2 * t + i % 2, unit<PLANES>(strip + a, plane), g)] = total[a][b][i % 4];
        }
    }

    template <class T, class E>
    static __device__ __forceinline__ void finish(const Product<T>& p, const float* staged, int first_strip, int first_token, const E& epilogue) {
        constexpr int COLUMNS = 2 * STRIPS / E::PLANES;
        for (int i = threadIdx.x; i < TOKENS * COLUMNS; i += THREADS) {
            const int token = i / COLUMNS, column = i % COLUMNS, at = (first_strip * 2 / E::PLANES + column) * 8;
            if (first_token + token >= p.M || at >= p.N / E::PLANES) continue;
            float v[E::PLANES][8];
#pragma unroll
            for (int plane = 0; plane < E::PLANES; ++plane) {
#pragma unroll
                for (int h = 0; h < 8; h += 4) {
                    const float4 q = *reinterpret_cast<const float4*>(staged + place(token, column + plane * STRIPS, h));
                    v[plane][h] = q.x;
                    v[plane][h + 1] = q.y;
                    v[plane][h + 2] = q.z;
                    v[plane][h + 3] = q.w;
                }
            }
            epilogue(at, first_token + token, v);
        }
    }
};
