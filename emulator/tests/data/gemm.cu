// A product of tiles as Hopper kernels are built: a warp that copies, a warpgroup that multiplies, two stages.
// nvcc -ptx -arch=sm_90a
#include <cstdint>

struct alignas(64) TensorMap { char bytes[128]; };

constexpr int M = 64, N = 64, K = 64, STAGES = 2;

__device__ uint32_t address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void wait(uint64_t* bar, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}"
        ::"r"(address(bar)), "r"(parity) : "memory");
}

__device__ void load(void* to, const TensorMap* map, uint64_t* bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        ::"r"(address(to)), "l"(map), "r"(address(bar)), "r"(x), "r"(y) : "memory");
}

__device__ uint64_t descriptor(const void* tile) {
    return (uint64_t(address(tile)) & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

__device__ void multiply(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(add));
}

// C = A B^T, all row by row; k is a multiple of K.
extern "C" __global__ void __launch_bounds__(160)
gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c, int n, int k) {
    __shared__ alignas(1024) uint16_t tiles[STAGES][2][64 * K];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = k / K;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(&full[s])));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(&empty[s])));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp == 4) {
        if (lane == 0) {
            for (int i = 0; i < steps; i++) {
                const int s = i % STAGES;
                if (i >= STAGES) wait(&empty[s], (i / STAGES - 1) & 1);
                asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(&full[s])), "r"(16384));
                load(tiles[s][0], &a, &full[s], i * K, blockIdx.y * M);
                load(tiles[s][1], &b, &full[s], i * K, blockIdx.x * N);
            }
        }
        return;
    }
    float d[32];
    for (int i = 0; i < steps; i++) {
        const int s = i % STAGES;
        wait(&full[s], (i / STAGES) & 1);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int j = 0; j < K / 16; j++)
            multiply(d, descriptor(tiles[s][0]) + 2 * j, descriptor(tiles[s][1]) + 2 * j, i + j > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // The products of the step before are complete: their stage is free.
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (i > 0 && threadIdx.x == 0)
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(&empty[(i - 1) % STAGES])) : "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 32; i++) {
        const int row = blockIdx.y * M + warp * 16 + lane / 4 + i / 2 % 2 * 8;
        c[row * n + blockIdx.x * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}
