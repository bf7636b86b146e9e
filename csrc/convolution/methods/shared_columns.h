// The convolution with one weight for all samples, on a GPU: as methods/shared.h, in the image's type, and with
// channels next to each other, as shifted_columns/columns.h has what pixels see.
//
//   y[p, o] = sum_{e,c} U[p, e, c] W[o, e, c],   g_W = g^T U,   g_U = g W
//
// The products are the library's: of matrices, but in float32 1x1 convolutions of images whose pixels are the rows,
// which round to TF32 where torch lets convolutions do so, and nowhere else. The weight is copied once to the order and
// type of U, and so is its gradient back; both are small beside the kernels of each sample, which do not exist.
#pragma once
#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"
#include "convolution/shifted_columns/columns.h"

namespace crossd_ops {

class SharedColumnsConvolution {
 public:
  SharedColumnsConvolution(const Tensor& input, const Tensor& weight, const ConvolutionProblem& problem)
      : problem_(problem),
        given_(weight),
        image_(input.stride(1) == 1 ? input : in_format(input, MemoryFormat::channels_last)),
        shift_(to_type(problem.shift,
                       accumulate_dtype(problem.dtype) == Dtype::float64 ? ScalarType::Double : ScalarType::Float)),
        weight_(in_order_of_columns(weight)),
        columns_(new_tensor(image_, {most_rows() * channels() * problem.weight_elements()}, image_.scalar_type())) {}

  // In the memory format of the input.
  Tensor forward(const std::optional<Tensor>& bias) {
    Tensor result;
    for_each_part(problem_, most_rows(), [&](const PixelRows& rows) {
      of(rows).make(columns_);
      if (goes_by_convolution()) return convolve_columns(rows, result);
      if (!result.defined()) result = new_result();
      multiply_into(part_of(rows_of_groups(result, problem_), 1, first_of_all(rows), rows.count), columns(rows),
                    transposed(weight_));
    });
    if (bias) result = sum_of(result, along_channels(*bias, problem_.result));
    return in_format(result, problem_.format);
  }

  // Once, before those that are needed are asked for.
  void backward(const Tensor& grad, bool need_input, bool need_weight, bool need_shift) {
    const Tensor g = in_format(grad, MemoryFormat::channels_last);
    if (need_input) grad_image_.emplace(new_tensor(image_, sizes_of(image_), MemoryFormat::channels_last));
    for_each_part(problem_, most_rows(), [&](const PixelRows& rows) {
      if (goes_by_convolution()) return add_convolution(rows, g, need_input, need_weight, need_shift);
      const Tensor g_of_rows = part_of(rows_of_groups(g, problem_), 1, first_of_all(rows), rows.count);
      if (need_input || need_shift) {
        multiply_into(columns(rows), g_of_rows, weight_);
        take_back(rows, columns_, need_input, need_shift);
      }
      if (!need_weight) return;
      of(rows).make(columns_);
      const Tensor product = new_tensor(weight_, sizes_of(weight_), weight_.scalar_type());
      multiply_into(product, transposed(g_of_rows), columns(rows));
      add_to_grad_weight(product);
    });
  }

  Tensor grad_input() const { return in_format(*grad_image_, problem_.format); }
  Tensor grad_shift(ScalarType dtype) const { return to_type(*grad_shift_, dtype); }
  Tensor grad_weight() const {
    const Tensor result = new_tensor(given_, sizes_of(given_), given_.scalar_type());
    Tensor target = channels_behind(result);
    torch::stable::copy_(target, alias(*grad_weight_, sizes_of(target), dense_strides(sizes_of(target))));
    return result;
  }

 private:
  int64_t channels() const { return image_.size(1); }
  int64_t most_rows() const {
    // Of columns that exist at the same time; few on the CPU, so that tests of this way have several parts.
    const int64_t most = image_.is_cuda() ? 1 << 26 : 1 << 20;
    return std::clamp<int64_t>(most / (channels() * problem_.weight_elements()), 1,
                               problem_.samples() * problem_.pixels());
  }
  int64_t first_of_all(const PixelRows& rows) const { return rows.sample * problem_.pixels() + rows.first; }
  ShiftedColumns of(const PixelRows& rows) const { return {image_, shift_, problem_, rows}; }
  Tensor columns(const PixelRows& rows) const { return columns_of_groups(columns_, rows.count, problem_); }

  bool goes_by_convolution() const { return problem_.dtype == Dtype::float32; }
  Geometry of_rows() const { return {{1, 1}, {0, 0}, {1, 1}, problem_.geometry.groups}; }
  // Rows (rows, channels) of memory as the pixels of their samples' images, channels-last.
  static Tensor image_of_rows(const Tensor& memory, int64_t first, const PixelRows& rows, int64_t channels) {
    const int64_t pixels = rows.count / rows.samples;
    return alias(memory, {rows.samples, channels, pixels, 1}, {pixels * channels, 1, channels, channels},
                 first * channels);
  }
  Tensor image_of_columns(const PixelRows& rows) const {
    return image_of_rows(columns_, 0, rows, channels() * problem_.weight_elements());
  }
  Tensor pointwise_weight() const {  // (O, E C / groups, 1, 1)
    const int64_t wide = weight_.size(2);
    return alias(weight_, {problem_.rows(), wide, 1, 1}, {wide, 1, wide, wide});
  }

  Tensor new_result() const { return new_tensor(image_, problem_.result, MemoryFormat::channels_last); }
  // y = U W^T, to these rows of the result: the library's own where these are all.
  void convolve_columns(const PixelRows& rows, Tensor& result) const {
    const std::vector<int64_t>& sizes = problem_.result;
    const Tensor y = in_format(
        library_convolution(image_of_columns(rows), pointwise_weight(), {}, of_rows(), problem_.geometry.groups),
        MemoryFormat::channels_last);
    if (is_one_part()) return result = alias(y, sizes, strides_of_format(sizes, MemoryFormat::channels_last)), void();
    if (!result.defined()) result = new_result();
    Tensor target = image_of_rows(result, first_of_all(rows), rows, problem_.rows());
    torch::stable::copy_(target, y);
  }

  // Both gradients at once, by the library's convolution of these rows.
  void add_convolution(const PixelRows& rows, const Tensor& grad, bool need_input, bool need_weight, bool need_shift) {
    if (need_weight) of(rows).make(columns_);
    const LibraryGradients found = library_convolution_backward(
        image_of_rows(grad, first_of_all(rows), rows, problem_.rows()), image_of_columns(rows), pointwise_weight(),
        of_rows(), problem_.geometry.groups, need_input || need_shift, need_weight);
    if (need_input || need_shift)
      take_back(rows, in_format(found.input, MemoryFormat::channels_last), need_input, need_shift);
    if (need_weight) {
      const std::vector<int64_t> sizes = sizes_of(weight_);
      add_to_grad_weight(alias(in_format(found.kernels, MemoryFormat::contiguous), sizes, dense_strides(sizes)));
    }
  }

  // A dense weight (O, C / groups, ...) seen as (groups, O / groups, E, C / groups).
  Tensor channels_behind(const Tensor& weight) const {
    const int64_t groups = problem_.geometry.groups, elements = problem_.weight_elements();
    const int64_t rows = problem_.rows() / groups, channels = problem_.shape.in_channels, wide = channels * elements;
    return alias(weight, {groups, rows, elements, channels}, {rows * wide, wide, 1, elements});
  }
  // As matrices (groups, O / groups, E C / groups), of the image's type.
  Tensor in_order_of_columns(const Tensor& weight) const {
    const Tensor from = channels_behind(dense(weight));
    Tensor copy = new_tensor(image_, sizes_of(from), image_.scalar_type());
    torch::stable::copy_(copy, from);
    const std::vector<int64_t> sizes = {from.size(0), from.size(1), from.size(2) * from.size(3)};
    return alias(copy, sizes, dense_strides(sizes));
  }

  // From g_U the gradients of image and shift.
  void take_back(const PixelRows& rows, const Tensor& grad_columns, bool need_input, bool need_shift) {
    const ShiftedColumns shifted = of(rows);
    std::optional<Tensor> seen, partial;
    if (need_input)
      seen.emplace(new_tensor(image_, {rows.count * channels() * problem_.kernel_elements()}, image_.scalar_type()));
    if (need_shift) partial.emplace(new_tensor(image_, {shifted.partials(), rows.samples, 3}, shift_.scalar_type()));
    shifted.gradients(grad_columns, seen ? &*seen : nullptr, partial ? &*partial : nullptr);
    if (seen) shifted.add_to_image(*seen, *grad_image_);
    if (partial) add_to_grad_shift(rows, *partial);
  }

  void add_to_grad_shift(const PixelRows& rows, const Tensor& partial) {
    const std::array<int64_t, 1> parts = {0};
    const Tensor sum = torch::stable::sum(partial, parts);
    if (rows.count == problem_.samples() * problem_.pixels()) return grad_shift_.emplace(sum), void();
    if (!grad_shift_) grad_shift_.emplace(torch::stable::new_zeros(shift_, {problem_.samples(), 3}));
    Tensor target = part_of(*grad_shift_, 0, rows.sample, rows.samples);
    torch::stable::copy_(target, sum_of(target, sum));
  }

  // Of several parts, half types are added in float32.
  void add_to_grad_weight(const Tensor& product) {
    grad_weight_.emplace(grad_weight_    ? sum_of(*grad_weight_, product)
                         : is_one_part() ? product
                                         : to_type(product, shift_.scalar_type()));
  }
  bool is_one_part() const { return most_rows() == problem_.samples() * problem_.pixels(); }

  const ConvolutionProblem& problem_;
  const Tensor& given_;   // weight
  Tensor image_, shift_;  // shift: of the type that the image's is computed in
  Tensor weight_;         // (groups, O / groups, E C / groups)
  Tensor columns_;        // U, or of matrices its gradient, of a part
  std::optional<Tensor> grad_image_, grad_weight_, grad_shift_;
};

}  // namespace crossd_ops
