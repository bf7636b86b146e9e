// The convolution of each sample with kernels of its own, tile by tile on tensor cores, and the gradient of its input:
// what is asked for, as plain numbers, and the plan that follows from it. Free of torch.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include "common/dtype.h"

namespace crossd_ops {

// Of height and width.
using ImageAxes = std::array<int64_t, 2>;

struct TilesProblem {
  int64_t samples, groups, in_channels, out_channels;  // channels of a group: whole vectors, see tiles_vector
  ImageAxes image, kernel, result, stride, padding, dilation;
  int64_t input_sample;   // strides in elements, of whole vectors
  ImageAxes input_pixel;  // channels are next to each other
  const void* input;      // [B, image, groups * C], strided, at whole vectors
  const void* kernels;    // [B, kernel, groups * O, C], contiguous
  const void* bias;       // [groups * O], strided; null: none
  int64_t bias_stride;
  void* out;         // [B, result, groups * O], contiguous
  Dtype bias_dtype;  // that of the others, or float32
  Dtype dtype;       // of the others: bfloat16, float16, or float32, which is rounded to TF32
};

constexpr int64_t tiles_vector(Dtype dtype) { return 16 / size_of(dtype); }  // elements
// Of a block: pixels of the result, many or few, and output channels.
constexpr int64_t kManyTileRows = 128, kFewTileRows = 64, kTileColumns = 64;

inline int64_t tiles_along(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

constexpr int64_t kMultiprocessors = 132;  // of an H200: a constant, so that results do not depend on the device

// What takes less time where blocks go over multiprocessors in turns: rows of large tiles that are empty, and
// multiprocessors without a block, count. A step of a large tile takes a multiprocessor 5 / 3 of a small one's time: of
// an H200, whose numbers these are, 267 cycles of tensor cores, which are more than its 224 wavefronts of shared
// memory, against 160 wavefronts, which are more than 134 cycles. Constants, so that results do not depend on the
// device.
inline int64_t rows_of_tile(int64_t blocks_of_pixels, int64_t pixels, int64_t out_channels) {
  constexpr int64_t kLargeStep = 5, kSmallStep = 3;
  const auto turns = [&](int64_t rows) {
    return tiles_along(blocks_of_pixels * tiles_along(pixels, rows) * tiles_along(out_channels, kTileColumns),
                       kMultiprocessors);
  };
  return turns(kManyTileRows) * kLargeStep <= turns(kFewTileRows) * kSmallStep ? kManyTileRows : kFewTileRows;
}

// The gradient of the input.
struct TilesInputProblem {
  int64_t samples, groups, in_channels, out_channels;  // as above
  ImageAxes image, kernel, result, stride, padding, dilation;
  int64_t grad_sample;   // strides in elements, of whole vectors
  ImageAxes grad_pixel;  // channels are next to each other
  const void* grad;      // [B, result, groups * O], strided, at whole vectors
  const void* kernels;   // [B, kernel, groups * O, C], contiguous
  void* grad_input;      // [B, image, groups * C], contiguous
  Dtype dtype;           // of all tensors: bfloat16, float16, or float32, which is rounded to TF32
};

// Along each axis, the pixels of the image by their remainder modulo the stride: how many remainders there are, and
// pixels of the first one, which no other exceeds.
struct Remainders {
  ImageAxes count, pixels;
};
inline Remainders remainders_of(const ImageAxes& image, const ImageAxes& stride) {
  Remainders found{};
  for (int i = 0; i < 2; ++i) {
    found.count[i] = std::min(stride[i], image[i]);
    found.pixels[i] = tiles_along(image[i], stride[i]);
  }
  return found;
}

// Pixels of one remainder that a tile has.
inline int64_t rows_of_input_gradient(const TilesInputProblem& problem) {
  const auto [count, pixels] = remainders_of(problem.image, problem.stride);
  return rows_of_tile(problem.samples * problem.groups * count[0] * count[1], pixels[0] * pixels[1],
                      problem.in_channels);
}

// As many for each remainder as for the first.
inline int64_t blocks_of_input_gradient(const TilesInputProblem& problem, int64_t rows) {
  const auto [count, pixels] = remainders_of(problem.image, problem.stride);
  return problem.samples * problem.groups * count[0] * count[1] * tiles_along(pixels[0] * pixels[1], rows) *
         tiles_along(problem.in_channels, kTileColumns);
}

}  // namespace crossd_ops
