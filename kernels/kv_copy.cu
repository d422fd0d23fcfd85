// kv_copy: copies what blocks of the KV cache hold, so that sequences that shared one may go on apart.
//
// Entries   kv_copy
// cache     i32 [planes, blocks, heads, tokens, words] update: a plane is the keys or values of a layer, or their scales
// copies    i32 [n, 3] read: from, to, and how many first tokens; no block is in two copies but as the first of each
// Launch    (n, planes) blocks of 128 threads: one for a block of a plane
// Numerics  exact
// Cost      the tokens of n blocks of every plane twice
#include "common.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_copy(int* cache, const int* copies, int heads, int tokens, int words, int plane) {
    const int *copy = copies + 3 * blockIdx.x, block = heads * tokens * words, head = copy[2] * words;
    int* base = cache + static_cast<size_t>(blockIdx.y) * plane;
    const int* from = base + static_cast<size_t>(copy[0]) * block;
    int* to = base + static_cast<size_t>(copy[1]) * block;
    for (int i = threadIdx.x; i < heads * head; i += THREADS) {
        const int at = i / head * tokens * words + i % head;
        to[at] = from[at];
    }
}
