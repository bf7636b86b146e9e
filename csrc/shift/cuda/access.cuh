// Which tensors of a problem can be moved in vectors: tiles of whole pairs, dense and aligned. Host code.
#pragma once
#include <algorithm>

#include "shift/cuda/pairs.cuh"
#include "shift/cuda/tile.cuh"

namespace crossd_ops::cuda {

inline bool is_aligned(const void* address, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0 && stride_bytes % kVectorBytes == 0;
}

template <typename Strides>
bool pairs_are_dense(const ShiftShape& shape, const Strides& strides, int64_t elements) {
  return (shape.in_channels == 1 || strides.in_channel == elements) &&
         (shape.out_channels == 1 || strides.out_channel == elements * shape.in_channels);
}

// The axes of a pair's weights may be in any order: a slice along any axis of a contiguous weight is dense.
inline bool weight_is_dense(const ShiftShape& shape, const void* weight, const WeightStrides& strides) {
  const int size = shape.kernel[0];  // of a cubic kernel
  int64_t sorted[3] = {strides.kernel[0], strides.kernel[1], strides.kernel[2]};
  std::sort(sorted, sorted + 3);
  return sorted[0] == 1 && sorted[1] == size && sorted[2] == size * size && is_aligned(weight, 0) &&
         pairs_are_dense(shape, strides, size * size * size);
}

// Any stride between samples that keeps the alignment, 0 included.
inline bool grad_is_dense(const BackwardProblem& problem) {
  const ShiftShape& shape = problem.shape;
  const GradStrides& strides = problem.grad_strides;
  const int64_t plane = shape.kernel[1] * shape.kernel[2];
  return (shape.slices == 1 || strides.kernel[0] == plane) && strides.kernel[1] == shape.kernel[2] &&
         strides.kernel[2] == 1 && pairs_are_dense(shape, strides, shape.slices * plane) &&
         is_aligned(problem.grad, strides.sample * size_of(problem.grad_dtype));
}

// Slices of the kernels' gradients as [B, K1, K2, O, C], the layout of ForwardProblem's tap_major: the pairs of each
// tap are dense and aligned, whatever the strides between taps and between samples. Of float64, which no convolution
// makes so, they move one by one.
inline bool grad_is_tap_major(const BackwardProblem& problem) {
  const ShiftShape& shape = problem.shape;
  const GradStrides& strides = problem.grad_strides;
  const int64_t bytes = size_of(problem.grad_dtype);
  return shape.slices == 1 && bytes < 8 && pairs_are_dense(shape, strides, 1) &&
         strides.kernel[1] == shape.kernel[2] * strides.kernel[2] && is_aligned(problem.grad, strides.sample * bytes) &&
         is_aligned(problem.grad, strides.kernel[2] * bytes);
}

inline bool out_is_aligned(const ForwardProblem& problem) {
  const ShiftShape& shape = problem.shape;
  return is_aligned(problem.out,
                    pair_count(shape) * shape.slices * shape.kernel[1] * shape.kernel[2] * size_of(problem.out_dtype));
}

inline TileAccess access_of(const ForwardProblem& problem) {
  return {weight_is_dense(problem.shape, problem.weight, problem.weight_strides), false, false, out_is_aligned(problem),
          false};
}
inline TileAccess access_of(const BackwardProblem& problem) {
  const bool tap_major = grad_is_tap_major(problem);
  return {weight_is_dense(problem.shape, problem.weight, problem.weight_strides),
          problem.grad_weight && weight_is_dense(problem.shape, problem.grad_weight, problem.grad_weight_strides),
          tap_major || grad_is_dense(problem), false, tap_major};
}

}  // namespace crossd_ops::cuda
