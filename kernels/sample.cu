// sample: ids[s] drawn from logits[s], or -1 if a logit is NaN or infinite; marks the token as seen.
//
// Operands  logits f32 [S, V], bests u64 [S] (the best candidate of each row, from lm_head; zero after),
//           reals f32 [S, 4] (temperature, top-p, min-p, repetition penalty),
//           ints i32 [S, 5] (top-k, row of `seen`, seed low and high, counter), seen u8 [rows, V] updated, ids i32 [S] written; V
// Entry     sample
// Launch    one block of 1024 threads per row
// Numerics  Every filter keeps a beginning of the tokens in falling order (ties by id), so no list is sorted: the token at which a running sum
//           passes a bound is found by its digits, from sums per digit. Probabilities are integers, 2^40 for the most probable token: their
//           sums have no order, and the draw has the same bits on every device.
// Cost      nothing of the logits when greedy without a penalty; each filter and the draw read them three more times, out of L2
// Source    Philox 4x32-10: Salmon et al. 2011; the penalty: Keskar et al. 2019

#include "common.cuh"

namespace {

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / WARP;
constexpr int BINS = 2048;
constexpr float ONE = 1099511627776.0f;  // 2^40
constexpr float LARGEST = 3.402823466e38f;
constexpr float LOG2E = 1.4426950408889634f;

struct Shared {
    u64 bins[BINS];
    u64 sums[WARPS];
    u64 above;
    u32 digit;
};

// One row's logits after the penalty.
struct Row {
    const float* logits;
    const u8* seen;
    float penalty;
    int V;

    __device__ __forceinline__ float operator[](int i) const {
        const float x = logits[i];
        if (penalty == 1.0f || !seen[i]) return x;
        return x > 0.0f ? x / penalty : x * penalty;
    }
};

// How much a token counts: as one.
struct Count {
    __device__ __forceinline__ u64 operator()(float) const { return 1; }
};

// How much a token counts: its probability, the best one's being 2^40.
struct Mass {
    float best, scale;
    __device__ __forceinline__ float relative(float x) const { return ex2_approx((x - best) * scale); }
    __device__ __forceinline__ u64 operator()(float x) const { return static_cast<u64>(relative(x) * ONE); }
};

// The sum of u64 over the block, in every thread.
__device__ __forceinline__ u64 block_sum(u64 x, Shared& shared) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    if (lane_id() == 0) shared.sums[warp_id()] = x;
    __syncthreads();
    u64 sum = 0;
    for (int i = 0; i < WARPS; ++i) sum += shared.sums[i];
    __syncthreads();
    return sum;
}

// The sums of all threads before this one.
__device__ __forceinline__ u64 block_sum_before(u64 x, Shared& shared) {
    u64 sum = x;
#pragma unroll
    for (int i = 1; i < WARP; i *= 2) {
        const u64 other = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane_id() >= i) sum += other;
    }
    if (lane_id() == WARP - 1) shared.sums[warp_id()] = sum;
    __syncthreads();
    for (int i = 0; i < warp_id(); ++i) sum += shared.sums[i];
    __syncthreads();
    return sum - x;
}

// A place in the falling order: tokens of this key, of which `above` in total stand before.
struct Place {
    u32 key;
    u64 above;
};

// Where the running sum in falling order first exceeds `bound`, which is below the sum of all.
template <class Weight>
__device__ Place find(const Row& row, const Weight& weight, u64 bound, Shared& shared) {
    u32 known = 0;
    u64 above = 0;
    for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {  // digits of 11, 11 and 10 bits, from the top
        const int width = shift == 0 ? 10 : 11;
        for (int i = threadIdx.x; i < BINS; i += THREADS) shared.bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < row.V; i += THREADS) {
            const float x = row[i];
            const u32 key = ordered(x);
            if (shift == 21 || key >> (shift + width) == known) {
                atomicAdd(&shared.bins[key >> shift & ((1u << width) - 1)], weight(x));
            }
        }
        __syncthreads();
        const int top = BINS - 1 - 2 * threadIdx.x;
        const u64 first = shared.bins[top], second = shared.bins[top - 1];
        const u64 before = above + block_sum_before(first + second, shared);
        if (before <= bound && bound < before + first + second) {
            const bool in_first = bound < before + first;
            shared.digit = in_first ? top : top - 1;
            shared.above = in_first ? before : before + first;
        }
        __syncthreads();
        known = known << width | shared.digit;
        above = shared.above;
        __syncthreads();
    }
    return {known, above};
}

// The sum over tokens from a key on.
template <class Weight>
__device__ u64 sum_from(const Row& row, const Weight& weight, u32 key, Shared& shared) {
    u64 sum = 0;
    for (int i = threadIdx.x; i < row.V; i += THREADS) {
        const float x = row[i];
        if (ordered(x) >= key) sum += weight(x);
    }
    return block_sum(sum, shared);
}

// The id of token number `rank` of a key, counted by id. A warp has a run of ids.
__device__ int id_of(const Row& row, u32 key, u64 rank, Shared& shared) {
    const int per_warp = ceil_div(row.V, THREADS) * WARP;
    const int first = warp_id() * per_warp, end = min(first + per_warp, row.V);
    auto of_key = [&](int i) { return __ballot_sync(0xffffffffu, i < end && ordered(row[i]) == key); };
    u64 mine = 0;
    for (int i = first; i < end; i += WARP) mine += __popc(of_key(i + lane_id()));
    u64 before = __shfl_sync(0xffffffffu, block_sum_before(lane_id() == 0 ? mine : 0, shared), 0);
    if (before <= rank && rank < before + mine) {
        for (int i = first; i < end; i += WARP) {
            const u32 found = of_key(i + lane_id()), lower = found & ((1u << lane_id()) - 1);
            if (found >> lane_id() & 1 && before + __popc(lower) == rank) shared.digit = i + lane_id();
            before += __popc(found);
        }
    }
    __syncthreads();
    return static_cast<int>(shared.digit);
}

// The best candidate of a row.
__device__ u64 find_best(const Row& row, Shared& shared) {
    u64 best = 0;
    for (int i = threadIdx.x; i < row.V; i += THREADS) best = max(best, candidate(row[i], i));
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, i));
    if (lane_id() == 0) shared.sums[warp_id()] = best;
    __syncthreads();
    for (int i = 0; i < WARPS; ++i) best = max(best, shared.sums[i]);
    __syncthreads();
    return best;
}

// 64 bits of which the upper 53 are a number in 0..1, from the first two words of Philox.
__device__ u64 uniform(u32 seed_low, u32 seed_high, u32 counter) {
    u32 c[4] = {counter, 0, 0, 0}, k[2] = {seed_low, seed_high};
    for (int i = 0; i < 10; ++i) {
        const u64 a = static_cast<u64>(c[0]) * 0xD2511F53u, b = static_cast<u64>(c[2]) * 0xCD9E8D57u;
        const u32 next0 = static_cast<u32>(b >> 32) ^ c[1] ^ k[0], next2 = static_cast<u32>(a >> 32) ^ c[3] ^ k[1];
        c[0] = next0, c[1] = static_cast<u32>(b), c[2] = next2, c[3] = static_cast<u32>(a);
        k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
    }
    return (static_cast<u64>(c[0]) << 32 | c[1]) >> 11 << 11;
}

struct Filters {
    float top_p, min_p;
    int top_k;
};

// The sum of what the filters keep: each keeps a beginning of the order, so the least of their sums is that of all together.
__device__ u64 kept_mass(const Row& row, const Mass& mass, const Filters& f, Shared& shared) {
    u32 last = 0;
    if (f.top_k > 0 && f.top_k < row.V) last = find(row, Count{}, f.top_k - 1, shared).key;
    u64 kept = sum_from(row, mass, last, shared);
    if (f.top_p < 1.0f) {
        // The fewest tokens whose sum reaches the share, at least one.
        const u64 reach = max(static_cast<u64>(ceil(static_cast<double>(f.top_p) * static_cast<double>(kept))), 1ull);
        const Place at = find(row, mass, reach - 1, shared);
        const u64 each = mass(from_ordered(at.key));
        kept = at.above + ceil_div(reach - at.above, each) * each;
    }
    if (f.min_p > 0.0f) {
        u64 sum = 0;
        for (int i = threadIdx.x; i < row.V; i += THREADS) {
            const float x = row[i];
            if (mass.relative(x) >= f.min_p) sum += mass(x);
        }
        kept = min(kept, block_sum(sum, shared));
    }
    return kept;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
    sample(const float* logits, u64* bests, const float* reals, const int* ints, u8* seen, int* ids, int V) {
    __shared__ Shared shared;
    const size_t s = blockIdx.x;
    const float* real = reals + 4 * s;
    const int* whole = ints + 5 * s;
    u8* marks = seen + static_cast<size_t>(whole[1]) * V;
    const Row row{logits + s * V, marks, real[3], V};
    const float temperature = real[0];
    const int top_k = whole[0];
    const u64 best = row.penalty == 1.0f ? bests[s] : find_best(row, shared);
    const u32 key = static_cast<u32>(best >> 32);
    int id = key == UNUSABLE ? -1 : candidate_id(best);
    if (id >= 0 && temperature > 0.0f && top_k != 1) {
        const Mass mass{from_ordered(key), fminf(LOG2E / temperature, LARGEST)};
        const u64 kept = kept_mass(row, mass, {real[1], real[2], top_k}, shared);
        const u64 bound = __umul64hi(uniform(whole[2], whole[3], whole[4]), kept);
        const Place at = find(row, mass, bound, shared);
        id = id_of(row, at.key, (bound - at.above) / mass(from_ordered(at.key)), shared);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        ids[s] = id;
        bests[s] = 0;
        if (id >= 0) marks[id] = 1;
    }
}
