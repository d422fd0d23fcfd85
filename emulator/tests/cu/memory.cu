// Memory: spaces, widths, ways to get there.

#include <cstdint>
#include <cuda_pipeline.h>

#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x

__constant__ float weights[16] = {0.5f, -1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987};
__constant__ int zeros[4];
__device__ int counter = 17;
__device__ double table[3] = {1.25, -2.5, 1e300};
__device__ uint8_t flags[6] = {1, 2, 3};
__device__ int *pointer = &counter;

extern "C" __global__ void variables(double *out) {
    INDEX;
    float sum = 0;
    for (int k = 0; k <= i; k++) sum += weights[(k * 7) % 16];
    out[i] = sum + weights[3] + zeros[i % 4] + table[i % 2] + flags[i % 6] + *pointer;
}

extern "C" __global__ void bump() { atomicAdd(&counter, threadIdx.x); }
extern "C" __global__ void read_counter(int *out) { out[threadIdx.x] = counter; }

// A module's memory does not need a host to be set.
extern "C" __global__ void set_flags(int v) { if (threadIdx.x < 6) flags[threadIdx.x] = v + threadIdx.x; }
extern "C" __global__ void get_flags(int *out) { out[threadIdx.x] = flags[threadIdx.x]; }

template <class T> __device__ void reverse(const T *in, T *out, int n) {
    INDEX;
    out[n - 1 - i] = in[i];
}

#define REVERSE(type) extern "C" __global__ void reverse_##type(const type *in, type *out, int n) { reverse(in, out, n); }
REVERSE(uint8_t)
REVERSE(uint16_t)
REVERSE(uint32_t)
REVERSE(uint64_t)
REVERSE(uchar4)
REVERSE(short2)
REVERSE(int2)
REVERSE(float4)
REVERSE(double2)
REVERSE(longlong2)

extern "C" __global__ void through_cache(const float4 *__restrict__ in, const uint8_t *small, float *out) {
    INDEX;
    float4 v = __ldg(&in[i]);
    out[i] = v.x + v.y * 10 + v.z * 100 + v.w * 1000 + __ldg(&small[i]) + __ldcg(&small[i]) + __ldcs(&small[i]);
}

// Conversions between the spaces' addresses, and loads by addresses of any space.
__device__ __noinline__ int sum_of(const int *p, int n) {
    int sum = 0;
    for (int k = 0; k < n; k++) sum += p[k];
    return sum;
}

extern "C" __global__ void generic(const int *in, int *out) {
    __shared__ int shared[64];
    int local[4], i = threadIdx.x;
    shared[i] = in[i];
    for (int k = 0; k < 4; k++) local[(k + i) % 4] = in[(i + k) % 64] * 3;
    __syncthreads();
    const int *p = i % 3 == 0 ? in : i % 3 == 1 ? shared : local;
    int r = sum_of(p, i % 3 == 2 ? 4 : 64);
    r += __isGlobal(p) * 100000 + __isShared(p) * 200000 + __isLocal(p) * 300000;
    out[i] = r;
}

// Several arrays in one dynamic allocation, of different alignment.
extern "C" __global__ void dynamic(const float *in, double *out, int n) {
    extern __shared__ __align__(16) uint8_t pool[];
    double *d = (double *)pool;
    float *f = (float *)(d + n);
    uint8_t *b = (uint8_t *)(f + n);
    int i = threadIdx.x;
    d[i] = in[i] * 2.0, f[i] = in[i] + 1, b[i] = i * 3;
    __syncthreads();
    out[i] = d[n - 1 - i] + f[(i + 1) % n] + b[(i + 2) % n];
}

struct Big {
    float scale;
    uint8_t shift[5];
    int64_t add[7];
};

extern "C" __global__ void by_value(const float *in, Big big, uint8_t last, float *out) {
    INDEX;
    out[i] = in[i] * big.scale + big.shift[i % 5] + big.add[i % 7] + last;
}

// Copies that the threads do not wait for, in stages.
extern "C" __global__ void staged(const float *in, float *out, int tiles) {
    __shared__ __align__(16) float stage[3][256];
    int i = threadIdx.x;
    for (int t = 0; t < 2; t++) {
        if (t < tiles) __pipeline_memcpy_async(&stage[t][i * 4], &in[t * 256 + i * 4], 16);
        __pipeline_commit();
    }
    float sum = 0;
    for (int t = 0; t < tiles; t++) {
        __pipeline_wait_prior(1);
        __syncthreads();
        for (int k = 0; k < 4; k++) sum += stage[t % 3][(i + 64 * k + t) % 256];
        if (t + 2 < tiles) __pipeline_memcpy_async(&stage[(t + 2) % 3][i * 4], &in[(t + 2) * 256 + i * 4], 16);
        __pipeline_commit();
    }
    out[i] = sum;
}

// Small copies, and copies that end early: the rest is zero.
extern "C" __global__ void partial_copies(const uint32_t *in, uint32_t *out) {
    __shared__ __align__(16) uint32_t to[64][4];
    int i = threadIdx.x;
    __pipeline_memcpy_async(&to[i][0], &in[i * 4], 16, i % 5 * 4 > 16 ? 16 : i % 5 * 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    uint32_t sum = 0;
    for (int k = 0; k < 4; k++) sum = sum * 3 + to[i][k];
    __pipeline_memcpy_async(&to[i][2], &in[i], 4);
    __pipeline_memcpy_async(&to[i][0], &in[i * 2], 8);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = sum + to[i][2] + to[i][1] * 7 + to[i][0] * 5;
}
