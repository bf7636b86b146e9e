// The operators rotation_head and rotation_head_backward of each device: from tensors to the problem that kernels are
// given. Included by ops.cpp.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <string>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/tensors.h"
#include "head/cpu/rotation.h"
#include "head/rotation_problem.h"
#if defined(CROSSD_WITH_CUDA)
#include "common/cuda/torch_cuda.h"
#include "head/cuda/rotation.h"
#endif

namespace crossd_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_map(const Tensor& map) {
  require(map.dim() == 4 && map.size(1) == kHeadChannels,
          [&] { return "map: expected (B, 4, H, W), got " + shape_text(map); });
  require(map.size(2) > 0 && map.size(3) > 0,
          [&] { return "map: expected at least one pixel, got " + shape_text(map); });
}

// `tensor` is what the forward made, or its gradient: (B, ...) of the accumulate type.
inline void check_of_map(const Tensor& tensor, const char* name, const std::vector<int64_t>& sizes, const Tensor& map) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; i < sizes.size() && same; ++i) same = tensor.size(static_cast<int64_t>(i)) == sizes[i];
  require(same, [&] {
    return std::string(name) + ": expected " + shape_text(sizes.data(), sizes.size()) + ", got " + shape_text(tensor);
  });
  const Dtype accumulate = accumulate_dtype(checked_dtype(map, "map"));
  require(checked_dtype(tensor, name) == accumulate, [&] {
    return std::string(name) + ": expected " +
           (accumulate == Dtype::float64 ? "float64 for a float64" : "float32 for this") + " map";
  });
  require(tensor.is_cuda() == map.is_cuda() && tensor.get_device_index() == map.get_device_index(),
          [&] { return std::string(name) + ": expected the device of map"; });
}

inline MapShape map_shape(const Tensor& map) { return {map.size(0), map.size(2), map.size(3)}; }
inline MapStrides map_strides(const Tensor& map) {
  return {map.stride(0), map.stride(1), map.stride(2), map.stride(3)};
}

// What differs between devices. `map` gives the device.
struct RotationHeadCpu {
  static void forward(const RotationHeadForward& problem, const Tensor&) { cpu::rotation_head_forward(problem); }
  static void backward(const RotationHeadBackward& problem, const Tensor&) { cpu::rotation_head_backward(problem); }
};

#if defined(CROSSD_WITH_CUDA)
struct RotationHeadCuda {
  static void forward(RotationHeadForward& problem, const Tensor& map) {
    const CudaDevice device(map);
    const auto accumulate = accumulate_dtype(problem.dtype) == Dtype::float64 ? ScalarType::Double : ScalarType::Float;
    Tensor partial =
        new_tensor(map, {static_cast<int64_t>(cuda::rotation_head_partial_elements(problem.shape))}, accumulate);
    problem.partial = partial.mutable_data_ptr();
    cuda::rotation_head_forward(problem, device.stream());
  }
  static void backward(const RotationHeadBackward& problem, const Tensor& map) {
    const CudaDevice device(map);
    cuda::rotation_head_backward(problem, device.stream());
  }
};
#endif

template <typename Device>
std::tuple<Tensor, Tensor> rotation_head(const Tensor& map, bool exact) {
  check_map(map);
  const Dtype dtype = checked_dtype(map, "map");
  const ScalarType accumulate = accumulate_dtype(dtype) == Dtype::float64 ? ScalarType::Double : ScalarType::Float;
  const int64_t samples = map.size(0);
  Tensor shift = new_tensor(map, {samples, 3}, accumulate);
  Tensor statistics = new_tensor(map, {samples, kHeadChannels, 3}, accumulate);
  RotationHeadForward problem{map_shape(map),           map.const_data_ptr(),          map_strides(map), dtype, exact,
                              shift.mutable_data_ptr(), statistics.mutable_data_ptr(), nullptr};
  Device::forward(problem, map);
  return {shift, statistics};
}

// The gradient has the strides of the map where those leave no holes.
template <typename Device>
Tensor rotation_head_backward(const Tensor& grad_shift, const Tensor& map, const Tensor& statistics, bool exact) {
  check_map(map);
  check_of_map(grad_shift, "grad_shift", {map.size(0), 3}, map);
  check_of_map(statistics, "statistics", {map.size(0), kHeadChannels, 3}, map);
  const Tensor dense_grad = dense(grad_shift), dense_statistics = dense(statistics);
  Tensor grad_map = torch::stable::empty_like(map);
  const RotationHeadBackward problem{map_shape(map),
                                     map.const_data_ptr(),
                                     map_strides(map),
                                     checked_dtype(map, "map"),
                                     exact,
                                     dense_grad.const_data_ptr(),
                                     dense_statistics.const_data_ptr(),
                                     grad_map.mutable_data_ptr(),
                                     map_strides(grad_map)};
  Device::backward(problem, map);
  return grad_map;
}

}  // namespace crossd_ops
