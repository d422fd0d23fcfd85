// Barriers of a block, of parts of it, and of the grid; what the host hears of a kernel.

#include <cassert>
#include <cstdio>

// The block agrees on counts at barriers.
extern "C" __global__ void agree(const int *in, int *out) {
    int i = threadIdx.x, v = in[blockIdx.x * blockDim.x + i];
    int count = __syncthreads_count(v > 50), all = __syncthreads_and(v > 2), any = __syncthreads_or(v > 97);
    int *o = out + (blockIdx.x * blockDim.x + i) * 3;
    o[0] = count, o[1] = all, o[2] = any;
}

__device__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Warps 0 and 1 produce, warps 2 and 3 consume, through two buffers with a "full" and an "empty" barrier each.
extern "C" __global__ void pipeline(const int *in, int *out, int steps) {
    __shared__ int buffer[2][64];
    int i = threadIdx.x % 64;
    if (threadIdx.x < 64) {
        for (int s = 0; s < steps; s++) {
            if (s >= 2) named_sync(3 + s % 2, 128);
            buffer[s % 2][i] = in[s * 64 + i] * 2;
            named_arrive(1 + s % 2, 128);
        }
    } else {
        for (int s = 0; s < steps; s++) {
            named_sync(1 + s % 2, 128);
            out[s * 64 + i] = buffer[s % 2][63 - i] + 1;
            if (s + 2 < steps) named_arrive(3 + s % 2, 128);
        }
    }
}

// Each half of the block has a barrier of its own, and meets there a different number of times.
extern "C" __global__ void halves(const int *in, int *out) {
    __shared__ int data[128];
    int half = threadIdx.x / 64, i = threadIdx.x % 64, *mine = data + half * 64;
    mine[i] = in[threadIdx.x];
    for (int d = 1; d <= (half ? 32 : 4); d *= 2) {
        named_sync(1 + half, 64);
        int v = mine[i ^ d];
        named_sync(1 + half, 64);
        mine[i] += v;
    }
    out[threadIdx.x] = mine[i];
}

// All blocks are resident: they meet at a counter in global memory, `rounds` times, and read what others wrote.
extern "C" __global__ void grid_rounds(int *values, unsigned *arrived, int rounds, int *out) {
    int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int r = 0; r < rounds; r++) {
        const volatile int *from = values + (r % 2) * n;
        int *to = values + (1 - r % 2) * n;
        to[i] = from[(i + 1) % n] + from[(i + n - 1) % n];
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1);
            while (*(volatile unsigned *)arrived < gridDim.x * (r + 1)) {}
            __threadfence();
        }
        __syncthreads();
    }
    out[i] = *(volatile int *)&values[(rounds % 2) * n + i];
}

// The block that finishes last adds up what the others left.
extern "C" __global__ void last_block(const int *in, int *partial, unsigned *done, int *out) {
    __shared__ int sum[128];
    __shared__ bool last;
    int i = threadIdx.x;
    sum[i] = in[blockIdx.x * 128 + i];
    for (int d = 64; d > 0; d /= 2) {
        __syncthreads();
        if (i < d) sum[i] += sum[i + d];
    }
    if (i == 0) {
        partial[blockIdx.x] = sum[0];
        __threadfence();
        last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    if (i == 0) {
        __threadfence();
        int total = 0;
        for (int b = 0; b < gridDim.x; b++) total += *(volatile int *)&partial[b];
        *out = total;
    }
}

extern "C" __global__ void print() {
    if (threadIdx.x % 32 == 3) {
        printf("thread %d of %u: %s %c %5.2f|%-6d|%06x|%lld|%%\n", threadIdx.x, blockDim.x, "text", 'c', 1.5 * threadIdx.x, -42, 0xbeef,
               1234567890123ll);
    }
    if (threadIdx.x == 40) printf("no arguments\n");
}

extern "C" __global__ void claims(const int *in, int *out) {
    assert(in[threadIdx.x] >= 0 && "in range");
    out[threadIdx.x] = in[threadIdx.x];
}
