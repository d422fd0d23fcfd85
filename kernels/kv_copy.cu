// kv_copy: copies whole blocks of the KV cache, so that sequences that shared one may go on apart.
//
// Entries   kv_copy
// cache     16-byte pieces [planes, blocks, pieces] update: a plane is the keys or values of a layer, or their scales
// pairs     i32 [n, 2] read: from, to; no block is in two pairs but as the first of each
// Needs     blocks of whole pieces, planes aligned to 16 bytes
// Launch    (n, planes) blocks of 128 threads: one for a block of a plane
// Numerics  exact
// Cost      n blocks of every plane twice
#include "common.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS) kv_copy(uint4* cache, const int* pairs, int pieces, int plane) {
    uint4* base = cache + static_cast<size_t>(blockIdx.y) * plane;
    const uint4* from = base + static_cast<size_t>(pairs[2 * blockIdx.x]) * pieces;
    uint4* to = base + static_cast<size_t>(pairs[2 * blockIdx.x + 1]) * pieces;
    for (int i = threadIdx.x; i < pieces; i += THREADS) st_global(to + i, ld_global_l2(from + i));
}
