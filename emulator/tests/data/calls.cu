#include <cstdio>
#include <cassert>
struct Big { int n; double w[5]; char tail; };
__device__ __noinline__ float weigh(Big b, int i) { return b.w[i % 5] + b.n + b.tail; }
__device__ __noinline__ Big make(int n) { Big b; b.n = n; for (int i = 0; i < 5; i++) b.w[i] = i * n; b.tail = n; return b; }
__device__ __noinline__ float both(int n) { Big b = make(n); return weigh(b, n) + weigh(make(n + 1), 2); }
extern "C" __global__ void __launch_bounds__(128) calls(const float* x, float* y, int n) {
  extern __shared__ char dyn[];
  __shared__ float t[128];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  t[threadIdx.x] = x[i]; __syncthreads();
  assert(i < n);
  y[i] = both(n + i) + t[127 - threadIdx.x] + dyn[i];
  if (i == 0) printf("hi %d %f\n", i, t[0]);
}
