// The operators predict_shift and predict_shift_backward of each device: from tensors to the problem that kernels are
// given. Included by ops.cpp, after head/rotation_op.h.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/tensors.h"
#include "head/cpu/head.h"
#include "head/problem.h"
#include "head/rotation_op.h"
#if defined(CROSSD_WITH_CUDA)
#include "head/cuda/head.h"
#endif

namespace crossd_ops {

inline HeadInput head_input(const Tensor& input) {
  return {map_shape(input), input.size(1), input.const_data_ptr(), map_strides(input), checked_dtype(input, "input")};
}

// What differs between devices. `input` gives the device.
struct HeadCpu {
  static void forward(const HeadForward& problem, const Tensor&) { cpu::head_forward(problem); }
  static void backward(const HeadBackward& problem, const Tensor&) { cpu::head_backward(problem); }
};

#if defined(CROSSD_WITH_CUDA)
struct HeadCuda {
  static void forward(const HeadForward& problem, const Tensor& input) { run(problem, input, cuda::head_forward); }
  static void backward(const HeadBackward& problem, const Tensor& input) { run(problem, input, cuda::head_backward); }

 private:
  template <typename Problem>
  static void run(const Problem& problem, const Tensor& input, void (*kernels)(const Problem&, float*, void*)) {
    const CudaDevice device(input);
    const int64_t elements = static_cast<int64_t>(cuda::head_workspace_elements(problem));
    Tensor workspace = new_tensor(input, {elements}, ScalarType::Float);
    kernels(problem, static_cast<float*>(workspace.mutable_data_ptr()), device.stream());
  }
};
#endif

inline bool is_type_of_head(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

// Of a head: small, and of a type of its own.
inline Tensor checked_of_head(const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes,
                              const Tensor& input) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size()) && tensor.is_cuda() == input.is_cuda() &&
              tensor.get_device_index() == input.get_device_index();
  for (size_t i = 0; i < sizes.size() && same; ++i) same = tensor.size(static_cast<int64_t>(i)) == sizes[i];
  require(same && is_type_of_head(tensor), [&] {
    return std::string(name) + ": expected " + shape_text(sizes.data(), sizes.size()) +
           " of float32, bfloat16 or float16 on the device of input, got " + shape_text(tensor);
  });
  return dense(tensor);
}
inline HeadValues values_of(const Tensor& tensor, const char* name) {
  return {tensor.const_data_ptr(), checked_dtype(tensor, name)};
}
inline HeadTarget target_of(Tensor& tensor) {
  return tensor.numel() ? HeadTarget{tensor.mutable_data_ptr(), checked_dtype(tensor, "gradient")} : HeadTarget{};
}

// The head's parameters; contiguous, so that plain pointers tell where they lie.
struct HeadTensors {
  Tensor weight1, bias1, gain, offset, weight2, bias2;

  HeadParameters parameters(double epsilon) const {
    return {values_of(weight1, "weight1"),
            values_of(bias1, "bias1"),
            values_of(gain, "gain"),
            values_of(offset, "offset"),
            values_of(weight2, "weight2"),
            values_of(bias2, "bias2"),
            epsilon};
  }
};

inline HeadTensors checked_head(const Tensor& input, const Tensor& weight1, const Tensor& bias1, const Tensor& gain,
                                const Tensor& offset, const Tensor& weight2, const Tensor& bias2) {
  require(input.dim() == 4 && is_type_of_head(input),
          [&] { return "input: expected (B, C, H, W) of float32, bfloat16 or float16, got " + shape_text(input); });
  for (int i = 0; i < 4; ++i)
    require(input.size(i) > 0, [&] { return "input: expected at least one element, got " + shape_text(input); });
  const auto checked = [&](const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes) {
    return checked_of_head(tensor, name, sizes, input);
  };
  return {checked(weight1, "weight1", {kHiddenChannels, input.size(1), 1, 1}),
          checked(bias1, "bias1", {kHiddenChannels}),
          checked(gain, "gain", {kHiddenChannels}),
          checked(offset, "offset", {kHiddenChannels}),
          checked(weight2, "weight2", {kHeadChannels, kHiddenChannels, 1, 1}),
          checked(bias2, "bias2", {kHeadChannels})};
}

// Written in place, so it must lie there as it is.
inline HeadTarget running_target(const std::optional<Tensor>& tensor, const char* name, const Tensor& input) {
  if (!tensor) return {};
  checked_of_head(*tensor, name, {kHiddenChannels}, input);
  require(tensor->is_contiguous(), [&] { return std::string(name) + ": expected a contiguous tensor"; });
  return {const_cast<void*>(tensor->const_data_ptr()), checked_dtype(*tensor, name)};
}
inline RunningStatistics running_statistics(const std::optional<Tensor>& mean, const std::optional<Tensor>& variance,
                                            const std::optional<Tensor>& batches, std::optional<double> momentum,
                                            const Tensor& input) {
  require(mean.has_value() == variance.has_value(),
          [] { return std::string("running_mean: expected with running_variance, or neither"); });
  RunningStatistics running{running_target(mean, "running_mean", input),
                            running_target(variance, "running_variance", input), nullptr, momentum.value_or(0),
                            !momentum};
  if (batches) {
    require(batches->numel() == 1 && batches->scalar_type() == ScalarType::Long &&
                batches->is_cuda() == input.is_cuda() && batches->get_device_index() == input.get_device_index(),
            [] { return std::string("batches: expected one int64 on the input's device"); });
    running.batches = static_cast<int64_t*>(const_cast<void*>(batches->const_data_ptr()));
  }
  return running;
}

// mean and variance: given, or none to take those of the batch. They come back, so that both passes use the same.
// running_mean, running_variance and batches, of a training batch norm, are brought up to date; momentum: its share of
// this batch, none for that of a mean over all batches.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> predict_shift(
    const Tensor& input, const Tensor& weight1, const Tensor& bias1, const Tensor& gain, const Tensor& offset,
    const std::optional<Tensor>& mean, const std::optional<Tensor>& variance, double epsilon, const Tensor& weight2,
    const Tensor& bias2, bool exact, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_variance, const std::optional<Tensor>& batches,
    std::optional<double> momentum) {
  const HeadTensors tensors = checked_head(input, weight1, bias1, gain, offset, weight2, bias2);
  require(mean.has_value() == variance.has_value(),
          [] { return std::string("mean: expected with variance, or neither"); });
  std::optional<Tensor> given_mean, given_variance;
  if (mean) given_mean = checked_of_head(*mean, "mean", {kHiddenChannels}, input);
  if (mean) given_variance = checked_of_head(*variance, "variance", {kHiddenChannels}, input);
  const RunningStatistics running = running_statistics(running_mean, running_variance, batches, momentum, input);
  const auto made = [&](const std::vector<int64_t>& sizes) { return new_tensor(input, sizes, ScalarType::Float); };
  Tensor used_mean = made({kHiddenChannels}), used_variance = made({kHiddenChannels});
  Tensor shift = made({input.size(0), 3}), statistics = made({input.size(0), kHeadChannels, 3});
  const auto data = [](Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); };
  const HeadForward problem{head_input(input),
                            tensors.parameters(epsilon),
                            !mean,
                            exact,
                            mean ? values_of(*given_mean, "mean") : HeadValues{},
                            mean ? values_of(*given_variance, "variance") : HeadValues{},
                            data(used_mean),
                            data(used_variance),
                            running,
                            data(shift),
                            data(statistics)};
  Device::forward(problem, input);
  return {shift, statistics, used_mean, used_variance};
}

// `beside` in the strides of `grad`; both dense, so that a copy is rare.
inline Tensor with_strides_of(const Tensor& grad, const Tensor& beside) {
  bool same = true;
  for (int64_t i = 0; i < grad.dim(); ++i) same = same && (grad.size(i) == 1 || grad.stride(i) == beside.stride(i));
  if (same) return beside;
  Tensor copy = torch::stable::empty_like(grad);
  torch::stable::copy_(copy, beside);
  return copy;
}

// Gradients of input, weight1, bias1, gain, offset, weight2, bias2; empty where not needed. training: the statistics
// are those of the batch. The gradient of the input has its strides where those leave no holes; grad_beside, another
// gradient of the input, is added to it.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> predict_shift_backward(
    const Tensor& grad_shift, const Tensor& input, const Tensor& weight1, const Tensor& bias1, const Tensor& gain,
    const Tensor& offset, const Tensor& mean, const Tensor& variance, bool training, double epsilon,
    const Tensor& weight2, const Tensor& bias2, const Tensor& statistics, bool exact, bool need_input,
    bool need_parameters, const std::optional<Tensor>& grad_beside) {
  const HeadTensors tensors = checked_head(input, weight1, bias1, gain, offset, weight2, bias2);
  const auto small = [&](const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes) {
    const Tensor checked = checked_of_head(tensor, name, sizes, input);
    require(checked.scalar_type() == ScalarType::Float, [&] { return std::string(name) + ": expected float32"; });
    return checked;
  };
  const Tensor given[] = {small(mean, "mean", {kHiddenChannels}), small(variance, "variance", {kHiddenChannels}),
                          small(statistics, "statistics", {input.size(0), kHeadChannels, 3}),
                          small(grad_shift, "grad_shift", {input.size(0), 3})};
  const auto data = [&](int i) { return static_cast<const float*>(given[i].const_data_ptr()); };
  const auto like = [&](const Tensor& tensor, bool needed) {
    const std::vector<int64_t> sizes = {tensor.sizes().begin(), tensor.sizes().end()};
    return new_tensor(input, needed ? sizes : std::vector<int64_t>{0}, tensor.scalar_type());
  };
  Tensor grad_input = need_input ? torch::stable::empty_like(input) : like(input, false);
  std::optional<Tensor> beside;
  if (grad_beside && need_input) {
    bool same = grad_beside->dim() == 4 && grad_beside->scalar_type() == input.scalar_type() &&
                grad_beside->is_cuda() == input.is_cuda();
    for (int64_t i = 0; i < 4 && same; ++i) same = grad_beside->size(i) == input.size(i);
    require(same, [&] {
      return "grad_beside: expected size, type and device of the input, " + shape_text(input) + ", got " +
             shape_text(*grad_beside);
    });
    beside = with_strides_of(grad_input, *grad_beside);
  }
  Tensor grads[] = {like(tensors.weight1, need_parameters), like(tensors.bias1, need_parameters),
                    like(tensors.gain, need_parameters),    like(tensors.offset, need_parameters),
                    like(tensors.weight2, need_parameters), like(tensors.bias2, need_parameters)};
  if (need_input || need_parameters)
    Device::backward(
        {head_input(input), tensors.parameters(epsilon), training, exact, data(0), data(1), data(2), data(3),
         need_input ? grad_input.mutable_data_ptr() : nullptr, beside ? beside->const_data_ptr() : nullptr,
         need_input ? map_strides(grad_input) : MapStrides{}, need_parameters, target_of(grads[0]), target_of(grads[1]),
         target_of(grads[2]), target_of(grads[3]), target_of(grads[4]), target_of(grads[5])},
        input);
  return {grad_input, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace crossd_ops
