// int8 weights with int8 rows (linear.cuh's weight operand): sums of integers, exact in any order, then a scale for each feature and token.
//
// A strip holds its tiles of 16 rows x 64 k, padded with zeros, then f32 scales of its 16 rows. A lane's four words of a tile's half are the A
// operand of one mma.m16n8k32; its B operands of both are k 16t.. of its token.
// Numerics  y = float(sum) * (x scale * w scale), each rounded to nearest
#pragma once

#include "stream.cuh"

// Eight bits of a row of weights or activations.
struct i8 {
    s8 code;
    static __device__ __forceinline__ void mma(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_m16n8k32_s8(d, a, b); }
};

struct Int8 {
    using Type = i8;
    using Sum = int;
    static constexpr int TURN_K = 64;

    const u8* data;
    const float* x_scales;  // [M]

    template <int BLOCKS>
    static __device__ __forceinline__ void slice(const Product<Int8>& p, int (&sum)[BLOCKS][4]) {
        stream(p, reinterpret_cast<const i8*>(strip(p, p.strip(blockIdx.x))), sum);
    }

    static __device__ __forceinline__ const u8* strip(const Product<Int8>& p, int s) {
        return p.weight.data + static_cast<size_t>(s) * (p.turns() * TILE + STRIP * sizeof(float));
    }

    // Of row r of the packed weight and those behind it in its half of a strip.
    static __device__ __forceinline__ const float* scales(const Product<Int8>& p, int r) {
        return reinterpret_cast<const float*>(strip(p, r / STRIP) + p.turns() * TILE) + r % STRIP;
    }

    static constexpr int TILE = STRIP * TURN_K;  // bytes
};

// An epilogue behind the scales.
template <class E>
struct Scaled {
    static constexpr int MEMBERS = E::MEMBERS;
    Product<Int8> p;
    E then;

    template <int W>
    __device__ __forceinline__ void operator()(int i, int token, float (&v)[MEMBERS][W]) const {
        const float x = __ldg(p.weight.x_scales + token);
#pragma unroll
        for (int member = 0; member < MEMBERS; ++member) {
            float w[W];
            load_constant(Int8::scales(p, MEMBERS == 2 ? i / 8 * STRIP + member * 8 + i % 8 : i), w);
#pragma unroll
            for (int j = 0; j < W; ++j) v[member][j] = __fmul_rn(v[member][j], __fmul_rn(x, w[j]));
        }
        then(i, token, v);
    }
};

// At most 32 tokens.
struct NarrowInt8 {
    static constexpr int THREADS = Narrow::THREADS, BLOCKS_PER_SM = Narrow::BLOCKS_PER_SM;

    template <class E>
    static __device__ __forceinline__ Share run(const Product<Int8>& p, const E& epilogue) {
        return Narrow::run(p, Scaled<E>{p, epilogue});
    }
};

// Any number of tokens. A block of 4 warps makes 128 features x 128 tokens, a warp 64 x 64; a ring of tiles of k is filled by cp.async.
struct WideInt8 {
    static constexpr int THREADS = 4 * WARP, BLOCKS_PER_SM = 2;

    template <class E>
    static __device__ __forceinline__ Share run(const Product<Int8>& p, const E& epilogue) {
        const Block block = Block::of<Tile>(p);
        extern __shared__ uint4 pool[];
        int sum[STRIPS][BLOCKS][4] = {};
        multiply_all(p, shared_address(pool), block, sum);
        cp_async_wait<0>();
        // Half of the tokens at a time: all would not fit the ring.
        float* staged = reinterpret_cast<float*>(pool);
#pragma unroll
        for (int first = 0; first < Tile::TOKENS; first += Half::TOKENS) {
            __syncthreads();
            if (Tile::warp_token() == first) {
                Tile::template each<E::MEMBERS>([&](int place, int a, int b, int i) {
                    staged[place - first * Tile::TOKEN] = __int2float_rn(sum[a][b][i]);
                });
            }
            __syncthreads();
            Half::finish(p, staged, block.strip, block.token + first, Scaled<E>{p, epilogue});
        }
        return block.share<Tile>(p);
    }

private:
    static constexpr int STRIPS = 4, BLOCKS = 8, STAGES = 3, TURN = 2 * STAGES;  // a turn: steps of one round of the loop
    using Tile = ::Tile<128, 128, STRIPS, BLOCKS>;
    using Half = ::Tile<128, 64, STRIPS, BLOCKS>;
    static constexpr u32 W_STAGE = Tile::FEATURES * Int8::TURN_K, STAGE = W_STAGE + Tile::TOKENS * Int8::TURN_K, HALF = Int8::TILE / 2;  // bytes
    static_assert(Half::STAGED * sizeof(float) <= STAGES * STAGE, "fits the ring");

    // A stage holds weights [strip][half] and tokens [block of 8][row][k]; every read is of lane * 16 bytes.
    static __device__ __forceinline__ void multiply_all(const Product<Int8>& p, u32 ring, const Block& block, int (&sum)[STRIPS][BLOCKS][4]) {
        const int lane = lane_id(), warp = warp_id(), k = lane % 4 * 16;
        // A warp copies two strips and four blocks of tokens.
        const u8* weight[2];
        const i8* row[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) weight[i] = Int8::strip(p, p.strip(block.strip + 2 * warp + i)) + lane * 16;
#pragma unroll
        for (int i = 0; i < 4; ++i) row[i] = p.row(block.token + (4 * warp + i) * 8 + lane / 4) + k;
        int left = p.K - k;
        const u32 base = ring + lane * 16, to = opaque(base + warp * 4 * HALF);
        const u32 my_w = opaque(base + Tile::warp_strip() * Int8::TILE), my_x = opaque(base + W_STAGE + Tile::warp_token() / 8 * HALF);
        // Fetches the step that is so many after the first of this turn.
        auto fetch = [&](int step) {
            const u32 stage = to + step % STAGES * STAGE, bytes = left > step * Int8::TURN_K ? 16 : 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                cp_async_16(stage + i * HALF, weight[i / 2] + step * Int8::TILE + i % 2 * HALF, bytes);
                cp_async_16(stage + W_STAGE + i * HALF, row[i] + step * Int8::TURN_K, bytes);
            }
            cp_async_commit();
        };
#pragma unroll
        for (int step = 0; step < STAGES - 1; ++step) fetch(step);
        for (int steps = p.turns(); steps > 0; steps -= TURN) {
#pragma unroll
            for (int step = 0; step < TURN; ++step) {
                if (step == steps) break;
                cp_async_wait<STAGES - 2>();
                __syncthreads();
                fetch(step + STAGES - 1);
                advance(my_w + step % STAGES * STAGE, my_x + step % STAGES * STAGE, sum);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) weight[i] += TURN * Int8::TILE;
#pragma unroll
            for (int i = 0; i < 4; ++i) row[i] += TURN * Int8::TURN_K;
            left -= TURN * Int8::TURN_K;
        }
    }

    // Adds one step to the sums of a warp.
    static __device__ __forceinline__ void advance(u32 my_w, u32 my_x, int (&sum)[STRIPS][BLOCKS][4]) {
        uint4 x[BLOCKS];
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) x[b] = ld_shared(my_x + b * HALF);
#pragma unroll
        for (int i = 0; i < 2 * STRIPS; ++i) {
            const uint4 w = ld_shared(my_w + i * HALF);
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) multiply<i8>(sum[i / 2][b], w, x[b], i % 2);
        }
    }
};
