// Control flow: divergence, loops, switches, calls, local memory.

extern "C" __global__ void nested(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, v = in[i];
    if (v & 1) {
        if (v & 2) {
            out[i] = v * 3;
        } else {
            for (int k = 0; k < (v & 7); k++) out[i + gridDim.x * blockDim.x * k] = v - k;
        }
        if (v & 4) out[i] = ~v;
    } else if (v % 3 == 0) {
        while (v > 0) v -= 5;
        out[i] = v;
    } else {
        out[i] = -1;
    }
}

// Steps of the Collatz sequence down to 1: every thread its own number of them.
extern "C" __global__ void trips(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    long long v = in[i];
    int steps = 0;
    while (v != 1) {
        v = v & 1 ? 3 * v + 1 : v / 2;
        steps++;
    }
    out[i] = steps;
}

// Primes below in[i], by trial division: nested loops with break and continue.
extern "C" __global__ void primes(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, count = 0;
    for (int n = 2; n < in[i]; n++) {
        bool prime = true;
        if (n > 2 && n % 2 == 0) continue;
        for (int d = 3; d * d <= n; d += 2) {
            if (n % d == 0) {
                prime = false;
                break;
            }
        }
        count += prime;
    }
    out[i] = count;
}

__device__ __noinline__ int opaque(int v) { return v * 5 + 1; }

extern "C" __global__ void choose(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, v = in[i], r = 0;
    switch (v) {
    case 0: r = opaque(v); break;
    case 1: r = v << 4; out[i + 64] = r; break;
    case 2: r = opaque(opaque(v));  // falls through
    case 3: r += 7; out[i + 64] = r; break;
    case 4: for (int k = 0; k < i; k++) r ^= opaque(k); break;
    case 5: r = -v; break;
    case 6: r = opaque(v) / 3; out[i + 64] = r; break;
    case 8: r = 8; out[i + 64] = 9; break;
    default: r = opaque(i);
    }
    out[i] = r;
}

// A table of branches, which nvcc makes for no switch.
extern "C" __global__ void indexed(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, r = i;
    asm volatile(
        "{\n\t"
        "table: .branchtargets first, second, third, first;\n\t"
        "brx.idx %1, table;\n"
        "first: add.s32 %0, %0, 1000;\n\t"
        "bra.uni after;\n"
        "second: mul.lo.s32 %0, %0, 3;\n"  // falls through
        "third: sub.s32 %0, 0, %0;\n"
        "after:\n\t"
        "}"
        : "+r"(r) : "r"(in[i]));
    out[i] = r;
}

struct Pair {
    int a;
    double b;
    short c[3];
};

__device__ __noinline__ Pair twist(Pair p, int n) {
    if (n == 0) return p;
    p.a += n;
    if (n & 1) {
        p.b *= 2;
        return p;
    }
    p.c[n % 3] = (short)(p.a + p.c[2]);
    return p;
}

__device__ __noinline__ double total(Pair p, int n) {
    if (n > 20) return -1;
    Pair q = twist(p, n);
    if (n > 10) q = twist(q, n - 10);
    return q.a + q.b + q.c[0] * 100 + q.c[1] * 10 + q.c[2];
}

// Structures by value, returns from divergent places, calls from divergent code and from each other.
extern "C" __global__ void calls(const int *in, double *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Pair p = {in[i], i * 0.5, {1, 2, 3}};
    double r = i & 8 ? total(p, i) : 0;
    if (i & 1) r += total(p, i % 5);
    out[i] = r;
}

// Sorts 16 numbers in an array that only local memory can hold.
extern "C" __global__ void sort_local(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, a[16];
    for (int k = 0; k < 16; k++) a[(k * 5 + i) % 16] = in[i * 16 + k];
    for (int k = 1; k < 16; k++) {
        int v = a[k], j = k;
        for (; j > 0 && a[j - 1] > v; j--) a[j] = a[j - 1];
        a[j] = v;
    }
    for (int k = 0; k < 16; k++) out[i * 16 + k] = a[k];
}

// Threads that leave early, some of whole warps, before barriers that the rest meets at.
extern "C" __global__ void leave(int n, int *out) {
    __shared__ int seen[256];
    int i = threadIdx.x;
    if (i >= n) return;
    seen[i] = i;
    __syncthreads();
    out[i] = seen[n - 1 - i];
}

// Two and three dimensions.
extern "C" __global__ void places(int4 *out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = make_int4(threadIdx.x, threadIdx.y * 100 + threadIdx.z, blockIdx.x, blockIdx.y * 100 + blockIdx.z);
}
