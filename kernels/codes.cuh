// Quantized weights (linear.cuh's weight operand): codes of 4 or 8 bits, element = scale * (code - zero), exact activations.
//
// A strip holds its codes, then scales, then zero points if there are any; k is padded to 128 with codes that are zero points.
//   codes   turns of 128 k, in each 2 (4 bits) or 4 (8 bits) times 512 bytes, 16 for each lane: its registers of the A operands, two of a
//           tile after those of the tile before. 4 bits: a word is one operand, register r has its codes at bits 4r and 16 + 4r.
//           8 bits: a word is registers 2j and 2j + 1, the first in its even bytes.
//   scales  f32 [group][8][2], zeros u8 [group][8][2], padded to 32 bytes: of rows g and g + 8
// Numerics (code - zero) is exact in T. A group's products make one mma chain (128 k where the whole row is one group), and its scale
// multiplies the f32 sum: acc = fma(scale, chain, acc) in ascending k.
#pragma once

#include "linear.cuh"

// An element whose bits are an integer i < 256 is the number i * 2^-133 (bf16) or i * 2^-24 (f16): the smallest numbers are evenly spaced, those
// below the first normal one and those of its exponent. One fma lifts it to normal numbers and takes the zero point off, exactly.
template <class T>
struct Lift;
template <>
struct Lift<bf16> {
    static constexpr u32 UP = 0x7f007f00, UP_SIXTEENTH = 0x7d007d00, DOWN = 0xff00ff00;  // 2^127, 2^123, -2^127
    static constexpr float PER_ONE = 64.0f;                                               // 1 is lifted to 2^-6
    static constexpr u32 MINUS_ONE = 0xbc80bc80, TWICE = 0x00800080;                      // -2^-6; added to it, doubles
};
template <>
struct Lift<f16> {
    static constexpr u32 UP = 0x78007800, UP_SIXTEENTH = 0x68006800, DOWN = 0xf800f800;  // 2^15, 2^11, -2^15
    static constexpr float PER_ONE = 512.0f;                                              // 1 is lifted to 2^-9
    static constexpr u32 MINUS_ONE = 0x98009800, TWICE = 0x04000400;                      // -2^-9
};

// The groups of STRIPS strips, one after the other: what this lane needs of the one at hand. Its scales, which the end of its chain wants, are
// fetched when it begins; its zero points, which the beginning wants, a group ahead. COUNTED: `left` matters also where there are no zero points.
template <class T, int BITS, int STRIPS, bool COUNTED>
struct Groups {
    const u8* scales;  // of the group at hand, of the first strip
    const u8* zeros;   // of the group that is fetched next
    bool many;         // whether each group has its own zero point
    int apart;         // bytes from strip to strip
    int left;          // groups after the one at hand
    float2 scale[STRIPS];
    u32 bias[STRIPS][2], zero[STRIPS];

    // Begins with a group; groups beyond `last` are not read.
    __device__ __forceinline__ void begin(u32 first, u32 last) {
        if (COUNTED) left = last - first;
        scales += first * SCALES;
        if (many) {
            left = last - first;
            zeros += first * ZEROS;
            fetch_zeros();
            lift();
            if (left > 0) fetch_zeros();
        } else {
            constexpr u32 MIDDLE = Lift<T>::MINUS_ONE + (BITS - 1) * Lift<T>::TWICE;
#pragma unroll
            for (int i = 0; i < STRIPS; ++i) bias[i][0] = bias[i][1] = MIDDLE;
        }
        fetch_scales();
    }

    // Not called at the last: what is beyond it counts nothing.
    __device__ __forceinline__ void advance() {
        if (COUNTED) --left;
        scales += SCALES;
        fetch_scales();
        if (!many) return;
        if (!COUNTED) --left;
        lift();
        if (left > 0) fetch_zeros();
    }

private:
    static constexpr int SCALES = STRIP * sizeof(float), ZEROS = STRIP;  // bytes of a group

    __device__ __forceinline__ void fetch_scales() {
#pragma unroll
        for (int i = 0; i < STRIPS; ++i) scale[i] = __ldg(reinterpret_cast<const float2*>(scales + i * apart));
    }

    __device__ __forceinline__ void fetch_zeros() {
#pragma unroll
        for (int i = 0; i < STRIPS; ++i) zero[i] = __ldg(reinterpret_cast<const u16*>(zeros + i * apart));
        zeros += ZEROS;
    }

    __device__ __forceinline__ void lift() {
#pragma unroll
        for (int i = 0; i < STRIPS; ++i) {
            bias[i][0] = T::fma2(__byte_perm(zero[i], 0, 0x4040), Lift<T>::DOWN, 0);
            bias[i][1] = T::fma2(__byte_perm(zero[i], 0, 0x4141), Lift<T>::DOWN, 0);
        }
    }
};

template <class T, int BITS>
struct Codes {
    using Type = T;
    using Sum = float;
    static constexpr int TURN_K = 128;
    static __device__ int log_slices(int K) { return (K >= 1536) + (K >= 3072) + (K >= 6144); }

    const u8* data;
    int groups;  // of a row
    int chains;  // groups that end in a turn: 4 of 32, 2 of 64, else 1
    int zeros;   // bytes of a strip's zero points, 0 if there are none

    template <int BLOCKS>
    static __device__ __forceinline__ void slice(const Product<Codes>& p, float (&sum)[BLOCKS][4]) {
        p.weight.chains > 1 ? slice<BLOCKS, true>(p, sum) : slice<BLOCKS, false>(p, sum);
    }

    using Tile = ::Tile<256, 64, 2, 8>;

    // Codes go from memory to registers, a turn ahead; rows through a ring of two turns, filled by cp.async. Slices are added where they are staged.
    template <int MEMBERS>
    static __device__ __forceinline__ const float* sum(const Product<Codes>& p, uint4* pool, int first_strip, int first_token) {
        static_assert(Tile::TOKENS == 8 * 8, "a warp copies a block of tokens");
        float* staged = reinterpret_cast<float*>(reinterpret_cast<u8*>(pool) + 2 * RING);
        const int k = lane_id() % 4 * 8, turns = p.turns();
        const T* row = p.row(first_token + 8 * warp_id() + lane_id() / 4) + k;
        const u32 base = shared_address(pool) + lane_id() * 16, to = opaque(base + warp_id() * TILES * 512);
        const int s = p.strip(first_strip + Tile::warp_strip());
        Groups<T, BITS, Tile::STRIPS, true> groups;
        const u8* codes = enter(p, s, groups);
        uint4 w[Tile::STRIPS][2];
        auto fetch_codes = [&](int load) {
#pragma unroll
            for (int i = 0; i < Tile::STRIPS; ++i) ld_global_stream<1>(codes + i * groups.apart + load * 512, &w[i][load % 2]);
        };
        fetch_codes(0);
        fetch_codes(1);
        groups.begin(0, p.weight.groups - 1);
        auto fetch = [&](int turn) {
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const int at = turn * TURN_K + tile * TILE_K;
                cp_async_16(to + turn % 2 * RING + tile * 512, row + at, at + k < p.K ? 16 : 0);
            }
            cp_async_commit();
        };
        fetch(0);

        typename Tile::Sums acc = {}, chain = {};
        for (int slice = 0, turn = 0; slice < 1 << log_slices(p.K); ++slice) {
            for (const int border = p.border(slice + 1); turn < border; ++turn) {
                cp_async_wait<0>();
                __syncthreads();
                const bool more = turn + 1 < turns;
                if (more) fetch(turn + 1);
                const u32 x = opaque(base + turn % 2 * RING);
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile) {
                    uint4 a[Tile::STRIPS][2];
#pragma unroll
                    for (int i = 0; i < 2 * Tile::STRIPS; ++i) {
                        a[i / 2][i % 2] = operand(w[i / 2][load(tile) % 2], tile, i % 2, groups.bias[i / 2], Up());
                    }
                    if (used_up(tile) && (load(tile) + 2 < LOADS || more)) fetch_codes(load(tile) + 2);
#pragma unroll
                    for (int b = 0; b < Tile::BLOCKS; ++b) {
                        const uint4 rows = ld_shared(x + (b * TILES + tile) * 512);
#pragma unroll
                        for (int i = 0; i < 2 * Tile::STRIPS; ++i) multiply<T>(chain[i / 2][b], a[i / 2][i % 2], rows, i % 2);
                    }
                    if (!p.weight.ends(tile)) continue;
#pragma unroll
                    for (int i = 0; i < Tile::STRIPS * Tile::BLOCKS; ++i) {
                        fold(acc[i / Tile::BLOCKS][i % Tile::BLOCKS], chain[i / Tile::BLOCKS][i % Tile::BLOCKS], groups.scale[i / Tile::BLOCKS]);
                    }
                    if (groups.left > 0) groups.advance();
                }
                codes += TURN_BYTES;
            }
            Tile::template each<MEMBERS>([&](int place, int a, int b, int i) {
                staged[place] = __fmaf_rn(acc[a][b][i], Lift<T>::PER_ONE, slice == 0 ? 0.0f : staged[place]);
                acc[a][b][i] = 0.0f;
            });
        }
        return staged;
    }

private:
    static constexpr int TILES = TURN_K / TILE_K, LOADS = BITS / 2, TURN_BYTES = LOADS * 512;
    static constexpr int RING = 64 * TURN_K * sizeof(u16);  // bytes of a turn's rows

    // Codes go from memory to registers, DEPTH turns ahead, rows AHEAD tiles ahead. FINE: groups may end inside a turn.
    template <int BLOCKS, bool FINE>
    static __device__ __forceinline__ void slice(const Product<Codes>& p, float (&sum)[BLOCKS][4]) {
        constexpr int DEPTH = (BLOCKS == 4 ? 4 : 8) / LOADS, AHEAD = BLOCKS == 4 ? 2 : 4;
        const int k = lane_id() % 4 * 8, begin = p.border_of_warp(warp_id()), end = p.border_of_warp(warp_id() + 1);
        const int whole = min(end, static_cast<int>(static_cast<u32>(p.K) / TURN_K));
        const bool several = p.weight.groups > 1;
        const u8* codes;
        const T* row[BLOCKS];
        Groups<T, BITS, 1, FINE> groups;
        const Up up = {opaque(Lift<T>::UP), opaque(Lift<T>::UP_SIXTEENTH)};
        // Begins with a turn.
        auto start = [&](int turn) {
            codes = enter(p, blockIdx.x, groups) + turn * TURN_BYTES;
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) row[b] = p.row(8 * b + lane_id() / 4) + turn * TURN_K + k;
            const int last = p.weight.groups - 1, chains = FINE ? p.weight.chains : 1;
            groups.begin(min(turn * chains, last), min(end * chains - 1, last));
        };
        uint4 w[DEPTH][LOADS], x[AHEAD][BLOCKS];
        auto fetch = [&](int turn) { ld_global_stream<LOADS>(codes + turn * TURN_BYTES, w[turn % DEPTH]); };
        auto fetch_half = [&](int turn, int half) {
            ld_global_stream<LOADS / 2>(codes + turn * TURN_BYTES + half * (TURN_BYTES / 2), w[turn % DEPTH] + half * (LOADS / 2));
        };
        // Of a tile of the turn that is so many after the one that `row` is at.
        auto fetch_rows = [&](int turn, int tile, bool inside) {
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) {
                const T* from = row[b] + turn * TURN_K + tile * TILE_K;
                x[tile % AHEAD][b] = inside ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
            }
        };
        // `then` fetches what the operands of two tiles, the last of which it is told, make room for.
        auto add = [&](const uint4(&w)[LOADS], bool more, auto then) {
            float chain[BLOCKS][4];
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const uint4 a = operand(w[load(tile)], tile, half, groups.bias[0], up);
#pragma unroll
                    for (int b = 0; b < BLOCKS; ++b) {
                        tile || half ? multiply<T>(chain[b], a, x[tile % AHEAD][b], half) : multiply_first<T>(chain[b], a, x[0][b]);
                    }
                }
                if (tile % 2) then(tile);
                if (tile != TILES - 1 && !(FINE && p.weight.ends(tile))) continue;
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) fold(sum[b], chain[b], groups.scale[0]);
                if (FINE ? groups.left > 0 : more && several) groups.advance();
            }
        };
        int left = whole - begin;
        if (left > 0) {
            start(begin);
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                if (d >= left) break;
                fetch(d);
            }
#pragma unroll
            for (int tile = 0; tile < AHEAD; ++tile) fetch_rows(0, tile, true);
            for (; left > 0; left -= DEPTH) {
#pragma unroll
                for (int d = 0; d < DEPTH; ++d) {
                    const bool more = d + 1 < left, far = d + DEPTH < left;
                    add(w[d], more, [&](int tile) {
                        if (tile + AHEAD < TILES || more) {
                            fetch_rows(d, tile - 1 + AHEAD, true);
                            fetch_rows(d, tile + AHEAD, true);
                        }
                        // A turn at once, or in halves where the sums leave no registers for one that is in flight.
                        if (BLOCKS == 4 && far) fetch_half(d + DEPTH, tile / 2);
                        if (BLOCKS < 4 && far && tile == TILES - 1) fetch(d + DEPTH);
                    });
                    if (!more) break;
                }
                codes += DEPTH * TURN_BYTES;
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) row[b] += DEPTH * TURN_K;
            }
        }
        if (whole < end) {
            start(opaque(whole));
            auto fetch_tail = [&](int tile) { fetch_rows(0, tile, (whole * TILES + tile) * TILE_K + k < p.K); };
            fetch(0);
#pragma unroll
            for (int tile = 0; tile < AHEAD; ++tile) fetch_tail(tile);
            add(w[0], false, [&](int tile) {
                if (tile + AHEAD >= TILES) return;
                fetch_tail(tile - 1 + AHEAD);
                fetch_tail(tile + AHEAD);
            });
        }
#pragma unroll
        for (int i = 0; i < 4 * BLOCKS; ++i) sum[i / 4][i % 4] = __fmul_rn(sum[i / 4][i % 4], Lift<T>::PER_ONE);
    }

    // Whether a group's chain ends with this tile of a turn.
    __device__ bool ends(int tile) const { return tile == TILES - 1 || chains > (tile % 2 ? 1 : 2); }
    // The load of a turn that has a tile, and whether the tile is its last.
    static __device__ constexpr int load(int tile) { return tile * LOADS / TILES; }
    static __device__ constexpr bool used_up(int tile) { return load(tile + 1) != load(tile); }

    // Where this lane finds the codes of strips from `s` on; `groups` learns where scales and zero points are.
    template <class Groups>
    static __device__ __forceinline__ const u8* enter(const Product<Codes>& p, u32 s, Groups& groups) {
        const u32 codes = p.turns() * TURN_BYTES, zeros = codes + p.weight.groups * STRIP * sizeof(float), strip = zeros + p.weight.zeros;
        const u8* at = p.weight.data + static_cast<u64>(s) * strip;
        groups.scales = at + (codes + lane_id() / 4 * 8);
        groups.many = p.weight.zeros;
        if (groups.many) groups.zeros = at + (zeros + lane_id() / 4 * 2);
        groups.apart = s + 1 < p.strips() ? strip : 0;
        return at + lane_id() * 16;
    }

    // What multiplies the codes of a lane. In registers, each is moved there once.
    struct Up {
        u32 by = Lift<T>::UP, by_sixteenth = Lift<T>::UP_SIXTEENTH;
    };

    // One A operand of a tile, out of its load.
    static __device__ __forceinline__ uint4 operand(const uint4& w, int tile, int half, const u32 (&bias)[2], const Up& up) {
        if (BITS == 4) {
            const u32 q = tile % 2 ? (half ? w.w : w.z) : half ? w.y : w.x;
            return make_uint4(T::fma2(q & 0x000f000f, up.by, bias[0]), T::fma2(q & 0x00f000f0, up.by_sixteenth, bias[1]),
                              T::fma2(q >> 8 & 0x000f000f, up.by, bias[0]), T::fma2(q >> 8 & 0x00f000f0, up.by_sixteenth, bias[1]));
        }
        const u32 low = half ? w.z : w.x, high = half ? w.w : w.y;
        return make_uint4(T::fma2(__byte_perm(low, 0, 0x4240), up.by, bias[0]), T::fma2(__byte_perm(low, 0, 0x4341), up.by, bias[1]),
                          T::fma2(__byte_perm(high, 0, 0x4240), up.by, bias[0]), T::fma2(__byte_perm(high, 0, 0x4341), up.by, bias[1]));
    }

    // Ends a chain.
    static __device__ __forceinline__ void fold(float (&sum)[4], float (&chain)[4], const float2& scale) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum[i] = __fmaf_rn(i < 2 ? scale.x : scale.y, chain[i], sum[i]);
            chain[i] = 0.0f;
        }
    }
};
