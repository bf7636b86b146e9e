// The second pass of a sum over all pairs: grad_shift[b, axis] = sum_tile partial[tile, b, axis], in an order that
// depends on nothing but the number of tiles. The first pass lets each block write the sums of its tile side by side,
// so no atomics are needed, and both passes move whole sectors of 32 bytes.
#pragma once
#include "common/cuda/device.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/problem.h"

namespace crossd_ops::cuda {

constexpr int kSumThreads = 512;
constexpr int kSumRows = 8;  // (b, axis) of a block: a sector, or two of float64

// Elements of partial that belong to a tile, [B, 3] and a rest that nobody reads.
inline __host__ __device__ int64_t partial_stride(int64_t samples) {
  return (3 * samples + kSumRows - 1) / kSumRows * kSumRows;
}

// After it lane i < nearest of each kCount neighbours holds the sum over their lanes i, i + nearest, i + 2 nearest ...
template <int kCount = kLanes, typename Acc>
__device__ __forceinline__ Acc sum_of_warp(Acc value, int nearest = 1) {
  for (int distance = kCount / 2; distance >= nearest; distance /= 2)
    value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// The first pass of samples first .. first + samples - 1: adds the sums of the block's warps, [kWarps, kGroup, 3], in
// the order of the warps.
template <int kWarps, int kGroup, typename Acc>
__device__ __forceinline__ void write_partial(const BackwardProblem& problem, int64_t first, int samples,
                                              const Acc* sums) {
  static_assert(kGroup * 3 % kSumRows == 0);
  Acc* partial = static_cast<Acc*>(problem.partial) + blockIdx.x * partial_stride(problem.shape.samples) + first * 3;
#pragma unroll 1
  for (int task = threadIdx.x; task < 3 * samples; task += kWarps * kLanes) {
    const int sample = task / 3, axis = task - sample * 3;
    Acc sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp * kGroup * 3 + task];
    partial[sample * 3 + select(problem.shape.axis, axis)] = sum;
  }
}

// One block for each kSumRows of the 3 B rows; kSumThreads / kLanes * kSumRows elements of dynamic shared memory.
template <typename Acc>
__global__ void __launch_bounds__(kSumThreads) sum_partials(const Acc* partial,  // [tiles, partial_stride(B)]
                                                            int64_t tiles, int64_t samples,
                                                            Acc* sums) {  // [B, 3]
  const int64_t stride = partial_stride(samples),
                row = static_cast<int64_t>(blockIdx.x) * kSumRows + threadIdx.x % kSumRows;
  Acc sum = 0;
  if (row < 3 * samples) {
#pragma unroll 8
    for (int64_t tile = threadIdx.x / kSumRows; tile < tiles; tile += kSumThreads / kSumRows)
      sum += partial[tile * stride + row];
  }
  sum = sum_of_warp(sum, kSumRows);
  Acc* warp_sums = dynamic_shared<Acc>();  // [warps, kSumRows]
  if (threadIdx.x % kLanes < kSumRows) warp_sums[threadIdx.x / kLanes * kSumRows + threadIdx.x % kLanes] = sum;
  __syncthreads();
  if (threadIdx.x >= kSumRows || row >= 3 * samples) return;
  for (int warp = 1; warp < kSumThreads / kLanes; ++warp) sum += warp_sums[warp * kSumRows + threadIdx.x];
  sums[row] = sum;
}

}  // namespace crossd_ops::cuda
