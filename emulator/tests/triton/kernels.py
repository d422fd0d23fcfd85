"""Triton kernels that `make.py` compiles and `../triton.rs` runs on the emulator.

They are written as users of Triton write them; together they reach the forms of PTX that Triton likes: masked vector
loads, shuffles and shared memory for reductions, `cp.async` pipelines, `ldmatrix` and `mma`, atomics with guards.
"""

import triton
import triton.language as tl


@triton.jit
def softmax(x, y, cols, stride, BLOCK: tl.constexpr):
    """Each program: one row of f32."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < cols
    v = tl.load(x + row * stride + i, mask=inside, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(y + row * stride + i, e / tl.sum(e, axis=0), mask=inside)


@triton.jit
def layer_norm(x, weight, bias, y, cols, eps, BLOCK: tl.constexpr):
    """Each program: one row of bf16, in f32."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < cols
    v = tl.load(x + row * cols + i, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(v, axis=0) / cols
    centred = tl.where(inside, v - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / cols + eps)
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * cols + i, (centred * scale * w + b).to(tl.bfloat16), mask=inside)


@triton.jit
def matmul(a, b, c, m, n, k, lda, ldb, ldc, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr):
    """c[m, n] = a[m, k] b[k, n], row major; each program: a tile of c."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    steps = tl.arange(0, BK)
    ap = a + rows[:, None] * lda + steps[None, :]
    bp = b + steps[:, None] * ldb + cols[None, :]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for start in range(0, k, BK):
        left = k - start
        at = tl.load(ap, mask=(rows[:, None] < m) & (steps[None, :] < left), other=0)
        bt = tl.load(bp, mask=(steps[:, None] < left) & (cols[None, :] < n), other=0)
        acc = tl.dot(at, bt, acc, out_dtype=ACC)
        ap += BK
        bp += BK * ldb
    out = acc.to(c.dtype.element_ty)
    tl.store(c + rows[:, None] * ldc + cols[None, :], out, mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def attention(q, k, v, o, length, scale, HEAD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Causal attention with an online softmax; each program: BM queries of one head, [heads, length, HEAD]."""
    first = tl.program_id(0) * BM
    base = tl.program_id(1) * length * HEAD
    rows = first + tl.arange(0, BM)
    d = tl.arange(0, HEAD)
    qt = tl.load(q + base + rows[:, None] * HEAD + d[None, :], mask=rows[:, None] < length, other=0.0)
    top = tl.full((BM,), -float("inf"), dtype=tl.float32)
    norm = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, HEAD), dtype=tl.float32)
    for start in range(0, tl.minimum(first + BM, length), BN):
        keys = start + tl.arange(0, BN)
        kt = tl.load(k + base + keys[None, :] * HEAD + d[:, None], mask=keys[None, :] < length, other=0.0)
        s = tl.dot(qt, kt) * (scale * 1.4426950408889634)
        s = tl.where(keys[None, :] <= rows[:, None], s, -float("inf"))
        peak = tl.maximum(top, tl.max(s, axis=1))
        p = tl.exp2(s - peak[:, None])
        fade = tl.exp2(top - peak)
        norm = norm * fade + tl.sum(p, axis=1)
        vt = tl.load(v + base + keys[:, None] * HEAD + d[None, :], mask=keys[:, None] < length, other=0.0)
        acc = tl.dot(p.to(tl.bfloat16), vt, acc * fade[:, None])
        top = peak
    out = (acc / norm[:, None]).to(tl.bfloat16)
    tl.store(o + base + rows[:, None] * HEAD + d[None, :], out, mask=rows[:, None] < length)


@triton.jit
def histogram(x, bins, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Counts of values 0 .. BINS: in shared memory first, then all blocks into one."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(bins + tl.arange(0, BINS), tl.histogram(v, BINS, mask=i < n))


@triton.jit
def scatter(x, at, sums, tops, n, BLOCK: tl.constexpr):
    """sums[at[i]] += x[i] (f32), tops[at[i]] = max(.., i) (i32)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    to = tl.load(at + i, mask=inside, other=0)
    tl.atomic_add(sums + to, tl.load(x + i, mask=inside, other=0.0), mask=inside)
    tl.atomic_max(tops + to, i, mask=inside)


@triton.jit
def reduce(x, sums, best, where, cols, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of ROWS rows of i32 at a time: the sum, the largest and its first place; down the columns, so that warps meet."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + rows[None, :] * cols + i[:, None], mask=i[:, None] < cols, other=-2147483648)
    top, place = tl.max(v, axis=0, return_indices=True)
    tl.store(sums + rows, tl.sum(tl.where(i[:, None] < cols, v, 0), axis=0))
    tl.store(best + rows, top)
    tl.store(where + rows, place)


@triton.jit
def running(x, y, cols, BLOCK: tl.constexpr):
    """Sorts a row of i32 and stores its running sums."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + row * cols + i, mask=i < cols, other=2147483647)
    v = tl.where(i < cols, tl.sort(v), 0)
    tl.store(y + row * cols + i, tl.cumsum(v, axis=0), mask=i < cols)


@triton.jit
def elementary(x, roots, sines, cosines, logs, n, BLOCK: tl.constexpr):
    """What libdevice computes: with slow paths, in local memory and in loops."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    v = tl.load(x + i, mask=inside, other=1.0)
    tl.store(roots + i, tl.div_rn(tl.sqrt_rn(v), 3.0), mask=inside)
    tl.store(sines + i, tl.sin(v), mask=inside)
    tl.store(cosines + i, tl.cos(v), mask=inside)
    tl.store(logs + i, tl.log(v), mask=inside)


@triton.jit
def guarded(x, n, BLOCK: tl.constexpr):
    """Asserts that all are positive."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=1)
    tl.device_assert(v > 0, "not positive")
    tl.store(x + i, v * 2, mask=i < n)
