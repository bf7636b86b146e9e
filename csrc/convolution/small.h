// A convolution of few multiply-adds on the CPU (`choose` in convolution/problem.h says how few), where what is left to
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

// Kernels and columns share memory that is no tensor's.
template <typename T>
Tensor small_convolution_of(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                            const ConvolutionProblem& problem) {
  const int64_t groups = problem.geometry.groups, blocks = problem.samples() * groups, rows = problem.rows() / groups;
  const int64_t inner = problem.shape.in_channels * problem.kernel_elements(), pixels = problem.pixels();
  const std::unique_ptr<T[]> memory(new T[blocks * inner * (rows + pixels) + cpu::kProductSlack]);
  T *const kernels = memory.get(), *const columns = kernels + blocks * rows * inner;
  cpu::fourier_shift_forward(forward_problem(weight, problem.shift, problem.shape, kernels, problem.dtype));
  cpu::image_to_columns(columns_problem(input, problem), input.const_data_ptr(), columns);
  Tensor output = new_tensor(input, problem.result, input.scalar_type());
  const T* of_channels = bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr;
  cpu::SmallProduct<T> product{rows,
                               inner,
                               pixels,
                               kernels,
                               columns,
                               of_channels,
                               bias ? bias->stride(0) : 0,
                               static_cast<T*>(output.mutable_data_ptr())};
  for (int64_t block = 0; block < blocks; ++block) {
    if (bias) product.bias = of_channels + block % groups * rows * product.bias_stride;
    cpu::multiply(product);
    product.w += rows * inner, product.x += inner * pixels, product.y += rows * pixels;
  }
  return output;
}

inline Tensor small_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                const ConvolutionProblem& problem) {
  return problem.dtype == Dtype::float64 ? small_convolution_of<double>(input, weight, bias, problem)
                                         : small_convolution_of<float>(input, weight, bias, problem);
}

}  // namespace crossd_ops
