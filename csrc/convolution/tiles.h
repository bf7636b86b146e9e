// The convolution in tiles on tensor cores, and its gradients: of channels-last images and tap-major kernels.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/memory_format.h"
#include "common/tensors.h"
#include "convolution/problem.h"
#include "convolution/tiles_kernels_problem.h"
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

// Of kernels (B, O, C, Kh, Kw) that lie in memory as (B, Kh, Kw, O, C).
inline std::vector<int64_t> tap_major_strides(const std::vector<int64_t>& sizes) {
  const std::vector<int64_t> s = dense_strides({sizes[0], sizes[3], sizes[4], sizes[1], sizes[2]});
  return {s[0], s[3], s[4], s[1], s[2]};
}

// The tensor itself, or a copy.
inline Tensor in_tap_major_order(const Tensor& kernels) {
  const std::vector<int64_t> sizes = sizes_of(kernels), strides = tap_major_strides(sizes);
  if (is_in_format(kernels, strides) && reinterpret_cast<uintptr_t>(kernels.const_data_ptr()) % 16 == 0) return kernels;
  Tensor copy = new_strided_tensor(kernels, sizes, strides, kernels.scalar_type());
  torch::stable::copy_(copy, kernels);
  return copy;
}

// The sizes that a problem of tiles has, and its dtype; without tensors.
template <typename Problem>
Problem tiles_sizes(const ConvolutionProblem& problem) {
  const Geometry& geometry = problem.geometry;
  Problem tiles{};
  tiles.samples = problem.samples(), tiles.groups = geometry.groups, tiles.in_channels = problem.shape.in_channels;
  tiles.out_channels = problem.rows() / geometry.groups, tiles.dtype = problem.dtype;
  for (int i = 0; i < 2; ++i) {
    tiles.image[i] = problem.image[i], tiles.kernel[i] = problem.kernel[i], tiles.result[i] = problem.result[2 + i];
    tiles.stride[i] = geometry.stride[i], tiles.padding[i] = geometry.padding[i];
    tiles.dilation[i] = geometry.dilation[i];
  }
  return tiles;
}

// Of an image (B, C, H, W): of the axes with more than one element.
inline void set_strides(const Tensor& image, int64_t& sample, ImageAxes& pixel) {
  const auto stride_of = [&](int axis) { return image.size(axis) == 1 ? 0 : image.stride(axis); };
  sample = stride_of(0), pixel = {stride_of(2), stride_of(3)};
}

// Of an image in whole vectors, tap-major kernels (B, O, C, Kh, Kw) and the bias (O,), to a channels-last result.
inline TilesProblem tiles_problem(const Tensor& image, const Tensor& kernels, const std::optional<Tensor>& bias,
                                  Tensor& result, const ConvolutionProblem& problem) {
  TilesProblem tiles = tiles_sizes<TilesProblem>(problem);
  set_strides(image, tiles.input_sample, tiles.input_pixel);
  tiles.input = image.const_data_ptr(), tiles.kernels = kernels.const_data_ptr();
  if (bias) {
    tiles.bias = bias->const_data_ptr(), tiles.bias_stride = bias->stride(0);
    tiles.bias_dtype = checked_dtype(*bias, "bias");
  }
  tiles.out = result.mutable_data_ptr();
  return tiles;
}

// Of the result's gradient in whole vectors and tap-major kernels, to a channels-last gradient of the input.
inline TilesInputProblem tiles_input_problem(const Tensor& grad, const Tensor& kernels, Tensor& grad_input,
                                             const ConvolutionProblem& problem) {
  TilesInputProblem tiles = tiles_sizes<TilesInputProblem>(problem);
  set_strides(grad, tiles.grad_sample, tiles.grad_pixel);
  tiles.grad = grad.const_data_ptr(), tiles.kernels = kernels.const_data_ptr();
  tiles.grad_input = grad_input.mutable_data_ptr();
  return tiles;
}

// Of both in whole vectors, to a tap-major gradient of the kernels.
inline TilesKernelsProblem tiles_kernels_problem(const Tensor& grad, const Tensor& image, Tensor& grad_kernels,
                                                 const ConvolutionProblem& problem) {
  TilesKernelsProblem tiles = tiles_sizes<TilesKernelsProblem>(problem);
  set_strides(grad, tiles.grad_sample, tiles.grad_pixel);
  set_strides(image, tiles.input_sample, tiles.input_pixel);
  tiles.grad = grad.const_data_ptr(), tiles.input = image.const_data_ptr();
  tiles.grad_kernels = grad_kernels.mutable_data_ptr();
  return tiles;
}

// Of one product: its blocks, and its multiply-adds, with those of what is missing of full tiles, and of a full turn of
// blocks.
struct TiledWork {
  double blocks, multiply_adds;
};
inline TiledWork in_turns(double blocks, double of_block) {
  const double turns = std::ceil(blocks / kMultiprocessors) * kMultiprocessors;
  return {blocks, turns * of_block};
}
inline TiledWork tiled_forward(const ConvolutionProblem& problem) {
  const int64_t parts = problem.samples() * problem.geometry.groups, pixels = problem.pixels();
  const int64_t out_channels = problem.rows() / problem.geometry.groups;
  const int64_t rows = rows_of_tile(parts, pixels, out_channels);
  const double blocks =
      static_cast<double>(parts * tiles_along(pixels, rows) * tiles_along(out_channels, kTileColumns));
  const int64_t reduction = problem.kernel_elements() * problem.shape.in_channels;
  return in_turns(blocks, static_cast<double>(rows * kTileColumns) * static_cast<double>(reduction));
}
inline TiledWork tiled_input_gradient(const ConvolutionProblem& problem) {
  const TilesInputProblem tiles = tiles_sizes<TilesInputProblem>(problem);
  const ImageAxes remainders = remainders_of(tiles.image, tiles.stride).count;
  const int64_t rows = rows_of_input_gradient(tiles);
  const double blocks = static_cast<double>(blocks_of_input_gradient(tiles, rows));
  // A tap sees the pixels of one remainder.
  const double reduction = static_cast<double>(problem.kernel_elements() * tiles.out_channels) /
                           static_cast<double>(remainders[0] * remainders[1]);
  return in_turns(blocks, static_cast<double>(rows * kTileColumns) * reduction);
}
inline TiledWork tiled_kernels_gradient(const ConvolutionProblem& problem) {
  const KernelsPlan plan = plan_of_kernels_gradient(tiles_sizes<TilesKernelsProblem>(problem));
  const double of_tile = static_cast<double>(plan.chunks * kKernelsChunkColumns * kKernelsTileRows);
  const int64_t pixels = tiles_along(problem.pixels(), kKernelsStepPixels) * kKernelsStepPixels;
  const double splits = static_cast<double>(plan.splits);
  return in_turns(static_cast<double>(plan.tiles) * splits, of_tile * static_cast<double>(pixels) / splits);
}

// Of the backward's two products the larger number of blocks, and the mean of the multiply-adds. need_input: without it
// there is one.
inline TiledWork tiled_work(const ConvolutionProblem& problem, bool backward, bool need_input = true) {
  if (!backward) return tiled_forward(problem);
  if (!need_input) return tiled_kernels_gradient(problem);
  const TiledWork input = tiled_input_gradient(problem), kernels = tiled_kernels_gradient(problem);
  return {std::max(input.blocks, kernels.blocks), (input.multiply_adds + kernels.multiply_adds) / 2};
}

}  // namespace crossd_ops
