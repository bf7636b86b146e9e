// The gradient of the kernels of the convolution in tiles: what is asked for, as plain numbers, and the plan that
// follows from it. Free of torch.
#pragma once
#include "convolution/tiles_problem.h"

namespace crossd_ops {

struct TilesKernelsProblem {
  int64_t samples, groups, in_channels, out_channels;  // channels of a group: whole vectors, see tiles_vector
  ImageAxes image, kernel, result, stride, padding, dilation;
  int64_t input_sample;   // strides in elements, of whole vectors
  ImageAxes input_pixel;  // channels are next to each other
  int64_t grad_sample;
  ImageAxes grad_pixel;
  const void* input;   // [B, image, groups * C], strided, at whole vectors
  const void* grad;    // [B, result, groups * O], likewise
  void* partial;       // float [splits, B, kernel, groups * O, C], contiguous; null where there is one split
  void* grad_kernels;  // [B, kernel, groups * O, C], contiguous
  Dtype dtype;         // of all other tensors: bfloat16, float16, or float32, which is rounded to TF32
};

// Of a block: output channels, and columns, which are input channels of one tap after the other's; pixels of a step.
constexpr int64_t kKernelsTileRows = 64, kKernelsChunkColumns = 64, kKernelsStepPixels = 32;
constexpr int64_t kWideChunks = 3;
constexpr int64_t kStepsToHalve = 16;  // of so many a wide tile saves 1024 wavefronts, and takes 768 to add two halves

struct KernelsPlan {
  int64_t chunks;            // of a tile's columns: 1 or kWideChunks
  int64_t tiles;             // of all samples and groups
  int64_t splits, of_split;  // pixels of each split but the last: whole steps
  bool halved_steps;         // a warp has half of the pixels of each step
};

// In at most so many splits.
inline KernelsPlan kernels_plan(const TilesKernelsProblem& problem, int64_t chunks, int64_t splits) {
  const int64_t columns = problem.kernel[0] * problem.kernel[1] * problem.in_channels;
  const int64_t tiles = problem.samples * problem.groups * tiles_along(problem.out_channels, kKernelsTileRows) *
                        tiles_along(columns, chunks * kKernelsChunkColumns);
  const int64_t steps = tiles_along(problem.result[0] * problem.result[1], kKernelsStepPixels);
  const int64_t of_split = std::max<int64_t>(tiles_along(steps, splits), 1);
  return {chunks, tiles, tiles_along(steps, of_split), of_split * kKernelsStepPixels, of_split >= kStepsToHalve};
}

// Wide tiles read the gradient less often; narrow ones where wide ones would be too empty, or too few. Where even they
// are too few, blocks share the pixels. The numbers are constants, so that results do not depend on the device.
inline KernelsPlan plan_of_kernels_gradient(const TilesKernelsProblem& problem) {
  constexpr int64_t kWantedBlocks = 96, kLeastSteps = 8;
  const KernelsPlan wide = kernels_plan(problem, kWideChunks, 1), narrow = kernels_plan(problem, 1, 1);
  if (wide.tiles * kWideChunks * 10 <= narrow.tiles * 11 && wide.tiles >= kWantedBlocks) return wide;
  const int64_t most = std::max<int64_t>(narrow.of_split / kKernelsStepPixels / kLeastSteps, 1);
  return kernels_plan(problem, 1, std::min(most, tiles_along(kWantedBlocks, std::max<int64_t>(narrow.tiles, 1))));
}

}  // namespace crossd_ops
