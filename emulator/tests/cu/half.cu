// Half precision and bfloat16, alone and in pairs.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x

extern "C" __global__ void half_arithmetic(const __half *a, const __half *b, __half *out) {
    INDEX;
    __half x = a[i], y = b[i], *o = out + i * 8;
    o[0] = __hadd(x, y), o[1] = __hsub(x, y), o[2] = __hmul(x, y), o[3] = __hfma(x, y, x);
    o[4] = __hmin(x, y), o[5] = __hmax(x, y), o[6] = __habs(__hneg(x)), o[7] = __hfma_relu(x, y, y);
}

extern "C" __global__ void half_pairs(const __half2 *a, const __half2 *b, __half2 *out) {
    INDEX;
    __half2 x = a[i], y = b[i], *o = out + i * 5;
    o[0] = __hadd2(x, y), o[1] = __hmul2(x, y), o[2] = __hfma2(x, y, y), o[3] = __hgt2(x, y);
    o[4] = __halves2half2(__low2half(x), __high2half(y));
}

extern "C" __global__ void half_functions(const __half *a, float *out) {
    INDEX;
    out[i * 5] = __half2float(hsqrt(a[i])), out[i * 5 + 1] = __half2float(hexp(a[i]));
    out[i * 5 + 2] = __half2float(hrcp(a[i])), out[i * 5 + 3] = __half2float(hsin(a[i]));
    out[i * 5 + 4] = __half2float(h2exp2(__half2half2(a[i])).y);
}

extern "C" __global__ void bfloat_arithmetic(const __nv_bfloat16 *a, const __nv_bfloat16 *b, __nv_bfloat16 *out) {
    INDEX;
    __nv_bfloat16 x = a[i], y = b[i], *o = out + i * 7;
    o[0] = __hadd(x, y), o[1] = __hsub(x, y), o[2] = __hmul(x, y), o[3] = __hfma(x, y, x);
    o[4] = __hmin(x, y), o[5] = __hmax(x, y), o[6] = __hneg(x);
}

extern "C" __global__ void bfloat_pairs(const __nv_bfloat162 *a, const __nv_bfloat162 *b, __nv_bfloat162 *out) {
    INDEX;
    __nv_bfloat162 x = a[i], y = b[i], *o = out + i * 4;
    o[0] = __hadd2(x, y), o[1] = __hmul2(x, y), o[2] = __hfma2(x, y, y), o[3] = __hmax2(x, y);
}

extern "C" __global__ void conversions(const float *in, unsigned short *out) {
    INDEX;
    float x = in[i];
    unsigned short *o = out + i * 8;
    o[0] = __half_as_ushort(__float2half_rn(x)), o[1] = __half_as_ushort(__float2half_rz(x));
    o[2] = __half_as_ushort(__float2half_ru(x)), o[3] = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    o[4] = __bfloat16_as_ushort(__float2bfloat16_rz(x));
    __half2 pair = __floats2half2_rn(x, -x);
    o[5] = __half_as_ushort(__high2half(pair));
    __nv_bfloat162 brain = __floats2bfloat162_rn(-x, x);
    o[6] = __bfloat16_as_ushort(__low2bfloat16(brain)), o[7] = __bfloat16_as_ushort(__high2bfloat16(brain));
}

extern "C" __global__ void widen(const unsigned short *in, float *out) {
    INDEX;
    out[i * 2] = __half2float(__ushort_as_half(in[i]));
    out[i * 2 + 1] = __bfloat162float(__ushort_as_bfloat16(in[i]));
}
