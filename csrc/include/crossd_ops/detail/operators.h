// The operators of libcrossd_ops.so, found by name in torch's dispatcher: they have no derivatives of their own.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"

namespace crossd_ops::detail {

// Numbers of a convolution, one for each spatial axis.
struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

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

inline void tell_tf32(bool convolutions, bool products) {
  static const auto handle = find_operator<void(bool, bool)>("crossd_ops::allow_tf32");
  handle.call(convolutions, products);
}

// Tells the library, which cannot see it, whether torch lets float32 round to TF32 on a GPU, in convolutions and in
// products of matrices. Where torch refuses to say, as its settings contradict each other, the former may not, and the
// latter are not to be trusted.
inline void follow_tf32(const at::Tensor& input) {
  if (!input.is_cuda() || input.scalar_type() != at::kFloat) return;
  const auto says = [](auto setting, bool otherwise) {
    try {
      return setting();
    } catch (const c10::Error&) {
      return otherwise;
    }
  };
  tell_tf32(says([] { return at::globalContext().allowTF32CuDNN(); }, false),
            says([] { return at::globalContext().allowTF32CuBLAS(); }, true));
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

// The numbers of a convolution as its operators take them: of images with the place of the slice, of volumes without.
inline std::vector<int64_t> flattened(const Place& place, const Geometry& geometry) {
  std::vector<int64_t> numbers;
  for (const auto* part : {&geometry.stride, &geometry.padding, &geometry.dilation})
    numbers.insert(numbers.end(), part->begin(), part->end());
  numbers.push_back(geometry.groups);
  if (place.index) numbers.insert(numbers.end(), {place.dim, *place.index});
  return numbers;
}

// The whole layer: slice or whole weight, shifted, and its convolution.
inline at::Tensor convolution_operator(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& shift,
                                       const std::optional<at::Tensor>& bias, const Place& place,
                                       const Geometry& geometry) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                               const std::optional<at::Tensor>&, at::IntArrayRef);
  static const auto handle = find_operator<Signature>("crossd_ops::convolution");
  check_kernel(handle, weight);
  follow_tf32(input);
  return handle.call(input, weight, shift, bias, flattened(place, geometry));
}

// Gradients of input, weight and shift, which are `tensors`; one that is not needed is undefined.
inline std::vector<at::Tensor> convolution_backward_operator(const at::Tensor& grad,
                                                             const std::vector<at::Tensor>& tensors, const Place& place,
                                                             const Geometry& geometry,
                                                             const std::array<bool, 3>& needs) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, at::IntArrayRef, bool, bool, bool);
  static const auto handle = find_operator<Signature>("crossd_ops::convolution_backward");
  check_kernel(handle, tensors[1]);
  follow_tf32(tensors[0]);
  const auto [of_input, of_weight, of_shift] =
      handle.call(grad, tensors[0], tensors[1], tensors[2], flattened(place, geometry), needs[0], needs[1], needs[2]);
  return {needs[0] ? of_input : at::Tensor(), needs[1] ? of_weight : at::Tensor(), needs[2] ? of_shift : at::Tensor()};
}

// The convolution with kernels that are given; place: stride, padding and dilation along each axis, groups.
inline at::Tensor sample_convolution_operator(const at::Tensor& input, const at::Tensor& weight,
                                              const std::optional<at::Tensor>& bias,
                                              const std::vector<int64_t>& place) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef);
  static const auto handle = find_operator<Signature>("crossd_ops::sample_convolution");
  check_kernel(handle, weight);
  follow_tf32(input);
  return handle.call(input, weight, bias, place);
}

// Gradients of input and weight; one that is not needed is empty.
inline std::tuple<at::Tensor, at::Tensor> sample_convolution_backward_operator(const at::Tensor& grad,
                                                                               const at::Tensor& input,
                                                                               const at::Tensor& weight,
                                                                               const std::vector<int64_t>& place,
                                                                               bool need_input, bool need_weight) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                       at::IntArrayRef, bool, bool);
  static const auto handle = find_operator<Signature>("crossd_ops::sample_convolution_backward");
  check_kernel(handle, weight);
  follow_tf32(input);
  return handle.call(grad, input, weight, place, need_input, need_weight);
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
