// The convolution with the weight as it lies in memory, one for all samples, on the CPU. Not the weight is shifted but
// what each pixel of the result sees of its image (shifted_columns/rows.h):
//
//   y[b, p, o] = sum_{c,e} U[b, p, c, e] W[o, c, e],   g_W = g^T U,   g_U = g W
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
#include "convolution/shifted_columns/rows.h"

namespace crossd_ops {

class SharedConvolution {
 public:
  SharedConvolution(const Tensor& input, const Tensor& weight, const ConvolutionProblem& problem)
      : problem_(problem),
        dtype_(input.scalar_type()),
        dtype_of_weight_(weight.scalar_type()),
        type_(ShiftedRows::type_of(problem)),
        weight_(dense(to_type(weight, type_))),
        shifted_(input, problem, rows_of_chunk()) {}

  // In the memory format of the input.
  Tensor forward(const std::optional<Tensor>& bias) {
    Tensor result = new_strided_tensor(weight_, problem_.result,
                                       strides_of_format(problem_.result, MemoryFormat::channels_last), type_);
    const Tensor y = rows_of_groups(result, problem_), w = transposed(as_groups(weight_));
    for_each_chunk([&](const cpu::Rows& rows) {
      shifted_.see(rows);
      shifted_.shift(rows, /*need_columns=*/true, /*need_shift=*/false);
      multiply_into(part_of(y, 1, rows.first, rows.count), columns(rows), w);
    });
    if (bias) result = sum_of(result, along_channels(to_type(*bias, type_), problem_.result));
    return in_format(to_type(result, dtype_), problem_.format);
  }

  // Once, before those that are needed are asked for.
  void backward(const Tensor& grad, bool need_input, bool need_weight, bool need_shift) {
    const Tensor g = rows_of_groups(in_format(to_type(grad, type_), MemoryFormat::channels_last), problem_),
                 w = as_groups(weight_);
    if (need_input) grad_image_.emplace(torch::stable::new_zeros(weight_, sizes_of_image()));
    if (need_weight) {
      grad_weight_.emplace(new_tensor(weight_, sizes_of(weight_), type_));
      cpu::advise_huge_pages(grad_weight_->mutable_data_ptr(), (type_ == ScalarType::Double ? 8 : 4) * weight_.numel());
    }
    for_each_chunk([&](const cpu::Rows& rows) {
      const Tensor g_of_rows = part_of(g, 1, rows.first, rows.count);
      if (need_input || need_shift) multiply_into(columns(rows), g_of_rows, w);
      if (need_input) add_to_grad_image(rows);
      if (!need_weight && !need_shift) return;
      shifted_.see(rows);
      shifted_.shift(rows, need_weight, need_shift);
      if (need_weight) add_to_grad_weight(transposed(g_of_rows), columns(rows), /*is_first=*/rows.first == 0);
    });
  }

  Tensor grad_input() const { return in_format(to_type(*grad_image_, dtype_), problem_.format); }
  Tensor grad_weight() const { return to_type(*grad_weight_, dtype_of_weight_); }
  Tensor grad_shift(ScalarType dtype) const { return to_type(shifted_.grad_shift(), dtype); }

 private:
  int64_t channels() const { return problem_.shape.in_channels * problem_.geometry.groups; }
  int64_t all_rows() const { return problem_.samples() * problem_.pixels(); }
  int64_t rows_of_chunk() const {
    constexpr int64_t kMostElements = 1 << 22;  // 16 MB in float32: see rows_of_block
    return std::clamp<int64_t>(kMostElements / (channels() * problem_.weight_elements()), 1, all_rows());
  }
  std::vector<int64_t> sizes_of_image() const {
    std::vector<int64_t> sizes = {problem_.samples(), channels()};
    sizes.insert(sizes.end(), problem_.image.begin(), problem_.image.end());
    return sizes;
  }

  template <typename Work>
  void for_each_chunk(const Work& work) const {
    for (int64_t first = 0; first < all_rows(); first += rows_of_chunk())
      work(cpu::Rows{first, std::min(rows_of_chunk(), all_rows() - first)});
  }

  // Matrices of each group: of weights (groups, O / groups, C E), and of U or its gradient (groups, rows, C E).
  Tensor as_groups(const Tensor& weight) const {
    const int64_t groups = problem_.geometry.groups, rows = problem_.rows() / groups;
    const std::vector<int64_t> sizes = {groups, rows, channels() / groups * problem_.weight_elements()};
    return alias(weight, sizes, dense_strides(sizes));
  }
  Tensor columns(const cpu::Rows& rows) const { return columns_of_groups(shifted_.columns(), rows.count, problem_); }

  // Of g_U.
  void add_to_grad_image(const cpu::Rows& rows) {
    const ProfilerRange range("crossd_ops::rows_to_image");
    shifted_.shift_back(rows);
    shifted_.add_to_image(rows, *grad_image_);
  }

  void add_to_grad_weight(const Tensor& g, const Tensor& u, bool is_first) {
    const Tensor target = as_groups(*grad_weight_);
    is_first ? multiply_into(target, g, u) : add_product_on_cpu(target, g, u);
  }

  const ConvolutionProblem& problem_;
  ScalarType dtype_, dtype_of_weight_, type_;  // of input and weight; that is computed in
  Tensor weight_;
  ShiftedRows shifted_;
  std::optional<Tensor> grad_image_, grad_weight_;
};

}  // namespace crossd_ops
