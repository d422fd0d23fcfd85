struct Node { int v; const Node* next; };
__device__ int table[3][4] = {{1, 2}, {3}, {4, 5, 6, 7}};
__device__ Node last = {7, nullptr};
__device__ Node first = {5, &last};
__constant__ float weights[4] = {1.5f, -2.0f, 0.25f, 1e10f};
__device__ double counter;
__device__ char text[] = "osprey";
extern "C" __global__ void variables(float* y, int i) {
  y[0] = table[i & 1][i & 3] + weights[i] + first.next->v + text[i];
  atomicAdd(&counter, 1.0);
}
extern "C" __global__ void choose(int* y, int i) {
  int r;
  switch (i) { case 0: r = y[1] * 3; break; case 1: r = y[2] / 7; break; case 2: r = y[3] ^ 5; break;
    case 3: r = y[4] % 11; break; case 4: r = y[5] << 3; break; case 5: r = y[6] + 9; break; case 6: r = y[9] | 6; break; default: r = 1; }
  for (int k = 0; k < i; k++) { if (y[k] > r) r += y[k]; else if (y[k] == 3) break; }
  y[0] = r + blockDim.x + gridDim.y + (threadIdx.x & 31) + warpSize;
}
