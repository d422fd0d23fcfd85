// Planted faults. Every kernel is launched twice: with broken = 0 it is correct and must run; with broken = 1 it must be
// reported at (one of) its lines marked "fault", by one of the threads that tests/faults/main.rs lists.
// Blocks are of 64 threads; in and out have 64 floats; dynamic shared memory is 256 bytes.

#include <cassert>
#include <cstdint>
#include <cuda_pipeline.h>

constexpr unsigned ALL = 0xffffffff;

#define KERNEL(name) extern "C" __global__ void name(const float *in, float *out, int broken)
#define I int i = threadIdx.x
#define SYNC_UNLESS_BROKEN if (!broken) __syncthreads()

__device__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Out of bounds.

KERNEL(one_past) {
    I;
    out[i] = in[i + broken];  // fault
}

KERNEL(one_byte_past) {
    I;
    ((char *)out)[i * 4 + 3 + broken] = 1;  // fault
}

KERNEL(before) {
    I;
    out[i - broken] = in[i];  // fault
}

KERNEL(far) {
    I;
    out[i] = in[i + broken * (1 << 28)];  // fault
}

// A vector whose first half is inside, where the host leaves out the last number of `in`.
KERNEL(half_outside) {
    I;
    if (i < 32) {
        float2 v = ((const float2 *)in)[i];  // fault
        out[i] = v.x + v.y;
    }
}

KERNEL(null_pointer) {
    I;
    // An address that the compiler does not know to be null: it would drop the path.
    const float *p = i == 40 && broken ? (const float *)(uintptr_t)(broken - 1) : in + i;
    out[i] = *p;  // fault
}

KERNEL(shared_outside) {
    extern __shared__ float dynamic[];
    I;
    dynamic[i + (broken && i == 63)] = 1;  // fault
    if (i != 63) out[i] = dynamic[i];
}

KERNEL(shared_before) {
    extern __shared__ float dynamic[];
    I;
    dynamic[i] = 1;
    __syncthreads();
    out[i] = dynamic[i - broken * 2];  // fault
}

KERNEL(copy_outside) {
    __shared__ float tile[64];
    I;
    __pipeline_memcpy_async(&tile[i], &in[i + broken], 4);  // fault
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[i];
}

KERNEL(atomic_outside) {
    I;
    out[i] = 0;
    atomicAdd(&out[i + (broken && i == 63)], 1);  // fault
}

KERNEL(local_outside) {
    I;
    volatile int a[4];
    for (int k = 0; k < 4; k++) a[k] = k + i;
    out[i] = a[i % 4 + broken * 4000];  // fault
}

// Misaligned.

KERNEL(odd_word) {
    I;
    if (i < 63) out[i] = *(const float *)((const char *)in + i * 4 + broken);  // fault
}

KERNEL(odd_vector) {
    I;
    if (i < 15) *(float4 *)(out + i * 4 + broken) = make_float4(1, 2, 3, 4);  // fault
}

KERNEL(odd_shared) {
    __shared__ __align__(16) float tile[68];
    I;
    tile[i] = in[i];
    if (i < 4) tile[64 + i] = 0;
    __syncthreads();
    float2 v = *(float2 *)&tile[i / 2 * 2 + broken];  // fault
    out[i] = v.x + v.y;
}

KERNEL(odd_copy) {
    __shared__ __align__(16) float tile[68];
    I;
    if (i < 15) {
        float *to = tile + i * 4 + broken * 2;
        unsigned at = (unsigned)__cvta_generic_to_shared(to);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(in + i * 4) : "memory");  // fault
        asm volatile("cp.async.wait_all;" ::: "memory");
        out[i] = to[0];
    }
}

KERNEL(odd_atomic) {
    I;
    out[i] = 0;
    __syncthreads();
    if (i == 33) atomicAdd((unsigned long long *)(out + i / 2 * 2 + broken), 1ull);  // fault
}

// Never written.

KERNEL(unwritten_shared) {
    __shared__ float tile[64];
    I;
    if (!broken || i != 7) tile[i] = in[i];
    __syncthreads();
    out[i] = tile[63 - i];  // fault
}

KERNEL(unwritten_sum) {
    extern __shared__ float dynamic[];
    I;
    if (!broken) dynamic[i] = 0;
    atomicAdd(&dynamic[i], in[i]);  // fault
    out[i] = dynamic[i];
}

// The host leaves the second half of `in` unwritten where the kernel is broken.
KERNEL(unwritten_global) {
    I;
    out[i] = in[i];  // fault
}

// What a kernel did not write is unwritten for the same kernel too.
KERNEL(unwritten_output) {
    I;
    if (!broken || i % 2 == 0) out[i] = in[i];
    __syncthreads();
    out[i ^ 1] = out[i] * 2;  // fault
}

// Races.

KERNEL(no_barrier) {
    __shared__ float tile[64];
    I;
    tile[i] = in[i];  // fault
    SYNC_UNLESS_BROKEN;
    out[i] = tile[63 - i];  // fault
}

// Both warps write the same place.
KERNEL(two_writers) {
    __shared__ float cell;
    I;
    if (i == 0 || (broken && i == 32)) cell = in[i];  // fault
    __syncthreads();
    out[i] = cell;
}

// The second round overwrites what the first may still read.
KERNEL(too_early) {
    __shared__ float tile[64];
    I;
    float sum = 0;
    for (int round = 0; round < 2; round++) {
        tile[i] = in[i] + round;  // fault
        __syncthreads();
        sum += tile[63 - i];  // fault
        SYNC_UNLESS_BROKEN;
    }
    out[i] = sum;
}

KERNEL(copy_without_wait) {
    __shared__ float tile[64];
    I;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);  // fault
    __pipeline_commit();
    if (!broken) __pipeline_wait_prior(0);
    __syncthreads();
    out[i] = tile[63 - i];  // fault
}

KERNEL(own_copy_without_wait) {
    __shared__ float tile[64];
    I;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);  // fault
    __pipeline_commit();
    if (!broken) __pipeline_wait_prior(0);
    out[i] = tile[i];  // fault
}

KERNEL(copy_without_barrier) {
    __shared__ float tile[64];
    I;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);  // fault
    __pipeline_commit();
    __pipeline_wait_prior(0);
    SYNC_UNLESS_BROKEN;
    out[i] = tile[63 - i];  // fault
}

// A flag that nothing orders: the data behind it races.
KERNEL(flag_without_fence) {
    __shared__ float data;
    __shared__ int flag;
    I;
    if (i == 0) flag = 0;
    __syncthreads();
    if (i == 0) {
        data = in[0];  // fault
        if (!broken) __threadfence_block();
        atomicExch(&flag, 1);
    }
    if (i == 32) {
        while (atomicAdd(&flag, 0) == 0) {}
        if (!broken) __threadfence_block();
        out[0] = data;  // fault
    }
}

// A plain store against an atomic.
KERNEL(atomic_and_plain) {
    __shared__ int count;
    I;
    if (i == 0) count = 0;  // fault
    SYNC_UNLESS_BROKEN;
    atomicAdd(&count, 1);  // fault
    __syncthreads();
    out[i] = count;
}

// Read-only memory that is written.

KERNEL(written_while_cached) {
    I;
    float v = __ldg(&in[i]);  // fault
    (broken ? (float *)in : out)[i] = v * 2;  // fault
}

extern "C" __global__ void restrict_alias(const float *__restrict__ in, float *__restrict__ out, int broken) {
    I;
    float *to = broken ? (float *)in : out;
    to[i] = __ldg(&in[63 - i]) + 1;  // fault
}

// Barriers.

KERNEL(half_a_warp) {
    I;
    if (!broken || i % 32 < 16) {
        __syncthreads();  // fault
        out[i] = in[i];
    }
    __syncthreads();  // fault
}

KERNEL(two_barriers) {
    I;
    if (broken && i % 2) {
        out[i] = in[i] + 1;
        __syncthreads();  // fault
        out[i] = in[i] + 3;
    } else {
        out[i] = in[i];
        __syncthreads();  // fault
        out[i] = in[i] + 2;
    }
}

KERNEL(uneven_rounds) {
    I;
    for (int k = 0; k < (broken && i == 5 ? 3 : 4); k++) {
        out[i] = k;
        __syncthreads();  // fault
    }
    out[i] = in[i];
    __syncthreads();  // fault
}

KERNEL(crooked_count) {
    I;
    named_sync(1, broken ? 48 : 64);  // fault
    out[i] = in[i];
}

KERNEL(too_many_threads) {
    I;
    named_sync(1, broken ? 128 : 64);  // fault
    out[i] = in[i];
}

KERNEL(no_such_barrier) {
    I;
    named_sync(broken ? 16 : 15, 64);  // fault
    out[i] = in[i];
}

// Each warp waits where the other has not been.
KERNEL(crossed) {
    I;
    named_sync(broken && i >= 32 ? 2 : 1, 64);  // fault
    named_sync(broken && i >= 32 ? 1 : 2, 64);  // fault
    out[i] = in[i];
}

// A consumer whose producer never arrives.
KERNEL(nobody_produces) {
    I;
    if (i < 32) {
        if (!broken) named_arrive(1, 64);
    } else {
        named_sync(1, 64);  // fault
        out[i] = in[i];
    }
}

// Loops that wait for what nobody does.

KERNEL(nobody_raises_the_flag) {
    __shared__ volatile int flag;
    I;
    if (i == 0) flag = 0;
    __syncthreads();
    if (i == 40 && !broken) flag = 1;
    while (!flag) {}  // fault
    out[i] = in[i];
}

__device__ volatile int global_flag = 1;

KERNEL(one_thread_spins) {
    I;
    out[i] = in[i];
    if (i == 37 && broken) global_flag = 0;
    while (i == 37 && !global_flag) {}  // fault
}

// Each warp's first thread takes the lock; the broken one finds it taken.
KERNEL(nobody_frees_the_lock) {
    __shared__ int lock;
    I;
    if (i == 0) lock = broken;
    __syncthreads();
    if (i % 32 == 0) {
        while (atomicExch(&lock, 1)) {}  // fault
        atomicExch(&lock, 0);
    }
    out[i] = in[i];
}

// Lanes.

KERNEL(absent_lanes) {
    I;
    float v = in[i];
    if (!broken || i % 32 < 16) v += __shfl_xor_sync(ALL, v, 1);  // fault
    __syncthreads();
    out[i] = v;
}

KERNEL(absent_source) {
    I;
    float v = in[i];
    if (i % 32 < 8) v = __shfl_sync(0xff, v, broken ? 8 : 7);  // fault
    out[i] = v;
}

KERNEL(absent_voters) {
    I;
    unsigned votes = 0;
    if (i % 32 != 9 || !broken) votes = __ballot_sync(ALL, in[i] > 0);  // fault
    __syncthreads();
    out[i] = votes;
}

KERNEL(absent_from_itself) {
    I;
    unsigned members = broken && i == 3 ? 0xfffffff7 : ALL;
    __syncwarp(members);  // fault
    out[i] = in[i];
}

__device__ void product(float d[4]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4}, {%4}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(0x3f803f80));
}

KERNEL(half_a_product) {
    I;
    float d[4] = {0, 0, 0, 0};
    if (!broken || i % 32 > 3) {
        product(d);  // fault
        out[i] = d[0] + d[3];
    }
}

// Ends.

KERNEL(trapped) {
    I;
    if (broken && in[i] == in[21] && i >= 21) __trap();  // fault
    out[i] = in[i];
}

KERNEL(trapped_block) {
    I;
    out[i] = in[i];
    if (broken) asm volatile("trap;");  // fault
}

KERNEL(wrong_claim) {
    I;
    assert(!broken || i != 50);  // fault
    out[i] = in[i];
}

KERNEL(wrong_claims) {
    I;
    out[i] = in[i];
    assert(i + 64 * broken < 70 && "too many");  // fault
}

// Instructions that cannot be.

KERNEL(odd_rows) {
    __shared__ __align__(16) uint16_t tile[9 * 8];
    I;
    if (i < 36) ((uint32_t *)tile)[i] = i;
    __syncthreads();
    unsigned d, at = (unsigned)__cvta_generic_to_shared(tile) + i % 8 * 16 + (broken && i == 34 ? 4 : 0);
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(d) : "r"(at));  // fault
    out[i] = d;
}

KERNEL(shared_as_global) {
    __shared__ float tile[64];
    I;
    tile[i] = in[i];
    const float *p = broken ? tile : in;
    float v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p + i));  // fault
    out[i] = v + tile[i];
}

// An mbarrier that nobody initialised, and one at a crooked address.
KERNEL(no_object) {
    __shared__ __align__(8) uint64_t object;
    I;
    unsigned at = (unsigned)__cvta_generic_to_shared(&object);
    if (i == 0 && !broken) asm volatile("mbarrier.init.shared.b64 [%0], 64;" ::"r"(at) : "memory");
    __syncthreads();
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(at) : "memory");  // fault
    out[i] = in[i];
}

KERNEL(crooked_object) {
    __shared__ __align__(8) uint64_t objects[2];
    I;
    unsigned at = (unsigned)__cvta_generic_to_shared(objects) + broken * 4;
    if (i == 0) asm volatile("mbarrier.init.shared.b64 [%0], 64;" ::"r"(at) : "memory");  // fault
    out[i] = in[i];
}

// For the declared operands: reads `in`, and what is behind `broken` of it; writes out.

KERNEL(copy) {
    I;
    out[i] = in[i];  // fault
}

KERNEL(copy_back) {
    I;
    out[i] = in[i];
    if (broken) ((float *)in)[i] = 0;  // fault
}

KERNEL(accumulate) {
    I;
    out[i] = in[i] + (broken ? out[i] : 0);  // fault
}

KERNEL(copy_most) {
    I;
    if (!broken || i != 63) out[i] = in[i];
}
