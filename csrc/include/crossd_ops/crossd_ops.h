// crossd_ops for C++: Cross-D convolutions (arXiv 2411.02441), whose kernels are slices of a 3D weight that is shifted
// for each sample.
//
//   find_package(crossd_ops CONFIG REQUIRED)                      # python -m crossd_ops --cmake-prefix-path
//   target_link_libraries(app PRIVATE crossd_ops::crossd_ops)
//
// The functions, their arguments and the texts of their errors are those of the Python package. This header is compiled
// against your own torch, 2.11 or newer, which gives the gradients; the kernels come from libcrossd_ops.so, which is
// the same for every torch. Without CMake, link it with -Wl,--no-as-needed: it registers operators when it is loaded.
//
// Every function differentiates to any order in all its tensors by torch's reverse mode. Forward-mode derivatives and
// function transforms (torch.func) are refused by torch with an error: it does not support them for C++ functions.
// Errors are c10::ValueError and c10::TypeError, thrown before any work; c10::Error where libcrossd_ops.so is not
// loaded; c10::NotImplementedError where it has no kernels for the device of the weight.
#pragma once

#define CROSSD_OPS_VERSION_MAJOR 0
#define CROSSD_OPS_VERSION_MINOR 1
#define CROSSD_OPS_VERSION_PATCH 0

#include <ATen/ATen.h>
#include <torch/enum.h>
#include <torch/expanding_array.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "detail/checks.h"
#include "detail/convolution.h"
#include "detail/fourier_shift.h"
#include "detail/rotation_head.h"
#include "detail/sample_convolution.h"

namespace crossd_ops {

// linear: R = I + t [k]x, of axis k and angle t, what the published code computes; exact: Rodrigues' rotation.
using Rotation = detail::Rotation;

// Pixels on both sides of each axis: one number or one for each axis; torch::kSame (stride 1 only); torch::kValid.
template <size_t axes>
struct Padding {
  torch::ExpandingArray<axes> pixels = 0;
  bool same = false;

  Padding(int64_t each) : pixels(each) {}
  Padding(std::initializer_list<int64_t> values) : pixels(values) {}
  Padding(const std::vector<int64_t>& values) : pixels(values) {}
  Padding(torch::enumtype::kSame) : same(true) {}
  Padding(torch::enumtype::kValid) {}
};

// As for torch::nn::functional::conv2d, and the slice: crossd_conv2d(x, w, s, bias, {.stride = 2, .padding = 1}).
struct Conv2dOptions {
  torch::ExpandingArray<2> stride = 1;
  Padding<2> padding = 0;
  torch::ExpandingArray<2> dilation = 1;
  int64_t groups = 1;
  int64_t dim = 0;
  std::optional<int64_t> index = std::nullopt;
};

// As for torch::nn::functional::conv3d.
struct Conv3dOptions {
  torch::ExpandingArray<3> stride = 1;
  Padding<3> padding = 0;
  torch::ExpandingArray<3> dilation = 1;
  int64_t groups = 1;
};

// The shift of a rotation: s = R^T 1, for which sum_d (R f)_d = s . f, the phase of arXiv 2411.02441.
//   axis      k, (B, 3), used as given; a rotation needs a unit axis
//   angle     t in radians, (B) or (B, 1)
//   returns   (B, 3), in elements of the kernel along (d, h, w), (1, 1, 1) at t = 0; float32, or float64 where axis or
//             angle is
//   throws    c10::TypeError, c10::ValueError: a tensor that is undefined, or not of the type or shape above
inline at::Tensor rotation_shift(const at::Tensor& axis, const at::Tensor& angle,
                                 Rotation rotation = Rotation::linear) {
  detail::check_rotation(axis, angle);
  return detail::rotation_shift(axis, angle, rotation);
}

// The shift of each sample from the map of scores that a layer's head predicts, as one fused operator:
//   v_c = sum_hw softmax_hw(map_c) map_c for each of the four channels; axis = v[0:3] / (|v[0:3]| + 1e-8),
//   angle = tanh(v[3]) pi / 4; then rotation_shift (arXiv 2411.02441).
//   map       (B, 4, H, W), at least one pixel, any strides; B may be 0; float64, float32, bfloat16, float16
//   returns   (B, 3), in elements of the kernel; float32, or float64 for a float64 map; NaN or infinity in a sample's
//             map makes the shift of that sample alone NaN
//   throws    c10::TypeError, c10::ValueError: a map of another type or shape
inline at::Tensor rotation_head(const at::Tensor& map, Rotation rotation = Rotation::linear) {
  detail::check_map(map);
  return detail::RotationHead::apply(map, rotation);
}

// Translates a 3D weight by each sample's fractional shift, circularly: Re IFFT3(FFT3(weight) exp(-2 pi i shift . f)).
//   weight    (O, C, Kd, Kh, Kw), each kernel size from 1 to 15; any strides; float64, float32, bfloat16, float16
//   shift     (B, 3), in elements along (d, h, w); any of these types, used in float32 (float64 for a float64 weight)
//   dtype     of the result; default the weight's, under autocast the autocast type (never for a float64 weight)
//   returns   (B, O, C, Kd, Kh, Kw); a shift that is NaN or infinite makes the result of that sample alone NaN
//   throws    c10::TypeError, c10::ValueError: arguments of another type, shape or device
inline at::Tensor fourier_shift(const at::Tensor& weight, const at::Tensor& shift,
                                std::optional<at::ScalarType> dtype = std::nullopt) {
  detail::check_weight_and_shift(weight, shift, dtype);
  return detail::fourier_shift(weight, shift, {0, std::nullopt}, dtype);
}

// One slice of fourier_shift, computed without the rest: the 2D weight of each sample.
//   weight, shift, dtype   as for fourier_shift
//   dim       spatial axis of the weight along which to slice, 0 (published) to 2, or -3 to -1
//   index     position of the slice along it; default K / 2, the middle (published); negative counts from the end
//   returns   (B, O, C) and the two kernel sizes without dim
//   throws    as fourier_shift; also c10::ValueError: dim or index out of range
inline at::Tensor fourier_shift_slice(const at::Tensor& weight, const at::Tensor& shift, int64_t dim = 0,
                                      std::optional<int64_t> index = std::nullopt,
                                      std::optional<at::ScalarType> dtype = std::nullopt) {
  detail::check_weight_and_shift(weight, shift, dtype);
  return detail::fourier_shift(weight, shift, detail::checked_slice(weight, dim, index), dtype);
}

// Convolves each sample with its own slice of the shifted weight: y_b = conv2d(x_b, w_b) + bias. Between the passes
// autograd keeps input, weight and shift alone: the kernels are built anew in the backward pass.
//   input     (B, C * groups, H, W), of the weight's type, under autocast of any; any strides; B may be 0
//   weight    (O, C, Kd, Kh, Kw), O a multiple of groups
//   shift     (B, 3), in elements of the kernel, see rotation_shift
//   bias      (O), or none
//   options   of the convolution, in pixels; dim and index as for fourier_shift_slice
//   returns   (B, O, H', W')
//   throws    as fourier_shift_slice; also c10::ValueError: sizes or options that do not fit each other
inline at::Tensor crossd_conv2d(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& shift,
                                const std::optional<at::Tensor>& bias = std::nullopt,
                                const Conv2dOptions& options = {}) {
  detail::check_weight_and_shift(weight, shift, std::nullopt);
  const detail::Place place = detail::checked_slice(weight, options.dim, options.index);
  return detail::crossd_convolution<2>(input, weight, shift, bias, place, options);
}

// Convolves each volume with its own shifted weight, all of it: y_b = conv3d(x_b, W_b) + bias.
//   input     (B, C * groups, D, H, W), otherwise as for crossd_conv2d
//   weight, shift, bias, options   as for crossd_conv2d
//   returns   (B, O, D', H', W')
//   throws    as crossd_conv2d
inline at::Tensor crossd_conv3d(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& shift,
                                const std::optional<at::Tensor>& bias = std::nullopt,
                                const Conv3dOptions& options = {}) {
  detail::check_weight_and_shift(weight, shift, std::nullopt);
  const detail::Place whole{0, std::nullopt};
  return detail::crossd_convolution<3>(input, weight, shift, bias, whole, options);
}

// As Conv2dOptions, without the slice.
struct SampleConv2dOptions {
  torch::ExpandingArray<2> stride = 1;
  Padding<2> padding = 0;
  torch::ExpandingArray<2> dilation = 1;
  int64_t groups = 1;
};

// Convolves each sample with kernels of its own: y_b = conv2d(x_b, w_b) + bias.
//   input     (B, C * groups, H, W), of the weight's type, under autocast of any; any strides; B may be 0
//   weight    (B, O, C, Kh, Kw), O a multiple of groups; any strides; float64, float32, bfloat16, float16
//   bias      (O), the same for all samples, or none
//   options   of the convolution, in pixels
//   returns   (B, O, H', W') in the memory format of the input, contiguous or channels-last
//   throws    c10::TypeError, c10::ValueError: arguments of another type, shape or device
inline at::Tensor sample_conv2d(const at::Tensor& input, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias = std::nullopt,
                                const SampleConv2dOptions& options = {}) {
  return detail::sample_convolution<2>(input, weight, bias, options);
}

// Convolves each volume with kernels of its own: y_b = conv3d(x_b, w_b) + bias.
//   input     (B, C * groups, D, H, W), otherwise as for sample_conv2d
//   weight    (B, O, C, Kd, Kh, Kw), otherwise as for sample_conv2d
//   bias, options   as for sample_conv2d
//   returns   (B, O, D', H', W') in the memory format of the input
//   throws    as sample_conv2d
inline at::Tensor sample_conv3d(const at::Tensor& input, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias = std::nullopt,
                                const Conv3dOptions& options = {}) {
  return detail::sample_convolution<3>(input, weight, bias, options);
}

}  // namespace crossd_ops
