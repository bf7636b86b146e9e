// The operators of libcrossd_ops.so, found by name in torch's dispatcher: they have no derivatives of their own.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "checks.h"

namespace crossd_ops::detail {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, ""});
  TORCH_CHECK(handle, name, " is not registered: libcrossd_ops.so is not loaded; link the CMake target ",
              "crossd_ops::crossd_ops, or the library itself with -Wl,--no-as-needed");
  return handle->template typed<Signature>();
}

// The reference that the Python package falls back to does not exist here.
template <typename Handle>
void check_kernel(const Handle& handle, const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(handle.hasComputedKernelForDispatchKey(tensor.options().computeDispatchKey()),
                              handle.operator_name().name, ": expected a tensor on a device that libcrossd_ops.so has ",
                              "kernels for, got ", tensor.device(),
                              "; use a build of crossd_ops with kernels for it, or another device");
}

inline at::Tensor shift_operator(const at::Tensor& weight, const at::Tensor& shift, const Place& place,
                                 at::ScalarType dtype) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, std::optional<int64_t>, at::ScalarType);
  static const auto handle = find_operator<Signature>("crossd_ops::fourier_shift");
  check_kernel(handle, weight);
  return handle.call(weight, shift, place.dim, place.index, dtype);
}

// Gradients of weight and shift; one that is not needed is empty.
inline std::tuple<at::Tensor, at::Tensor> shift_backward_operator(const at::Tensor& grad, const at::Tensor& weight,
                                                                  const at::Tensor& shift, const Place& place,
                                                                  bool need_weight, bool need_shift) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t,
                                                       std::optional<int64_t>, bool, bool);
  static const auto handle = find_operator<Signature>("crossd_ops::fourier_shift_backward");
  check_kernel(handle, weight);
  return handle.call(grad, weight, shift, place.dim, place.index, need_weight, need_shift);
}

// Shift, and what the backward pass needs of the pooling.
inline std::tuple<at::Tensor, at::Tensor> head_operator(const at::Tensor& map, bool exact) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, bool);
  static const auto handle = find_operator<Signature>("crossd_ops::rotation_head");
  check_kernel(handle, map);
  return handle.call(map, exact);
}

inline at::Tensor head_backward_operator(const at::Tensor& grad_shift, const at::Tensor& map,
                                         const at::Tensor& statistics, bool exact) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool);
  static const auto handle = find_operator<Signature>("crossd_ops::rotation_head_backward");
  check_kernel(handle, map);
  return handle.call(grad_shift, map, statistics, exact);
}

}  // namespace crossd_ops::detail
