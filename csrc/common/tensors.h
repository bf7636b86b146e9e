// New tensors and dense ones, by the shortest way that the stable ABI offers: its own operators are looked up by name
// at every call, which costs a microsecond or two and is most of what a small problem takes.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "common/errors.h"

namespace crossd_ops {

// Of a contiguous tensor, also of one without elements.
inline std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 0 ? sizes[i] : 1);
  return strides;
}

// An uninitialised tensor of these strides, which are dense, on the device of `like`.
inline torch::stable::Tensor new_strided_tensor(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                                const std::vector<int64_t>& strides,
                                                torch::headeronly::ScalarType dtype) {
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const auto dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  const int64_t axes = static_cast<int64_t>(sizes.size());
  if (aoti_torch_empty_strided(axes, sizes.data(), strides.data(), dtype_code, device_type, like.get_device_index(),
                               &handle) != AOTI_TORCH_SUCCESS)
    throw_out_of_memory(like.is_cuda(), std::accumulate(sizes.begin(), sizes.end(),
                                                        static_cast<int64_t>(aoti_torch_dtype_element_size(dtype_code)),
                                                        std::multiplies<int64_t>()));
  return torch::stable::Tensor(handle);
}

// The same, contiguous.
inline torch::stable::Tensor new_tensor(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                        torch::headeronly::ScalarType dtype) {
  return new_strided_tensor(like, sizes, dense_strides(sizes), dtype);
}

// The tensor itself where it is contiguous, else a contiguous copy.
inline torch::stable::Tensor dense(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace crossd_ops
