// The second pass of a sum over all pairs: grad_shift[b, axis] = sum_tile partial[b, axis, tile], in an order that
// depends on nothing but the number of tiles. The first pass lets each block write the sum of its tile, so no atomics
// are needed.
#pragma once
#include "common/cuda/device.cuh"

namespace crossd_ops::cuda {

constexpr int kSumThreads = 128;

template <typename Acc>
__device__ __forceinline__ Acc sum_of_warp(Acc value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// One block for each of the 3 B rows; kSumThreads / kLanes elements of dynamic shared memory.
template <typename Acc>
__global__ void __launch_bounds__(kSumThreads) sum_partials(const Acc* partial,  // [rows, tiles]
                                                            int64_t tiles,
                                                            Acc* sums) {  // [rows]
  const int64_t row = blockIdx.x;
  Acc sum = 0;
  for (int64_t tile = threadIdx.x; tile < tiles; tile += kSumThreads) sum += partial[row * tiles + tile];
  sum = sum_of_warp(sum);
  Acc* warp_sums = dynamic_shared<Acc>();
  if (threadIdx.x % kLanes == 0) warp_sums[threadIdx.x / kLanes] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kSumThreads / kLanes; ++warp) sum += warp_sums[warp];
    sums[row] = sum;
  }
}

}  // namespace crossd_ops::cuda
