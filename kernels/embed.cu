// embed: y[t] = images[rows[t]] where rows[t] >= 0, table[ids[t]] elsewhere; then the norm of y[t], if it is wanted.
//
// Operands  ids i32 [T], rows i32 [T], table T tiled [V, D], images T [R, D], y S [T, D] written, norm weight and bias f32 [D] or null,
//           normed T [T, D] written or null, counters unused; D, eps
// Entries   embed_bf16 (S = bf16), embed_f16_f32 (S = f32)
// Needs     D a multiple of 8
// Launch    one block of 128 threads per token
// Numerics  y exact; statistics in f32
// Cost      bytes of y twice, and of the norm

#include "norm.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int TILE_ROWS = 16;
constexpr int TILE_COLS = 32;

// The element (row, column) of a tiled weight with D columns.
template <class T>
__device__ __forceinline__ const T* tiled(const T* table, int row, int column, int D) {
    const size_t tile = static_cast<size_t>(row / TILE_ROWS) * ceil_div(D, TILE_COLS) + column / TILE_COLS;
    return table + tile * (TILE_ROWS * TILE_COLS) + row % TILE_ROWS * TILE_COLS + column % TILE_COLS;
}

template <class T, class S>
__device__ __forceinline__ void embed(const int* ids, const int* rows, const T* table, const T* images, S* y,
                                      const NormWeights& norm, T* normed, int D) {
    __shared__ float partial[THREADS / WARP];
    const size_t t = blockIdx.x;
    const int image = rows[t];
    for (int i = threadIdx.x * 8; i < D; i += THREADS * 8) {
        const T* from = image >= 0 ? images + static_cast<size_t>(image) * D + i : tiled(table, ids[t], i, D);
        const uint4 eight = *reinterpret_cast<const uint4*>(from);
        const u32 pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            store(y + t * D + i + 2 * j, T::low(pairs[j]));
            store(y + t * D + i + 2 * j + 1, T::high(pairs[j]));
        }
    }
    if (normed) {
        __syncthreads();
        norm_row<THREADS>(y + t * D, D, norm, normed + t * D, partial);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bf16(const int* ids, const int* rows, const bf16* table, const bf16* images, bf16* y, const float* weight,
               const float* bias, bf16* normed, int*, int D, float eps) {
    embed(ids, rows, table, images, y, {weight, bias, eps}, normed, D);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_f16_f32(const int* ids, const int* rows, const f16* table, const f16* images, float* y, const float* weight,
                  const float* bias, f16* normed, int*, int D, float eps) {
    embed(ids, rows, table, images, y, {weight, bias, eps}, normed, D);
}
