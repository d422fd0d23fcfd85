// The product Y = X W^T of all linear kernels, in two shapes with the same bits: Narrow streams weights past few rows (decode), Wide
// tiles 128 features x 128 tokens (prefill, vision).
//
// Weight rows are the M side of mma.m16n8k16, tokens the N side. K is cut in slices that depend on K alone: in a slice one mma chain in
// ascending k, then the slices are added in index order. So a row's bits depend neither on the row count nor on the shape.
//
// W is packed in strips of 16 rows, a strip in tiles of 32 k, rows and k padded with zeros. A tile is two halves of 512 bytes, each the A
// operand of one mma: lane 4g + t reads its four registers with one 16-byte load. They hold rows g and g + 8 of k 8t.. and 8t + 2.. in
// the first half, 8t + 4.. and 8t + 6.. in the second; so a lane's B operands of both mma are k 8t.. of its token, one 16-byte load
// from row-major X. (This permutes k inside a tile, equally on both sides.)
//
// An epilogue E takes finished sums: with MEMBERS = 1 as e(i, token, v), v[0][..] being features i.. of a token; with MEMBERS = 2 (weights
// packed in pairs) v[0][..] are the first, v[1][..] the second members of pairs i... It takes runs of 1 and of 8, and must spell out
// its roundings: the compiler may not fuse them in one shape and not in the other.
#pragma once

#include "common.cuh"

constexpr int STRIP = 16;             // features
constexpr int TILE_K = 32;
constexpr int TILE = STRIP * TILE_K;  // elements
constexpr int HALF_TILE = TILE / 2;
constexpr int TURN_K = 192;           // slices end at multiples of it
constexpr int MOST_SLICES = 8;

// The operands. M tokens, N features; K is a multiple of 8.
template <class T>
struct Product {
    const T* x;       // [M, K], or what `rows` picks from
    const int* rows;  // [M] or null
    const T* weight;
    int M, N, K;

    __device__ int tiles() const { return ceil_div(K, TILE_K); }
    // The number of slices is a power of two, this one.
    __device__ int log_slices() const { return (K >= 768) + (K >= 1536) + (K >= 6144); }
    // The first turn of a slice.
    __device__ int border(int slice) const { return ceil_div(K, TURN_K) * slice >> log_slices(); }
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

// Adds one of the two mma of a tile to the sums of 16 features x 8 tokens.
template <class T>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint4 (&w)[2], const uint4& x, int half) {
    const u32 a[4] = {w[half].x, w[half].y, w[half].z, w[half].w};
    const u32 b[2] = {half ? x.z : x.x, half ? x.w : x.y};
    T::mma(sum, a, b);
}

// At most 32 tokens. A block is one strip: a warp for each slice. Weights go from memory to registers, `DEPTH` tiles ahead.
struct Narrow {
    static constexpr int THREADS = MOST_SLICES * WARP, BLOCKS_PER_SM = 2;

    template <class T, class E>
    static __device__ __forceinline__ Share run(const Product<T>& p, const E& epilogue) {
        __shared__ float sums[MOST_SLICES][4][SUMS];
        if (p.M <= 8) {
            slice<T, 1, 8>(p, sums[warp_id()]);
        } else if (p.M <= 16) {
            slice<T, 2, 4>(p, sums[warp_id()]);
        } else {
            slice<T, 4, 3>(p, sums[warp_id()]);
        }
        __syncthreads();
        constexpr int COLUMNS = STRIP / E::MEMBERS;
        for (int i = threadIdx.x; i < p.M * COLUMNS; i += blockDim.x) {
            const int token = i / COLUMNS, column = i % COLUMNS, at = blockIdx.x * COLUMNS + column;
            float v[E::MEMBERS][1];
#pragma unroll
            for (int member = 0; member < E::MEMBERS; ++member) {
                v[member][0] = total(sums, 1 << p.log_slices(), column + 8 * member, token);
            }
            if (at < p.N / E::MEMBERS) epilogue(at, token, v);
        }
        return {0, 0, p.M, static_cast<int>(gridDim.x)};
    }

private:
    // Where a lane's sum i of 8 tokens lies: neither the stores nor the loads of neighbouring features and tokens conflict.
    static constexpr int SUMS = 4 * WARP + 7;
    static __device__ __forceinline__ int place(int i, int lane) { return i / 2 * 69 + i % 2 * 34 + lane; }

    // The sums of a warp's slice for 8 * BLOCKS tokens.
    template <class T, int BLOCKS, int DEPTH>
    static __device__ __forceinline__ void slice(const Product<T>& p, float (&sums)[4][SUMS]) {
        const int lane = lane_id(), k = lane % 4 * 8;
        const int begin = p.border(warp_id()) * (TURN_K / TILE_K), end = min(p.border(warp_id() + 1) * (TURN_K / TILE_K), p.tiles());
        const int whole = min(end, p.K / TILE_K);
        const T* weight = p.strip(blockIdx.x) + begin * TILE + lane * 8;
        const T* row[BLOCKS];
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) row[b] = p.row(8 * b + lane / 4) + begin * TILE_K + k;

        uint4 w[DEPTH][2], x[DEPTH][BLOCKS];
        float sum[BLOCKS][4] = {};
        // Of the tile that is so many after the one that `weight` and `row` are at.
        auto fetch = [&](int slot, int tile, bool inside) {
            w[slot][0] = ld_global_stream(weight + tile * TILE);
            w[slot][1] = ld_global_stream(weight + tile * TILE + HALF_TILE);
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) {
                x[slot][b] = inside ? *reinterpret_cast<const uint4*>(row[b] + tile * TILE_K) : make_uint4(0, 0, 0, 0);
            }
        };
        auto add = [&](int slot) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) multiply<T>(sum[b], w[slot], x[slot][b], half);
            }
        };
        int left = whole - begin;
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            if (d < left) fetch(d, d, true);
        }
        for (; left > 0; left -= DEPTH) {
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                if (d >= left) break;
                add(d);
                if (d + DEPTH < left) fetch(d, d + DEPTH, true);
            }
            weight += DEPTH * TILE;
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) row[b] += DEPTH * TILE_K;
        }
        if (whole < end) {
            fetch(0, left, whole * TILE_K + k < p.K);
            add(0);
        }
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; ++i) sums[i / 4][place(i % 4, lane)] = sum[i / 4][i % 4];
    }

    static __device__ __forceinline__ float total(const float (&sums)[MOST_SLICES][4][SUMS], int slices, int feature, int token) {
        const int at = place(feature / 8 * 2 + token % 2, feature % 8 * 4 + token % 8 / 2);
        float total = 0.0f;
        for (int s = 0; s < slices; ++s) total = __fadd_rn(total, sums[s][token / 8][at]);
        return total;
    }
};

// Any number of tokens. A block of 8 warps makes 128 features x 128 tokens, a warp 64 x 32; a ring of steps is filled by cp.async.
struct Wide {
    static constexpr int THREADS = 8 * WARP, BLOCKS_PER_SM = 1;
    static constexpr int FEATURES = 128, TOKENS = 128;
    static constexpr int STAGES = 3, STEP_K = TURN_K / STAGES;

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
        cp_async_wait<0>();
        __syncthreads();
        float* staged = reinterpret_cast<float*>(pool);
        stage<E::MEMBERS>(staged, total);
        __syncthreads();
        finish(p, staged, first_strip, first_token, epilogue);
        return {token_block, first_token, min(TOKENS, p.M - first_token), features};
    }

private:
    static constexpr int GROUP = 8;
    static constexpr int STRIPS = FEATURES / STRIP, BLOCKS = TOKENS / 8;
    static constexpr int W_STEP = FEATURES * STEP_K, X_STEP = TOKENS * STEP_K, STAGE = W_STEP + X_STEP;  // elements
    static constexpr u32 STAGE_BYTES = STAGE * sizeof(u16);
    static_assert(STRIPS == THREADS / WARP && BLOCKS == 2 * STRIPS, "a warp copies one strip and two blocks of tokens");

    // Steps s of weights [strip][tile][half] and tokens [block of 8][tile][row][k] lie in the ring; every read is of
    // lane * 16 bytes.
    template <class T>
    static __device__ __forceinline__ void sum(const Product<T>& p, T* ring, int first_strip, int first_token, float (&total)[4][4][4]) {
        const int lane = lane_id(), warp = warp_id(), k = lane % 4 * 8;
        const T* weight = p.strip(first_strip + warp) + lane * 8;
        const T* row[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) row[i] = p.row(first_token + (2 * warp + i) * 8 + lane / 4) + k;
        int left = p.K - k;
        // Bytes in a stage that this thread fills, and that it reads.
        const u32 base = shared_address(ring) + lane * 16;
        const u32 to = opaque(base + warp * 2 * TILE * sizeof(T));
        const u32 my_w = opaque(base + warp % 2 * 4 * 2 * TILE * sizeof(T));
        const u32 my_x = opaque(base + (W_STEP + warp / 2 * 4 * TILE) * sizeof(T));
        // Fetches the step that is so many after the first of this turn.
        auto fetch = [&](int step) {
            const u32 stage = to + step % STAGES * STAGE_BYTES;
#pragma unroll
            for (int tile = 2 * step; tile < 2 * step + 2; ++tile) {
                const u32 bytes = left > tile * TILE_K ? 16 : 0;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    cp_async_16(stage + (tile % 2 * 2 + i) * HALF_TILE * sizeof(T), weight + (2 * tile + i) * HALF_TILE, bytes);
                    cp_async_16(stage + (W_STEP + (2 * i + tile % 2) * HALF_TILE) * sizeof(T), row[i] + tile * TILE_K, bytes);
                }
            }
            cp_async_commit();
        };
#pragma unroll
        for (int step = 0; step < STAGES - 1; ++step) fetch(step);

        float acc[4][4][4] = {};
        const int slices = 1 << p.log_slices(), steps = ceil_div(p.K, STEP_K);
        for (int slice = 0, turn = 0; slice < slices; ++slice) {
            for (const int border = p.border(slice + 1); turn < border; ++turn) {
#pragma unroll
                for (int stage = 0; stage < STAGES; ++stage) {
                    if (turn * STAGES + stage == steps) break;
                    cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    fetch(stage + STAGES - 1);
                    advance<T>(my_w + stage * STAGE_BYTES, my_x + stage * STAGE_BYTES, acc);
                }
                weight += TURN_K * STRIP;
                row[0] += TURN_K;
                row[1] += TURN_K;
                left -= TURN_K;
            }
            fold(total, acc);
        }
    }

    // Adds one step to the sums of a warp.
    template <class T>
    static __device__ __forceinline__ void advance(u32 my_w, u32 my_x, float (&acc)[4][4][4]) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
            uint4 w[4][2], x[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                x[i] = ld_shared(my_x + (i * 2 + tile) * HALF_TILE * sizeof(T));
                w[i][0] = ld_shared(my_w + (i * 2 + tile) * TILE * sizeof(T));
                w[i][1] = ld_shared(my_w + ((i * 2 + tile) * TILE + HALF_TILE) * sizeof(T));
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
    static_assert(TOKEN % WARP == 4 && TOKENS * TOKEN * sizeof(float) <= STAGES * STAGE_BYTES, "fits the ring");

    static __device__ __forceinline__ int place(int token, int unit, int i) {
        return token * TOKEN + unit * 4 + i / 4 * HALVES + i % 4;
    }

    // The unit of a strip's plane: pairs stand apart, single features in order.
    template <int MEMBERS>
    static __device__ __forceinline__ int unit(int strip, int plane) {
        return MEMBERS == 2 ? plane * STRIPS + strip : strip * 2 + plane;
    }

    template <int MEMBERS>
    static __device__ __forceinline__ void stage(float* staged, const float (&total)[4][4][4]) {
        const int g = lane_id() / 4, t = lane_id() % 4, strip = warp_id() % 2 * 4, token = warp_id() / 2 * 32;
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            const int a = i / 16, b = i / 4 % 4, plane = i / 2 % 2;
            staged[place(token + b * 8 + 2 * t + i % 2, unit<MEMBERS>(strip + a, plane), g)] = total[a][b][i % 4];
        }
    }

    template <class T, class E>
    static __device__ __forceinline__ void finish(const Product<T>& p, const float* staged, int first_strip, int first_token, const E& epilogue) {
        constexpr int COLUMNS = 2 * STRIPS / E::MEMBERS;
        const int column = threadIdx.x % COLUMNS, at = (first_strip * 2 / E::MEMBERS + column) * 8;
        if (at >= p.N / E::MEMBERS) return;
        const int tokens = min(TOKENS, p.M - first_token);
        for (int token = threadIdx.x / COLUMNS; token < tokens; token += THREADS / COLUMNS) {
            float v[E::MEMBERS][8];
#pragma unroll
            for (int member = 0; member < E::MEMBERS; ++member) {
#pragma unroll
                for (int h = 0; h < 8; h += 4) {
                    const float4 q = *reinterpret_cast<const float4*>(staged + place(token, column + member * STRIPS, h));
                    v[member][h] = q.x;
                    v[member][h + 1] = q.y;
                    v[member][h + 2] = q.z;
                    v[member][h + 3] = q.w;
                }
            }
            epilogue(at, first_token + token, v);
        }
    }
};
