"""Numba on the emulator: a foreign client of the driver library, on a machine without a GPU.

    pip install "numba-cuda[cu13]" numpy
    cargo build -p cuda-emulator
    mkdir -p target/driver
    ln -sf ../debug/libcuda_emulator.so target/driver/libcuda.so
    ln -sf ../debug/libcuda_emulator.so target/driver/libcuda.so.1
    LD_LIBRARY_PATH=target/driver python3 emulator/examples/numba_client.py

Tried with numba-cuda 0.30.4 and numba 0.68.1. From the wheels of CUDA it takes libNVVM and libdevice (nvidia-nvvm), which
make the PTX, and NVRTC for the name of the target. Numba then has nvJitLink make machine code, which nothing but a GPU
runs: below it is told to give the driver the PTX.
"""

import math

import numpy as np
from cuda.core import ObjectCode
from numba import config, cuda, float32
from numba.cuda.codegen import CUDACodeLibrary

config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
CUDACodeLibrary.get_cubin = lambda self, cc=None: ObjectCode.from_ptx(self.get_asm_str(cc).encode())

THREADS = 128


@cuda.jit
def curve(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a * x[i] + math.sin(x[i])


@cuda.jit
def total(x, out):
    """Adds up: in shared memory, then one atomic addition of each block."""
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if t < step:
            part[t] += part[t + step]
        step //= 2
    if t == 0:
        cuda.atomic.add(out, 0, part[0])


x = np.arange(1000, dtype=np.float32)
y, out = cuda.device_array_like(x), cuda.to_device(np.zeros(1, np.float32))
on_device = cuda.to_device(x)
blocks = -(-x.size // THREADS)
curve[blocks, THREADS](np.float32(2), on_device, y)
# Whole numbers below 2^24: their sum is exact in any order.
total[blocks, THREADS](on_device, out)

device = cuda.get_current_device()
exact = 2 * x.astype(np.float64) + np.sin(x.astype(np.float64))
error = np.abs(y.copy_to_host() - exact) / np.maximum(np.abs(exact), 1)
print(device.name, "compute capability", device.compute_capability)
print("largest error of curve:", error.max(), "sum:", out.copy_to_host()[0], "of", x.sum())
# The sine may be 2 ulp off and the sum is rounded: together below 2^-22 of what is at least 1.
assert error.max() < 2.0**-22 and out.copy_to_host()[0] == x.sum()
