// Sample by sample, by the library's convolution.
#pragma once
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"

namespace crossd_ops {

inline Tensor convolve_each_sample(const Tensor& input, const Tensor& kernels, const std::optional<Tensor>& bias,
                                   const ConvolutionProblem& problem) {
  std::vector<Tensor> outputs;
  for (int64_t b = 0; b < problem.samples(); ++b)
    outputs.push_back(library_convolution(part_of(input, 0, b, 1), kernels_of_sample(kernels, b), bias,
                                          problem.geometry, problem.geometry.groups));
  return join_samples(outputs);
}

// (B * rows, C, ...) -> (B, rows, C, ...)
inline Tensor split_samples(const Tensor& kernels, int64_t rows) {
  std::vector<int64_t> sizes = sizes_of(kernels), strides = strides_of(kernels);
  sizes[0] /= rows;
  sizes.insert(sizes.begin() + 1, rows), strides.insert(strides.begin(), rows * strides[0]);
  return alias(kernels, sizes, strides);
}

// Undefined where not needed.
inline LibraryGradients gradients_of_each_sample(const Tensor& grad, const Tensor& input, const Tensor& kernels,
                                                 const ConvolutionProblem& problem, bool need_input,
                                                 bool need_kernels) {
  std::vector<Tensor> inputs, grads;
  for (int64_t b = 0; b < problem.samples(); ++b) {
    const LibraryGradients found =
        library_convolution_backward(part_of(grad, 0, b, 1), part_of(input, 0, b, 1), kernels_of_sample(kernels, b),
                                     problem.geometry, problem.geometry.groups, need_input, need_kernels);
    if (need_input) inputs.push_back(found.input);
    if (need_kernels) grads.push_back(found.kernels);
  }
  return {need_input ? join_samples(inputs) : Tensor(),
          need_kernels ? split_samples(join_samples(grads), kernels.size(1)) : Tensor()};
}

}  // namespace crossd_ops
