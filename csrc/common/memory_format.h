// The two layouts that torch's convolutions know: pixels next to each other, or channels.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "common/tensors.h"

namespace crossd_ops {

enum class MemoryFormat { contiguous, channels_last };

// From the fastest axis of a channels-last tensor of this rank to the slowest: channels, pixels, samples.
inline int64_t channels_last_axis(int64_t position, int64_t rank) {
  return position == 0 ? 1 : position == rank - 1 ? 0 : rank - position;
}

// Of images and volumes, as at::Tensor::suggest_memory_format has it, by which torch's own convolutions go: where sizes
// of 1 leave both open, contiguous. crossd_ops/operators/torch_convolution.py has the same for tracers.
inline MemoryFormat memory_format_of(const torch::stable::Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (strides[1] == 0) return MemoryFormat::contiguous;
  int64_t least = 0;
  for (int64_t position = 0; position < tensor.dim(); ++position) {
    const int64_t axis = channels_last_axis(position, tensor.dim());
    if (sizes[axis] == 0 || strides[axis] < least || (axis == 0 && least == strides[1]))
      return MemoryFormat::contiguous;
    least = strides[axis] * (sizes[axis] > 1 ? sizes[axis] : 1);
  }
  return MemoryFormat::channels_last;
}

// Of a dense tensor of this layout.
inline std::vector<int64_t> strides_of_format(const std::vector<int64_t>& sizes, MemoryFormat format) {
  if (format == MemoryFormat::contiguous) return dense_strides(sizes);
  const int64_t rank = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  for (int64_t position = 0; position < rank; ++position) {
    const int64_t axis = channels_last_axis(position, rank);
    strides[axis] = next, next *= sizes[axis];
  }
  return strides;
}

inline torch::stable::Tensor new_tensor(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                        MemoryFormat format) {
  return new_strided_tensor(like, sizes, strides_of_format(sizes, format), like.scalar_type());
}

// Strides of axes with a size of 1 are anything.
inline bool is_in_format(const torch::stable::Tensor& tensor, const std::vector<int64_t>& strides) {
  for (int64_t axis = 0; axis < tensor.dim(); ++axis)
    if (tensor.size(axis) != 1 && tensor.stride(axis) != strides[axis]) return false;
  return true;
}

}  // namespace crossd_ops
