// The operators predict_shift and predict_shift_backward: from tensors to the problem that kernels are given. Of the
// CPU and float32 alone. Included by ops.cpp, after head/rotation_op.h.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/tensors.h"
#include "head/cpu/head.h"
#include "head/problem.h"
#include "head/rotation_op.h"

namespace crossd_ops {

// The head's parameters; contiguous, so that plain pointers tell where they lie.
struct HeadTensors {
  Tensor weight1, bias1, gain, offset, weight2, bias2;

  HeadParameters parameters(double epsilon) const {
    const auto data = [](const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); };
    return {data(weight1), data(bias1), data(gain), data(offset), data(weight2), data(bias2), epsilon};
  }
};

inline Tensor checked_float32(const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size()) && !tensor.is_cuda();
  for (size_t i = 0; i < sizes.size() && same; ++i) same = tensor.size(static_cast<int64_t>(i)) == sizes[i];
  require(same && tensor.scalar_type() == ScalarType::Float, [&] {
    return std::string(name) + ": expected " + shape_text(sizes.data(), sizes.size()) + " of float32 on the CPU, got " +
           shape_text(tensor);
  });
  return dense(tensor);
}

inline HeadTensors checked_head(const Tensor& input, const Tensor& weight1, const Tensor& bias1, const Tensor& gain,
                                const Tensor& offset, const Tensor& weight2, const Tensor& bias2) {
  require(input.dim() == 4 && input.scalar_type() == ScalarType::Float,
          [&] { return "input: expected (B, C, H, W) of float32, got " + shape_text(input); });
  for (int i = 0; i < 4; ++i)
    require(input.size(i) > 0, [&] { return "input: expected at least one element, got " + shape_text(input); });
  return {checked_float32(weight1, "weight1", {kHiddenChannels, input.size(1), 1, 1}),
          checked_float32(bias1, "bias1", {kHiddenChannels}),
          checked_float32(gain, "gain", {kHiddenChannels}),
          checked_float32(offset, "offset", {kHiddenChannels}),
          checked_float32(weight2, "weight2", {kHeadChannels, kHiddenChannels, 1, 1}),
          checked_float32(bias2, "bias2", {kHeadChannels})};
}

inline HeadInput head_input(const Tensor& input) {
  return {map_shape(input), input.size(1), static_cast<const float*>(input.const_data_ptr()), map_strides(input)};
}

// mean and variance: given, or none to take those of the batch. They come back, so that both passes use the same.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> predict_shift(const Tensor& input, const Tensor& weight1,
                                                                const Tensor& bias1, const Tensor& gain,
                                                                const Tensor& offset, const std::optional<Tensor>& mean,
                                                                const std::optional<Tensor>& variance, double epsilon,
                                                                const Tensor& weight2, const Tensor& bias2,
                                                                bool exact) {
  const HeadTensors tensors = checked_head(input, weight1, bias1, gain, offset, weight2, bias2);
  require(mean.has_value() == variance.has_value(),
          [] { return std::string("mean: expected with variance, or neither"); });
  const auto new_statistics = [&](const std::optional<Tensor>& given, const char* name) {
    Tensor result = new_tensor(input, {kHiddenChannels}, ScalarType::Float);
    if (given) {
      const Tensor source = checked_float32(*given, name, {kHiddenChannels});
      std::copy_n(static_cast<const float*>(source.const_data_ptr()), kHiddenChannels,
                  static_cast<float*>(result.mutable_data_ptr()));
    }
    return result;
  };
  Tensor used_mean = new_statistics(mean, "mean"), used_variance = new_statistics(variance, "variance");
  Tensor shift = new_tensor(input, {input.size(0), 3}, ScalarType::Float);
  Tensor statistics = new_tensor(input, {input.size(0), kHeadChannels, 3}, ScalarType::Float);
  cpu::head_forward(
      {head_input(input), tensors.parameters(epsilon), !mean, exact, static_cast<float*>(used_mean.mutable_data_ptr()),
       static_cast<float*>(used_variance.mutable_data_ptr()), static_cast<float*>(shift.mutable_data_ptr()),
       static_cast<float*>(statistics.mutable_data_ptr())});
  return {shift, statistics, used_mean, used_variance};
}

// Gradients of input, weight1, bias1, gain, offset, weight2, bias2; empty where not needed. training: the statistics
// are those of the batch. The gradient of the input has its strides where those leave no holes.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> predict_shift_backward(
    const Tensor& grad_shift, const Tensor& input, const Tensor& weight1, const Tensor& bias1, const Tensor& gain,
    const Tensor& offset, const Tensor& mean, const Tensor& variance, bool training, double epsilon,
    const Tensor& weight2, const Tensor& bias2, const Tensor& statistics, bool exact, bool need_input,
    bool need_parameters) {
  const HeadTensors tensors = checked_head(input, weight1, bias1, gain, offset, weight2, bias2);
  const Tensor given[] = {checked_float32(mean, "mean", {kHiddenChannels}),
                          checked_float32(variance, "variance", {kHiddenChannels}),
                          checked_float32(statistics, "statistics", {input.size(0), kHeadChannels, 3}),
                          checked_float32(grad_shift, "grad_shift", {input.size(0), 3})};
  const auto data = [&](int i) { return static_cast<const float*>(given[i].const_data_ptr()); };
  const auto empty = [&] { return new_tensor(input, {0}, ScalarType::Float); };
  const auto like = [&](const Tensor& tensor, bool needed) {
    if (!needed) return empty();
    return new_tensor(input, {tensor.sizes().begin(), tensor.sizes().end()}, ScalarType::Float);
  };
  Tensor grad_input = need_input ? torch::stable::empty_like(input) : empty();
  Tensor grads[] = {like(weight1, need_parameters), like(bias1, need_parameters),   like(gain, need_parameters),
                    like(offset, need_parameters),  like(weight2, need_parameters), like(bias2, need_parameters)};
  const auto target = [](Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); };
  if (need_input || need_parameters)
    cpu::head_backward({head_input(input), tensors.parameters(epsilon), training, exact, data(0), data(1), data(2),
                        data(3), need_input ? target(grad_input) : nullptr,
                        need_input ? map_strides(grad_input) : MapStrides{}, need_parameters, target(grads[0]),
                        target(grads[1]), target(grads[2]), target(grads[3]), target(grads[4]), target(grads[5])});
  return {grad_input, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace crossd_ops
