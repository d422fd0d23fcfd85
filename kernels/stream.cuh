// Narrow's way through weights that are operands as they lie (linear.cuh): tiles of 16 rows x 64 bytes of k, each two halves of 512 bytes, which
// are the A operands of one mma; a lane reads its four registers with one 16-byte load. Words of k, not elements, have their places in a tile:
// what is said of pairs of 16-bit elements holds for fours of 8-bit ones.
#pragma once

#include "linear.cuh"

// Adds the products of a warp's slice, of the strip that begins at `weight`. Weights go from memory to registers, DEPTH tiles ahead.
template <int BLOCKS, class W>
__device__ __forceinline__ void stream(const Product<W>& p, const typename W::Type* weight, typename W::Sum (&sum)[BLOCKS][4]) {
    using T = typename W::Type;
    constexpr int LANE = 16 / sizeof(T), TILE_K = 4 * LANE, TILE = STRIP * TILE_K, TILES = W::TURN_K / TILE_K;
    constexpr int DEPTH = BLOCKS == 1 ? 8 : BLOCKS == 2 ? 4 : 3;
    const int lane = lane_id(), k = lane % 4 * LANE;
    const int begin = p.border_of_warp(warp_id()) * TILES, end = min(p.border_of_warp(warp_id() + 1) * TILES, ceil_div(p.K, TILE_K));
    const int whole = min(end, p.K / TILE_K);
    weight += begin * TILE + lane * LANE;
    const T* row[BLOCKS];
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) row[b] = p.row(8 * b + lane / 4) + begin * TILE_K + k;

    uint4 w[DEPTH][2], x[DEPTH][BLOCKS];
    // Of the tile that is so many after the one that `weight` and `row` are at.
    auto fetch = [&](int slot, int tile, bool inside) {
        ld_global_stream<2>(weight + tile * TILE, w[slot]);
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            x[slot][b] = inside ? *reinterpret_cast<const uint4*>(row[b] + tile * TILE_K) : make_uint4(0, 0, 0, 0);
        }
    };
    auto add = [&](int slot) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) multiply<T>(sum[b], w[slot][half], x[slot][b], half);
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
}
