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
#include "codes.cuh"
#include "floats.cuh"
#include "w8a8.cuh"

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

#define ENTRY(NAME, SHAPE, TYPE)                                                                             \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                       \
        NAME(const TYPE* x, const TYPE* weight, TYPE* y, int T, int F, int D) {                              \
        SHAPE::run(Product<Floats<TYPE>>{x, nullptr, {weight}, T, 2 * F, D}, SwiGlu<TYPE>{y, F});                      \
    }

#define ENTRY_CODES(NAME, SHAPE, BITS, TYPE)                                                                         \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                               \
        NAME(const TYPE* x, const u8* weight, TYPE* y, int T, int F, int D, int group, int zeros) {                  \
        SHAPE::run(Product<Codes<TYPE, BITS>>{x, nullptr, {weight, group, zeros}, T, 2 * F, D}, SwiGlu<TYPE>{y, F}); \
    }

ENTRY(gate_up_bf16_narrow, Narrow, bf16)
ENTRY(gate_up_bf16_wide, Wide, bf16)
ENTRY(gate_up_f16_narrow, Narrow, f16)
ENTRY(gate_up_f16_wide, Wide, f16)
ENTRY_CODES(gate_up_bf16_w4a16_narrow, Narrow, 4, bf16)
ENTRY_CODES(gate_up_bf16_w4a16_wide, Wide, 4, bf16)
ENTRY_CODES(gate_up_bf16_w8a16_narrow, Narrow, 8, bf16)
ENTRY_CODES(gate_up_bf16_w8a16_wide, Wide, 8, bf16)
ENTRY_CODES(gate_up_f16_w4a16_narrow, Narrow, 4, f16)
ENTRY_CODES(gate_up_f16_w4a16_wide, Wide, 4, f16)
ENTRY_CODES(gate_up_f16_w8a16_narrow, Narrow, 8, f16)
ENTRY_CODES(gate_up_f16_w8a16_wide, Wide, 8, f16)

#define ENTRY_INT8(NAME, SHAPE, TYPE)                                                                        \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, SHAPE::BLOCKS_PER_SM)                       \
        NAME(const i8* x, const float* x_scales, const u8* weight, TYPE* y, int T, int F, int D) {           \
        SHAPE::run(Product<Int8>{x, nullptr, {weight}, T, 2 * F, D}, x_scales, SwiGlu<TYPE>{y, F});          \
    }

ENTRY_INT8(gate_up_bf16_w8a8_narrow, NarrowInt8, bf16)
ENTRY_INT8(gate_up_bf16_w8a8_wide, WideInt8, bf16)
ENTRY_INT8(gate_up_f16_w8a8_narrow, NarrowInt8, f16)
ENTRY_INT8(gate_up_f16_w8a8_wide, WideInt8, f16)
