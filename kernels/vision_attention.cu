// vision_attention: y = softmax(q k^T / sqrt(d)) v within each segment of rows; d = 80, no mask. Arch: compute_80.
//
// Entries   vision_attention_bf16_d80, vision_attention_f16_d80
// Operands  qkv T [P, 3 H d] read: q, k, v side by side; cu_seqlens i32 [segments + 1] read, ascending (a segment may be empty);
//           y T [P, H d] write: rows of segments. i32 segments, H, P.
// Needs     qkv and y 16-byte aligned.
// Launch    grid (ceil(P / 128) + segments, H), 128 threads, 44 KiB static shared memory. A CTA is one head and 128 queries of one
//           segment; CTAs that are left over leave at once.
// Numerics  products on mma.sync, f32 accumulation; online softmax over tiles of 64 keys, the segment's last tile first; weights are
//           rounded to T before they meet v, their sum is of the unrounded ones. Bits of a row depend on its segment alone.
// Cost      reads qkv once per 128 queries of a segment (through L2), writes y once; 160 mma per warp and tile.
// Reference VisionAttention::reference
#include "attention.cuh"

constexpr int HEAD = 80;
constexpr int QUERIES = 128;
constexpr int THREADS = 128;
constexpr int ROW = HEAD * 2;
// 11 chunks of 16 bytes, an odd number: the 8 rows that ldmatrix reads at once lie in different banks.
constexpr int STRIDE = ROW + 16;
constexpr int TILE = KEYS * STRIDE;
constexpr int STAGE = 2 * TILE;
constexpr float C = LOG2_E * 0.11180339887498949f;  // 1 / sqrt(80)
static_assert(QUERIES * STRIDE <= STAGE, "the queries pass through the second stage");

// Rows first..end are the segment; the CTA's queries start at row `query`.
struct Work {
    int first, end, query;
};

// Numbers the query tiles of all segments and finds the one of this CTA, 32 segments at a time; a surplus CTA gets query = end.
__device__ __forceinline__ Work find_work(const int* __restrict__ cu_seqlens, int segments) {
    int tile = blockIdx.x;
    for (int base = 0; base < segments; base += WARP) {
        const int segment = base + lane_id();
        const int first = segment < segments ? cu_seqlens[segment] : 0;
        const int end = segment < segments ? cu_seqlens[segment + 1] : 0;
        const int tiles = ceil_div(end - first, QUERIES);
        int until = tiles;
#pragma unroll
        for (int i = 1; i < WARP; i *= 2) {
            const int lower = __shfl_up_sync(ALL, until, i);
            if (lane_id() >= i) until += lower;
        }
        const u32 reached = __ballot_sync(ALL, tile < until);
        if (reached != 0) {
            const int owner = __ffs(reached) - 1;
            tile -= __shfl_sync(ALL, until - tiles, owner);
            const int start = __shfl_sync(ALL, first, owner);
            return {start, __shfl_sync(ALL, end, owner), start + tile * QUERIES};
        }
        tile -= __shfl_sync(ALL, until, WARP - 1);
    }
    return {0, 0, 0};
}

// This thread's half of one row: chunks 0, 2, .. or 1, 3, .., so that two threads fill a sector.
__device__ __forceinline__ void copy_row(u32 to, const u8* from, bool there) {
#pragma unroll
    for (int i = 0; i < ROW / 32; i++) cp_async_16(to + 32 * i, from + 32 * i, there ? 16 : 0);
}

// The row of a tile that a thread copies. Eight threads that write together take every other row: no bank twice.
__device__ __forceinline__ int copied_row() {
    const int pair = threadIdx.x / 2;
    return (pair & ~7) | (pair & 3) << 1 | (pair >> 2 & 1);
}

// What a warp keeps of its 2 x 16 queries.
template <class T>
struct Queries {
    u32 q[2][HEAD / 16][4];
    float o[2][HEAD / 8][4] = {};
    Softmax softmax[2];

    // From shared memory, this lane's ldmatrix address.
    __device__ __forceinline__ void load(u32 at) {
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int k = 0; k < HEAD / 16; k++) ldmatrix_x4(q[m][k], at + m * 16 * STRIDE + k * 32);
        }
    }

    // One tile, of which `keys` count if it is the first. The addresses are this lane's for ldmatrix.
    template <bool first>
    __device__ __forceinline__ void attend(u32 k_at, u32 v_at, int keys) {
        float s[2][KEYS / 8][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                u32 b[4];
                ldmatrix_x4(b, k_at + n * 16 * STRIDE + k * 32);
#pragma unroll
                for (int m = 0; m < 2; m++) mma_pair<T>(s[m][2 * n], s[m][2 * n + 1], q[m][k], b);
            }
        }
        u32 p[2][KEYS / 16][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            if (first) mask(s[m], keys, keys);
            float factor[2];
            step<T>(softmax[m], p[m], factor, s[m], C);
            // After the first tiles a maximum seldom moves.
            if (!first && __any_sync(ALL, factor[0] != 1.0f || factor[1] != 1.0f)) scale(o[m], factor);
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
            for (int n = 0; n < HEAD / 16; n++) {
                u32 b[4];
                ldmatrix_x4_trans(b, v_at + k * 16 * STRIDE + n * 32);
#pragma unroll
                for (int m = 0; m < 2; m++) mma_pair<T>(o[m][2 * n], o[m][2 * n + 1], p[m][k], b);
            }
        }
    }

    // The outputs into shared memory, `to` the warp's 32 rows.
    __device__ __forceinline__ void store(u8* to) const {
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float factor = inverse(quad_sum(softmax[m].sum[r]));
                u8* row = to + (16 * m + 8 * r + lane_id() / 4) * STRIDE + lane_id() % 4 * 4;
#pragma unroll
                for (int n = 0; n < HEAD / 8; n++) {
                    const u32 pair = T::pack(o[m][n][2 * r] * factor, o[m][n][2 * r + 1] * factor);
                    *reinterpret_cast<u32*>(row + 16 * n) = pair;
                }
            }
        }
    }
};

template <class T>
__device__ __forceinline__ void vision_attention(const T* __restrict__ qkv, const int* __restrict__ cu_seqlens,
                                                 T* __restrict__ y, int segments, int heads) {
    __shared__ __align__(16) u8 shared[2 * STAGE];
    __shared__ Work work;
    if (warp_id() == 0) work = find_work(cu_seqlens, segments);
    __syncthreads();
    if (work.query >= work.end) return;

    const u64 stride = 3ull * heads * ROW;
    const u64 part = static_cast<u64>(heads) * ROW;
    const int row = copied_row(), half = threadIdx.x % 2 * 16;
    const u8* head = reinterpret_cast<const u8*>(qkv) + blockIdx.y * ROW + half;
    const u32 to = shared_address(shared) + row * STRIDE + half;

    const u8* q = head + (work.query + row) * stride;
#pragma unroll
    for (int i = 0; i < QUERIES; i += KEYS) {
        copy_row(to + STAGE + i * STRIDE, q + i * stride, work.query + row + i < work.end);
    }
    cp_async_commit();
    // From the last tile, which may be partial, to the first: the loop has no masks and no bounds.
    const int keys = work.end - work.first;
    int tile = (keys - 1) / KEYS;
    const int last = keys - tile * KEYS;
    const u8* k = head + part + (work.first + tile * KEYS + row) * stride;
    const auto copy_tile = [&](u32 stage, bool there) {
        copy_row(to + stage, k, there);
        copy_row(to + stage + TILE, k + part, there);
        cp_async_commit();
        k -= KEYS * stride;
    };
    copy_tile(0, row < last);

    // Lane 8i + r points at row r of matrix i. Queries and values: rows go on in matrix 1, columns in matrix 2; keys the other way.
    const int i = lane_id() / 8, r = lane_id() % 8;
    const u32 down = shared_address(shared) + (r + i % 2 * 8) * STRIDE + i / 2 * 16;
    const u32 right = shared_address(shared) + (r + i / 2 * 8) * STRIDE + i % 2 * 16;
    Queries<T> queries;
    cp_async_wait<0>();
    __syncthreads();
    queries.load(down + STAGE + warp_id() * 32 * STRIDE);
    __syncthreads();
    if (tile > 0) copy_tile(STAGE, true);
    queries.template attend<true>(right, down + TILE, last);
    u32 stage = 0;
    while (--tile >= 0) {
        stage ^= STAGE;
        cp_async_wait<0>();
        __syncthreads();
        if (tile > 0) copy_tile(stage ^ STAGE, true);
        queries.template attend<false>(right + stage, down + stage + TILE, KEYS);
    }

    // Through shared memory, for whole sectors. The stage that was not read last is free for all warps.
    u8* out = shared + (stage ^ STAGE) + warp_id() * 32 * STRIDE;
    queries.store(out);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 32; i += 16) {
        const int query = i + row % 16, at = work.query + warp_id() * 32 + query;
        if (at >= work.end) continue;
        u8* to = reinterpret_cast<u8*>(y) + (static_cast<u64>(at) * heads + blockIdx.y) * ROW + half;
        const u8* from = out + query * STRIDE + half;
#pragma unroll
        for (int j = 0; j < ROW; j += 32) *reinterpret_cast<uint4*>(to + j) = *reinterpret_cast<const uint4*>(from + j);
    }
}

#define ENTRY(name, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const T* qkv, const int* cu_seqlens, T* y, int segments, \
                                                               int heads, int) {                                         \
        vision_attention<T>(qkv, cu_seqlens, y, segments, heads);                                                        \
    }
ENTRY(vision_attention_bf16_d80, bf16)
ENTRY(vision_attention_f16_d80, f16)
