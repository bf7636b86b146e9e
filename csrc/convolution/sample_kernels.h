// The kernels of each sample, some output channels at a time, and the way back from their gradients. Both share one
// buffer among the blocks of channels.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/problem.h"
#include "shift/op.h"

namespace crossd_ops {

// Of kernels (B, O, C, ...), those of sample b: (O, C, ...).
inline Tensor kernels_of_sample(const Tensor& kernels, int64_t b) {
  std::vector<int64_t> sizes = sizes_of(kernels), strides = strides_of(kernels);
  sizes.erase(sizes.begin()), strides.erase(strides.begin());
  return alias(kernels, sizes, strides, b * kernels.stride(0));
}

// Dense kernels (B, O, C, ...) -> (B * O, C, ...).
inline Tensor stacked_kernels(const Tensor& kernels) {
  std::vector<int64_t> sizes = sizes_of(kernels);
  sizes[1] *= sizes[0], sizes.erase(sizes.begin());
  return alias(kernels, sizes, dense_strides(sizes));
}

// Dense kernels (B, rows, C, ...) as one matrix for each group: (B * groups, rows / groups, C * kernel elements).
inline Tensor kernel_matrices(const Tensor& kernels, int64_t groups) {
  int64_t wide = 1;
  for (int64_t i = 2; i < kernels.dim(); ++i) wide *= kernels.size(i);
  const std::vector<int64_t> sizes = {kernels.size(0) * groups, kernels.size(1) / groups, wide};
  return alias(kernels, sizes, dense_strides(sizes));
}

// Memory (B, ..., O, C) seen as kernels (B, O, C, ...).
inline Tensor channels_first(const Tensor& memory) {
  const auto moved = [](std::vector<int64_t> numbers) {
    std::rotate(numbers.begin() + 1, numbers.end() - 2, numbers.end());
    return numbers;
  };
  return alias(memory, moved(sizes_of(memory)), moved(strides_of(memory)));
}

// (O,) -> (B * O,)
inline Tensor repeat(const Tensor& bias, int64_t samples) {
  Tensor result = new_tensor(bias, {samples * bias.size(0)}, bias.scalar_type());
  Tensor rows = alias(result, {samples, bias.size(0)}, {bias.size(0), 1});
  torch::stable::copy_(rows, alias(bias, {samples, bias.size(0)}, {0, bias.stride(0)}));
  return result;
}

// (O,) as (B, O, ...) of these sizes, without a copy.
inline Tensor along_channels(const Tensor& bias, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 0);
  strides[1] = bias.stride(0);
  return alias(bias, sizes, strides);
}

inline const void* row_of_weight(const void* weight, int64_t first, const WeightStrides& strides, Dtype dtype) {
  return static_cast<const char*>(weight) + first * strides.out_channel * size_of(dtype);
}

template <typename Device>
class SampleKernels {
 public:
  // most_rows: of a block; all of them where memory is to be tap-major, (B, ..., O, C).
  SampleKernels(const Tensor& weight, const ConvolutionProblem& problem, ScalarType dtype, int64_t most_rows,
                bool tap_major = false)
      : weight_(weight),
        sizes_{problem.samples(), most_rows, problem.shape.in_channels},
        buffer_(new_buffer(weight, problem, dtype, tap_major)),
        problem_(forward_problem(weight, problem.shift, problem.shape, buffer_.mutable_data_ptr(), problem.dtype,
                                 tap_major)) {}

  // (B, rows, C, ...), dense but for tap-major ones, of the output channels from `first` on; until the next call.
  Tensor build(int64_t first, int64_t rows) {
    const ProfilerRange range("crossd_ops::fourier_shift");
    ForwardProblem block = problem_;
    block.shape.out_channels = rows;
    block.weight = row_of_weight(problem_.weight, first, problem_.weight_strides, problem_.weight_dtype);
    Device::forward(block, weight_);
    return without_values(rows);
  }
  // The same memory, as it is: of a pass that asks for the sizes alone.
  Tensor without_values(int64_t rows) {
    sizes_[1] = rows;
    return rows == buffer_.size(1) ? buffer_ : alias(buffer_, sizes_, dense_strides(sizes_));
  }

 private:
  Tensor new_buffer(const Tensor& weight, const ConvolutionProblem& problem, ScalarType dtype, bool tap_major) {
    sizes_.insert(sizes_.end(), problem.kernel.begin(), problem.kernel.end());
    if (!tap_major) return new_tensor(weight, sizes_, dtype);
    std::vector<int64_t> memory = sizes_;
    std::rotate(memory.begin() + 1, memory.begin() + 3, memory.end());
    return channels_first(new_tensor(weight, memory, dtype));
  }

  const Tensor& weight_;
  std::vector<int64_t> sizes_;
  Tensor buffer_;
  ForwardProblem problem_;
};

template <typename Device>
class KernelGradients {
 public:
  KernelGradients(const Tensor& weight, const ConvolutionProblem& problem, int64_t most_rows, bool need_weight,
                  bool need_shift)
      : weight_(weight), problem_(problem) {
    if (need_weight) grad_weight_.emplace(new_tensor(weight, sizes_of(weight), weight.scalar_type()));
    const int64_t blocks = (problem.rows() + most_rows - 1) / most_rows;
    if (need_shift)
      grad_shifts_.emplace(new_tensor(weight, {blocks, problem.samples(), 3}, problem.shift.scalar_type()));
  }

  // Takes the gradient (B, rows, C, ...) of the kernels of the output channels from `first` on; once for each block.
  void add(const Tensor& grad_kernels, int64_t first) {
    const ProfilerRange range("crossd_ops::fourier_shift_backward");
    ShiftShape shape = problem_.shape;
    shape.out_channels = grad_kernels.size(1);
    std::optional<Tensor> grad_shift;
    if (grad_shifts_)
      grad_shift.emplace(alias(*grad_shifts_, {shape.samples, 3}, {3, 1}, 3 * shape.samples * block_++));
    BackwardProblem block =
        backward_problem(grad_kernels, weight_, problem_.shift, shape, grad_weight_ ? &*grad_weight_ : nullptr,
                         grad_shift ? &*grad_shift : nullptr);
    block.weight = row_of_weight(block.weight, first, block.weight_strides, block.weight_dtype);
    if (grad_weight_)
      block.grad_weight =
          const_cast<void*>(row_of_weight(block.grad_weight, first, block.grad_weight_strides, block.weight_dtype));
    Device::backward(block, weight_);
  }

  const Tensor& grad_weight() const { return *grad_weight_; }

  Tensor grad_shift(ScalarType dtype) const {
    const std::array<int64_t, 1> blocks = {0};
    const Tensor sum =
        block_ == 1 ? alias(*grad_shifts_, {problem_.samples(), 3}, {3, 1}) : torch::stable::sum(*grad_shifts_, blocks);
    return sum.scalar_type() == dtype ? sum : torch::stable::to(sum, dtype);
  }

 private:
  const Tensor& weight_;
  const ConvolutionProblem& problem_;
  std::optional<Tensor> grad_weight_, grad_shifts_;  // (O, C, ...); (blocks, B, 3)
  int64_t block_ = 0;
};

}  // namespace crossd_ops
