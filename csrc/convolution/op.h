// The operators convolution and convolution_backward of each device: the whole layer, shift and convolution. Included
// by ops.cpp.
//
//   y_b = conv(x_b, w_b) + bias,   w_b = slice of the weight shifted by s_b, or all of it (shift/op.h)
//
// Between the passes nothing is kept but input, weight and shift: the kernels of each sample, B times as large as a
// plain convolution's, are built anew in the backward pass, which costs one read of the weight.
#pragma once
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/library_calls.h"
#include "convolution/backward.h"
#include "convolution/choice.h"
#include "convolution/forward.h"
#include "convolution/sample_kernels.h"
#include "convolution/small.h"

namespace crossd_ops {

// The output where there are no elements to add up, of which torch's own convolution gets the size wrong.
inline Tensor sums_of_nothing(const Tensor& input, const std::optional<Tensor>& bias,
                              const ConvolutionProblem& problem) {
  Tensor output = in_format(torch::stable::new_zeros(input, problem.result), problem.format);
  if (bias) torch::stable::copy_(output, along_channels(*bias, problem.result));
  return output;
}

// In the memory format of the input, whatever the library makes of it: compilers of graphs have to know. The input's
// alone: the kernels, of which torch's own convolutions look at the format too, are made here.
template <typename Device>
Tensor convolution(const Tensor& input, const Tensor& weight, const Tensor& shift, const std::optional<Tensor>& bias,
                   const std::vector<int64_t>& place) {
  const ConvolutionProblem problem = checked_convolution(input, weight, shift, place);
  if (bias) {
    check_same_device("bias", *bias, weight);
    require(bias->dim() == 1 && bias->size(0) == weight.size(0) && bias->scalar_type() == input.scalar_type(), [&] {
      return "bias: expected (" + std::to_string(weight.size(0)) + ",) of the dtype of input, got " + shape_text(*bias);
    });
  }
  if (std::min({problem.samples(), problem.rows(), problem.shape.in_channels}) == 0)
    return sums_of_nothing(input, bias, problem);
  const Method method = choose(problem, /*backward=*/false).method;
  if (method == Method::small) return small_convolution(input, weight, bias, problem);
  const NoGrad no_grad;
  const int64_t block = rows_of_block(problem, input);
  SampleKernels<Device> kernels(weight, problem, input.scalar_type(), block);
  SampleConvolution convolve(input, problem, method);
  if (block == problem.rows()) return in_format(convolve(kernels.build(0, block), bias), problem.format);
  Tensor output = new_tensor(input, problem.result, problem.format);
  for (int64_t first = 0; first < problem.rows(); first += block) {
    const int64_t rows = std::min(block, problem.rows() - first);
    const auto part_of_bias = bias ? std::optional(part_of(*bias, 0, first, rows)) : std::nullopt;
    Tensor target = part_of(output, 1, first, rows);
    torch::stable::copy_(target, convolve(kernels.build(first, rows), part_of_bias));
  }
  return output;
}

// Gradients of input, in its memory format, weight and shift, contiguous; one that is not needed is empty.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                                        const Tensor& shift, const std::vector<int64_t>& place,
                                                        bool need_input, bool need_weight, bool need_shift) {
  const ConvolutionProblem problem = checked_convolution(input, weight, shift, place);
  check_grad(grad, weight, problem.result);
  require(grad.scalar_type() == input.scalar_type(), [] { return std::string("grad: expected the dtype of input"); });
  const auto nothing = [](const Tensor& like) { return new_tensor(like, {0}, like.scalar_type()); };
  if (std::min({problem.samples(), problem.rows(), problem.shape.in_channels}) == 0) {
    const auto zeros = [&](const Tensor& like, bool need) {
      return need ? torch::stable::new_zeros(like, like.sizes()) : nothing(like);
    };
    return {need_input ? in_format(zeros(input, true), problem.format) : nothing(input), zeros(weight, need_weight),
            zeros(shift, need_shift)};
  }
  const NoGrad no_grad;
  const int64_t block = rows_of_block(problem, input);
  SampleKernels<Device> kernels(weight, problem, input.scalar_type(), block);
  KernelGradients<Device> of_kernels(weight, problem, block, need_weight, need_shift);
  ConvolutionGradients of_convolution(input, problem, need_input, need_weight || need_shift);
  for (int64_t first = 0; first < problem.rows(); first += block) {
    const int64_t rows = std::min(block, problem.rows() - first);
    const Tensor grad_of_rows = rows == problem.rows() ? grad : part_of(grad, 1, first, rows);
    const Tensor grad_kernels = of_convolution.add(grad_of_rows, kernels.build(first, rows));
    if (need_weight || need_shift) of_kernels.add(grad_kernels, first);
  }
  return {need_input ? in_format(of_convolution.grad_input(), problem.format) : nothing(input),
          need_weight ? of_kernels.grad_weight() : nothing(weight),
          need_shift ? of_kernels.grad_shift(shift.scalar_type()) : nothing(shift)};
}

}  // namespace crossd_ops
