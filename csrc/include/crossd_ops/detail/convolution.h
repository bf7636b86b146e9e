// Convolution of each sample with its own kernels, shift and convolution as one step of autograd.
//
// It keeps input, weight and shift alone: the kernels of each sample, B times as large as a plain convolution's, are
// built anew in the backward pass. Both passes are one operator of libcrossd_ops.so, the same as Python's.
#pragma once
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/expanding_array.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "fourier_shift.h"

namespace crossd_ops::detail {

template <size_t axes>
std::vector<int64_t> checked_numbers(const char* name, const torch::ExpandingArray<axes>& values, int64_t smallest) {
  for (const int64_t value : *values)
    TORCH_CHECK_VALUE(value >= smallest, name, ": expected one int or ", axes, ", each at least ", smallest, ", got ",
                      shape_text(*values));
  return {values->begin(), values->end()};
}

// The numbers of the options, and the input padded by what these cannot say.
template <size_t axes, typename Options>
std::tuple<at::Tensor, Geometry> fit(const at::Tensor& input, const std::vector<int64_t>& kernel,
                                     const Options& options) {
  Geometry geometry{checked_numbers("stride", options.stride, 1), checked_numbers("padding", options.padding.pixels, 0),
                    checked_numbers("dilation", options.dilation, 1), options.groups};
  std::vector<int64_t> behind(2 * axes, 0);  // an even kernel needs one element more behind than before
  if (options.padding.same) {
    TORCH_CHECK_VALUE(geometry.stride == std::vector<int64_t>(axes, 1),
                      "padding: expected numbers, 'valid', or 'same' (stride 1), got 'same' (stride ",
                      shape_text(geometry.stride), ")");
    for (size_t i = 0; i < axes; ++i) {
      const int64_t total = geometry.dilation[i] * (kernel[i] - 1);
      geometry.padding[i] = total / 2;
      behind[2 * (axes - 1 - i) + 1] = total % 2;
    }
  }
  for (size_t i = 0; i < axes; ++i) {
    const int64_t reach = geometry.dilation[i] * (kernel[i] - 1) + 1;
    const int64_t room = input.size(2 + i) + 2 * geometry.padding[i] + behind[2 * (axes - 1 - i) + 1];
    TORCH_CHECK_VALUE(room >= reach, "input: expected at least ", reach, " pixels along each axis with padding, got ",
                      shape_text(input.sizes()));
  }
  const bool even = std::find(behind.begin(), behind.end(), 1) != behind.end();
  return {even ? at::constant_pad_nd(input, behind) : input, geometry};
}

inline at::Tensor library_convolution(const at::Tensor& input, const at::Tensor& kernels,
                                      const std::optional<at::Tensor>& bias, const Geometry& geometry, int64_t groups) {
  return at::convolution(input, kernels, bias, geometry.stride, geometry.padding, geometry.dilation,
                         /*transposed=*/false, std::vector<int64_t>(geometry.stride.size(), 0), groups);
}

// The shift, then one convolution in which each sample is a block of groups: of torch's own operations, each of which
// knows every derivative.
inline at::Tensor two_steps(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& shift,
                            const Place& place, const Geometry& geometry) {
  const int64_t samples = input.size(0);
  const at::Tensor compute_shift = shift.to(accumulate_dtype(weight.scalar_type()));
  const at::Tensor kernels = shift_forward(weight, compute_shift, place, input.scalar_type());
  return library_convolution(input.flatten(0, 1).unsqueeze(0), kernels.flatten(0, 1), std::nullopt, geometry,
                             samples * geometry.groups)
      .squeeze(0)
      .unflatten(0, {samples, weight.size(0)});
}

struct CrossDConvolution : torch::autograd::Function<CrossDConvolution> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& weight,
                            const at::Tensor& shift, const std::optional<at::Tensor>& bias, const Place& place,
                            const Geometry& geometry) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({input, weight, shift});
    save_place(ctx, place);
    ctx->saved_data["stride"] = geometry.stride;
    ctx->saved_data["padding"] = geometry.padding;
    ctx->saved_data["dilation"] = geometry.dilation;
    ctx->saved_data["groups"] = geometry.groups;
    ctx->saved_data["has_bias"] = bias.has_value();
    return convolution_operator(input, weight, shift, bias, place, geometry);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor& grad = grads[0];
    variable_list found(6);  // of input, weight, shift, bias, place and geometry
    if (!grad.defined()) return found;
    auto& data = ctx->saved_data;
    const Geometry geometry{data["stride"].toIntVector(), data["padding"].toIntVector(), data["dilation"].toIntVector(),
                            data["groups"].toInt()};
    const variable_list tensors = ctx->get_saved_variables();
    std::array<bool, 3> needs;
    for (size_t i = 0; i < 3; ++i) needs[i] = ctx->needs_input_grad(i);
    if (std::find(needs.begin(), needs.end(), true) != needs.end()) {
      if (at::GradMode::is_enabled())
        differentiable_gradients(grad, tensors, saved_place(ctx), geometry, needs, found);
      else
        found = convolution_backward_operator(grad, tensors, saved_place(ctx), geometry, needs);
    }
    found.resize(6);
    if (data["has_bias"].toBool() && ctx->needs_input_grad(3)) found[3] = grad.transpose(0, 1).flatten(1).sum(1);
    return found;
  }

 private:
  // These gradients will be differentiated: their graph is that of the two steps' gradients.
  static void differentiable_gradients(const at::Tensor& grad, const variable_list& tensors, const Place& place,
                                       const Geometry& geometry, const std::array<bool, 3>& needs,
                                       variable_list& found) {
    variable_list sought;
    for (size_t i = 0; i < 3; ++i)
      if (needs[i]) sought.push_back(tensors[i]);
    const at::Tensor output = two_steps(tensors[0], tensors[1], tensors[2], place, geometry);
    const variable_list gradients =
        torch::autograd::grad({output}, sought, {grad}, /*retain_graph=*/true, /*create_graph=*/true);
    for (size_t i = 0, next = 0; i < 3; ++i)
      if (needs[i]) found[i] = gradients[next++];
  }
};

// Of input and kernels, which the weight has, or autocast.
inline at::ScalarType convolution_dtype(const at::Tensor& input, const at::Tensor& weight) {
  const auto autocast = autocast_dtype(weight);
  TORCH_CHECK_TYPE(autocast || input.scalar_type() == weight.scalar_type(), "input: expected the dtype of weight (",
                   weight.scalar_type(), "), got ", input.scalar_type());
  return autocast.value_or(weight.scalar_type());
}

// The per-sample convolution; weight, shift and place were checked.
template <size_t axes, typename Options>
at::Tensor crossd_convolution(at::Tensor input, const at::Tensor& weight, const at::Tensor& shift,
                              std::optional<at::Tensor> bias, const Place& place, const Options& options) {
  if (bias && !bias->defined()) bias.reset();  // as torch's own convolutions take it
  check_convolution(input, weight, shift, bias, options.groups, axes);
  std::vector<int64_t> kernel = weight.sizes().slice(2).vec();
  if (place.index) kernel.erase(kernel.begin() + place.dim);
  const at::ScalarType dtype = convolution_dtype(input, weight);
  const auto [padded, geometry] = fit<axes>(input, kernel, options);
  input = padded.to(dtype);
  if (bias) bias = bias->to(dtype);
  if (input.size(0) == 0) {
    // No sample has kernels. Any give the sizes of the result; the shift takes part, or its gradient were missing.
    const at::Tensor kernels = place.index ? weight.select(2 + place.dim, *place.index) : weight;
    return library_convolution(input, kernels.to(dtype), bias, geometry, geometry.groups) + shift.sum().to(dtype);
  }
  return CrossDConvolution::apply(input, weight, shift, bias, place, geometry);
}

}  // namespace crossd_ops::detail
