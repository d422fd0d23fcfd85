// paged_attention: row t sees the first visible[t] keys of its sequence; d = 128, grouped queries, paged cache. Arch: compute_80.
//
// Entries   paged_attention_{bf16,f16}_d128_{prefill,decode}
// Operands  q T [T, H d] read; k, v T [blocks, G, block, d] read; block_tables i32 [B, per_seq] read; seq_of_row, visible i32 [T] read;
//           y T [T, H d] write; decode only, else null: partials f32 [T H splits (d + 2)] update, counters i32 [T G] update, zero
//           before and after. i32 T, H, G, block, per_seq. splits = ceil(per_seq block / 256).
// Needs     block a power of two, 16..64; H / G <= 16; 16-byte alignment; finite values up to a sequence's longest visible row.
// Launch    prefill: grid (ceil(T / 64), H), 128 threads, 80 KiB dynamic shared memory; decode: grid (splits, G, T), 128 threads,
//           75008 bytes. Units of keys that a row does not see leave at once; the last unit of a (row, kv head) combines them.
// Numerics  one arithmetic for both: online softmax over tiles of 64 keys in order, anew in each split of 256 keys, then the splits
//           in order. So a row's bits depend on its q, keys and length alone. Weights are rounded to T before they meet v.
//           visible 0 gives zeros.
// Cost      decode reads the visible keys and values once per kv head; prefill once per 64 rows and query head (through L2).
// Reference PagedAttention::reference
#include "attention.cuh"

constexpr int HEAD = 128;
constexpr int ROW = HEAD * 2;
constexpr int THREADS = 128;
constexpr int QUERIES = 64;  // of a prefill CTA
constexpr int SPLIT = 256;
constexpr int TILE = KEYS * ROW;
constexpr int STAGE = 2 * TILE;
constexpr float C = LOG2_E * 0.08838834764831845f;  // 1 / sqrt(128)

// Where the keys, and likewise the values, of one sequence and kv head lie, in bytes.
struct Pages {
    const int* table;
    int shift;  // log2(block)
    u32 stride, start;

    __device__ __forceinline__ Pages(const int* table, int block, int groups, int group)
        : table(table), shift(__ffs(block) - 1), stride(groups * block * ROW), start(group * block * ROW) {}

    __device__ __forceinline__ u64 row(int key) const {
        const u64 block = static_cast<u32>(table[key >> shift]);
        return block * stride + (start + (key & ((1 << shift) - 1)) * ROW);
    }
};

// A tile in shared memory is 64 rows of 16 chunks; chunk c of row r lies at c ^ turn(r), the last three bits of r reversed. So neither
// four chunks of rows 2i and 2i + 1 (copies, keys) nor one chunk of eight rows (values) meet in a bank. Tiles are aligned to rows.
__device__ __forceinline__ u32 turned(int row, int chunk) { return row * ROW + (chunk ^ (__brev(row) >> 29)) * 16; }

// From a turned address to the chunk `bytes` further right, where that is an or of chunk numbers.
__device__ __forceinline__ u32 right(u32 at, int bytes) { return (at ^ bytes % 128) + (bytes & 128); }

// Copies 64 rows from key `first` on. From key `end` on stands the last one again: its weight will be 0, and 0 times it is 0.
__device__ __forceinline__ void copy_tile(u32 to, const u8* from, const Pages& pages, int first, int end) {
    const int row = threadIdx.x / 4, column = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < KEYS; i += 32) {
        const u8* source = from + pages.row(min(first + row + i, end - 1)) + column * 16;
#pragma unroll
        for (int j = 0; j < 4; j++) cp_async_16(to + right(turned(row, column), 64 * j) + i * ROW, source + 64 * j, 16);
    }
}

// A lane's two queries as A operands; a query that is not there is zeros. Of each 32 elements lane 4g + t has 8t .. 8t + 8, which serve
// as two k16 steps; keys are read in the same order.
__device__ __forceinline__ void load_queries(uint4 (&q)[HEAD / 16], const u8* low, const u8* high) {
    const uint4 zero = {0, 0, 0, 0};
    const int at = lane_id() % 4 * 16;
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) {
        const uint4 a = low ? *reinterpret_cast<const uint4*>(low + 64 * i + at) : zero;
        const uint4 b = high ? *reinterpret_cast<const uint4*>(high + 64 * i + at) : zero;
        q[2 * i] = {a.x, b.x, a.y, b.y};
        q[2 * i + 1] = {a.z, b.z, a.w, b.w};
    }
}

// s = q k^T; queries(k) gives the operand of k16 step k, keys(j, i) this lane's 16 bytes of keys 8j .. 8j + 8, elements 32i .. 32i + 32.
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
__device__ __forceinline__ u32 keys_at(u32 tile) { return tile + turned(lane_id() / 4, lane_id() % 4); }
__device__ __forceinline__ u32 values_at(u32 tile) { return tile + turned(lane_id() % 16, lane_id() / 16); }

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

    // The outputs into shared memory, turned as a tile is; `to` is 16 rows.
    __device__ __forceinline__ void store(u8* to) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float factor = inverse(totals.sum[r]);
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                u8* at = to + turned(8 * r + lane_id() / 4, n) + lane_id() % 4 * 4;
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

template <class T>
__device__ __forceinline__ void prefill(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                        const int* __restrict__ block_tables, const int* __restrict__ seq_of_row,
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
    const u32 queries = shared_address(shared) + 2 * STAGE + threadIdx.x * 16;
    {
        uint4 a[HEAD / 16];
        const u8* from = reinterpret_cast<const u8*>(q);
        load_queries(a, mine < rows ? from + row_of(mine) : nullptr, mine + 8 < rows ? from + row_of(mine + 8) : nullptr);
#pragma unroll
        for (int i = 0; i < HEAD / 16; i++) *reinterpret_cast<uint4*>(shared + 2 * STAGE + (i * THREADS + threadIdx.x) * 16) = a[i];
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
        const Pages pages(block_tables + static_cast<u64>(seq_of_row[first]) * per_seq, block, groups, head / (heads / groups));
        const auto copy = [&](u32 stage, int from) {
            copy_tile(shared_address(shared) + stage, reinterpret_cast<const u8*>(k), pages, from, keys);
            copy_tile(shared_address(shared) + stage + TILE, reinterpret_cast<const u8*>(v), pages, from, keys);
            cp_async_commit();
        };
        u32 stage = 0;
        if (keys > 0) copy(stage, 0);
        for (int split = 0; split < keys; split += SPLIT) {
            const int last = min(keys, split + SPLIT);
            for (int from = split; from < last; from += KEYS, stage ^= STAGE) {
                cp_async_wait<0>();
                __syncthreads();
                if (from + KEYS < keys) copy(stage ^ STAGE, from + KEYS);
                // A tile that a row does not see leaves its sums as they are, bit for bit: weights are 0, factors are 1.
                if (from >= most) continue;
                const u32 tile = shared_address(shared) + stage;
                float s[KEYS / 8][4] = {};
                scores<T>(s, [&](int k) { return ld_shared(queries + k * THREADS * 16); },
                          [&](int j, int i) { return ld_shared(right(keys_at(tile), 64 * i) + j * 8 * ROW); });
                if (from + KEYS > least) mask(s, sees(mine) - from, sees(mine + 8) - from);
                state.attend(s, values_at(tile + TILE));
            }
            state.fold();
        }
    }

    __syncthreads();
    u8* out = shared + warp_id() * 16 * ROW;
    state.store(out);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
        const int row = i + lane_id() / 16, chunk = lane_id() % 16, at = top + warp_id() * 16 + row;
        if (at >= rows) break;
        u8* to = reinterpret_cast<u8*>(y) + row_of(at) + chunk * 16;
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(out + turned(row, chunk));
    }
}

// What the warps of a decode CTA tell each other.
struct Exchange {
    u8 values[SPLIT * ROW];
    uint4 weights[SPLIT / KEYS][KEYS / 16][WARP];  // A operands
    float max[SPLIT / KEYS][16];
    float2 sum[SPLIT / KEYS][WARP];
};
static_assert(sizeof(Exchange) == 75008, "the launch states it");

// Scores of one tile, of which `sees` keys count, from key `first` on. Keys come straight from global memory, each once: all of them are
// under way before the first product, since no load sinks below the barrier.
template <class T>
__device__ __forceinline__ void decode_scores(float (&s)[KEYS / 8][4], const uint4 (&q)[HEAD / 16], const u8* k,
                                              const Pages& pages, int first, int sees) {
    uint4 keys[KEYS / 8][HEAD / 32];
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
        const u8* from = k + pages.row(first + min(8 * j + lane_id() / 4, sees - 1)) + lane_id() % 4 * 16;
#pragma unroll
        for (int i = 0; i < HEAD / 32; i++) keys[j][i] = ld_global_once(from + 64 * i);
    }
    __syncwarp();
    scores<T>(s, [&](int k) { return q[k]; }, [&](int j, int i) { return keys[j][i]; });
    mask(s, sees, sees);
}

// The output of all tiles in order, of which a warp has 32 columns.
template <class T>
__device__ __forceinline__ void decode_output(float (&o)[4][4], Softmax& softmax, const Exchange& exchange, int tiles) {
    const u32 values = right(values_at(shared_address(exchange.values)), 64 * warp_id());
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
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            const uint4 p = exchange.weights[tile][i][lane_id()];
            const u32 a[4] = {p.x, p.y, p.z, p.w};
            accumulate<T>(o, a, values + tile * TILE, i);
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

template <class T>
__device__ __forceinline__ void decode(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                       const int* __restrict__ block_tables, const int* __restrict__ seq_of_row,
                                       const int* __restrict__ visible, T* __restrict__ y, float* partials, int* counters,
                                       int rows, int heads, int groups, int block, int per_seq) {
    extern __shared__ __align__(256) u8 shared[];
    Exchange& exchange = *reinterpret_cast<Exchange*>(shared);
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
    const Pages pages(table, block, groups, group);
    for (int tile = 0; tile < tiles; tile++) {
        copy_tile(shared_address(exchange.values) + tile * TILE, reinterpret_cast<const u8*>(v), pages, tile * KEYS, keys);
    }
    cp_async_commit();

    // Each warp has a tile's scores; its weights need the maximum up to there.
    float s[KEYS / 8][4] = {}, max[2];
    if (warp < tiles) {
        uint4 a[HEAD / 16];
        const u8* low = reinterpret_cast<const u8*>(q) + (static_cast<u64>(row) * heads + head + g) * ROW;
        load_queries(a, g < per_group ? low : nullptr, g + 8 < per_group ? low + 8 * ROW : nullptr);
        decode_scores<T>(s, a, reinterpret_cast<const u8*>(k), pages, warp * KEYS, keys - warp * KEYS);
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
    decode_output<T>(o, softmax, exchange, tiles);
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

    // The last block of a (row, kv head) combines; fences on both sides of the counter order the parts before it.
    __threadfence();
    __syncthreads();
    __shared__ bool last;
    int* counter = counters + row * groups + group;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
    for (int i = head + warp; i < head + per_group; i += THREADS / WARP) {
        combine(y + (static_cast<u64>(row) * heads + i) * HEAD, Partials(partials, rows, heads, row, i), splits);
    }
}

#define ENTRY(T)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) paged_attention_##T##_d128_prefill(                                 \
        const T* q, const T* k, const T* v, const int* block_tables, const int* seq_of_row, const int* visible, T* y, float*, \
        int*, int rows, int heads, int groups, int block, int per_seq) {                                                      \
        prefill<T>(q, k, v, block_tables, seq_of_row, visible, y, rows, heads, groups, block, per_seq);                       \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) paged_attention_##T##_d128_decode(                                  \
        const T* q, const T* k, const T* v, const int* block_tables, const int* seq_of_row, const int* visible, T* y,         \
        float* partials, int* counters, int rows, int heads, int groups, int block, int per_seq) {                            \
        decode<T>(q, k, v, block_tables, seq_of_row, visible, y, partials, counters, rows, heads, groups, block, per_seq);    \
    }
ENTRY(bf16)
ENTRY(f16)
