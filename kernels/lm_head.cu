// Logits of the rows that are sampled: logits[s] = x[rows[s]] W^T. x is normed already. Their best candidates (common.cuh) beside them.
//
// Entries  lm_head_bf16|f16[_w8a16]_narrow|wide
// x        T [T, D] read        weight  T [V, D] tiled, read        rows  i32 [S] read        logits  f32 [S, V] write
// bests    u64 [S], zero before, or null; needs V a multiple of 16
// Needs    D and V multiples of 8, rows aligned to 16 bytes
// Launch   narrow (S <= 32): ceil(V / 16) blocks of 32 * slices threads (slices of D: linear.cuh)
//          wide: ceil(V / 128) * ceil(S / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
//          wide with codes (weight u8, codes.cuh): ceil(V / 256) * ceil(S / 64) blocks of 256 threads, 99328 bytes of dynamic shared memory
// Numerics f32 sums in one order per D
// Cost     S D + V D elements, 4 S V bytes, 2 S V D flops
#include "products.cuh"

struct Logits {
    static constexpr int MEMBERS = 1;
    float* logits;
    u64* bests;
    int V;

    template <int W>
    __device__ __forceinline__ void operator()(int i, int s, float (&v)[1][W]) const {
        store(logits + static_cast<size_t>(s) * V + i, v[0]);
        if (!bests) return;
        u64 best = 0;
#pragma unroll
        for (int j = 0; j < W; ++j) best = max(best, candidate(v[0][j], i + j));
        if (W == 1) {
            // The 16 lanes of a strip have one token; with V a multiple of 16 all of them are here.
            const u32 mask = 0xffffu << (lane_id() & 16);
#pragma unroll
            for (int j = 8; j > 0; j /= 2) best = max(best, __shfl_xor_sync(mask, best, j));
            if (lane_id() % 16) return;
        }
        // A maximum has no order: the bits are the same whoever comes first.
        atomicMax(bests + s, best);
    }
};

#define ENTRY(NAME, SHAPE, FORMAT, T)                                                                      \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                     \
        NAME(FORMAT##_PARAMS(T), const int* rows, float* logits, u64* bests, int S, int V, int D) {        \
        SHAPE::run(FORMAT##_PRODUCT(T, S, V, D, rows), Logits{logits, bests, V});                          \
    }

#define LM_HEAD(NAME, T)       \
    SHAPES(NAME, FLOATS, T)    \
    SHAPES(NAME##_w8a16, W8A16, T)

LM_HEAD(lm_head_bf16, bf16)
LM_HEAD(lm_head_f16, f16)
