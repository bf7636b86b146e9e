// A convolution as a product of matrices, y = w x: the columns x of the input, and the way back from their gradient.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/cpu/columns.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"
#if defined(CROSSD_WITH_CUDA)
#include "common/cuda/torch_cuda.h"
#include "convolution/cuda/columns.h"
#endif

namespace crossd_ops {

// (B, channels, ...) as one matrix for each group of each sample: (B * groups, channels / groups, pixels). A view where
// a channel's pixels are one step apart, as in both memory formats, and channels or pixels follow each other; else, and
// of groups that are not contiguous, of a copy.
inline Tensor as_matrices(const Tensor& tensor, int64_t groups) {
  int64_t pixels = 1, step = 0;  // between pixels; those of axes of size 1 do not matter
  bool even = true;
  for (int64_t i = tensor.dim(); --i > 1; pixels *= tensor.size(i)) {
    if (tensor.size(i) == 1) continue;
    if (pixels == 1) step = tensor.stride(i);
    even = even && tensor.stride(i) == step * pixels;
  }
  const int64_t channels = tensor.size(1), apart = tensor.stride(1);
  const std::vector<int64_t> sizes = {tensor.size(0) * groups, channels / groups, pixels};
  if (groups > 1) return alias(dense(tensor), sizes, dense_strides(sizes));
  const bool rows = (step == 1 || pixels == 1) && (channels == 1 || apart >= pixels);
  const bool transposed = (apart == 1 || channels == 1) && (pixels == 1 || step >= channels);
  if (even && rows) return alias(tensor, sizes, {tensor.stride(0), channels == 1 ? pixels : apart, 1});
  if (even && transposed) return alias(tensor, sizes, {tensor.stride(0), 1, pixels == 1 ? channels : step});
  return alias(dense(tensor), sizes, dense_strides(sizes));
}

// Matrices with rows and columns exchanged: a view.
inline Tensor transposed(const Tensor& matrices) {
  return alias(matrices, {matrices.size(0), matrices.size(2), matrices.size(1)},
               {matrices.stride(0), matrices.stride(2), matrices.stride(1)});
}

// out = a b, each (n, ., .), of which `out` may be transposed in memory.
inline void multiply_into(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (out.stride(2) == 1) {
    Tensor target = out;
    multiply_matrices(target, a, b);
  } else {
    Tensor target = transposed(out);
    multiply_matrices(target, transposed(b), transposed(a));
  }
}

// out += a b, on the CPU.
inline void add_product_on_cpu(const Tensor& out, const Tensor& a, const Tensor& b) {
  Tensor target = out.stride(2) == 1 ? out : transposed(out);
  if (out.stride(2) == 1)
    add_matrix_product_on_cpu(target, a, b);
  else
    add_matrix_product_on_cpu(target, transposed(b), transposed(a));
}

// For each group, of all samples' pixels: a channels-last result or its gradient (groups, rows, O / groups),
inline Tensor rows_of_groups(const Tensor& result, const ConvolutionProblem& problem) {
  const int64_t groups = problem.geometry.groups, channels = problem.rows();
  return alias(result, {groups, problem.samples() * problem.pixels(), channels / groups},
               {channels / groups, channels, 1});
}
// and what these pixels see, shifted, for each element of the weight: (groups, rows, E C / groups).
inline Tensor columns_of_groups(const Tensor& columns, int64_t rows, const ConvolutionProblem& problem) {
  const int64_t groups = problem.geometry.groups, of_group = problem.shape.in_channels * problem.weight_elements();
  return alias(columns, {groups, rows, of_group}, {of_group, groups * of_group, 1});
}

// Of images (B, C, ...) like this one: all samples of a problem, or some.
inline ColumnsProblem columns_problem(const Tensor& image, const ConvolutionProblem& problem) {
  const int64_t axes = problem.geometry.axes();
  const auto sizes = image.sizes(), strides = image.strides();
  ColumnsProblem columns{};
  columns.samples = sizes[0], columns.channels = sizes[1], columns.dtype = problem.dtype;
  columns.image_sample = strides[0], columns.image_channel = strides[1], columns.row = problem.row_of_columns();
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

// Uninitialised, for so many samples: one matrix (C * kernel elements, pixels) for each group of each.
inline Tensor new_columns(const Tensor& like, const ConvolutionProblem& problem, int64_t samples) {
  const int64_t blocks = samples * problem.geometry.groups, pixels = problem.pixels(), row = problem.row_of_columns();
  const int64_t wide = problem.shape.in_channels * problem.kernel_elements();
  const Tensor memory = new_tensor(like, {blocks, wide, row}, like.scalar_type());
  return row == pixels ? memory : alias(memory, {blocks, wide, pixels}, {wide * row, row, 1});
}

// The input pixels that each output pixel of these samples sees, with the sizes above. Where that is one each, they are
// the input.
inline Tensor image_to_columns(const Tensor& input, const ConvolutionProblem& problem) {
  if (problem.columns_are_the_image()) return as_matrices(input, problem.geometry.groups);
  const ProfilerRange range("crossd_ops::image_to_columns");
  Tensor columns = new_columns(input, problem, input.size(0));
  const ColumnsProblem asked = columns_problem(input, problem);
#if defined(CROSSD_WITH_CUDA)
  if (input.is_cuda()) {
    const CudaDevice device(input);
    cuda::image_to_columns(asked, input.const_data_ptr(), columns.mutable_data_ptr(), device.stream());
    return columns;
  }
#endif
  cpu::image_to_columns(asked, input.const_data_ptr(), columns.mutable_data_ptr());
  return columns;
}

// Its adjoint, of new_columns: each pixel's copies added up, into the image.
inline void columns_to_image(const Tensor& columns, Tensor& image, const ConvolutionProblem& problem) {
  const ProfilerRange range("crossd_ops::columns_to_image");
  const ColumnsProblem asked = columns_problem(image, problem);
#if defined(CROSSD_WITH_CUDA)
  if (image.is_cuda()) {
    const CudaDevice device(image);
    return cuda::columns_to_image(asked, columns.const_data_ptr(), image.mutable_data_ptr(), device.stream());
  }
#endif
  cpu::columns_to_image(asked, columns.const_data_ptr(), image.mutable_data_ptr());
}

}  // namespace crossd_ops
