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
#include "convolution/methods/shared.h"
#include "convolution/methods/shared_columns.h"
#include "convolution/methods/small.h"

namespace crossd_ops {

// In the memory format of the input, whatever the library makes of it: compilers of graphs have to know. The input's
// alone: the kernels, of which torch's own convolutions look at the format too, are made here.
template <typename Device>
Tensor convolution(const Tensor& input, const Tensor& weight, const Tensor& shift,
                   const std::optional<Tensor>& given_bias, const std::vector<int64_t>& place) {
  const ConvolutionProblem problem = checked_convolution(input, weight, shift, place);
  if (given_bias) check_bias(*given_bias, input, weight, problem.rows());
  if (problem.is_empty()) return sums_of_nothing(input, given_bias, problem);
  const Method method = choose(problem, /*backward=*/false).method;
  const std::optional<Tensor> bias = bias_of_method(given_bias, input, method);
  if (method == Method::small) return small_convolution(input, weight, bias, problem);
  const NoGrad no_grad;
  if (method == Method::shared)
    return problem.on_gpu ? SharedColumnsConvolution(input, weight, problem).forward(bias)
                          : SharedConvolution(input, weight, problem).forward(bias);
  const int64_t block = rows_of_block(problem, input);
  SampleKernels<Device> kernels(weight, problem, input.scalar_type(), block,
                                method == Method::tiles && !is_padded(problem));
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
  check_grad_of_output(grad, input, weight, problem);
  const auto nothing = [](const Tensor& like) { return new_tensor(like, {0}, like.scalar_type()); };
  if (problem.is_empty())
    return {need_input ? zeros_like(input, problem.format) : nothing(input),
            need_weight ? zeros_like(weight, MemoryFormat::contiguous) : nothing(weight),
            need_shift ? zeros_like(shift, MemoryFormat::contiguous) : nothing(shift)};
  const NoGrad no_grad;
  const Method method = choose(problem, /*backward=*/true, need_input).method;
  if (method == Method::shared) {
    const auto gradients_by = [&](auto gradients) -> std::tuple<Tensor, Tensor, Tensor> {
      gradients.backward(grad, need_input, need_weight, need_shift);
      return {need_input ? gradients.grad_input() : nothing(input),
              need_weight ? gradients.grad_weight() : nothing(weight),
              need_shift ? gradients.grad_shift(shift.scalar_type()) : nothing(shift)};
    };
    return problem.on_gpu ? gradients_by(SharedColumnsConvolution(input, weight, problem))
                          : gradients_by(SharedConvolution(input, weight, problem));
  }
  const int64_t block = rows_of_block(problem, input);
  SampleKernels<Device> kernels(weight, problem, input.scalar_type(), block,
                                method == Method::tiles && !is_padded(problem));
  KernelGradients<Device> of_kernels(weight, problem, block, need_weight, need_shift);
  ConvolutionGradients of_convolution(input, problem, method, need_input, need_weight || need_shift);
  for (int64_t first = 0; first < problem.rows(); first += block) {
    const int64_t rows = std::min(block, problem.rows() - first);
    const Tensor grad_of_rows = rows == problem.rows() ? grad : part_of(grad, 1, first, rows);
    const Tensor of_rows = need_input ? kernels.build(first, rows) : kernels.without_values(rows);
    const Tensor grad_kernels = of_convolution.add(grad_of_rows, of_rows);
    if (need_weight || need_shift) of_kernels.add(grad_kernels, first);
  }
  return {need_input ? in_format(of_convolution.grad_input(), problem.format) : nothing(input),
          need_weight ? of_kernels.grad_weight() : nothing(weight),
          need_shift ? of_kernels.grad_shift(shift.scalar_type()) : nothing(shift)};
}

}  // namespace crossd_ops
