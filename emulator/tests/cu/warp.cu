// What the lanes of a warp do together.

constexpr unsigned ALL = 0xffffffff;

extern "C" __global__ void votes(const int *in, unsigned *out) {
    int i = threadIdx.x, v = in[i];
    unsigned ballot = __ballot_sync(ALL, v > 3);
    unsigned all = __all_sync(ALL, v >= 0), any = __any_sync(ALL, v > 6);
    int agreed;
    unsigned same = __match_any_sync(ALL, v);
    unsigned uniform = __match_all_sync(ALL, v / 8, &agreed);
    unsigned wide = __match_any_sync(ALL, (unsigned long long)v << 40 | 7);
    unsigned *o = out + i * 8;
    o[0] = ballot, o[1] = all, o[2] = any, o[3] = same, o[4] = uniform, o[5] = agreed, o[6] = wide;
    o[7] = 0;
    if (v & 1) o[7] = __activemask();
}

extern "C" __global__ void shuffles(const int *in, int *out) {
    int i = threadIdx.x, v = in[i];
    int *o = out + i * 10;
    o[0] = __shfl_sync(ALL, v, i * 7 + 3);
    o[1] = __shfl_up_sync(ALL, v, 5);
    o[2] = __shfl_down_sync(ALL, v, 9);
    o[3] = __shfl_xor_sync(ALL, v, 21);
    o[4] = __shfl_sync(ALL, v, i + 1, 8);
    o[5] = __shfl_up_sync(ALL, v, 1, 4);
    o[6] = __shfl_down_sync(ALL, v, 3, 16);
    o[7] = __shfl_xor_sync(ALL, v, 1, 2);
    o[8] = (int)(__shfl_xor_sync(ALL, (long long)v << 33 | i, 16) >> 31);
    o[9] = (int)__shfl_down_sync(ALL, v * 0.5, 1);
}

// Products of 32-bit registers in one instruction each.
extern "C" __global__ void reductions(const int *in, unsigned *out) {
    int i = threadIdx.x, v = in[i];
    unsigned *o = out + i * 8;
    o[0] = __reduce_add_sync(ALL, v);
    o[1] = __reduce_min_sync(ALL, v);
    o[2] = __reduce_max_sync(ALL, v);
    o[3] = __reduce_min_sync(ALL, (unsigned)v);
    o[4] = __reduce_max_sync(ALL, (unsigned)v);
    o[5] = __reduce_and_sync(ALL, (unsigned)v);
    o[6] = __reduce_or_sync(ALL, (unsigned)v);
    o[7] = __reduce_xor_sync(ALL, (unsigned)v);
}

// Parts of a warp on different paths, each with its own members.
extern "C" __global__ void parts(const int *in, int *out) {
    int i = threadIdx.x, lane = i % 32, v = in[i], r;
    if (lane < 8) {
        r = v;
        for (int d = 4; d > 0; d /= 2) r += __shfl_xor_sync(0xff, r, d);
    } else if (lane < 20) {
        r = __reduce_max_sync(0x000fff00, v);
    } else {
        unsigned odd = __ballot_sync(0xfff00000, v & 1);
        r = v & 1 ? __popc(odd & ((1u << lane) - 1)) : -__ffs(__match_any_sync(~odd & 0xfff00000, v));
    }
    __syncwarp();
    out[i] = r + __shfl_sync(ALL, r, 31 - lane);
}

// Inclusive sums over a block: by warps, then over the warps.
extern "C" __global__ void scan(const float *in, float *out) {
    __shared__ float totals[32];
    int i = threadIdx.x, lane = i % 32, warp = i / 32;
    float v = in[i];
    for (int d = 1; d < 32; d *= 2) {
        float below = __shfl_up_sync(ALL, v, d);
        if (lane >= d) v += below;
    }
    if (lane == 31) totals[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float t = lane < blockDim.x / 32 ? totals[lane] : 0;
        for (int d = 1; d < 32; d *= 2) {
            float below = __shfl_up_sync(ALL, t, d);
            if (lane >= d) t += below;
        }
        totals[lane] = t;
    }
    __syncthreads();
    out[i] = v + (warp > 0 ? totals[warp - 1] : 0);
}

// A transpose of 32x32 within a warp through shared memory, without a barrier of the block.
extern "C" __global__ void warp_tile(const int *in, int *out) {
    __shared__ int tile[4][32][33];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int r = 0; r < 32; r++) tile[warp][r][lane] = in[(warp * 32 + r) * 32 + lane];
    __syncwarp();
    for (int r = 0; r < 32; r++) out[(warp * 32 + r) * 32 + lane] = tile[warp][lane][r];
}

// Lanes leave a loop at different times; those that are left count each other.
extern "C" __global__ void survivors(const int *in, int *out) {
    int i = threadIdx.x, sum = 0;
    for (int k = 0;; k++) {
        unsigned left = __ballot_sync(ALL, k < in[i]);
        if (left == 0) break;
        if (k < in[i]) sum += __popc(left);
    }
    out[i] = sum;
}

// Signed elements of four bytes, summed with an accumulator.
extern "C" __global__ void dots(const int *a, const int *b, int *out) {
    int i = threadIdx.x;
    out[i * 4 + 0] = __dp4a(a[i], b[i], 1000);
    out[i * 4 + 1] = __dp4a((unsigned)a[i], (unsigned)b[i], 1000u);
    out[i * 4 + 2] = __dp2a_lo(a[i], b[i], -5);
    out[i * 4 + 3] = __dp2a_hi((unsigned)a[i], (unsigned)b[i], 5u);
}
