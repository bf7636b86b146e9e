// The convolution in tiles on tensor cores: of channels-last images and tap-major kernels.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/memory_format.h"
#include "common/tensors.h"
#include "convolution/problem.h"
#include "convolution/tiles_problem.h"
#if defined(CROSSD_WITH_CUDA)
#include "common/cuda/torch_cuda.h"
#include "convolution/cuda/tiles.h"
#endif

namespace crossd_ops {

// (B, C, H, W) whose channels are next to each other, in vectors that begin at 16 bytes, a sample within what the
// kernels can count: the tensor itself, or a copy.
inline Tensor in_whole_vectors(const Tensor& image) {
  constexpr int64_t kMostElements = 1 << 28;
  const int64_t vector = tiles_vector(checked_dtype(image, "image"));
  int64_t extent = image.size(1);
  bool whole = image.stride(1) == 1 && reinterpret_cast<uintptr_t>(image.const_data_ptr()) % 16 == 0;
  for (const int axis : {0, 2, 3}) {
    whole = whole && (image.size(axis) == 1 || image.stride(axis) % vector == 0);
    if (axis > 0) extent += (image.size(axis) - 1) * image.stride(axis);
  }
  if (whole && extent <= kMostElements) return image;
  Tensor copy = new_tensor(image, sizes_of(image), MemoryFormat::channels_last);
  torch::stable::copy_(copy, image);
  return copy;
}

// Kernels (B, O, C, Kh, Kw) that lie in memory as (B, Kh, Kw, O, C): the tensor itself, or a copy.
inline Tensor in_tap_major_order(const Tensor& kernels) {
  const std::vector<int64_t> sizes = sizes_of(kernels);
  const std::vector<int64_t> s = dense_strides({sizes[0], sizes[3], sizes[4], sizes[1], sizes[2]});
  const std::vector<int64_t> strides = {s[0], s[3], s[4], s[1], s[2]};
  if (is_in_format(kernels, strides) && reinterpret_cast<uintptr_t>(kernels.const_data_ptr()) % 16 == 0) return kernels;
  Tensor copy = new_strided_tensor(kernels, sizes, strides, kernels.scalar_type());
  torch::stable::copy_(copy, kernels);
  return copy;
}

// Of an image in whole vectors, tap-major kernels (B, O, C, Kh, Kw) and the bias (O,), to a channels-last result.
inline TilesProblem tiles_problem(const Tensor& image, const Tensor& kernels, const std::optional<Tensor>& bias,
                                  Tensor& result, const ConvolutionProblem& problem) {
  const Geometry& geometry = problem.geometry;
  TilesProblem tiles{};
  tiles.samples = problem.samples(), tiles.groups = geometry.groups, tiles.in_channels = problem.shape.in_channels;
  tiles.out_channels = problem.rows() / geometry.groups;
  const auto stride_of = [&](int axis) { return image.size(axis) == 1 ? 0 : image.stride(axis); };
  for (int i = 0; i < 2; ++i) {
    tiles.image[i] = image.size(2 + i), tiles.kernel[i] = problem.kernel[i], tiles.result[i] = problem.result[2 + i];
    tiles.stride[i] = geometry.stride[i], tiles.padding[i] = geometry.padding[i];
    tiles.dilation[i] = geometry.dilation[i], tiles.input_pixel[i] = stride_of(2 + i);
  }
  tiles.input_sample = stride_of(0);
  tiles.input = image.const_data_ptr(), tiles.kernels = kernels.const_data_ptr();
  if (bias) tiles.bias = bias->const_data_ptr(), tiles.bias_stride = bias->stride(0);
  tiles.out = result.mutable_data_ptr(), tiles.dtype = problem.dtype;
  return tiles;
}

}  // namespace crossd_ops
