// Where the elements of a pair p = (output channel, input channel) lie: p = o C + c, in the order of dense memory.
#pragma once
#include "common/cuda/device.cuh"
#include "shift/problem.h"

namespace crossd_ops::cuda {

inline __host__ __device__ int64_t pair_count(const ShiftShape& shape) {
  return shape.out_channels * shape.in_channels;
}

// Offset of the first element of a pair. Strides: WeightStrides or GradStrides.
template <typename Strides>
__device__ __forceinline__ int64_t pair_offset(const Strides& strides, int64_t in_channels, int64_t pair) {
  const int64_t out_channel = pair / in_channels;
  return out_channel * strides.out_channel + (pair - out_channel * in_channels) * strides.in_channel;
}

template <typename Strides>
__device__ __forceinline__ int64_t kernel_offset(const Strides& strides, int x, int y, int z) {
  return x * strides.kernel[0] + y * strides.kernel[1] + z * strides.kernel[2];
}

// values[index] of a struct that is a kernel's argument: indexed at run time it would be copied to the stack.
template <typename T>
__device__ __forceinline__ T select(const T (&values)[3], int index) {
  return index == 0 ? values[0] : index == 1 ? values[1] : values[2];
}

}  // namespace crossd_ops::cuda
