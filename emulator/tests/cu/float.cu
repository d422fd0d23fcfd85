// Floating point: what is exact, what the CUDA libraries bound, and conversions.

#include <cstdint>

#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x

// One kernel per function: out[i] = f(in[i]).
#define UNARY(name, type, expression)                                   \
    extern "C" __global__ void name(const type *in, type *out) {        \
        INDEX;                                                          \
        type x = in[i];                                                 \
        out[i] = expression;                                            \
    }
#define BINARY(name, type, expression)                                          \
    extern "C" __global__ void name(const type *a, const type *b, type *out) {  \
        INDEX;                                                                  \
        type x = a[i], y = b[i];                                                \
        out[i] = expression;                                                    \
    }

UNARY(f_exp, float, expf(x))
UNARY(f_exp2, float, exp2f(x))
UNARY(f_log, float, logf(x))
UNARY(f_log2, float, log2f(x))
UNARY(f_log1p, float, log1pf(x))
UNARY(f_expm1, float, expm1f(x))
UNARY(f_sin, float, sinf(x))
UNARY(f_cos, float, cosf(x))
UNARY(f_tan, float, tanf(x))
UNARY(f_tanh, float, tanhf(x))
UNARY(f_erf, float, erff(x))
UNARY(f_atan, float, atanf(x))
UNARY(f_cbrt, float, cbrtf(x))
UNARY(f_rsqrt, float, rsqrtf(x))
UNARY(f_sqrt, float, sqrtf(x))
UNARY(f_rcp, float, 1.0f / x)
UNARY(f_floor, float, floorf(x))
UNARY(f_ceil, float, ceilf(x))
UNARY(f_trunc, float, truncf(x))
UNARY(f_rint, float, rintf(x))
UNARY(f_round, float, roundf(x))
UNARY(fast_exp, float, __expf(x))
UNARY(fast_log, float, __logf(x))
UNARY(fast_sin, float, __sinf(x))
UNARY(fast_cos, float, __cosf(x))
BINARY(f_add, float, x + y)
BINARY(f_mul, float, x * y)
BINARY(f_div, float, x / y)
BINARY(f_pow, float, powf(x, y))
BINARY(f_hypot, float, hypotf(x, y))
BINARY(f_fmod, float, fmodf(x, y))
BINARY(f_min, float, fminf(x, y))
BINARY(f_max, float, fmaxf(x, y))
BINARY(f_add_down, float, __fadd_rd(x, y))
BINARY(f_add_up, float, __fadd_ru(x, y))
BINARY(f_mul_zero, float, __fmul_rz(x, y))
BINARY(f_div_up, float, __fdiv_ru(x, y))
BINARY(f_fma, float, fmaf(x, y, x - y))
BINARY(fast_div, float, __fdividef(x, y))
BINARY(f_copysign, float, copysignf(fabsf(x), y))

UNARY(d_exp, double, exp(x))
UNARY(d_log, double, log(x))
UNARY(d_sin, double, sin(x))
UNARY(d_cos, double, cos(x))
UNARY(d_tanh, double, tanh(x))
UNARY(d_sqrt, double, sqrt(x))
UNARY(d_rcp, double, 1.0 / x)
BINARY(d_div, double, x / y)
BINARY(d_pow, double, pow(x, y))
BINARY(d_fma, double, fma(x, y, x + y))
BINARY(d_add_zero, double, __dadd_rz(x, y))

UNARY(tanh_approx, float, ([](float v) { float d; asm("tanh.approx.f32 %0, %1;" : "=f"(d) : "f"(v)); return d; })(x))

// Out of range and NaN have answers too.
extern "C" __global__ void to_integers(const float *in, int64_t *out) {
    INDEX;
    float x = in[i];
    int64_t *o = out + i * 8;
    o[0] = (int)x, o[1] = __float2int_rn(x), o[2] = __float2int_rd(x), o[3] = __float2uint_ru(x);
    o[4] = __float2ll_rz(x), o[5] = (int64_t)__float2ull_rn(x), o[6] = __double2int_rn((double)x), o[7] = lrintf(x);
}

extern "C" __global__ void from_integers(const int64_t *in, float *out) {
    INDEX;
    int64_t x = in[i];
    float *o = out + i * 6;
    o[0] = (float)x, o[1] = (float)(uint64_t)x, o[2] = (float)(int)x, o[3] = __uint2float_rd((unsigned)x);
    o[4] = __ll2float_ru(x), o[5] = (float)((double)x * 0.5);
}
