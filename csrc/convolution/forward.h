// The per-sample convolution itself, some output channels at a time.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/choice.h"
#include "convolution/columns.h"
#include "convolution/methods/loop.h"
#include "convolution/methods/products.h"
#include "convolution/methods/tiles.h"
#include "convolution/padding/tensors.h"
#include "convolution/sample_kernels.h"

namespace crossd_ops {

// The output where there are no elements to add up, of which torch's own convolution gets the size wrong.
inline Tensor sums_of_nothing(const Tensor& input, const std::optional<Tensor>& bias,
                              const ConvolutionProblem& problem) {
  Tensor output = in_format(torch::stable::new_zeros(input, problem.result), problem.format);
  if (bias) torch::stable::copy_(output, along_channels(*bias, problem.result));
  return output;
}

// As a method reads it: tiles in float32 too.
inline std::optional<Tensor> bias_of_method(const std::optional<Tensor>& bias, const Tensor& input, Method method) {
  if (!bias || (method == Method::tiles && input.is_cuda())) return bias;
  return to_type(*bias, input.scalar_type());
}

class SampleConvolution {
 public:
  SampleConvolution(const Tensor& input, const ConvolutionProblem& problem, Method method)
      : input_(input), problem_(problem), method_(method) {}

  // (B, rows, ...) in any layout, of kernels (B, rows, C, ...) and the bias (rows,) of these output channels.
  Tensor operator()(const Tensor& kernels, const std::optional<Tensor>& bias) {
    if (method_ == Method::matrix) return multiply(kernels, bias);
    if (method_ == Method::tiles) return tile(kernels, bias);
    if (problem_.samples() == 1)
      return library_convolution(input_, kernels_of_sample(kernels, 0), bias, problem_.geometry,
                                 problem_.geometry.groups);
    return method_ == Method::loop ? convolve_each_sample(input_, kernels, bias, problem_) : group(kernels, bias);
  }

 private:
  // With columns x of the input, of some samples at a time: y = w x; of channels-last images y^T = x^T w^T, which is
  // their order in memory. The bias takes as many bytes as a product that is added to it would.
  Tensor multiply(const Tensor& kernels, const std::optional<Tensor>& bias) {
    const int64_t groups = problem_.geometry.groups, samples = problem_.samples(), chunk = problem_.samples_of_chunk();
    const std::vector<int64_t> sizes = sizes_of_result(kernels);
    const Tensor result = new_tensor(input_, sizes, groups == 1 ? problem_.format : MemoryFormat::contiguous);
    const Tensor products = as_matrices(result, groups), w = kernel_matrices(kernels, groups);
    for (int64_t first = 0; first < samples; first += chunk) {
      const int64_t count = std::min(chunk, samples - first), block = first * groups, blocks = count * groups;
      if (chunk < samples) {
        columns_.reset();  // of the chunk before, whose memory does for these
        columns_.emplace(image_to_columns(part_of(input_, 0, first, count), problem_));
      } else if (!columns_) {
        columns_.emplace(image_to_columns(input_, problem_));
      }
      multiply_into(part_of(products, 0, block, blocks), part_of(w, 0, block, blocks), *columns_, problem_);
    }
    return bias ? sum_of(result, along_channels(*bias, sizes)) : result;
  }

  // Kernels that were made for it are in that order, others are copied.
  Tensor tile(const Tensor& given, const std::optional<Tensor>& bias) const {
    if (is_padded(problem_)) return tile_padded(given, bias);
    const Tensor kernels = in_tap_major_order(given);
    Tensor result = new_tensor(input_, problem_.result, MemoryFormat::channels_last);
    convolve_in_tiles(in_whole_vectors(input_), kernels, bias, result, problem_);
    return result;
  }

  Tensor tile_padded(const Tensor& given, const std::optional<Tensor>& bias) const {
    const Padding padding(problem_);
    const Tensor image = padding.image(input_), kernels = padding.kernels(given);
    return padding.result(SampleConvolution(image, padding.problem(), Method::tiles).tile(kernels, padding.bias(bias)));
  }

  Tensor group(const Tensor& kernels, const std::optional<Tensor>& bias) const {
    const int64_t samples = problem_.samples();
    const std::optional<Tensor> repeated = bias ? std::optional(repeat(*bias, samples)) : std::nullopt;
    const Tensor output = dense(library_convolution(stack_samples(input_), stacked_kernels(kernels), repeated,
                                                    problem_.geometry, samples * problem_.geometry.groups));
    const std::vector<int64_t> sizes = sizes_of_result(kernels);
    return alias(output, sizes, dense_strides(sizes));
  }

  std::vector<int64_t> sizes_of_result(const Tensor& kernels) const {
    std::vector<int64_t> sizes = problem_.result;
    sizes[1] = kernels.size(1);
    return sizes;
  }

  const Tensor& input_;
  const ConvolutionProblem& problem_;
  Method method_;
  std::optional<Tensor> columns_;
};

}  // namespace crossd_ops
