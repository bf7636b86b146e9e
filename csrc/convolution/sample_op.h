// The operators sample_convolution and sample_convolution_backward: the convolution of each sample with kernels that
// are given, by the methods of the layer's. Included by ops.cpp.
//
//   y_b = conv(x_b, w_b) + bias,   w (B, O, C, ...)
//
// The same for every device: what differs is below.
#pragma once
#include <optional>
#include <tuple>
#include <vector>

#include "common/library_calls.h"
#include "convolution/backward.h"
#include "convolution/choice.h"
#include "convolution/forward.h"
#include "convolution/problem.h"
#include "convolution/methods/small.h"

namespace crossd_ops {

// In the memory format of the input.
inline Tensor sample_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& given_bias,
                                 const std::vector<int64_t>& place) {
  const ConvolutionProblem problem = checked_sample_convolution(input, weight, place);
  if (given_bias) check_bias(*given_bias, input, weight, problem.rows());
  if (problem.is_empty()) return sums_of_nothing(input, given_bias, problem);
  const NoGrad no_grad;
  const Tensor kernels = dense(weight);
  const Method method = choose(problem, /*backward=*/false).method;
  const std::optional<Tensor> bias = bias_of_method(given_bias, input, method);
  if (method == Method::small) return small_sample_convolution(input, kernels, bias, problem);
  SampleConvolution convolve(input, problem, method);
  return in_format(convolve(kernels, bias), problem.format);
}

// Gradients of input, in its memory format, and weight, contiguous; one that is not needed is empty.
inline std::tuple<Tensor, Tensor> sample_convolution_backward(const Tensor& grad, const Tensor& input,
                                                              const Tensor& weight, const std::vector<int64_t>& place,
                                                              bool need_input, bool need_weight) {
  const ConvolutionProblem problem = checked_sample_convolution(input, weight, place);
  check_grad_of_output(grad, input, weight, problem);
  const auto nothing = [&] { return new_tensor(input, {0}, input.scalar_type()); };
  if (problem.is_empty())
    return {need_input ? zeros_like(input, problem.format) : nothing(),
            need_weight ? zeros_like(weight, MemoryFormat::contiguous) : nothing()};
  if (!need_input && !need_weight) return {nothing(), nothing()};
  const NoGrad no_grad;
  const Method method = choose(problem, /*backward=*/true, need_input).method;
  ConvolutionGradients gradients(input, problem, method, need_input, need_weight);
  const Tensor of_weight = gradients.add(grad, dense(weight));
  return {need_input ? in_format(gradients.grad_input(), problem.format) : nothing(),
          need_weight ? dense(of_weight) : nothing()};
}

}  // namespace crossd_ops
