// embed: y[t] = images[rows[t]] where rows[t] >= 0, table[ids[t]] elsewhere; then the norm of y[t], if it is wanted.
//
// Operands  ids i32 [T], rows i32 [T], table T tiled [V, D], images T [R, D], y S [T, D] written, norm weight and bias f32 [D] or null,
//           normed T or s8 [T, D] written or null, scales f32 [T] written (of s8) or null, counters unused; D, eps
// Entries   embed_bf16 (S = bf16), embed_f16_f32 (S = f32)
// Needs     D a multiple of 8
// Launch    one warp per token
// Numerics  y exact; statistics in f32
// Cost      bytes of y twice, and of the norm; of the table twice as many, since its sectors hold two rows

#include "norm.cuh"

namespace {

// Elements column.. of a row of a tiled weight with D columns (linear.cuh has the layout); column is a multiple of 8.
template <class T>
__device__ __forceinline__ void load_tiled(const T* table, int row, int column, int D, float (&x)[8]) {
    const size_t tile = static_cast<size_t>(row / 16) * ceil_div(D, 32) + column / 32;
    const u32* lane = reinterpret_cast<const u32*>(table) + tile * 256 + (row % 8 * 4 + column % 32 / 8) * 4 + row % 16 / 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 pair = lane[i / 2 * 128 + i % 2 * 2];
        x[2 * i] = T::low(pair);
        x[2 * i + 1] = T::high(pair);
    }
}

template <class T, class S>
__device__ __forceinline__ void embed(const int* ids, const int* rows, const T* table, const T* images, S* y, const Norm<T>& norm,
                                      int D) {
    const size_t t = blockIdx.x;
    const int image = rows[t];
    for (int i = lane_id() * 8; i < D; i += WARP * 8) {
        float x[8];
        if (image >= 0) {
            load(images + static_cast<size_t>(image) * D + i, x);
        } else {
            load_tiled(table, ids[t], i, D, x);
        }
        store(y + t * D + i, x);
    }
    if (norm.weight) norm_row(norm, y, t, D);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(WARP)
    embed_bf16(const int* ids, const int* rows, const bf16* table, const bf16* images, bf16* y, const float* weight, const float* bias,
               void* normed, float* scales, int*, int D, float eps) {
    embed(ids, rows, table, images, y, {weight, bias, normed, scales, eps}, D);
}

extern "C" __global__ void __launch_bounds__(WARP)
    embed_f16_f32(const int* ids, const int* rows, const f16* table, const f16* images, float* y, const float* weight, const float* bias,
                  void* normed, float* scales, int*, int D, float eps) {
    embed(ids, rows, table, images, y, {weight, bias, normed, scales, eps}, D);
}
