// Convolution of each sample with its own kernels, shift and convolution as one step of autograd.
//
// It keeps input, weight and shift alone: the kernels of each sample, B times as large as a plain convolution's, are
// built anew in the backward pass. Both passes are one grouped convolution, or one convolution for each sample where
// Python's choice (crossd_ops/_convolution.py) is that or, at few pixels, a matrix product, which has no counterpart
// here: results differ from Python's by rounding alone.
#pragma once
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/expanding_array.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "fourier_shift.h"

namespace crossd_ops::detail {

// Numbers of a convolution, one for each spatial axis.
struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

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
  if (!options.padding.same) return {input, geometry};
  TORCH_CHECK_VALUE(geometry.stride == std::vector<int64_t>(axes, 1),
                    "padding: expected numbers, 'valid', or 'same' (stride 1), got 'same' (stride ",
                    shape_text(geometry.stride), ")");
  std::vector<int64_t> behind(2 * axes, 0);  // an even kernel needs one element more behind than before
  bool even = false;
  for (size_t i = 0; i < axes; ++i) {
    const int64_t total = geometry.dilation[i] * (kernel[i] - 1);
    geometry.padding[i] = total / 2;
    behind[2 * (axes - 1 - i) + 1] = total % 2;
    even = even || total % 2;
  }
  return {even ? at::constant_pad_nd(input, behind) : input, geometry};
}

inline at::Tensor library_convolution(const at::Tensor& input, const at::Tensor& kernels,
                                      const std::optional<at::Tensor>& bias, const Geometry& geometry, int64_t groups) {
  return at::convolution(input, kernels, bias, geometry.stride, geometry.padding, geometry.dilation,
                         /*transposed=*/false, std::vector<int64_t>(geometry.stride.size(), 0), groups);
}

inline std::tuple<at::Tensor, at::Tensor> library_backward(const at::Tensor& grad, const at::Tensor& input,
                                                           const at::Tensor& kernels, const Geometry& geometry,
                                                           int64_t groups, bool need_input, bool need_kernels) {
  const std::array<bool, 3> mask = {need_input, need_kernels, false};
  const auto gradients =
      at::convolution_backward(grad, input, kernels, std::nullopt, geometry.stride, geometry.padding, geometry.dilation,
                               /*transposed=*/false, std::vector<int64_t>(geometry.stride.size(), 0), groups, mask);
  return {std::get<0>(gradients), std::get<1>(gradients)};
}

// Whether to convolve sample by sample: where kernels outweigh pixels, or grouped kernels would waste their lanes.
inline bool sample_by_sample(const at::Tensor& kernels, at::IntArrayRef output_sizes, int64_t groups) {
  constexpr int64_t kFewPixels = 100, kFewChannels = 16;
  return c10::multiply_integers(output_sizes) <= kFewPixels || (kernels.size(2) < kFewChannels && groups == 1);
}

inline std::vector<int64_t> output_sizes(const at::Tensor& input, const at::Tensor& kernels, const Geometry& geometry) {
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < geometry.stride.size(); ++i) {
    const int64_t reach = geometry.dilation[i] * (kernels.size(3 + i) - 1) + 1;
    sizes.push_back((input.size(2 + i) + 2 * geometry.padding[i] - reach) / geometry.stride[i] + 1);
  }
  return sizes;
}

// (B, C, ...) -> (1, B * C, ...): each sample is a block of groups.
inline at::Tensor stack_samples(const at::Tensor& tensor) { return tensor.flatten(0, 1).unsqueeze(0); }

// y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O) -> (B, O, ...), B at least 1.
inline at::Tensor convolve(const at::Tensor& input, const at::Tensor& kernels, const std::optional<at::Tensor>& bias,
                           const Geometry& geometry) {
  const int64_t samples = kernels.size(0);
  if (!sample_by_sample(kernels, output_sizes(input, kernels, geometry), geometry.groups)) {
    const auto repeated = bias ? std::optional(bias->repeat({samples})) : bias;
    return library_convolution(stack_samples(input), kernels.flatten(0, 1), repeated, geometry,
                               samples * geometry.groups)
        .squeeze(0)
        .unflatten(0, {samples, kernels.size(1)});
  }
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < samples; ++b)
    rows.push_back(library_convolution(input.narrow(0, b, 1), kernels[b], bias, geometry, geometry.groups));
  return at::cat(rows);
}

// Gradients of `convolve` for input and kernels; undefined for one that is not needed.
inline std::tuple<at::Tensor, at::Tensor> convolve_backward(const at::Tensor& grad, const at::Tensor& input,
                                                            const at::Tensor& kernels, const Geometry& geometry,
                                                            bool need_input, bool need_kernels) {
  const int64_t samples = kernels.size(0);
  if (!sample_by_sample(kernels, grad.sizes().slice(2), geometry.groups)) {
    const auto [of_input, of_kernels] =
        library_backward(stack_samples(grad), stack_samples(input), kernels.flatten(0, 1), geometry,
                         samples * geometry.groups, need_input, need_kernels);
    return {need_input ? of_input.reshape(input.sizes()) : at::Tensor(),
            need_kernels ? of_kernels.reshape(kernels.sizes()) : at::Tensor()};
  }
  std::vector<at::Tensor> inputs, kernel_grads;
  for (int64_t b = 0; b < samples; ++b) {
    const auto [of_input, of_kernels] = library_backward(grad.narrow(0, b, 1), input.narrow(0, b, 1), kernels[b],
                                                         geometry, geometry.groups, need_input, need_kernels);
    if (need_input) inputs.push_back(of_input);
    if (need_kernels) kernel_grads.push_back(of_kernels);
  }
  return {need_input ? at::cat(inputs) : at::Tensor(), need_kernels ? at::stack(kernel_grads) : at::Tensor()};
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
    return convolve(input, shift_operator(weight, shift, place, input.scalar_type()), bias, geometry);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor& grad = grads[0];
    if (!grad.defined()) return variable_list(6);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1], &shift = saved[2];
    const Place place = saved_place(ctx);
    auto& data = ctx->saved_data;
    const Geometry geometry{data["stride"].toIntVector(), data["padding"].toIntVector(), data["dilation"].toIntVector(),
                            data["groups"].toInt()};
    const bool need_weight = ctx->needs_input_grad(1), need_shift = ctx->needs_input_grad(2);
    // Only their shape is looked at where the input needs no gradient, but the library's call wants them.
    const at::Tensor kernels = shift_forward(weight, shift, place, input.scalar_type());
    const auto [of_input, of_kernels] =
        convolve_backward(grad, input, kernels, geometry, ctx->needs_input_grad(0), need_weight || need_shift);
    ShiftGradients of_shift;
    if (of_kernels.defined()) of_shift = shift_backward(of_kernels, weight, shift, place, need_weight, need_shift);
    at::Tensor of_bias;
    if (data["has_bias"].toBool() && ctx->needs_input_grad(3)) of_bias = grad.transpose(0, 1).flatten(1).sum(1);
    return {of_input, of_shift.weight, of_shift.shift, of_bias, at::Tensor(), at::Tensor()};
  }
};

// The per-sample convolution; weight, shift and place were checked.
template <size_t axes, typename Options>
at::Tensor crossd_convolution(at::Tensor input, const at::Tensor& weight, const at::Tensor& shift,
                              std::optional<at::Tensor> bias, const Place& place, const Options& options) {
  if (bias && !bias->defined()) bias.reset();  // as torch's own convolutions take it
  check_convolution(input, weight, shift, bias, options.groups, axes);
  std::vector<int64_t> kernel = weight.sizes().slice(2).vec();
  if (place.index) kernel.erase(kernel.begin() + place.dim);
  const auto autocast = autocast_dtype(weight);
  TORCH_CHECK_TYPE(autocast || input.scalar_type() == weight.scalar_type(), "input: expected the dtype of weight (",
                   weight.scalar_type(), "), got ", input.scalar_type());
  const auto [padded, geometry] = fit<axes>(input, kernel, options);
  const at::ScalarType dtype = autocast.value_or(weight.scalar_type());
  input = padded.to(dtype);
  if (bias) bias = bias->to(dtype);
  if (input.size(0) == 0) {
    // No sample has kernels. Any give the sizes of the result; the shift takes part, or its gradient were missing.
    const at::Tensor kernels = place.index ? weight.select(2 + place.dim, *place.index) : weight;
    return library_convolution(input, kernels.to(dtype), bias, geometry, geometry.groups) + shift.sum().to(dtype);
  }
  const at::Tensor compute_shift = shift.to(accumulate_dtype(weight.scalar_type()));
  return CrossDConvolution::apply(input, weight, compute_shift, bias, place, geometry);
}

}  // namespace crossd_ops::detail
