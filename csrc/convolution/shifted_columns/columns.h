// What the pixels of a convolution's result see of their image, shifted, as matrices of which the weight's product is
// the result: U (rows, groups, E, C / groups) of E elements of a weight, and the ways back from its gradient.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/problem.h"
#include "convolution/shifted_columns/problem.h"
#include "convolution/shifted_columns/rows.h"
#if defined(CROSSD_WITH_CUDA)
#include "common/cuda/torch_cuda.h"
#include "convolution/shifted_columns/cuda/shifted_columns.h"
#endif

namespace crossd_ops {

// Rows of the pixels of some samples: of all of them, or some of one sample's.
struct PixelRows {
  int64_t sample, samples, first, count;  // first: from the first pixel of `sample` on
};

// In parts of so many rows at the most: whole samples, as many as these have, or parts of one.
template <typename Work>
void for_each_part(const ConvolutionProblem& problem, int64_t most_rows, const Work& work) {
  const int64_t pixels = problem.pixels(), samples = most_rows / pixels;
  for (int64_t sample = 0; sample < problem.samples(); sample += std::max<int64_t>(samples, 1)) {
    if (samples > 0) {
      const int64_t count = std::min(samples, problem.samples() - sample);
      work(PixelRows{sample, count, 0, count * pixels});
      continue;
    }
    for (int64_t first = 0; first < pixels; first += most_rows)
      work(PixelRows{sample, 1, first, std::min(most_rows, pixels - first)});
  }
}

// The sizes of a problem, and its types; without tensors.
inline ShiftedColumnsProblem shifted_columns_sizes(const ConvolutionProblem& problem) {
  const Geometry& geometry = problem.geometry;
  const int64_t axes = geometry.axes();
  ShiftedColumnsProblem columns{};
  columns.samples = problem.samples(), columns.groups = geometry.groups;
  columns.channels = problem.shape.in_channels * geometry.groups;
  columns.image = columns.kernel = columns.result = columns.stride = columns.dilation = {1, 1, 1};
  for (int64_t i = 0; i < axes; ++i) {
    const int64_t to = 3 - axes + i;
    columns.image[to] = problem.image[i], columns.kernel[to] = problem.kernel[i];
    columns.result[to] = problem.result[2 + i], columns.stride[to] = geometry.stride[i];
    columns.padding[to] = geometry.padding[i], columns.dilation[to] = geometry.dilation[i];
  }
  columns.weight = sizes_of_weight(problem);
  columns.sliced = axes == 2 ? problem.shape.axis[0] : -1, columns.index = problem.shape.first_slice;
  columns.dtype = problem.dtype, columns.shift_dtype = accumulate_dtype(problem.dtype);
  return columns;
}

// Of an image (B, C, ...) whose channels are next to each other.
class ShiftedColumns {
 public:
  // shift: (B, 3), dense, of the type that the image's type is computed in. Both of all samples.
  ShiftedColumns(const Tensor& image, const Tensor& shift, const ConvolutionProblem& problem, const PixelRows& rows)
      : image_(part_of(image, 0, rows.sample, rows.samples)), problem_(problem), rows_(rows) {
    problem_.shape.samples = problem_.result[0] = rows.samples;
    problem_.shift = part_of(shift, 0, rows.sample, rows.samples);
  }

  // Each in dense memory of its own.
  void make(Tensor& columns) const;
  // Of the columns' gradient, that of what pixels see: (rows, kernel, C); and the shift's, (partials, samples, 3), to
  // be summed. None: not wanted.
  void gradients(const Tensor& grad_columns, Tensor* seen, Tensor* partial) const;
  // From the former the gradient of all samples' image, dense and channels-last: added to what parts that came before
  // have left of the same sample.
  void add_to_image(const Tensor& seen, Tensor& all_images) const;

  int64_t partials() const { return shifted_columns_partials(shifted_columns_sizes(problem_)); }

 private:
  cpu::Rows rows_on_cpu() const { return {rows_.first, rows_.count}; }
  // Memory (rows, groups, C / groups, elements) seen as (rows, groups, elements, C / groups).
  Tensor channels_behind(const Tensor& memory, int64_t groups, int64_t elements) const {
    const int64_t channels = image_.size(1) / groups, wide = channels * elements;
    return alias(memory, {rows_.count, groups, elements, channels}, {groups * wide, wide, 1, elements});
  }
  static void copy(const Tensor& from, const Tensor& to) {
    Tensor target = alias(to, sizes_of(from), dense_strides(sizes_of(from)));
    torch::stable::copy_(target, from);
  }
  Tensor in_groups(const Tensor& columns) const {
    const int64_t groups = problem_.geometry.groups, elements = problem_.weight_elements();
    const std::vector<int64_t> sizes = {rows_.count, groups, elements, image_.size(1) / groups};
    return alias(columns, sizes, dense_strides(sizes));
  }

#if defined(CROSSD_WITH_CUDA)
  ShiftedColumnsProblem asked(const Tensor& image) const {
    ShiftedColumnsProblem columns = shifted_columns_sizes(problem_);
    const auto stride_of = [&](int64_t axis) { return image.size(axis) == 1 ? 0 : image.stride(axis); };
    columns.image_sample = stride_of(0);
    for (int64_t axis = image.dim(), to = 3; --axis > 1;) columns.image_pixel[--to] = stride_of(axis);
    columns.first_row = rows_.first, columns.rows = rows_.count, columns.accumulate = rows_.first > 0;
    return columns;
  }
#endif

  Tensor image_;
  ConvolutionProblem problem_;  // of these samples
  PixelRows rows_;
};

// Tensors of the CPU, which tests send the way of GPUs, go by the CPU's own rows, copied to this order.
inline void ShiftedColumns::make(Tensor& columns) const {
  const ProfilerRange range("crossd_ops::image_to_shifted_columns");
#if defined(CROSSD_WITH_CUDA)
  if (image_.is_cuda()) {
    const CudaDevice device(image_);
    return cuda::image_to_shifted_columns(asked(image_), image_.const_data_ptr(), problem_.shift.const_data_ptr(),
                                          columns.mutable_data_ptr(), device.stream());
  }
#endif
  ShiftedRows rows(image_, problem_, rows_.count);
  rows.see(rows_on_cpu());
  rows.shift(rows_on_cpu(), /*need_columns=*/true, /*need_shift=*/false);
  copy(channels_behind(rows.columns(), problem_.geometry.groups, problem_.weight_elements()), columns);
}

inline void ShiftedColumns::gradients(const Tensor& grad_columns, Tensor* seen, Tensor* partial) const {
  const ProfilerRange range("crossd_ops::shifted_columns_gradient");
#if defined(CROSSD_WITH_CUDA)
  if (image_.is_cuda()) {
    const CudaDevice device(image_);
    return cuda::shifted_columns_gradient(asked(image_), grad_columns.const_data_ptr(), image_.const_data_ptr(),
                                          problem_.shift.const_data_ptr(), seen ? seen->mutable_data_ptr() : nullptr,
                                          partial ? partial->mutable_data_ptr() : nullptr, device.stream());
  }
#endif
  ShiftedRows rows(image_, problem_, rows_.count);
  Tensor target = channels_behind(rows.columns(), problem_.geometry.groups, problem_.weight_elements());
  torch::stable::copy_(target, in_groups(grad_columns));
  if (seen) {
    rows.shift_back(rows_on_cpu());
    copy(channels_behind(rows.seen(), 1, problem_.kernel_elements()), *seen);
  }
  if (!partial) return;
  rows.see(rows_on_cpu());
  rows.shift(rows_on_cpu(), /*need_columns=*/false, /*need_shift=*/true);
  torch::stable::zero_(*partial);
  Tensor first = part_of(*partial, 0, 0, 1);
  torch::stable::copy_(first, rows.grad_shift());
}

inline void ShiftedColumns::add_to_image(const Tensor& seen, Tensor& all_images) const {
  const ProfilerRange range("crossd_ops::seen_to_image");
  Tensor image = part_of(all_images, 0, rows_.sample, rows_.samples);
#if defined(CROSSD_WITH_CUDA)
  if (image_.is_cuda()) {
    const CudaDevice device(image_);
    return cuda::seen_to_image(asked(image), seen.const_data_ptr(), image.mutable_data_ptr(), device.stream());
  }
#endif
  ShiftedRows rows(image_, problem_, rows_.count);
  const int64_t channels = image_.size(1), elements = problem_.kernel_elements();
  Tensor target = channels_behind(rows.seen(), 1, elements);
  torch::stable::copy_(
      target, alias(seen, {rows_.count, 1, elements, channels}, dense_strides({rows_.count, 1, elements, channels})));
  if (rows_.first == 0) torch::stable::zero_(image);
  Tensor sums = to_type(image, ShiftedRows::type_of(problem_));
  rows.add_to_image(rows_on_cpu(), sums);
  if (sums.scalar_type() != image.scalar_type()) torch::stable::copy_(image, sums);
}

}  // namespace crossd_ops
