// Integers and bits.

#include <cstdint>

#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x

extern "C" __global__ void bit_counts(const uint64_t *in, uint32_t *out) {
    INDEX;
    uint64_t w = in[i];
    uint32_t v = (uint32_t)w, *o = out + i * 12;
    o[0] = __popc(v), o[1] = __clz(v), o[2] = __brev(v), o[3] = __ffs(v);
    o[4] = __popcll(w), o[5] = __clzll(w), o[6] = (uint32_t)__brevll(w), o[7] = __brevll(w) >> 32;
    o[8] = __ffsll(w), o[9] = __fns(v, 5, 3), o[10] = v ? 31 - __clz((int)v) : 77, o[11] = __clz(~v);
}

template <int TABLE> __device__ uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return d;
}

extern "C" __global__ void logic(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *out) {
    INDEX;
    uint32_t x = a[i], y = b[i], z = c[i], *o = out + i * 6;
    o[0] = lop3<0x00>(x, y, z), o[1] = lop3<0x1b>(x, y, z), o[2] = lop3<0x96>(x, y, z);
    o[3] = lop3<0xe8>(x, y, z), o[4] = lop3<0x2d>(x, y, z), o[5] = lop3<0xca>(x, y, z);
}

extern "C" __global__ void bytes(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *out) {
    INDEX;
    uint32_t x = a[i], y = b[i], z = c[i], *o = out + i * 7, d;
    o[0] = __byte_perm(x, y, z & 0x7777);
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(x), "r"(y), "r"(z));  // with signs
    o[1] = d;
    asm("prmt.b32.f4e %0, %1, %2, %3;" : "=r"(o[2]) : "r"(x), "r"(y), "r"(z));
    o[3] = __funnelshift_l(x, y, z), o[4] = __funnelshift_r(x, y, z);
    o[5] = __funnelshift_lc(x, y, z), o[6] = __funnelshift_rc(x, y, z);
}

// Fields whose place and length come from the low bytes of c.
extern "C" __global__ void fields(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *out) {
    INDEX;
    uint32_t at = c[i] & 0xff, length = c[i] >> 8 & 0xff, *o = out + i * 4;
    uint64_t wide, x = (uint64_t)a[i] << 32 | b[i];
    asm("bfe.u32 %0, %1, %2, %3;" : "=r"(o[0]) : "r"(a[i]), "r"(at), "r"(length));
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(o[1]) : "r"(a[i]), "r"(at), "r"(length));
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(o[2]) : "r"(a[i]), "r"(b[i]), "r"(at), "r"(length));
    asm("bfe.s64 %0, %1, %2, %3;" : "=l"(wide) : "l"(x), "r"(at), "r"(length));
    o[3] = (uint32_t)wide ^ (uint32_t)(wide >> 32);
}

template <class T> __device__ void divide(const T *a, const T *b, T *out) {
    INDEX;
    out[i * 2] = a[i] / b[i];
    out[i * 2 + 1] = a[i] % b[i];
}

extern "C" __global__ void divide_s32(const int32_t *a, const int32_t *b, int32_t *out) { divide(a, b, out); }
extern "C" __global__ void divide_u32(const uint32_t *a, const uint32_t *b, uint32_t *out) { divide(a, b, out); }
extern "C" __global__ void divide_s64(const int64_t *a, const int64_t *b, int64_t *out) { divide(a, b, out); }
extern "C" __global__ void divide_u64(const uint64_t *a, const uint64_t *b, uint64_t *out) { divide(a, b, out); }
extern "C" __global__ void divide_s16(const int16_t *a, const int16_t *b, int16_t *out) { divide(a, b, out); }

// Divisors that the compiler knows become multiplications with high halves.
extern "C" __global__ void divide_known(const uint64_t *a, uint64_t *out) {
    INDEX;
    int64_t s = a[i];
    int32_t v = a[i];
    out[i * 6 + 0] = a[i] / 1000003, out[i * 6 + 1] = a[i] % 10, out[i * 6 + 2] = s / 7;
    out[i * 6 + 3] = v / 13, out[i * 6 + 4] = (uint32_t)v / 641u, out[i * 6 + 5] = v % 100;
}

extern "C" __global__ void products(const uint64_t *a, const uint64_t *b, uint64_t *out) {
    INDEX;
    uint64_t x = a[i], y = b[i], *o = out + i * 10;
    unsigned __int128 p = (unsigned __int128)x * y + x;
    o[0] = x * y, o[1] = __umul64hi(x, y), o[2] = __mul64hi(x, y);
    o[3] = __umulhi((uint32_t)x, (uint32_t)y), o[4] = (uint32_t)__mulhi((int)x, (int)y);
    o[5] = (uint32_t)__mul24((int)x, (int)y), o[6] = __umul24((uint32_t)x, (uint32_t)y);
    o[7] = (int64_t)(int32_t)x * (int32_t)y + (int64_t)y;
    o[8] = (uint64_t)p, o[9] = p >> 64;
}

extern "C" __global__ void shifts(const uint64_t *a, const uint32_t *by, uint64_t *out) {
    INDEX;
    uint64_t x = a[i], *o = out + i * 6, d;
    uint32_t n = by[i], narrow;
    // PTX clamps what C++ leaves undefined.
    asm("shl.b64 %0, %1, %2;" : "=l"(o[0]) : "l"(x), "r"(n));
    asm("shr.u64 %0, %1, %2;" : "=l"(o[1]) : "l"(x), "r"(n));
    asm("shr.s64 %0, %1, %2;" : "=l"(d) : "l"(x), "r"(n));
    o[2] = d;
    asm("shl.b32 %0, %1, %2;" : "=r"(narrow) : "r"((uint32_t)x), "r"(n));
    o[3] = narrow;
    asm("shr.s32 %0, %1, %2;" : "=r"(narrow) : "r"((uint32_t)x), "r"(n));
    o[4] = narrow;
    o[5] = (uint64_t)(int64_t)(int8_t)(x >> 8) + (uint64_t)(int64_t)(int16_t)x + (uint8_t)(x >> 24);
}

extern "C" __global__ void small_things(const int32_t *a, const int32_t *b, int32_t *out) {
    INDEX;
    int32_t x = a[i], y = b[i], *o = out + i * 9;
    o[0] = min(x, y), o[1] = max(x, y), o[2] = abs(x), o[3] = min((uint32_t)x, (uint32_t)y);
    o[4] = __sad(x, y, 9), o[5] = __usad(x, y, 9), o[6] = __hadd(x, y), o[7] = __rhadd(x, y);
    o[8] = (x > y) + 2 * ((uint32_t)x > (uint32_t)y) + 4 * (x == y);
}

// Four or two numbers in a register.
extern "C" __global__ void packed(const uint32_t *a, const uint32_t *b, uint32_t *out) {
    INDEX;
    uint32_t x = a[i], y = b[i], *o = out + i * 6;
    o[0] = __vadd4(x, y), o[1] = __vsubus4(x, y), o[2] = __vmaxs4(x, y);
    o[3] = __vsub4(x, y), o[4] = __vcmpgtu4(x, y), o[5] = __vadd2(x, y);
}
