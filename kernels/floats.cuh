// Weights of the activations' type (linear.cuh's weight operand).
//
// Rows and k are padded with zeros. A slice is one mma chain.
#pragma once

#include "stream.cuh"

template <class T>
struct Floats {
    using Type = T;
    using Sum = float;
    static constexpr int TURN_K = 192;
    static __device__ int log_slices(int K) { return (K >= 768) + (K >= 1536) + (K >= 6144); }

    const T* data;

    template <int BLOCKS>
    static __device__ __forceinline__ void slice(const Product<Floats>& p, float (&sum)[BLOCKS][4]) {
        stream(p, strip(p, blockIdx.x), sum);
    }

    using Tile = ::Tile<128, 128, 4, 4>;

    // A ring of steps is filled by cp.async; the sums are staged in its place.
    template <int MEMBERS>
    static __device__ __forceinline__ const float* sum(const Product<Floats>& p, uint4* pool, int first_strip, int first_token) {
        typename Tile::Sums total = {};
        add_slices(p, reinterpret_cast<T*>(pool), first_strip, first_token, total);
        cp_async_wait<0>();
        __syncthreads();
        float* staged = reinterpret_cast<float*>(pool);
        static_assert(Tile::STAGED * sizeof(float) <= STAGES * STAGE_BYTES, "fits the ring");
        Tile::template each<MEMBERS>([&](int place, int a, int b, int i) { staged[place] = total[a][b][i]; });
        return staged;
    }

private:
    static constexpr int TILE = STRIP * TILE_K, HALF_TILE = TILE / 2;  // elements
    static constexpr int STAGES = 3, STEP_K = TURN_K / STAGES;
    static constexpr int W_STEP = Tile::FEATURES * STEP_K, X_STEP = Tile::TOKENS * STEP_K, STAGE = W_STEP + X_STEP;  // elements
    static constexpr u32 STAGE_BYTES = STAGE * sizeof(u16);

    static __device__ __forceinline__ const T* strip(const Product<Floats>& p, int s) {
        return p.weight.data + static_cast<size_t>(p.strip(s)) * ceil_div(p.K, TILE_K) * TILE;
    }

    // Steps s of weights [strip][tile][half] and tokens [block of 8][tile][row][k] lie in the ring; every read is of
    // lane * 16 bytes.
    static __device__ __forceinline__ void add_slices(const Product<Floats>& p, T* ring, int first_strip, int first_token, typename Tile::Sums& total) {
        const int lane = lane_id(), warp = warp_id(), k = lane % 4 * 8;
        // A warp copies one strip and two blocks of tokens.
        static_assert(Tile::FEATURES == 8 * STRIP && Tile::TOKENS == 16 * 8, "for 8 warps");
        const T* weight = strip(p, first_strip + warp) + lane * 8;
        const T* row[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) row[i] = p.row(first_token + (2 * warp + i) * 8 + lane / 4) + k;
        int left = p.K - k;
        // Bytes in a stage that this thread fills, and that it reads.
        const u32 base = shared_address(ring) + lane * 16;
        const u32 to = opaque(base + warp * 2 * TILE * sizeof(T));
        const u32 my_w = opaque(base + Tile::warp_strip() * 2 * TILE * sizeof(T));
        const u32 my_x = opaque(base + (W_STEP + Tile::warp_token() / 8 * TILE) * sizeof(T));
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

        typename Tile::Sums acc = {};
        const int slices = 1 << log_slices(p.K), steps = ceil_div(p.K, STEP_K);
        for (int slice = 0, turn = 0; slice < slices; ++slice) {
            for (const int border = p.border(slice + 1); turn < border; ++turn) {
#pragma unroll
                for (int stage = 0; stage < STAGES; ++stage) {
                    if (turn * STAGES + stage == steps) break;
                    cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    fetch(stage + STAGES - 1);
                    advance(my_w + stage * STAGE_BYTES, my_x + stage * STAGE_BYTES, acc);
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
    static __device__ __forceinline__ void advance(u32 my_w, u32 my_x, typename Tile::Sums& acc) {
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
                    for (int j = 0; j < 4; ++j) multiply<T>(acc[i][j], w[i][half], x[j], half);
                }
            }
        }
    }

    static __device__ __forceinline__ void fold(typename Tile::Sums& total, typename Tile::Sums& acc) {
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            float& sum = acc[i / 16][i / 4 % 4][i % 4];
            float& to = total[i / 16][i / 4 % 4][i % 4];
            to = __fadd_rn(to, sum);
            sum = 0.0f;
        }
    }
};
