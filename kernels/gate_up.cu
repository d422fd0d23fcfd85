// The first half of the decoder's MLP: y = silu(x Wg^T) * (x Wu^T).
//
// Entries  gate_up_bf16|f16[_w4a16|_w8a16|_w8a8]_narrow|wide; weights, rows and blocks of quantized ones as in linear.cu
// x        T [T, D] read        weight  T [2F, D] paired by F (gate, up), read        y  T [T, F] write
// Needs    D and F multiples of 8, rows aligned to 16 bytes
// Launch   narrow (T <= 32): F / 8 blocks of 32 * slices threads (slices of D: linear.cuh)
//          wide: ceil(F / 64) * ceil(T / 128) blocks of 256 threads, 98304 bytes of dynamic shared memory
//          wide with codes (weight u8, codes.cuh): ceil(F / 128) * ceil(T / 64) blocks of 256 threads, 99328 bytes of dynamic shared memory
// Numerics f32 sums in one order per D, both factors f32, one rounding
// Cost     T D + T F + 2 F D elements, 4 T F D flops
#include "products.cuh"

template <class T>
struct SwiGlu {
    static constexpr int MEMBERS = 2;
    T* y;
    int F;

    template <int W>
    __device__ __forceinline__ void operator()(int i, int token, float (&v)[2][W]) const {
#pragma unroll
        for (int j = 0; j < W; ++j) {
            const float gate = v[0][j], e = ex2_approx(__fmul_rn(gate, -1.44269504f));
            v[0][j] = __fmul_rn(__fmul_rn(gate, rcp_approx(__fadd_rn(1.0f, e))), v[1][j]);
        }
        store(y + static_cast<size_t>(token) * F + i, v[0]);
    }
};

#define ENTRY(NAME, SHAPE, FORMAT, TYPE)                                                        \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)          \
        NAME(FORMAT##_PARAMS(TYPE), TYPE* y, int T, int F, int D) {                             \
        SHAPE::run(FORMAT##_PRODUCT(TYPE, T, 2 * F, D), SwiGlu<TYPE>{y, F});                    \
    }

#define GATE_UP(NAME, T)              \
    SHAPES(NAME, FLOATS, T)           \
    SHAPES(NAME##_w4a16, W4A16, T)    \
    SHAPES(NAME##_w8a16, W8A16, T)    \
    SHAPES_W8A8(NAME##_w8a8, T)

GATE_UP(gate_up_bf16, bf16)
GATE_UP(gate_up_f16, f16)
