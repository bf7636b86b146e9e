// Checks of weight, shift and gradient, for every operator that shifts.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/checks.h"
#include "shift/problem.h"

namespace crossd_ops {

inline void check_rank_of_weight(const torch::stable::Tensor& weight) {
  require(weight.dim() == 5, [&] { return "weight: expected (O, C, Kd, Kh, Kw), got " + shape_text(weight); });
}

inline void check_weight_and_shift(const torch::stable::Tensor& weight, const torch::stable::Tensor& shift, int64_t dim,
                                   std::optional<int64_t> index) {
  check_rank_of_weight(weight);
  const auto sizes = weight.sizes(), shift_sizes = shift.sizes();  // each look at a tensor is a call
  for (int i = 2; i < 5; ++i)
    require(sizes[i] >= 1 && sizes[i] <= kMaxKernel, [&] {
      return "weight: expected kernel sizes from 1 to " + std::to_string(kMaxKernel) + ", got " + shape_text(weight);
    });
  require(shift_sizes.size() == 2 && shift_sizes[1] == 3,
          [&] { return "shift: expected (B, 3), got " + shape_text(shift); });
  const Dtype accumulate = accumulate_dtype(checked_dtype(weight, "weight"));
  require(checked_dtype(shift, "shift") == accumulate, [&] {
    return std::string("shift: expected ") +
           (accumulate == Dtype::float64 ? "float64 for a float64" : "float32 for this") + " weight";
  });
  require(weight.is_cuda() == shift.is_cuda() && weight.get_device_index() == shift.get_device_index(),
          [&] { return std::string("shift: expected the device of weight"); });
  require(dim >= 0 && dim <= 2, [&] { return "dim: expected 0, 1 or 2, got " + std::to_string(dim); });
  require(index || dim == 0, [&] { return "dim: expected 0 for the whole weight, got " + std::to_string(dim); });
  if (index)
    require(*index >= 0 && *index < sizes[2 + dim], [&] {
      return "index: expected 0 to " + std::to_string(sizes[2 + dim] - 1) + ", got " + std::to_string(*index);
    });
}

inline void check_grad(const torch::stable::Tensor& grad, const torch::stable::Tensor& weight,
                       const std::vector<int64_t>& sizes) {
  bool same = grad.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; i < sizes.size() && same; ++i) same = grad.size(static_cast<int64_t>(i)) == sizes[i];
  require(same,
          [&] { return "grad: expected " + shape_text(sizes.data(), sizes.size()) + ", got " + shape_text(grad); });
  require(grad.is_cuda() == weight.is_cuda() && grad.get_device_index() == weight.get_device_index(),
          [&] { return std::string("grad: expected the device of weight"); });
}

}  // namespace crossd_ops
