// A convolution of few multiply-adds on the CPU (`choose` in convolution/choice.h says how few), where what is left to
// spare are tensors and a library's preparations: each takes a microsecond or more, as much as all of the arithmetic.
#pragma once
#include <memory>
#include <optional>

#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/cpu/columns.h"
#include "convolution/cpu/small_product.h"
#include "convolution/problem.h"
#include "shift/cpu/shift.h"

namespace crossd_ops {

// (rows, columns) -> (columns, rows), whose own rows are `step` elements apart.
template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to, int64_t step) {
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row) to[column * step + row] = from[row * columns + column];
}

// kernels: of all samples, dense. Columns and a result that is to be transposed share memory that is no tensor's.
template <typename T>
Tensor multiply_small(const Tensor& input, const T* kernels, const std::optional<Tensor>& bias,
                      const ConvolutionProblem& problem) {
  const int64_t groups = problem.geometry.groups, blocks = problem.samples() * groups, rows = problem.rows() / groups;
  const int64_t inner = problem.shape.in_channels * problem.kernel_elements(), pixels = problem.pixels();
  const bool channels_last = problem.format == MemoryFormat::channels_last;
  const int64_t transposed = channels_last ? rows * pixels : 0;
  const std::unique_ptr<T[]> memory(new T[transposed + blocks * inner * pixels + cpu::kProductSlack]);
  T* const columns = memory.get() + transposed;
  cpu::image_to_columns(columns_problem(input, problem), input.const_data_ptr(), columns);
  Tensor output = new_tensor(input, problem.result, problem.format);
  T* to = static_cast<T*>(output.mutable_data_ptr());
  const T* of_channels = bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr;
  cpu::SmallProduct<T> product{rows,
                               inner,
                               pixels,
                               kernels,
                               columns,
                               of_channels,
                               bias ? bias->stride(0) : 0,
                               channels_last ? memory.get() : to};
  for (int64_t block = 0; block < blocks; ++block) {
    if (bias) product.bias = of_channels + block % groups * rows * product.bias_stride;
    cpu::multiply(product);
    product.w += rows * inner, product.x += inner * pixels;
    if (channels_last) {
      const int64_t group = block % groups, sample = block / groups;
      transpose(product.y, rows, pixels, to + sample * problem.rows() * pixels + group * rows, problem.rows());
    } else {
      product.y += rows * pixels;
    }
  }
  return output;
}

// With kernels built of the weight.
template <typename T>
Tensor small_convolution_of(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                            const ConvolutionProblem& problem) {
  const int64_t of_sample = problem.rows() * problem.shape.in_channels * problem.kernel_elements();
  const std::unique_ptr<T[]> kernels(new T[problem.samples() * of_sample]);
  cpu::fourier_shift_forward(forward_problem(weight, problem.shift, problem.shape, kernels.get(), problem.dtype));
  return multiply_small(input, kernels.get(), bias, problem);
}

inline Tensor to_float32(const Tensor& tensor) { return torch::stable::to(tensor, ScalarType::Float); }

// What convolve(input, bias, problem) makes in float32 of half types: of so few elements copies take less time than a
// library's product of half types.
template <typename Convolve>
Tensor by_float32(const Tensor& input, const std::optional<Tensor>& bias, ConvolutionProblem problem,
                  const Convolve& convolve) {
  problem.dtype = Dtype::float32;
  const std::optional<Tensor> float_bias = bias ? std::optional(to_float32(*bias)) : std::nullopt;
  return torch::stable::to(convolve(to_float32(input), float_bias, problem), input.scalar_type());
}

inline Tensor small_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                const ConvolutionProblem& problem) {
  if (problem.dtype == Dtype::float64) return small_convolution_of<double>(input, weight, bias, problem);
  if (problem.dtype == Dtype::float32) return small_convolution_of<float>(input, weight, bias, problem);
  return by_float32(input, bias, problem, [&](const Tensor& x, const auto& b, const ConvolutionProblem& in_float) {
    return small_convolution_of<float>(x, weight, b, in_float);
  });
}

// With kernels (B, O, C, ...) that are given, dense.
inline Tensor small_sample_convolution(const Tensor& input, const Tensor& kernels, const std::optional<Tensor>& bias,
                                       const ConvolutionProblem& problem) {
  if (problem.dtype == Dtype::float64)
    return multiply_small(input, static_cast<const double*>(kernels.const_data_ptr()), bias, problem);
  if (problem.dtype == Dtype::float32)
    return multiply_small(input, static_cast<const float*>(kernels.const_data_ptr()), bias, problem);
  const Tensor w = to_float32(kernels);
  return by_float32(input, bias, problem, [&](const Tensor& x, const auto& b, const ConvolutionProblem& in_float) {
    return multiply_small(x, static_cast<const float*>(w.const_data_ptr()), b, in_float);
  });
}

}  // namespace crossd_ops
