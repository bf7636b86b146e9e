// The operators fourier_shift and fourier_shift_backward of each device: from tensors to the problem that kernels are
// given. Included by ops.cpp.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/tensors.h"
#include "shift/checks.h"
#include "shift/cpu/shift.h"
#include "shift/problem.h"
#if defined(CROSSD_WITH_CUDA)
#include "common/cuda/torch_cuda.h"
#include "shift/cuda/shift.h"
#endif

namespace crossd_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Canonical order puts the sliced axis first, see shift/problem.h.
inline ShiftShape make_shape(const Tensor& weight, const Tensor& shift, int64_t dim, std::optional<int64_t> index) {
  const auto sizes = weight.sizes();
  ShiftShape shape;
  shape.samples = shift.size(0), shape.out_channels = sizes[0], shape.in_channels = sizes[1];
  shape.axis[0] = static_cast<int32_t>(dim), shape.axis[1] = dim == 0, shape.axis[2] = dim == 2 ? 1 : 2;
  for (int i = 0; i < 3; ++i) shape.kernel[i] = static_cast<int32_t>(sizes[2 + shape.axis[i]]);
  shape.first_slice = index ? static_cast<int32_t>(*index) : 0;
  shape.slices = index ? 1 : shape.kernel[0];
  return shape;
}

inline std::vector<int64_t> output_sizes(const ShiftShape& shape, bool whole) {
  std::vector<int64_t> sizes = {shape.samples, shape.out_channels, shape.in_channels};
  for (int i = whole ? 0 : 1; i < 3; ++i) sizes.push_back(shape.kernel[i]);
  return sizes;
}

inline WeightStrides weight_strides(const Tensor& weight, const ShiftShape& shape) {
  const auto strides = weight.strides();
  return {strides[0], strides[1], {strides[2 + shape.axis[0]], strides[2 + shape.axis[1]], strides[2 + shape.axis[2]]}};
}

inline ForwardProblem forward_problem(const Tensor& weight, const Tensor& shift, const ShiftShape& shape, void* out,
                                      Dtype out_dtype, bool tap_major = false) {
  return {shape,
          weight.const_data_ptr(),
          weight_strides(weight, shape),
          checked_dtype(weight, "weight"),
          out_dtype,
          shift.const_data_ptr(),
          out,
          tap_major};
}

inline BackwardProblem backward_problem(const Tensor& grad, const Tensor& weight, const Tensor& shift,
                                        const ShiftShape& shape, Tensor* grad_weight, Tensor* grad_shift) {
  const bool whole = grad.dim() == 6;
  const int64_t y = whole ? 4 : 3;
  BackwardProblem problem{};
  problem.shape = shape;
  problem.grad = grad.const_data_ptr();
  problem.grad_strides = {
      grad.stride(0), grad.stride(1), grad.stride(2), {whole ? grad.stride(3) : 0, grad.stride(y), grad.stride(y + 1)}};
  problem.grad_dtype = checked_dtype(grad, "grad");
  problem.weight_dtype = checked_dtype(weight, "weight");
  problem.weight = weight.const_data_ptr();
  problem.weight_strides = weight_strides(weight, shape);
  problem.shift = shift.const_data_ptr();
  if (grad_weight)
    problem.grad_weight = grad_weight->mutable_data_ptr(),
    problem.grad_weight_strides = weight_strides(*grad_weight, shape);
  if (grad_shift) problem.grad_shift = grad_shift->mutable_data_ptr();
  return problem;
}

// What differs between devices. `like` gives the device.
struct FourierShiftCpu {
  static void forward(const ForwardProblem& problem, const Tensor&) { cpu::fourier_shift_forward(problem); }
  static void backward(BackwardProblem& problem, const Tensor&) { cpu::fourier_shift_backward(problem); }
};

#if defined(CROSSD_WITH_CUDA)
struct FourierShiftCuda {
  static void forward(const ForwardProblem& problem, const Tensor& like) {
    const CudaDevice device(like);
    cuda::fourier_shift_forward(problem, device.stream());
  }
  static void backward(BackwardProblem& problem, const Tensor& like) {
    const CudaDevice device(like);
    const auto accumulate =
        accumulate_dtype(problem.weight_dtype) == Dtype::float64 ? ScalarType::Double : ScalarType::Float;
    const int64_t elements =
        problem.grad_shift ? static_cast<int64_t>(cuda::fourier_shift_partial_elements(problem.shape)) : 0;
    Tensor partial = new_tensor(like, {elements}, accumulate);
    problem.partial = problem.grad_shift ? partial.mutable_data_ptr() : nullptr;
    cuda::fourier_shift_backward(problem, device.stream());
  }
};
#endif

template <typename Device>
Tensor fourier_shift(const Tensor& weight, const Tensor& shift, int64_t dim, std::optional<int64_t> index,
                     ScalarType dtype) {
  check_weight_and_shift(weight, shift, dim, index);
  const ShiftShape shape = make_shape(weight, shift, dim, index);
  Tensor out = new_tensor(weight, output_sizes(shape, !index), dtype);
  const Dtype out_dtype = checked_dtype(out, "dtype");
  const Tensor dense_shift = dense(shift);
  Device::forward(forward_problem(weight, dense_shift, shape, out.mutable_data_ptr(), out_dtype), weight);
  return out;
}

template <typename Device>
std::tuple<Tensor, Tensor> fourier_shift_backward(const Tensor& grad, const Tensor& weight, const Tensor& shift,
                                                  int64_t dim, std::optional<int64_t> index, bool need_weight,
                                                  bool need_shift) {
  check_weight_and_shift(weight, shift, dim, index);
  const ShiftShape shape = make_shape(weight, shift, dim, index);
  check_grad(grad, weight, output_sizes(shape, !index));
  const std::vector<int64_t> nothing = {0}, weight_sizes(weight.sizes().begin(), weight.sizes().end());
  Tensor grad_weight = new_tensor(weight, need_weight ? weight_sizes : nothing, weight.scalar_type());
  Tensor grad_shift =
      new_tensor(shift, need_shift ? std::vector<int64_t>{shape.samples, 3} : nothing, shift.scalar_type());
  const Tensor dense_shift = dense(shift);
  BackwardProblem problem = backward_problem(grad, weight, dense_shift, shape, need_weight ? &grad_weight : nullptr,
                                             need_shift ? &grad_shift : nullptr);
  if (need_weight || need_shift) Device::backward(problem, weight);
  return {grad_weight, grad_shift};
}

}  // namespace crossd_ops
