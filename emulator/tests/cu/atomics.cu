// Atomics of all widths, and what is built from them.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x

extern "C" __global__ void histogram(const uint8_t *in, uint32_t *bins) {
    __shared__ uint32_t mine[256];
    INDEX;
    for (int b = threadIdx.x; b < 256; b += blockDim.x) mine[b] = 0;
    __syncthreads();
    atomicAdd(&mine[in[i]], 1);
    __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x) atomicAdd(&bins[b], mine[b]);
}

struct Words {
    uint32_t sum, least, most, both, any, odd, wrapped, down, last;
    int32_t signed_least, signed_most;
};

extern "C" __global__ void words(const uint32_t *in, Words *w) {
    INDEX;
    uint32_t v = in[i];
    atomicAdd(&w->sum, v);
    atomicMin(&w->least, v), atomicMax(&w->most, v);
    atomicMin(&w->signed_least, (int32_t)v), atomicMax(&w->signed_most, (int32_t)v);
    atomicAnd(&w->both, v), atomicOr(&w->any, v), atomicXor(&w->odd, v);
    atomicInc(&w->wrapped, 9), atomicDec(&w->down, 6);
    atomicExch(&w->last, v);
}

struct Longs {
    unsigned long long sum, least, most, both, any, odd, last;
    long long signed_least, signed_most;
};

extern "C" __global__ void longs(const unsigned long long *in, Longs *w) {
    INDEX;
    unsigned long long v = in[i];
    atomicAdd(&w->sum, v);
    atomicMin(&w->least, v), atomicMax(&w->most, v);
    atomicMin(&w->signed_least, (long long)v), atomicMax(&w->signed_most, (long long)v);
    atomicAnd(&w->both, v), atomicOr(&w->any, v), atomicXor(&w->odd, v);
    atomicExch(&w->last, v);
}

// Sums whose every partial sum is exact, in every order.
extern "C" __global__ void floats(const int *in, float *f, double *d, __half *h, __nv_bfloat16 *b, __half2 *h2) {
    INDEX;
    int v = in[i];
    atomicAdd(f, v * 0.25f);
    atomicAdd(d, v * 0.125);
    atomicAdd(h, __int2half_rn(v));
    atomicAdd(b, __int2bfloat16_rn(v & 1));
    atomicAdd(h2, __halves2half2(__int2half_rn(v), __int2half_rn(-v)));
}

// Every ticket is drawn once: the old values are all different.
extern "C" __global__ void tickets(uint32_t *next, uint32_t *taken) {
    taken[atomicAdd(next, 1)] = 1;
}

// An atomic that there is not: the largest float, by compare and swap.
extern "C" __global__ void largest(const float *in, unsigned *cell) {
    INDEX;
    unsigned old = *(volatile unsigned *)cell;
    while (in[i] > __uint_as_float(old)) {
        unsigned seen = atomicCAS(cell, old, __float_as_uint(in[i]));
        if (seen == old) break;
        old = seen;
    }
}

// Counters of 16 bits, two to a word.
extern "C" __global__ void shorts(const uint8_t *in, unsigned short *counts) {
    INDEX;
    unsigned short *mine = counts + in[i] % 8, old, seen = *(volatile unsigned short *)mine;
    do {
        old = seen;
        seen = atomicCAS(mine, old, (unsigned short)(old + 3));
    } while (seen != old);
}

extern "C" __global__ void shared_longs(const unsigned long long *in, unsigned long long *out) {
    __shared__ unsigned long long sum, most;
    if (threadIdx.x == 0) sum = 0, most = 0;
    __syncthreads();
    INDEX;
    atomicAdd(&sum, in[i]);
    atomicMax(&most, in[i]);
    __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x * 2] = sum, out[blockIdx.x * 2 + 1] = most;
}

// A lock that a thread of each block takes; the protected sum is no atomic.
extern "C" __global__ void locked(int *lock, int *sum) {
    if (threadIdx.x == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence();
        *(volatile int *)sum = *(volatile int *)sum + blockIdx.x + 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}

// The same among the lanes of a warp: the winner must get to run while the others spin.
extern "C" __global__ void lane_lock(int *lock, int *sum) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *(volatile int *)sum = *(volatile int *)sum + threadIdx.x;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

// Returns of atomics on shared memory.
extern "C" __global__ void old_values(int *out) {
    __shared__ int next;
    if (threadIdx.x == 0) next = 100;
    __syncthreads();
    int mine = atomicAdd_block(&next, 2);
    out[(mine - 100) / 2] = mine;
}
