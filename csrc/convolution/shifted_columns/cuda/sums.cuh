// The sums of a block for the gradient of the shift.
#pragma once
#include "convolution/shifted_columns/cuda/window.cuh"
#include "shift/cuda/partial_sums.cuh"

namespace crossd_ops::cuda {

// Of the threads' shares, by the axis of the image, in a fixed order. All threads of the block come here.
template <typename Acc>
__device__ __forceinline__ void write_shift_sums(const ShiftedShape& shape, const ShiftedPart& part, int warps,
                                                 const Acc (&shares)[3], Acc* sums /* [parts, B, 3] */) {
  __shared__ Acc warp_sums[kShiftedWarps][3];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const Acc sum = sum_of_warp(shares[axis]);
    if (lane == 0) warp_sums[thread / kLanes][axis] = sum;
  }
  __syncthreads();
  if (thread >= 3) return;
  Acc sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += warp_sums[warp][thread];
  sums[(part.part * shape.samples + part.sample) * 3 + select(shape.shift_axis, thread)] = sum;
}

}  // namespace crossd_ops::cuda
