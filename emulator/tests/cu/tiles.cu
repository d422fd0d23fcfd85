// Kernels in the style of the engine: tiles in shared memory, asynchronous copies, tensor cores. Every barrier in this
// file is needed, or the study of deletions (tests/faults/deletions.rs) says why not.

#include <cstdint>
#include <cuda_bf16.h>

constexpr unsigned ALL = 0xffffffff;

__device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ void copy_16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

__device__ void load_matrices(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void load_transposed(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ uint32_t pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

// out[x][y] = in[y][x], by tiles of 32 x 32 and blocks of 32 x 8.
extern "C" __global__ void transpose(const float *in, float *out, int rows, int columns) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32;
    for (int r = threadIdx.y; r < 32; r += 8) {
        if (x < columns && y + r < rows) tile[r][threadIdx.x] = in[(y + r) * columns + x];
    }
    __syncthreads();
    int column = y + threadIdx.x;
    for (int r = threadIdx.y; r < 32; r += 8) {
        int row = blockIdx.x * 32 + r;
        if (row < columns && column < rows) out[row * rows + column] = tile[threadIdx.x][r];
    }
}

// Sums of blocks of 256, all in shared memory.
extern "C" __global__ void reduce(const float *in, float *out) {
    __shared__ float sum[256];
    int i = threadIdx.x;
    sum[i] = in[blockIdx.x * 256 + i];
    __syncthreads();
    for (int d = 128; d > 0; d /= 2) {
        if (i < d) sum[i] += sum[i + d];
        __syncthreads();
    }
    if (i == 0) out[blockIdx.x] = sum[0];
}

// C = A B, 64 x 64 per block of four warps, K in steps of 32 through two buffers. A is m x k, B is k x n, both bf16 in rows.
extern "C" __global__ void __launch_bounds__(128) gemm(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n, int k) {
    __shared__ __align__(16) __nv_bfloat16 as[2][64][40], bs[2][32][72];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y * 64, column = blockIdx.x * 64;
    auto fetch = [&](int step) {
        for (int p = threadIdx.x; p < 256; p += 128) {
            copy_16(&as[step % 2][p / 4][p % 4 * 8], &a[(row + p / 4) * k + step * 32 + p % 4 * 8]);
            copy_16(&bs[step % 2][p / 8][p % 8 * 8], &b[(step * 32 + p / 8) * n + column + p % 8 * 8]);
        }
        commit();
    };
    float sum[8][4] = {};
    int steps = k / 32;
    fetch(0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            fetch(step + 1);
            wait<1>();
        } else {
            wait<0>();
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t x[4];
            load_matrices(x, &as[step % 2][warp * 16 + lane % 16][kk + lane / 16 * 8]);
            for (int j = 0; j < 8; j += 2) {
                uint32_t y[4];
                load_transposed(y, &bs[step % 2][kk + lane % 16][j * 8 + lane / 16 * 8]);
                multiply(sum[j], x, y[0], y[1]);
                multiply(sum[j + 1], x, y[2], y[3]);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++) {
        float *to = &c[(row + warp * 16 + lane / 4) * n + column + j * 8 + lane % 4 * 2];
        *(float2 *)to = make_float2(sum[j][0], sum[j][1]);
        *(float2 *)(to + 8 * n) = make_float2(sum[j][2], sum[j][3]);
    }
}

__device__ float warp_max(float v) {
    for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, d));
    return v;
}
__device__ float warp_sum(float v) {
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(ALL, v, d);
    return v;
}

// Softmax of rows, a block of 128 to each.
extern "C" __global__ void softmax(const float *in, float *out, int columns) {
    __shared__ float parts[4];
    int i = threadIdx.x, warp = i / 32;
    const float *row = in + blockIdx.x * columns;
    float most = -INFINITY, sum = 0;
    for (int c = i; c < columns; c += 128) most = fmaxf(most, row[c]);
    most = warp_max(most);
    if (i % 32 == 0) parts[warp] = most;
    __syncthreads();
    most = fmaxf(fmaxf(parts[0], parts[1]), fmaxf(parts[2], parts[3]));
    for (int c = i; c < columns; c += 128) sum += expf(row[c] - most);
    sum = warp_sum(sum);
    __syncthreads();
    if (i % 32 == 0) parts[warp] = sum;
    __syncthreads();
    sum = parts[0] + parts[1] + parts[2] + parts[3];
    for (int c = i; c < columns; c += 128) out[blockIdx.x * columns + c] = expf(row[c] - most) / sum;
}

// Attention of 64 queries of 64 numbers with `keys` (a multiple of 32) keys and values, by tiles of 32 keys, with the
// running maximum and sum of every row. A warp has 16 queries, in fragments; q, k, v are bf16, out is float.
extern "C" __global__ void __launch_bounds__(128)
    attention(const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, float *out, int keys, float scale) {
    __shared__ __align__(16) __nv_bfloat16 qs[64][72], ks[32][72], vs[32][72];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int p = threadIdx.x; p < 512; p += 128) copy_16(&qs[p / 8][p % 8 * 8], &q[p * 8]);
    float sum[8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    for (int first = 0; first < keys; first += 32) {
        for (int p = threadIdx.x; p < 256; p += 128) {
            copy_16(&ks[p / 8][p % 8 * 8], &k[first * 64 + p * 8]);
            copy_16(&vs[p / 8][p % 8 * 8], &v[first * 64 + p * 8]);
        }
        commit();
        wait<0>();
        __syncthreads();
        float s[4][4] = {};
        for (int d = 0; d < 64; d += 16) {
            uint32_t x[4];
            load_matrices(x, &qs[warp * 16 + lane % 16][d + lane / 16 * 8]);
            for (int j = 0; j < 4; j += 2) {
                uint32_t y[4];
                load_matrices(y, &ks[j * 8 + lane % 8 + lane / 16 * 8][d + lane / 8 % 2 * 8]);
                multiply(s[j], x, y[0], y[1]);
                multiply(s[j + 1], x, y[2], y[3]);
            }
        }
        // A thread has numbers of two rows: elements 0 and 1 of the first, 2 and 3 of the second.
        for (int h = 0; h < 2; h++) {
            float high = most[h];
            for (int j = 0; j < 4; j++) high = fmaxf(high, fmaxf(s[j][2 * h], s[j][2 * h + 1]) * scale);
            for (int d = 1; d < 4; d *= 2) high = fmaxf(high, __shfl_xor_sync(ALL, high, d));
            float shrink = expf(most[h] - high), part = 0;
            for (int j = 0; j < 4; j++) {
                for (int e = 2 * h; e < 2 * h + 2; e++) part += s[j][e] = expf(s[j][e] * scale - high);
            }
            for (int d = 1; d < 4; d *= 2) part += __shfl_xor_sync(ALL, part, d);
            total[h] = total[h] * shrink + part;
            most[h] = high;
            for (int j = 0; j < 8; j++) sum[j][2 * h] *= shrink, sum[j][2 * h + 1] *= shrink;
        }
        // The scores' fragments are those of the left factor of the second product.
        for (int kk = 0; kk < 2; kk++) {
            uint32_t x[4] = {pack(s[2 * kk][0], s[2 * kk][1]), pack(s[2 * kk][2], s[2 * kk][3]),
                             pack(s[2 * kk + 1][0], s[2 * kk + 1][1]), pack(s[2 * kk + 1][2], s[2 * kk + 1][3])};
            for (int j = 0; j < 8; j += 2) {
                uint32_t y[4];
                load_transposed(y, &vs[kk * 16 + lane % 16][j * 8 + lane / 16 * 8]);
                multiply(sum[j], x, y[0], y[1]);
                multiply(sum[j + 1], x, y[2], y[3]);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++) {
        for (int h = 0; h < 2; h++) {
            float *to = &out[(warp * 16 + lane / 4 + 8 * h) * 64 + j * 8 + lane % 4 * 2];
            to[0] = sum[j][2 * h] / total[h], to[1] = sum[j][2 * h + 1] / total[h];
        }
    }
}
