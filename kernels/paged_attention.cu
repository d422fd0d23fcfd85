// paged_attention: row t sees the first visible[t] keys of its sequence; d = 128, grouped queries, paged cache. Arch: compute_80.
//
// Entries   paged_attention_{bf16,f16}[_kv8]_d128_{prefill,decode}
// Operands  q T [T, H d] read; k, v T [blocks, G, block, d] read; block_tables i32 [B, per_seq] read; seq_of_row, visible i32 [T] read;
//           y T [T, H d] write; decode only, else null: partials f32 [T H splits (d + 2)] update, counters i32 [T G] update, zero
//           before and after; _kv8: k, v s8, each followed by its scales f32 [blocks, G, block] (paged_cache.cuh). i32 T, H, G, block, per_seq. splits = ceil(per_seq block / 256).
// Needs     block a power of two, 16..64; H / G <= 16; 16-byte alignment; finite values up to a sequence's longest visible row.
// Launch    prefill: grid (ceil(T / 64), H), 128 threads, 80 KiB dynamic shared memory (_kv8: 66560 bytes); decode: grid (splits, G, T),
//           128 threads, 75008 bytes (59648). Units of keys that a row does not see leave at once; the last unit of a (row, kv head) combines them.
// Numerics  one arithmetic for both: online softmax over tiles of 64 keys in order, anew in each split of 256 keys, then the splits
//           in order. So a row's bits depend on its q, keys and length alone. Weights are rounded to T before they meet v.
//           visible 0 gives zeros.
// Cost      decode reads the visible keys and values once per kv head; prefill once per 64 rows and query head (through L2).
// Reference PagedAttention::reference
#include "paged_cache.cuh"

constexpr int THREADS = 128;
constexpr int QUERIES = 64;  // of a prefill CTA
constexpr float C = LOG2_E * 0.08838834764831845f;  // 1 / sqrt(128)

// A lane's two queries as A operands, in the order of the keys; a query that is not there is zeros.
template <class Cache>
__device__ __forceinline__ void load_queries(uint4 (&q)[HEAD / 16], const u8* low, const u8* high) {
    const uint4 zero = {0, 0, 0, 0};
    const int at = Cache::first();
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) {
        const uint4 a = low ? *reinterpret_cast<const uint4*>(low + at + Cache::offset(i)) : zero;
        const uint4 b = high ? *reinterpret_cast<const uint4*>(high + at + Cache::offset(i)) : zero;
        q[2 * i] = {a.x, b.x, a.y, b.y};
        q[2 * i + 1] = {a.z, b.z, a.w, b.w};
    }
}

// s = q k^T; queries(k) gives the operand of k16 step k, keys(j, i) this lane's eight elements of round i
// of keys 8j .. 8j + 8.
template <class T, class Queries, class Keys>
__device__ __forceinline__ void scores(float (&s)[KEYS / 8][4], const Queries& queries, const Keys& keys) {
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) {
        const uint4 q0 = queries(2 * i), q1 = queries(2 * i + 1);
        const u32 a0[4] = {q0.x, q0.y, q0.z, q0.w}, a1[4] = {q1.x, q1.y, q1.z, q1.w};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const uint4 b = keys(j, i);
            const u32 b0[2] = {b.x, b.y}, b1[2] = {b.z, b.w};
            T::mma(s[j], a0, b0);
            T::mma(s[j], a1, b1);
        }
    }
}

// Where a lane reads the keys of a tile, and where it points ldmatrix for its values.
template <class Cache>
__device__ __forceinline__ u32 keys_at(u32 tile) {
    return tile + Cache::turned(lane_id() / 4, Cache::first() / 16);
}
template <class Cache>
__device__ __forceinline__ u32 values_at(u32 tile) {
    return tile + Cache::turned(lane_id() % 16, lane_id() / 16);
}

// o += p v for k16 step k of a tile, columns from `values` on.
template <class T, int N>
__device__ __forceinline__ void accumulate(float (&o)[N][4], const u32 (&p)[4], u32 values, int k) {
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
        u32 b[4];
        ldmatrix_x4_trans(b, right(values, 32 * n) + k * 16 * ROW);
        mma_pair<T>(o[2 * n], o[2 * n + 1], p, b);
    }
}

// What a prefill warp keeps of its 16 queries: the split under way and the splits before it.
template <class T>
struct Rows {
    float o[HEAD / 8][4] = {};
    Softmax softmax;
    float total[HEAD / 8][4] = {};
    Softmax totals;  // its sums are of all keys

    // One tile of scores meets its values.
    __device__ __forceinline__ void attend(const float (&s)[KEYS / 8][4], u32 values) {
        u32 p[KEYS / 16][4];
        float factor[2];
        step<T>(softmax, p, factor, s, C);
        scale(o, factor);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) accumulate<T>(o, p[k], values, k);
    }

    // Ends a split.
    __device__ __forceinline__ void fold() {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const Join join(totals.max[r], softmax.max[r], C);
            totals.sum[r] = join(totals.sum[r], quad_sum(softmax.sum[r]));
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    total[n][i] = join(total[n][i], o[n][i]);
                    o[n][i] = 0.0f;
                }
            }
        }
        softmax = Softmax();
    }

    // The outputs into shared memory, turned as a tile of the cache is; `to` is 16 rows.
    template <class Cache>
    __device__ __forceinline__ void store(u8* to) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float factor = inverse(totals.sum[r]);
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                u8* at = to + Cache::turned(8 * r + lane_id() / 4, n) + lane_id() % 4 * 4;
                *reinterpret_cast<u32*>(at) = T::pack(total[n][2 * r] * factor, total[n][2 * r + 1] * factor);
            }
        }
    }
};

// Rows first..end are of one sequence, and see at most its first `keys` keys.
struct Run {
    int first, end, keys;
};

// The run that begins at row `first`; a whole warp asks.
__device__ __forceinline__ Run find_run(const int* __restrict__ seq_of_row, const int* __restrict__ visible, int first, int bottom) {
    const int sequence = seq_of_row[first];
    int end = first, keys = 0;
    for (int same = WARP; same == WARP; end += same) {
        const int row = end + lane_id();
        const bool ours = row < bottom && seq_of_row[row] == sequence;
        same = __ffs(~__ballot_sync(ALL, ours)) - 1;
        if (same < 0) same = WARP;
        if (lane_id() < same) keys = max(keys, visible[row]);
    }
    return {first, end, __reduce_max_sync(ALL, keys)};
}

template <class T, class Cache>
__device__ __forceinline__ void prefill(const T* __restrict__ q, const Cache& cache, const int* __restrict__ block_tables, const int* __restrict__ seq_of_row,
                                        const int* __restrict__ visible, T* __restrict__ y, int rows, int heads, int groups,
                                        int block, int per_seq) {
    extern __shared__ __align__(256) u8 shared[];
    const int head = blockIdx.y;
    // Late rows see most: their CTAs start first.
    const int top = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const int bottom = min(rows, top + QUERIES);
    const int mine = top + warp_id() * 16 + lane_id() / 4;
    const auto row_of = [&](int row) { return (static_cast<u64>(row) * heads + head) * ROW; };

    // Queries wait in shared memory, where each lane reads what it wrote: registers are for the sums.
    const u32 queries = shared_address(shared) + Cache::STAGES + threadIdx.x * 16;
    {
        uint4 a[HEAD / 16];
        const u8* from = reinterpret_cast<const u8*>(q);
        load_queries<Cache>(a, mine < rows ? from + row_of(mine) : nullptr, mine + 8 < rows ? from + row_of(mine + 8) : nullptr);
#pragma unroll
        for (int i = 0; i < HEAD / 16; i++) *reinterpret_cast<uint4*>(shared + Cache::STAGES + (i * THREADS + threadIdx.x) * 16) = a[i];
    }
    Rows<T> state;
    __shared__ Run run;
    const auto sees = [&](int row) { return run.first <= row && row < run.end ? visible[row] : 0; };
    for (int first = top; first < bottom; first = run.end) {
        __syncthreads();
        if (warp_id() == 0) run = find_run(seq_of_row, visible, first, bottom);
        __syncthreads();
        const int keys = run.keys;
        const int least = __reduce_min_sync(ALL, min(sees(mine), sees(mine + 8)));
        const int most = __reduce_max_sync(ALL, max(sees(mine), sees(mine + 8)));
        const typename Cache::Rows pages(block_tables + static_cast<u64>(seq_of_row[first]) * per_seq, block, groups, head / (heads / groups));
        const auto fetch = [&](int stage, int from) {
            cache.fetch(shared, stage, pages, from, keys);
            cp_async_commit();
        };
        int stage = 0;
        if (keys > 0) fetch(stage, 0);
        for (int split = 0; split < keys; split += SPLIT) {
            const int last = min(keys, split + SPLIT);
            for (int from = split; from < last; from += KEYS, stage ^= 1) {
                cp_async_wait<0>();
                __syncthreads();
                const u32 tile = cache.open(shared, stage);
                if (from + KEYS < keys) fetch(stage ^ 1, from + KEYS);
                // A tile that a row does not see leaves its sums as they are, bit for bit: weights are 0, factors are 1.
                if (from >= most) continue;
                float s[KEYS / 8][4] = {};
                scores<T>(s, [&](int k) { return ld_shared(queries + k * THREADS * 16); },
                          [&](int j, int i) { return ld_shared(right(keys_at<Cache>(tile), Cache::offset(i)) + j * 8 * ROW); });
                cache.scale(s, shared, stage);
                if (from + KEYS > least) mask(s, sees(mine) - from, sees(mine + 8) - from);
                state.attend(s, values_at<Cache>(tile + TILE));
            }
            state.fold();
        }
    }

    __syncthreads();
    u8* out = shared + warp_id() * 16 * ROW;
    state.template store<Cache>(out);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
        const int row = i + lane_id() / 16, chunk = lane_id() % 16, at = top + warp_id() * 16 + row;
        if (at >= rows) break;
        u8* to = reinterpret_cast<u8*>(y) + row_of(at) + chunk * 16;
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(out + Cache::turned(row, chunk));
    }
}

// What the warps of a decode CTA tell each other.
template <class Cache>
struct Exchange {
    u8 values[Cache::VALUES];
    uint4 weights[SPLIT / KEYS][KEYS / 16][WARP];  // A operands
    float max[SPLIT / KEYS][16];
    float2 sum[SPLIT / KEYS][WARP];
};
static_assert(sizeof(Exchange<FloatCache<bf16>>) == 75008 && sizeof(Exchange<Int8Cache<bf16>>) == 59648, "the launch states it");
static_assert(Int8Cache<bf16>::STAGES + QUERIES * ROW == 66560, "the launch states it");

// Scores of one tile, of which `sees` keys count, from key `first` on. Keys come straight from global memory, each once: all of them are
// under way before the first product, since no load sinks below the barrier.
template <class T, class Cache>
__device__ __forceinline__ void decode_scores(float (&s)[KEYS / 8][4], const uint4 (&q)[HEAD / 16], const Cache& cache,
                                              const typename Cache::Rows& pages, int first, int sees) {
    const typename Cache::Keys keys(cache, pages, first, sees);
    __syncwarp();
    scores<T>(s, [&](int k) { return q[k]; }, keys);
    keys.scale(s);
    mask(s, sees, sees);
}

// The output of all tiles in order, of which a warp has 32 columns.
template <class T, class Cache>
__device__ __forceinline__ void decode_output(float (&o)[4][4], Softmax& softmax, Exchange<Cache>& exchange, const Cache& cache, int tiles) {
    const int g = lane_id() / 4;
    for (int tile = 0; tile < tiles; tile++) {
        float factor[2];
        const float2 sum = exchange.sum[tile][lane_id()];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            factor[r] = advance(softmax.max[r], exchange.max[tile][g + 8 * r], C);
            softmax.sum[r] = __fmaf_rn(softmax.sum[r], factor[r], r ? sum.y : sum.x);
        }
        scale(o, factor);
        const u32 values = right(values_at<Cache>(cache.open_values(exchange.values, tile)), 64 * warp_id());
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            const uint4 p = exchange.weights[tile][i][lane_id()];
            const u32 a[4] = {p.x, p.y, p.z, p.w};
            accumulate<T>(o, a, values, i);
        }
    }
}

// Where the parts of a (row, head) lie: unnormalised outputs of all splits, then their (max, sum).
struct Partials {
    float4* outputs;
    float2* statistics;

    __device__ __forceinline__ Partials(float* partials, u64 rows, u64 heads, u64 row, u64 head) {
        const u64 first = (row * heads + head) * gridDim.x;
        outputs = reinterpret_cast<float4*>(partials + first * HEAD);
        statistics = reinterpret_cast<float2*>(partials + rows * heads * gridDim.x * HEAD) + first;
    }
};

// A warp joins the splits of one (row, head) in order and writes its row of y. Other blocks wrote them: reads go to L2.
template <class T>
__device__ __forceinline__ void combine(T* y, const Partials& from, int splits) {
    float max = LOWEST, sum = 0.0f;
    float4 o = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
    for (int s = 0; s < splits; s++) {
        const float2 statistics = __ldcg(from.statistics + s);
        const float4 part = __ldcg(from.outputs + s * (HEAD / 4) + lane_id());
        const Join join(max, statistics.x, C);
        sum = join(sum, statistics.y);
        o = {join(o.x, part.x), join(o.y, part.y), join(o.z, part.z), join(o.w, part.w)};
    }
    const float factor = inverse(sum);
    reinterpret_cast<uint2*>(y)[lane_id()] = {T::pack(o.x * factor, o.y * factor), T::pack(o.z * factor, o.w * factor)};
}

template <class T, class Cache>
__device__ __forceinline__ void decode(const T* __restrict__ q, const Cache& cache, const int* __restrict__ block_tables, const int* __restrict__ seq_of_row,
                                       const int* __restrict__ visible, T* __restrict__ y, float* partials, int* counters,
                                       int rows, int heads, int groups, int block, int per_seq) {
    extern __shared__ __align__(256) u8 shared[];
    Exchange<Cache>& exchange = *reinterpret_cast<Exchange<Cache>*>(shared);
    const int split = blockIdx.x, group = blockIdx.y, row = blockIdx.z;
    const int splits = max(1, ceil_div(visible[row], SPLIT));
    if (split >= splits) return;

    const int keys = min(visible[row] - split * SPLIT, SPLIT), tiles = ceil_div(keys, KEYS);
    const int per_group = heads / groups, head = group * per_group;
    const int lane = lane_id(), warp = warp_id(), g = lane / 4;
    __shared__ int table[SPLIT / 16];
    if (threadIdx.x < ceil_div(keys, block)) {
        table[threadIdx.x] = block_tables[static_cast<u64>(seq_of_row[row]) * per_seq + split * SPLIT / block + threadIdx.x];
    }
    __syncthreads();
    const typename Cache::Rows pages(table, block, groups, group);
    cache.fetch_values(exchange.values, pages, keys);
    cp_async_commit();

    // Each warp has a tile's scores; its weights need the maximum up to there.
    float s[KEYS / 8][4] = {}, max[2];
    if (warp < tiles) {
        uint4 a[HEAD / 16];
        const u8* low = reinterpret_cast<const u8*>(q) + (static_cast<u64>(row) * heads + head + g) * ROW;
        load_queries<Cache>(a, g < per_group ? low : nullptr, g + 8 < per_group ? low + 8 * ROW : nullptr);
        decode_scores<T>(s, a, cache, pages, warp * KEYS, keys - warp * KEYS);
        tile_max(max, s);
        if (lane % 4 == 0) exchange.max[warp][g] = max[0], exchange.max[warp][g + 8] = max[1];
    }
    __syncthreads();
    if (warp < tiles) {
#pragma unroll
        for (int tile = 0; tile < SPLIT / KEYS; tile++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if (tile < warp) max[r] = fmaxf(max[r], exchange.max[tile][g + 8 * r]);
            }
        }
        u32 p[KEYS / 16][4];
        float sum[2];
        weights<T>(p, sum, s, max, C);
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) exchange.weights[warp][i][lane] = {p[i][0], p[i][1], p[i][2], p[i][3]};
        exchange.sum[warp][lane] = {sum[0], sum[1]};
    }
    cp_async_wait<0>();
    __syncthreads();

    float o[4][4] = {};
    Softmax softmax;
    decode_output<T>(o, softmax, exchange, cache, tiles);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = quad_sum(softmax.sum[r]);
        if (g + 8 * r >= per_group) continue;
        const Partials to(partials, rows, heads, row, head + g + 8 * r);
        float2* at = reinterpret_cast<float2*>(to.outputs + split * (HEAD / 4)) + 16 * warp + lane % 4;
#pragma unroll
        for (int n = 0; n < 4; n++) at[4 * n] = {o[n][2 * r], o[n][2 * r + 1]};
        if (warp == 0 && lane % 4 == 0) to.statistics[split] = {softmax.max[r], sum};
    }

    // The last block of a (row, kv head) combines.
    if (!last_of(counters + row * groups + group, splits)) return;
    for (int i = head + warp; i < head + per_group; i += THREADS / WARP) {
        combine(y + (static_cast<u64>(row) * heads + i) * HEAD, Partials(partials, rows, heads, row, i), splits);
    }
}

#define ENTRIES(T, NAME, CACHE, ...)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME##_d128_prefill(                                                \
        const T* q, __VA_ARGS__, const int* block_tables, const int* seq_of_row, const int* visible, T* y, float*, int*,      \
        int rows, int heads, int groups, int block, int per_seq) {                                                            \
        prefill(q, CACHE, block_tables, seq_of_row, visible, y, rows, heads, groups, block, per_seq);                         \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME##_d128_decode(                                                 \
        const T* q, __VA_ARGS__, const int* block_tables, const int* seq_of_row, const int* visible, T* y, float* partials,   \
        int* counters, int rows, int heads, int groups, int block, int per_seq) {                                             \
        decode(q, CACHE, block_tables, seq_of_row, visible, y, partials, counters, rows, heads, groups, block, per_seq);      \
    }

#define INT8 const s8 *k, const float *k_scales, const s8 *v, const float *v_scales
ENTRIES(bf16, paged_attention_bf16, FloatCache<bf16>(k, v), const bf16* k, const bf16* v)
ENTRIES(f16, paged_attention_f16, FloatCache<f16>(k, v), const f16* k, const f16* v)
ENTRIES(bf16, paged_attention_bf16_kv8, (Int8Cache<bf16>{k, k_scales, v, v_scales}), INT8)
ENTRIES(f16, paged_attention_f16_kv8, (Int8Cache<f16>{k, k_scales, v, v_scales}), INT8)
