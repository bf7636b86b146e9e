// Operations of torch's own that the per-sample convolution is made of, by the ways that the stable ABI offers.
//
// An operator of torch is called through its dispatcher, by name, as any device has it. Views are made without one:
// they are new tensors over the same memory, and autograd never learns that they are views.
#pragma once
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/environment.h"
#include "common/memory_format.h"

namespace crossd_ops {

using torch::stable::Tensor;

// Numbers of a convolution, one for each spatial axis.
struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;

  int64_t axes() const { return static_cast<int64_t>(stride.size()); }
};

// Leaves the results in front of the stack, which holds the arguments.
template <size_t results, typename... Arguments>
auto call_operator(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, std::max(results, sizeof...(Arguments))> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return stack;
}

// What runs inside leaves no trace in autograd: derivatives are made by whoever calls the operators of this library.
class NoGrad {
 public:
  NoGrad() : before_(aoti_torch_grad_mode_is_enabled()) {
    if (before_) aoti_torch_grad_mode_set_enabled(false);
  }
  ~NoGrad() {
    if (before_) aoti_torch_grad_mode_set_enabled(true);
  }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

// A range in torch's profiler, for work that is no operator of its own.
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name) {
    TORCH_ERROR_CODE_CHECK(aoti_record_function_start(name, nullptr, nullptr, 0, &handle_));
  }
  ~ProfilerRange() { aoti_record_function_end(handle_); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  AtenRecordFunctionHandle handle_ = nullptr;
};

// The tensor's memory seen with other sizes and strides, `offset` elements further on.
inline Tensor alias(const Tensor& tensor, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                    int64_t offset = 0) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(sizes.size()), sizes.data(),
                                                        strides.data(), offset, &handle));
  return Tensor(handle);
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }
inline std::vector<int64_t> strides_of(const Tensor& tensor) {
  return {tensor.strides().begin(), tensor.strides().end()};
}

// The tensor itself, or a copy.
inline Tensor to_type(const Tensor& tensor, torch::headeronly::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// (B, C, ...) in this layout: the tensor itself, or a copy.
inline Tensor in_format(const Tensor& tensor, MemoryFormat format) {
  const std::vector<int64_t> sizes = sizes_of(tensor), strides = strides_of_format(sizes, format);
  if (is_in_format(tensor, strides)) return strides == strides_of(tensor) ? tensor : alias(tensor, sizes, strides);
  Tensor copy = new_strided_tensor(tensor, sizes, strides, tensor.scalar_type());
  torch::stable::copy_(copy, tensor);
  return copy;
}

inline Tensor zeros_like(const Tensor& tensor, MemoryFormat format) {
  return in_format(torch::stable::new_zeros(tensor, tensor.sizes()), format);
}

// `length` of axis 0 or 1, from `start` on.
inline Tensor part_of(const Tensor& tensor, int axis, int64_t start, int64_t length) {
  std::vector<int64_t> sizes = sizes_of(tensor);
  sizes[axis] = length;
  return alias(tensor, sizes, strides_of(tensor), start * tensor.stride(axis));
}

// (B, C, ...) -> (1, B * C, ...): each sample is a block of groups. A copy where strides do not allow it. One channel
// may have any stride, which says nothing of where the next sample is.
inline Tensor stack_samples(const Tensor& tensor) {
  const bool one_channel = tensor.size(1) == 1;
  const bool stackable = one_channel || tensor.size(0) == 1 || tensor.stride(0) == tensor.size(1) * tensor.stride(1);
  const Tensor source = stackable ? tensor : torch::stable::contiguous(tensor);
  std::vector<int64_t> sizes = sizes_of(source), strides = strides_of(source);
  if (one_channel) strides[1] = strides[0];
  sizes[1] *= sizes[0], sizes[0] = 1;
  return alias(source, sizes, strides);
}

// Whether a tensor goes the way that every device has, by torch's dispatcher: those of GPUs do. With
// CROSSD_CONVOLUTION_BRANCH=gpu in the environment those of the CPU too, which tests that way without a GPU.
inline bool goes_by_dispatcher(const Tensor& tensor) {
  static const bool forced = chosen_in_environment("CROSSD_CONVOLUTION_BRANCH", {"cpu", "gpu"}) == 1;
  return forced || tensor.is_cuda();
}

struct LibraryGradients {
  Tensor input, kernels;  // undefined where not needed
};

// By the dispatcher: on every device.
inline Tensor dispatched_convolution(const Tensor& input, const Tensor& kernels, const std::optional<Tensor>& bias,
                                     const Geometry& geometry, int64_t groups) {
  const std::vector<int64_t> output_padding(geometry.stride.size(), 0);
  const auto stack = call_operator<1>("aten::convolution", "", input, kernels, bias, geometry.stride, geometry.padding,
                                      geometry.dilation, /*transposed=*/false, output_padding, groups);
  return torch::stable::detail::to<Tensor>(stack[0]);
}
inline LibraryGradients dispatched_convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& kernels,
                                                        const Geometry& geometry, int64_t groups, bool need_input,
                                                        bool need_kernels) {
  const std::vector<int64_t> output_padding(geometry.stride.size(), 0);
  const std::array<bool, 3> mask = {need_input, need_kernels, false};
  const auto stack =
      call_operator<3>("aten::convolution_backward", "", grad, input, kernels, std::optional<std::vector<int64_t>>(),
                       geometry.stride, geometry.padding, geometry.dilation, /*transposed=*/false, output_padding,
                       groups, torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()));
  LibraryGradients gradients{torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
  (void)torch::stable::detail::to<Tensor>(stack[2]);  // owned by us, like the others
  return gradients;
}

// On the CPU by torch's C interface: the dispatcher's way makes every list of numbers on the heap, twice, which takes
// 8 us of a small problem's 40. The interface for CUDA is in a library that CPU-only torch does not have.
inline Tensor library_convolution(const Tensor& input, const Tensor& kernels, const std::optional<Tensor>& bias,
                                  const Geometry& geometry, int64_t groups) {
  if (goes_by_dispatcher(input)) return dispatched_convolution(input, kernels, bias, geometry, groups);
  const auto& [stride, padding, dilation, _] = geometry;
  const std::vector<int64_t> output_padding(stride.size(), 0);
  const int64_t axes = geometry.axes();
  AtenTensorHandle result = nullptr, of_bias = bias ? bias->get() : nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution(input.get(), kernels.get(), bias ? &of_bias : nullptr,
                                                    stride.data(), axes, padding.data(), axes, dilation.data(), axes,
                                                    /*transposed=*/0, output_padding.data(), axes, groups, &result));
  return Tensor(result);
}
inline LibraryGradients library_convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& kernels,
                                                     const Geometry& geometry, int64_t groups, bool need_input,
                                                     bool need_kernels) {
  if (goes_by_dispatcher(input))
    return dispatched_convolution_backward(grad, input, kernels, geometry, groups, need_input, need_kernels);
  const auto& [stride, padding, dilation, _] = geometry;
  const std::vector<int64_t> output_padding(stride.size(), 0);
  const int64_t axes = geometry.axes();
  const std::array<int32_t, 3> mask = {need_input, need_kernels, false};
  std::array<AtenTensorHandle, 3> results{};
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
      grad.get(), input.get(), kernels.get(), /*bias_sizes=*/nullptr, 0, stride.data(), axes, padding.data(), axes,
      dilation.data(), axes, /*transposed=*/0, output_padding.data(), axes, groups, mask.data(), mask.size(),
      &results[0], &results[1], &results[2]));
  (void)Tensor(results[2]);
  return {Tensor(results[0]), Tensor(results[1])};
}

// The samples (1, ...) of a batch, one after the other.
inline Tensor join_samples(const std::vector<Tensor>& samples) {
  return torch::stable::detail::to<Tensor>(call_operator<1>("aten::cat", "", samples, int64_t{0})[0]);
}

// out = a b, each (n, ., .). In float32 on a GPU with TF32 or without, as torch's setting of matrix products has it:
// that of convolutions reaches no product, and to change one for the time of a call would change it for every thread.
// So the choice of a method (convolution/choice.h) keeps from here what convolutions would not round, and products of
// columns that they would go in tiles (convolution/methods/products.h).
inline void dispatched_product(Tensor& out, const Tensor& a, const Tensor& b) {
  (void)torch::stable::detail::to<Tensor>(call_operator<1>("aten::bmm", "out", a, b, out)[0]);
}
inline void multiply_matrices(Tensor& out, const Tensor& a, const Tensor& b) {
  if (goes_by_dispatcher(out)) return dispatched_product(out, a, b);
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(out.get(), a.get(), b.get()));
}

// out += a b, on the CPU: the dispatcher's way takes scalars, which the stable ABI does not pass.
inline void add_matrix_product_on_cpu(Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_baddbmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

// a + b: torch's addition is not in the stable ABI.
inline Tensor sum_of(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, /*alpha=*/-1.0); }

}  // namespace crossd_ops
