// Derivatives of the convolution with given kernels, of every order; derived in
// crossd_ops/operators/sample_convolution/derivatives.py.
//
//   forward A(x, w),    backward B(g, w) = of x, C(g, x) = of w
//   of what comes back, hx for B and hw for C:  g: A(hx, w) + A(x, hw),   x: B(g, hw),   w: C(g, hx)
#pragma once
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "checks.h"
#include "convolution.h"

namespace crossd_ops::detail {

// Gradients; one that is not needed is undefined.
struct SampleGradients {
  at::Tensor input, weight;
};

inline SampleGradients sample_gradients(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
                                        const std::vector<int64_t>& place, bool need_input, bool need_weight);

struct SampleConvolution : torch::autograd::Function<SampleConvolution> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const std::vector<int64_t>& place) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({input, weight});
    ctx->saved_data["place"] = place;
    ctx->saved_data["has_bias"] = bias.has_value();
    return sample_convolution_operator(input, weight, bias, place);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor& grad = grads[0];
    if (!grad.defined()) return variable_list(4);  // of input, weight, bias and place
    const variable_list saved = ctx->get_saved_variables();
    const auto [of_input, of_weight] =
        sample_gradients(grad, saved[0], saved[1], ctx->saved_data["place"].toIntVector(), ctx->needs_input_grad(0),
                         ctx->needs_input_grad(1));
    const bool need_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    return {of_input, of_weight, need_bias ? grad.transpose(0, 1).flatten(1).sum(1) : at::Tensor(), at::Tensor()};
  }
};

struct SampleConvolutionBackward : torch::autograd::Function<SampleConvolutionBackward> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& input,
                               const at::Tensor& weight, const std::vector<int64_t>& place, bool need_input,
                               bool need_weight) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({grad, input, weight});
    ctx->saved_data["place"] = place;
    const auto [of_input, of_weight] =
        sample_convolution_backward_operator(grad, input, weight, place, need_input, need_weight);
    return {of_input, of_weight};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &grad = saved[0], &input = saved[1], &weight = saved[2];
    const std::vector<int64_t> place = ctx->saved_data["place"].toIntVector();
    // Nothing comes back for a gradient that was not needed: nobody has it.
    variable_list found(6);  // of grad, input, weight, place and the two flags
    if (grads[0].defined()) {
      if (ctx->needs_input_grad(0)) found[0] = SampleConvolution::apply(grads[0], weight, std::nullopt, place);
      found[2] = sample_gradients(grad, grads[0], weight, place, false, ctx->needs_input_grad(2)).weight;
    }
    if (grads[1].defined()) {
      if (ctx->needs_input_grad(0))
        found[0] = plus(found[0], SampleConvolution::apply(input, grads[1], std::nullopt, place));
      found[1] = sample_gradients(grad, input, grads[1], place, ctx->needs_input_grad(1), false).input;
    }
    return found;
  }
};

inline SampleGradients sample_gradients(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
                                        const std::vector<int64_t>& place, bool need_input, bool need_weight) {
  if (!need_input && !need_weight) return {};
  const variable_list found = SampleConvolutionBackward::apply(grad, input, weight, place, need_input, need_weight);
  return {need_input ? found[0] : at::Tensor(), need_weight ? found[1] : at::Tensor()};
}

template <size_t axes, typename Options>
at::Tensor sample_convolution(at::Tensor input, const at::Tensor& weight, std::optional<at::Tensor> bias,
                              const Options& options) {
  if (bias && !bias->defined()) bias.reset();  // as torch's own convolutions take it
  check_sample_convolution(input, weight, bias, options.groups, axes);
  const auto [padded, geometry] = fit<axes>(input, weight.sizes().slice(3).vec(), options);
  const at::ScalarType dtype = convolution_dtype(input, weight);
  if (bias) bias = bias->to(dtype);
  return SampleConvolution::apply(padded.to(dtype), weight.to(dtype), bias, flattened({0, std::nullopt}, geometry));
}

}  // namespace crossd_ops::detail
