// What the pixels of a convolution's result see of their image, shifted, on the CPU, some rows at a time:
//
//   U[b, p, c] = M_b^T x[b, p, c]
//
// with M_b for what the shift of sample b makes of a weight: a kernel's elements of the weight's E. So the shift's own
// kernels do it, of "weights" U with pairs (p, c), of which x is the gradient:
//
//   U = gradient of the weight, where x is the kernels' (shift/op.h)
//   g_x = g_U shifted,   g_s = gradient of the shift, where g_U is the weight and x the kernels' gradient
#pragma once
#include <algorithm>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/columns.h"
#include "convolution/cpu/image_rows.h"
#include "convolution/problem.h"
#include "shift/op.h"

namespace crossd_ops {

// Along each axis, as they lie in memory.
inline Axes sizes_of_weight(const ConvolutionProblem& problem) {
  Axes sizes{};
  for (int i = 0; i < 3; ++i) sizes[problem.shape.axis[i]] = problem.shape.kernel[i];
  return sizes;
}

class ShiftedRows {
 public:
  // Half types are computed in float32: that takes copies of images and weight, not of columns.
  static ScalarType type_of(const ConvolutionProblem& problem) {
    const bool in_float64 = problem.dtype == Dtype::float64 || problem.shift.scalar_type() == ScalarType::Double;
    return in_float64 ? ScalarType::Double : ScalarType::Float;
  }

  // most_rows: of those that a call states, pixels of all samples (B, result).
  ShiftedRows(const Tensor& input, const ConvolutionProblem& problem, int64_t most_rows)
      : problem_(problem),
        type_(type_of(problem)),
        image_(to_type(input, type_)),
        shift_(to_type(problem.shift, type_)),
        seen_(new_tensor(image_, {most_rows * channels() * problem.kernel_elements()}, type_)),
        columns_(new_tensor(image_, {most_rows * channels() * problem.weight_elements()}, type_)) {
    problem_.dtype = type_ == ScalarType::Double ? Dtype::float64 : Dtype::float32;
    grad_shift_.assign(3 * problem_.samples(), 0);
  }

  int64_t channels() const { return image_.size(1); }
  const Tensor& seen() const { return seen_; }        // x or its gradient: (rows, C, kernel)
  const Tensor& columns() const { return columns_; }  // U or its gradient: (rows, C, E), E in the weight's order

  // What the kernels of a sample, all of them alike, see at these pixels.
  void see(const cpu::Rows& rows) {
    const ProfilerRange range("crossd_ops::image_to_rows");
    cpu::image_to_rows(columns_problem(image_, problem_), rows, image_.const_data_ptr(), seen_.mutable_data_ptr());
  }

  // Of what is seen and g_U, where the shift's gradient is needed: U, in the place of g_U, and the shift's gradient,
  // added to that of other rows.
  void shift(const cpu::Rows& rows, bool need_columns, bool need_shift) {
    const ProfilerRange range("crossd_ops::fourier_shift_backward");
    Tensor of_shift = new_tensor(shift_, {1, 3}, type_);
    for_each_sample(rows, [&](OfSample part) {
      BackwardProblem problem =
          backward_problem(part.seen, part.columns, part.shift, part.shape, need_columns ? &part.columns : nullptr,
                           need_shift ? &of_shift : nullptr);
      FourierShiftCpu::backward(problem, shift_);
      for (int64_t i = 0; need_shift && i < 3; ++i) grad_shift_[3 * part.sample + i] += element(of_shift, i);
    });
  }

  // Of g_U that of what is seen.
  void shift_back(const cpu::Rows& rows) {
    for_each_sample(rows, [&](OfSample part) {
      void* out = part.seen.mutable_data_ptr();
      FourierShiftCpu::forward(forward_problem(part.columns, part.shift, part.shape, out, problem_.dtype), shift_);
    });
  }

  // Of its gradient, to an image's of the type that is computed in.
  void add_to_image(const cpu::Rows& rows, Tensor& image) const {
    cpu::add_rows_to_image(columns_problem(image, problem_), rows, seen_.const_data_ptr(), image.mutable_data_ptr());
  }

  Tensor grad_shift() const {  // (B, 3)
    Tensor result = new_tensor(shift_, {problem_.samples(), 3}, ScalarType::Double);
    std::copy(grad_shift_.begin(), grad_shift_.end(), static_cast<double*>(result.mutable_data_ptr()));
    return result;
  }

 private:
  // What the shift takes of the rows of one sample: U as a weight (P, C, ...), what is seen as kernels (1, P, C, ...).
  struct OfSample {
    int64_t sample;
    ShiftShape shape;
    Tensor shift, columns, seen;
  };
  template <typename Work>
  void for_each_sample(const cpu::Rows& rows, const Work& work) const {
    const int64_t pixels = problem_.pixels(), last = rows.first + rows.count;
    const Axes of_weight = sizes_of_weight(problem_);
    for (int64_t row = rows.first, next; row < last; row = next) {
      const int64_t sample = row / pixels, offset = (row - rows.first) * channels();
      next = std::min(last, (sample + 1) * pixels);
      ShiftShape shape = problem_.shape;
      shape.samples = 1, shape.out_channels = next - row, shape.in_channels = channels();
      std::vector<int64_t> of_columns = {next - row, channels()}, of_seen = {1, next - row, channels()};
      of_columns.insert(of_columns.end(), of_weight.begin(), of_weight.end());
      of_seen.insert(of_seen.end(), problem_.kernel.begin(), problem_.kernel.end());
      work(OfSample{sample, shape, part_of(shift_, 0, sample, 1),
                    alias(columns_, of_columns, dense_strides(of_columns), offset * problem_.weight_elements()),
                    alias(seen_, of_seen, dense_strides(of_seen), offset * problem_.kernel_elements())});
    }
  }

  static double element(const Tensor& tensor, int64_t i) {
    return tensor.scalar_type() == ScalarType::Double ? static_cast<const double*>(tensor.const_data_ptr())[i]
                                                      : static_cast<const float*>(tensor.const_data_ptr())[i];
  }

  ConvolutionProblem problem_;
  ScalarType type_;  // that is computed in
  Tensor image_, shift_, seen_, columns_;
  std::vector<double> grad_shift_;  // (B, 3)
};

}  // namespace crossd_ops
