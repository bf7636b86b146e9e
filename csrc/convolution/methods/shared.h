// The convolution with the weight as it lies in memory, one for all samples, on the CPU. Not the weight is shifted but
// what each pixel of the result sees of its image:
//
//   y[b, p, o] = sum_{c,e} U[b, p, c, e] W[o, c, e],   U[b, p, c] = M_b^T x[b, p, c]
//
// with M_b for what the shift of sample b makes of a weight: a kernel's elements of the weight's E. So the shift's own
// kernels do it, of "weights" U with pairs (p, c), of which x is the gradient:
//
//   U = gradient of the weight, where x is the kernels' (shift/op.h)
//   g_W = g^T U,   g_U = g W,   g_x = g_U shifted,   g_s = gradient of the shift, where g_U is the weight and x the
//                                                          kernels' gradient
//
// No kernel of a sample exists, nor its gradient. The products are those of all samples' pixels at once; of a volume
// they take the multiply-adds of a plain convolution, of a slice as many times more as the weight has slices.
#pragma once
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/cpu/huge_pages.h"
#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/cpu/image_rows.h"
#include "convolution/problem.h"
#include "convolution/sample_kernels.h"
#include "shift/op.h"

namespace crossd_ops {

inline Tensor to_type(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

class SharedConvolution {
 public:
  SharedConvolution(const Tensor& input, const Tensor& weight, const ConvolutionProblem& problem)
      : problem_(problem),
        type_(type_of(problem)),
        image_(to_type(input, type_)),
        weight_(dense(to_type(weight, type_))),
        shift_(to_type(problem.shift, type_)),
        seen_(new_tensor(image_, {rows_of_chunk() * channels() * problem.kernel_elements()}, type_)),
        columns_(new_tensor(image_, {rows_of_chunk() * channels() * problem.weight_elements()}, type_)) {
    problem_.dtype = type_ == ScalarType::Double ? Dtype::float64 : Dtype::float32;
  }

  // In the memory format of the input.
  Tensor forward(const std::optional<Tensor>& bias, ScalarType dtype) {
    Tensor result = new_strided_tensor(image_, problem_.result,
                                       strides_of_format(problem_.result, MemoryFormat::channels_last), type_);
    const Tensor y = rows_of_groups(result), w = transposed(as_groups(weight_));
    for_each_chunk([&](const cpu::Rows& rows) {
      see(rows);
      shift_backward(rows, /*need_columns=*/true, /*need_shift=*/false);
      multiply_into(part_of(y, 1, rows.first, rows.count), columns(rows), w);
    });
    if (bias) result = sum_of(result, along_channels(to_type(*bias, type_), problem_.result));
    return in_format(to_type(result, dtype), problem_.format);
  }

  // Once, before those that are needed are asked for.
  void backward(const Tensor& grad, bool need_input, bool need_weight, bool need_shift) {
    const Tensor g = rows_of_groups(in_format(to_type(grad, type_), MemoryFormat::channels_last)),
                 w = as_groups(weight_);
    if (need_input) grad_image_.emplace(torch::stable::new_zeros(image_, image_.sizes()));
    if (need_weight) {
      grad_weight_.emplace(new_tensor(weight_, sizes_of(weight_), type_));
      cpu::advise_huge_pages(grad_weight_->mutable_data_ptr(), size_of(problem_.dtype) * weight_.numel());
    }
    grad_shift_.assign(3 * problem_.samples(), 0);
    for_each_chunk([&](const cpu::Rows& rows) {
      const Tensor g_of_rows = part_of(g, 1, rows.first, rows.count);
      if (need_input || need_shift) multiply_into(columns(rows), g_of_rows, w);
      if (need_input) add_to_grad_image(rows);
      if (!need_weight && !need_shift) return;
      see(rows);
      shift_backward(rows, need_weight, need_shift);
      if (need_weight) add_to_grad_weight(transposed(g_of_rows), columns(rows), /*is_first=*/rows.first == 0);
    });
  }

  Tensor grad_input(ScalarType dtype) const { return in_format(to_type(*grad_image_, dtype), problem_.format); }
  Tensor grad_weight(ScalarType dtype) const { return to_type(*grad_weight_, dtype); }
  Tensor grad_shift(ScalarType dtype) const {
    Tensor result = new_tensor(shift_, {problem_.samples(), 3}, ScalarType::Double);
    std::copy(grad_shift_.begin(), grad_shift_.end(), static_cast<double*>(result.mutable_data_ptr()));
    return to_type(result, dtype);
  }

 private:
  // Half types are computed in float32: that takes copies of images and weight, not of columns.
  static ScalarType type_of(const ConvolutionProblem& problem) {
    const bool in_float64 = problem.dtype == Dtype::float64 || problem.shift.scalar_type() == ScalarType::Double;
    return in_float64 ? ScalarType::Double : ScalarType::Float;
  }

  int64_t channels() const { return image_.size(1); }
  int64_t all_rows() const { return problem_.samples() * problem_.pixels(); }
  int64_t rows_of_chunk() const {
    constexpr int64_t kMostElements = 1 << 22;  // 16 MB in float32: see rows_of_block
    return std::clamp<int64_t>(kMostElements / (channels() * problem_.weight_elements()), 1, all_rows());
  }

  template <typename Work>
  void for_each_chunk(const Work& work) const {
    for (int64_t first = 0; first < all_rows(); first += rows_of_chunk())
      work(cpu::Rows{first, std::min(rows_of_chunk(), all_rows() - first)});
  }

  // Matrices of each group, here and below: of weights (groups, O / groups, C E),
  Tensor as_groups(const Tensor& weight) const {
    const int64_t groups = problem_.geometry.groups, rows = problem_.rows() / groups;
    const std::vector<int64_t> sizes = {groups, rows, channels() / groups * problem_.weight_elements()};
    return alias(weight, sizes, dense_strides(sizes));
  }
  // of a channels-last result or its gradient (groups, B P, O / groups),
  Tensor rows_of_groups(const Tensor& result) const {
    const int64_t groups = problem_.geometry.groups, rows = problem_.rows();
    return alias(result, {groups, all_rows(), rows / groups}, {rows / groups, rows, 1});
  }
  // and of U or its gradient (groups, rows, C E).
  Tensor columns(const cpu::Rows& rows) const {
    const int64_t groups = problem_.geometry.groups, wide = channels() * problem_.weight_elements();
    return alias(columns_, {groups, rows.count, wide / groups}, {wide / groups, wide, 1});
  }

  // What the kernels of a sample, all of them alike, see at these pixels.
  void see(const cpu::Rows& rows) {
    const ProfilerRange range("crossd_ops::image_to_rows");
    cpu::image_to_rows(columns_problem(image_, problem_), rows, image_.const_data_ptr(), seen_.mutable_data_ptr());
  }

  // What the shift takes of the rows of one sample: U as a weight (P, C, ...), what is seen as kernels (1, P, C, ...).
  struct OfSample {
    int64_t sample;
    ShiftShape shape;
    Tensor shift, columns, seen;
  };
  template <typename Work>
  void for_each_sample(const cpu::Rows& rows, const Work& work) const {
    const int64_t pixels = problem_.pixels(), last = rows.first + rows.count;
    for (int64_t row = rows.first, next; row < last; row = next) {
      const int64_t sample = row / pixels, offset = (row - rows.first) * channels();
      next = std::min(last, (sample + 1) * pixels);
      ShiftShape shape = problem_.shape;
      shape.samples = 1, shape.out_channels = next - row, shape.in_channels = channels();
      std::vector<int64_t> of_columns = sizes_of(weight_), of_seen = {1, next - row, channels()};
      of_columns[0] = next - row, of_columns[1] = channels();
      of_seen.insert(of_seen.end(), problem_.kernel.begin(), problem_.kernel.end());
      work(OfSample{sample, shape, part_of(shift_, 0, sample, 1),
                    alias(columns_, of_columns, dense_strides(of_columns), offset * problem_.weight_elements()),
                    alias(seen_, of_seen, dense_strides(of_seen), offset * problem_.kernel_elements())});
    }
  }

  // Of what is seen and g_U, where the shift's gradient is needed: U, in the place of g_U, and the shift's gradient.
  void shift_backward(const cpu::Rows& rows, bool need_columns, bool need_shift) {
    const ProfilerRange range("crossd_ops::fourier_shift_backward");
    Tensor of_shift = new_tensor(shift_, {1, 3}, type_);
    for_each_sample(rows, [&](OfSample part) {
      BackwardProblem problem =
          backward_problem(part.seen, part.columns, part.shift, part.shape, need_columns ? &part.columns : nullptr,
                           need_shift ? &of_shift : nullptr);
      FourierShiftCpu::backward(problem, weight_);
      for (int64_t i = 0; need_shift && i < 3; ++i) grad_shift_[3 * part.sample + i] += element(of_shift, i);
    });
  }

  // Of g_U.
  void add_to_grad_image(const cpu::Rows& rows) {
    const ProfilerRange range("crossd_ops::rows_to_image");
    for_each_sample(rows, [&](OfSample part) {
      void* out = part.seen.mutable_data_ptr();
      FourierShiftCpu::forward(forward_problem(part.columns, part.shift, part.shape, out, problem_.dtype), weight_);
    });
    cpu::add_rows_to_image(columns_problem(*grad_image_, problem_), rows, seen_.const_data_ptr(),
                           grad_image_->mutable_data_ptr());
  }

  void add_to_grad_weight(const Tensor& g, const Tensor& u, bool is_first) {
    const Tensor target = as_groups(*grad_weight_);
    is_first ? multiply_into(target, g, u) : add_product_on_cpu(target, g, u);
  }

  static double element(const Tensor& tensor, int64_t i) {
    return tensor.scalar_type() == ScalarType::Double ? static_cast<const double*>(tensor.const_data_ptr())[i]
                                                      : static_cast<const float*>(tensor.const_data_ptr())[i];
  }

  ConvolutionProblem problem_;
  ScalarType type_;  // that is computed in
  Tensor image_, weight_, shift_;
  Tensor seen_, columns_;  // x and U, or their gradients, of a chunk: (rows, C, kernel), (rows, C, E)
  std::optional<Tensor> grad_image_, grad_weight_;
  std::vector<double> grad_shift_;  // (B, 3)
};

}  // namespace crossd_ops
