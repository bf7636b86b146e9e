// What each method would take on a GPU, from counts alone: no GPU has been measured. Free of torch.
//
// The library's grouped convolution moves few bytes and multiplies slowly: public reports (pytorch issues 70954, 73764,
// 34977, 95604) have it at a few hundredths of what the same multiply-adds take in a plain one, the weight's gradient
// and half types worst, float32 no better for TF32; and channels-last does not exist in (1, B * C, ...), so both sides
// are copied. Columns are written and read once, as many times the image as a kernel has elements, and multiply at the
// library's full rate, float32 that may be rounded at that of tiles (methods/products.h). Tiles move no more than they
// must, but for copies of contiguous images, and multiply by instructions that reach three quarters of the library's
// rate on GPUs with newer ones, by the counts of `python -m benchmarks.gpu predict`; what is missing of a full tile,
// and of a full turn of blocks, they multiply too. Per sample of a layer of a network, in half precision, these two win
// wherever a group has more than a few channels.
//
// All of these have to make the kernels of each sample first: in the forward pass they are written, in the backward
// written again, and of two products there their gradient is read once more. The shared weight has none of it, but
// columns that are as many times larger, and multiply-adds as many times more, as the weight has slices: it wins where
// a sample has few pixels beside its channels, and of volumes, where that is once.
//
// Of small problems nothing counts but the launches, for which a GPU, and the host, take as long as for a megabyte.
#pragma once
#include <cstdint>

#include "common/dtype.h"

namespace crossd_ops {

// Of an H200, rounded; what matters is their ratio, which other GPUs share within a factor of two.
constexpr double kGpuBytesPerSecond = 4e12;
constexpr double kGpuSecondsPerLaunch = 2.5e-6;
constexpr double gpu_multiply_adds_per_second(Dtype dtype, bool tf32 = false) {
  return size_of(dtype) == 2 ? 3e14 : tf32 ? 1.5e14 : 3e13;
}
constexpr double kGroupedShare = 1.0 / 20;  // of that rate, which the library's grouped convolution reaches
constexpr double kTilesShare = 3.0 / 4;     // and tiles

// What it takes to pad channels to whole vectors (padding/problem.h): elements that are moved, and launches.
struct PaddingCosts {
  double elements = 0, launches = 0;
};

// Sizes in elements, of all samples together, and of one product: of the backward's two, the mean.
struct GpuProblem {
  double input, output, kernels, columns, multiply_adds, tiled_multiply_adds;
  double tiled_columns_multiply_adds;  // of a product of columns in tiles, see methods/products.h
  double weight;                       // of which the kernels are made: 0 where they are given
  double shifted_columns;              // as many times the columns as the weight has slices
  double slices;                       // of the weight
  double seen;  // the gradient of what pixels see, which a backward of shifted columns writes and reads
  bool backward, channels_last, groups;  // groups: more than one
  Dtype dtype;
  bool tf32;             // float32 may be rounded
  PaddingCosts padding;  // for tiles
};

inline double gpu_seconds(const GpuProblem& problem, double elements, double multiply_adds, double launches,
                          bool tf32) {
  return elements * size_of(problem.dtype) / kGpuBytesPerSecond + launches * kGpuSecondsPerLaunch +
         multiply_adds / gpu_multiply_adds_per_second(problem.dtype, tf32);
}

// Elements that each method moves, and those that make its kernels.
inline double made_elements(const GpuProblem& problem) {
  return problem.weight > 0 ? problem.weight + problem.kernels : 0;
}
inline double grouped_elements(const GpuProblem& problem) {
  const double copied = problem.channels_last ? 2 * (problem.input + problem.output) : 0;
  return problem.input + problem.output + problem.kernels + copied + made_elements(problem);
}
// Products of groups write no channels-last.
inline double columns_elements(const GpuProblem& problem) {
  const double copied = problem.channels_last && problem.groups ? 2 * problem.output : 0;
  return problem.input + problem.output + problem.kernels + 2 * problem.columns + copied + made_elements(problem);
}
inline double tiles_elements(const GpuProblem& problem) {
  const double copied = problem.channels_last ? 0 : 2 * (problem.input + problem.output);
  return problem.input + problem.output + problem.kernels + copied + made_elements(problem) + problem.padding.elements;
}
// The weight, or its gradient, is copied to the order of the columns, or from it.
inline double shared_elements(const GpuProblem& problem) {
  const double copied = problem.channels_last ? 0 : 2 * (problem.input + problem.output);
  return problem.input + problem.output + 3 * problem.weight + 2 * problem.shifted_columns + problem.seen + copied;
}

// A plain convolution, of one kernel for all samples: what the others are compared with.
inline double plain_elements(const GpuProblem& problem, double samples) {
  return problem.input + problem.output + problem.kernels / samples;
}

// Launches, with copies, as the bytes of one product; those that make the kernels: in the backward pass again, their
// gradient, and its last sums, for two.
inline double made_launches(const GpuProblem& problem) { return problem.weight > 0 ? problem.backward ? 1.5 : 1 : 0; }
// Both sides are copied: channels-last here, and others in the library, to what its tensor cores take.
inline double grouped_launches(const GpuProblem& problem) {
  return 1 + (problem.backward ? 1.5 : 2) + made_launches(problem);
}
inline double columns_launches(const GpuProblem& problem) {
  return 1 + (problem.columns > 0) + (problem.channels_last && problem.groups) + made_launches(problem);
}
inline double tiles_launches(const GpuProblem& problem) {
  const double copied = problem.channels_last ? 0 : problem.backward ? 1.5 : 2;
  return 1 + copied + made_launches(problem) + problem.padding.launches;
}
// A copy of the weight, columns, a product; back two copies, three kernels and a sum, two products.
inline double shared_launches(const GpuProblem& problem) {
  const double copied = problem.channels_last ? 0 : 2;
  return (problem.backward ? 4 : 3) + copied;
}

inline double grouped_seconds(const GpuProblem& problem) {
  return gpu_seconds(problem, grouped_elements(problem), problem.multiply_adds / kGroupedShare,
                     grouped_launches(problem), /*tf32=*/false);
}
inline double columns_seconds(const GpuProblem& problem) {
  const double multiply_adds = problem.tf32 ? problem.tiled_columns_multiply_adds / kTilesShare : problem.multiply_adds;
  return gpu_seconds(problem, columns_elements(problem), multiply_adds, columns_launches(problem), problem.tf32);
}
inline double tiles_seconds(const GpuProblem& problem) {
  return gpu_seconds(problem, tiles_elements(problem), problem.tiled_multiply_adds / kTilesShare,
                     tiles_launches(problem), problem.tf32);
}
// Of float32 the product is a convolution, which with groups is as slow as the one above.
inline double shared_seconds(const GpuProblem& problem) {
  const double share = problem.dtype == Dtype::float32 && problem.groups ? kGroupedShare : 1;
  return gpu_seconds(problem, shared_elements(problem), problem.slices * problem.multiply_adds / share,
                     shared_launches(problem), problem.tf32 && !problem.groups);
}

}  // namespace crossd_ops
