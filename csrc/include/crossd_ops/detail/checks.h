// Checks of arguments, made before any work, with the texts of crossd_ops/operators/checks.py.
#pragma once
#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>

namespace crossd_ops::detail {

constexpr int64_t kMaxKernel = 15;

// Which part of the shifted weight is wanted: the slice at `index` of spatial axis `dim`, or all of it.
struct Place {
  int64_t dim;
  std::optional<int64_t> index;
};

inline std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

inline bool supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
}

// The type in which a weight or a map of `dtype` is computed with.
inline at::ScalarType accumulate_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

inline void check_tensor(const char* name, const at::Tensor& value) {
  TORCH_CHECK_TYPE(value.defined(), name, ": expected a Tensor, got an undefined one");
  TORCH_CHECK_TYPE(supported(value.scalar_type()), name,
                   ": expected a dtype of float64, float32, bfloat16 or float16, got ", value.scalar_type());
  TORCH_CHECK_TYPE(value.layout() == at::kStrided && !value.is_nested(), name, ": expected a tensor with strides, got ",
                   value.is_nested() ? "a nested one" : "another layout");
}

inline void check_device(const char* name, const at::Tensor& value, const char* of, const at::Tensor& like) {
  TORCH_CHECK_VALUE(value.device() == like.device(), name, ": expected the device of ", of, " (", like.device(),
                    "), got ", value.device());
}

inline void check_weight_and_shift(const at::Tensor& weight, const at::Tensor& shift,
                                   std::optional<at::ScalarType> dtype) {
  check_tensor("weight", weight);
  check_tensor("shift", shift);
  TORCH_CHECK_VALUE(weight.dim() == 5, "weight: expected (O, C, Kd, Kh, Kw), got ", shape_text(weight.sizes()));
  for (const int64_t size : weight.sizes().slice(2))
    TORCH_CHECK_VALUE(size >= 1 && size <= kMaxKernel, "weight: expected kernel sizes from 1 to ", kMaxKernel, ", got ",
                      shape_text(weight.sizes()));
  TORCH_CHECK_VALUE(shift.dim() == 2 && shift.size(1) == 3, "shift: expected (B, 3), got ", shape_text(shift.sizes()));
  check_device("shift", shift, "weight", weight);
  TORCH_CHECK_TYPE(!dtype || supported(*dtype), "dtype: expected float64, float32, bfloat16 or float16, got ",
                   dtype.value_or(at::kFloat));
}

// `dim` and `index` counted from the start; no index is the middle slice K / 2.
inline Place checked_slice(const at::Tensor& weight, int64_t dim, std::optional<int64_t> index) {
  TORCH_CHECK_VALUE(dim >= -3 && dim <= 2, "dim: expected -3 to 2, got ", dim);
  dim = (dim + 3) % 3;
  const int64_t size = weight.size(2 + dim);
  if (!index) return {dim, size / 2};
  TORCH_CHECK_VALUE(*index >= -size && *index < size, "index: expected ", -size, " to ", size - 1, ", got ", *index);
  return {dim, (*index + size) % size};
}

// channels: O and C of the weight.
inline void check_around_weight(const at::Tensor& input, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias, at::IntArrayRef channels, int64_t groups,
                                int64_t axes) {
  check_tensor("input", input);
  TORCH_CHECK_VALUE(input.dim() == 2 + axes, "input: expected ", axes == 2 ? "(B, C, H, W)" : "(B, C, D, H, W)",
                    ", got ", shape_text(input.sizes()));
  check_device("input", input, "weight", weight);
  TORCH_CHECK_VALUE(groups >= 1, "groups: expected a positive int, got ", groups);
  TORCH_CHECK_VALUE(channels[0] % groups == 0, "weight: expected a multiple of ", groups, " groups as O, got ",
                    shape_text(weight.sizes()));
  TORCH_CHECK_VALUE(input.size(1) == channels[1] * groups, "input: expected ", channels[1] * groups, " channels, got ",
                    shape_text(input.sizes()));
  if (!bias) return;
  check_tensor("bias", *bias);
  check_device("bias", *bias, "weight", weight);
  TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == channels[0], "bias: expected (", channels[0], ",), got ",
                    shape_text(bias->sizes()));
}

inline void check_convolution(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& shift,
                              const std::optional<at::Tensor>& bias, int64_t groups, int64_t axes) {
  check_around_weight(input, weight, bias, weight.sizes().slice(0, 2), groups, axes);
  TORCH_CHECK_VALUE(shift.size(0) == input.size(0), "shift: expected (", input.size(0), ", 3), got ",
                    shape_text(shift.sizes()));
}

inline void check_sample_convolution(const at::Tensor& input, const at::Tensor& weight,
                                     const std::optional<at::Tensor>& bias, int64_t groups, int64_t axes) {
  const char* kernel = axes == 2 ? "Kh, Kw" : "Kd, Kh, Kw";
  check_tensor("weight", weight);
  TORCH_CHECK_VALUE(weight.dim() == 3 + axes, "weight: expected (B, O, C, ", kernel, "), got ",
                    shape_text(weight.sizes()));
  for (const int64_t size : weight.sizes().slice(3))
    TORCH_CHECK_VALUE(size >= 1, "weight: expected kernel sizes of at least 1, got ", shape_text(weight.sizes()));
  check_around_weight(input, weight, bias, weight.sizes().slice(1, 2), groups, axes);
  TORCH_CHECK_VALUE(weight.size(0) == input.size(0), "weight: expected (", input.size(0), ", O, C, ", kernel, "), got ",
                    shape_text(weight.sizes()));
}

inline void check_rotation(const at::Tensor& axis, const at::Tensor& angle) {
  check_tensor("axis", axis);
  check_tensor("angle", angle);
  TORCH_CHECK_VALUE(axis.dim() == 2 && axis.size(1) == 3, "axis: expected (B, 3), got ", shape_text(axis.sizes()));
  const int64_t samples = axis.size(0);
  const bool fits = angle.sizes() == at::IntArrayRef{samples} || angle.sizes() == at::IntArrayRef{samples, 1};
  TORCH_CHECK_VALUE(fits, "angle: expected (", samples, ",) or (", samples, ", 1), got ", shape_text(angle.sizes()));
  check_device("angle", angle, "axis", axis);
}

inline void check_map(const at::Tensor& map) {
  check_tensor("map", map);
  TORCH_CHECK_VALUE(map.dim() == 4 && map.size(1) == 4, "map: expected (B, 4, H, W), got ", shape_text(map.sizes()));
  TORCH_CHECK_VALUE(map.size(2) > 0 && map.size(3) > 0, "map: expected at least one pixel, got ",
                    shape_text(map.sizes()));
}

}  // namespace crossd_ops::detail
