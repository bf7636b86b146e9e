// A convolution as a product of matrices, y = w x: the columns x of the input, and the way back from their gradient.
#pragma once
#include <vector>

#include "common/checks.h"
#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/cpu/columns.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"

namespace crossd_ops {

// One matrix for each group of each sample: (B * groups, C * kernel elements, pixels).
inline std::vector<int64_t> sizes_of_columns(const ConvolutionProblem& problem) {
  return {problem.samples() * problem.geometry.groups, problem.shape.in_channels * problem.kernel_elements(),
          problem.pixels()};
}

// Of images (B, C, ...) like this one.
inline ColumnsProblem columns_problem(const Tensor& image, const ConvolutionProblem& problem) {
  const int64_t axes = problem.geometry.axes();
  const auto sizes = image.sizes(), strides = image.strides();
  ColumnsProblem columns{};
  columns.samples = sizes[0], columns.channels = sizes[1], columns.dtype = problem.dtype;
  columns.image_sample = strides[0], columns.image_channel = strides[1];
  columns.image = columns.kernel = columns.result = columns.stride = columns.dilation = {1, 1, 1};
  for (int64_t i = 0; i < axes; ++i) {
    const int64_t to = 3 - axes + i;
    columns.image[to] = sizes[2 + i], columns.image_pixel[to] = strides[2 + i];
    columns.kernel[to] = problem.kernel[i], columns.result[to] = problem.result[2 + i];
    columns.stride[to] = problem.geometry.stride[i], columns.padding[to] = problem.geometry.padding[i];
    columns.dilation[to] = problem.geometry.dilation[i];
  }
  return columns;
}

// The input pixels that each output pixel sees, with the sizes above, dense.
inline Tensor image_to_columns(const Tensor& input, const ConvolutionProblem& problem) {
  if (goes_by_dispatcher(input)) {
    const std::vector<int64_t> pixels(problem.result.begin() + 2, problem.result.end());
    const std::vector<int64_t> sizes = sizes_of_columns(problem);
    return alias(dispatched_image_to_columns(input, problem.kernel, pixels, problem.geometry), sizes,
                 dense_strides(sizes));
  }
  Tensor columns = new_tensor(input, sizes_of_columns(problem), input.scalar_type());
  cpu::image_to_columns(columns_problem(input, problem), input.const_data_ptr(), columns.mutable_data_ptr());
  return columns;
}

// Its adjoint, of dense columns: each pixel's copies added up, with the sizes of `like`, the input. On a GPU of images
// alone.
inline Tensor columns_to_image(const Tensor& columns, const Tensor& like, const ConvolutionProblem& problem) {
  if (goes_by_dispatcher(columns)) {
    const int64_t groups = problem.geometry.groups;
    const std::vector<int64_t> sizes = {problem.samples(), groups * columns.size(1), columns.size(2)};
    return dispatched_columns_to_image(alias(columns, sizes, dense_strides(sizes)), {like.size(2), like.size(3)},
                                       problem.kernel, problem.geometry);
  }
  Tensor image = new_tensor(like, sizes_of(like), problem.format);
  cpu::columns_to_image(columns_problem(image, problem), columns.const_data_ptr(), image.mutable_data_ptr());
  return image;
}

// (B, O, ...) as (B, O, pixels): a view where a channel's pixels are one step apart, as in both memory formats, and
// channels or pixels follow each other; else of a copy.
inline Tensor as_matrices(const Tensor& tensor) {
  int64_t pixels = 1, step = 0;  // between pixels; those of axes of size 1 do not matter
  bool even = true;
  for (int64_t i = tensor.dim(); --i > 1; pixels *= tensor.size(i)) {
    if (tensor.size(i) == 1) continue;
    if (pixels == 1) step = tensor.stride(i);
    even = even && tensor.stride(i) == step * pixels;
  }
  const int64_t channels = tensor.size(1), apart = tensor.stride(1);
  const bool rows = (step == 1 || pixels == 1) && (channels == 1 || apart >= pixels);
  const bool transposed = (apart == 1 || channels == 1) && (pixels == 1 || step >= channels);
  const std::vector<int64_t> sizes = {tensor.size(0), channels, pixels};
  if (even && rows) return alias(tensor, sizes, {tensor.stride(0), channels == 1 ? pixels : apart, 1});
  if (even && transposed) return alias(tensor, sizes, {tensor.stride(0), 1, pixels == 1 ? channels : step});
  return alias(torch::stable::contiguous(tensor), sizes, dense_strides(sizes));
}

}  // namespace crossd_ops
