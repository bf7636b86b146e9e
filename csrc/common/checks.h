// Checks of the operators' arguments, before any work. A failed one throws std::invalid_argument, which arrives in
// Python as ValueError; the texts are those of crossd_ops/operators/checks.py, which looks first and so is what callers
// of Python functions see.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/dtype.h"

namespace crossd_ops {

inline std::string shape_text(const int64_t* sizes, size_t count) {
  std::string text = "(";
  for (size_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (count == 1 ? ",)" : ")");
}
inline std::string shape_text(const torch::stable::Tensor& tensor) {
  return shape_text(tensor.sizes().data(), tensor.sizes().size());
}
// `message` is a function, called only where the check fails: making every text takes as long as a small problem.
template <typename Message>
void require(bool holds, const Message& message) {
  if (!holds) throw std::invalid_argument(message());
}

inline Dtype checked_dtype(const torch::stable::Tensor& tensor, const char* name) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: break;
  }
  throw std::invalid_argument(std::string(name) + ": expected a dtype of float64, float32, bfloat16 or float16");
}

}  // namespace crossd_ops
