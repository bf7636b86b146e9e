// Chooses a kernel for a problem and launches it. The same source for nvcc and for the emulator of the tests.
#pragma once
#include <algorithm>

#include "common/cuda/device.cuh"
#include "shift/cuda/access.cuh"
#include "shift/cuda/cubic3.cuh"
#include "shift/cuda/cubic3_backward.cuh"
#include "shift/cuda/general.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/partial_sums.cuh"
#include "shift/cuda/rows.cuh"
#include "shift/cuda/rows_backward.cuh"
#include "shift/problem.h"

namespace crossd_ops::cuda {

// Enough blocks and warps to fill every GPU of today: constants, so that results do not depend on the device.
constexpr int64_t kWantedBlocks = 1024;
constexpr int64_t kWantedWarps = 1024;
constexpr int64_t kWantedRowTiles = 128;  // of 5 or 7 warps

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct GeneralPlan {
  int tile_pairs;
  int64_t tiles;
  size_t shared_elements;
};

// Depends on the shape alone: where the accumulate type is float, half of the budget stays free.
inline GeneralPlan plan_general(const ShiftShape& shape, bool backward) {
  constexpr size_t kBudgetBytes =
      48 * 1024;  // a larger pair takes what it needs, 67 KB for a backward of 15^3 in float64
  const int plane = shape.kernel[1] * shape.kernel[2], volume = shape.kernel[0] * plane;
  const size_t fixed = kGeneralTapElements + (backward ? kGeneralSumElements : 0),
               of_pair = backward ? 2 * volume + 7 * plane : volume + 4 * plane;
  const int64_t fitting = static_cast<int64_t>((kBudgetBytes / sizeof(double) - fixed) / of_pair),
                useful = 4 * kGeneralThreads / plane;
  const int64_t spread = std::max<int64_t>(pair_count(shape) / kWantedBlocks, 1);
  const int64_t tile_pairs = std::max<int64_t>(1, std::min({fitting, useful, spread}));
  return {static_cast<int>(tile_pairs), ceil_divide(pair_count(shape), tile_pairs), fixed + tile_pairs * of_pair};
}

inline bool needs_complex(const ShiftShape& shape) {
  return (shape.kernel[0] % 2 == 0) + (shape.kernel[1] % 2 == 0) + (shape.kernel[2] % 2 == 0) >= 2;
}

inline bool is_cubic(const ShiftShape& shape, int size) {
  return shape.kernel[0] == size && shape.kernel[1] == size && shape.kernel[2] == size;
}

// The size that has kernels of its own, or 0. They are built for the gradient and output types that go with the
// accumulate type: a float weight with a float64 output, or the reverse, is rare. K = 7 in float64 would not fit in
// registers.
inline int special_size(const ShiftShape& shape, Dtype weight, Dtype other) {
  if ((weight == Dtype::float64) != (other == Dtype::float64)) return 0;
  for (const int size : {3, 5, 7})
    if (is_cubic(shape, size)) return size == 7 && weight == Dtype::float64 ? 0 : size;
  return 0;
}

template <typename Acc, typename Function>
auto with_usual_type(Dtype dtype, Function&& function) {
  if constexpr (sizeof(Acc) == 8) {
    return function(double{});
  } else {
    return dtype == Dtype::float32    ? function(float{})
           : dtype == Dtype::bfloat16 ? function(BFloat16{})
                                      : function(Float16{});
  }
}

// Warps of a block that share the same pairs, in backward_cubic3.
inline int cubic3_sample_warps(const ShiftShape& shape) {
  const int64_t warps = ceil_divide(pair_count(shape), kLanes);
  return warps >= kWantedWarps || shape.samples < 2 * 4       ? 1
         : warps >= kWantedWarps / 2 || shape.samples < 4 * 4 ? 2
                                                              : 4;
}
inline int64_t cubic3_backward_tiles(const ShiftShape& shape) {
  return ceil_divide(pair_count(shape), kCubic3Threads / cubic3_sample_warps(shape));
}

// Whether a block of backward_rows takes fewer pairs, and several samples of each at a time: where tiles of 32 pairs
// are too few to fill a GPU.
inline bool rows_have_few_pairs(const ShiftShape& shape) {
  return shape.samples >= kRowsSampleLanes && ceil_divide(pair_count(shape), kLanes) < kWantedRowTiles;
}
inline int64_t rows_backward_tiles(const ShiftShape& shape) {
  return ceil_divide(pair_count(shape), rows_have_few_pairs(shape) ? kRowsFewPairs : kLanes);
}

inline size_t backward_partial_elements(const ShiftShape& shape) {
  int64_t tiles = plan_general(shape, true).tiles;
  tiles = std::max(tiles, is_cubic(shape, 3) ? cubic3_backward_tiles(shape) : rows_backward_tiles(shape));
  return static_cast<size_t>(tiles * partial_stride(shape.samples));
}

template <typename Acc>
void launch_forward_general(const ForwardProblem& problem, cudaStream_t stream) {
  const GeneralPlan plan = plan_general(problem.shape, false);
  const int64_t splits =
      std::clamp<int64_t>(ceil_divide(kWantedBlocks, plan.tiles), 1, std::min<int64_t>(problem.shape.samples, 65535));
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(splits));
  launch(needs_complex(problem.shape) ? forward_general<Acc, true> : forward_general<Acc, false>, grid, kGeneralThreads,
         plan.shared_elements * sizeof(Acc), stream, problem, plan.tile_pairs);
}

// Splits the samples among blocks, of which `blocks` are wanted, where there are few tiles; each split has a multiple
// of `chunk` samples, two chunks at least.
inline int64_t samples_per_split(const ShiftShape& shape, int64_t tiles, int64_t chunk, int64_t blocks) {
  const int64_t most = std::min<int64_t>(ceil_divide(shape.samples, 2 * chunk), 65535),
                wanted = ceil_divide(blocks, tiles);
  return ceil_divide(ceil_divide(shape.samples, std::clamp<int64_t>(wanted, 1, most)), chunk) * chunk;
}

template <typename Acc, typename Out, int kSlices, bool kTapMajor = false>
void launch_forward_cubic3(const ForwardProblem& problem, cudaStream_t stream) {
  const int64_t tiles = ceil_divide(pair_count(problem.shape), kCubic3Threads);
  // Each split transforms the weights anew; half of the blocks are 4 of the 6 that a multiprocessor has room for.
  const int64_t per_split = samples_per_split(problem.shape, tiles, kForwardChunk<Acc, kSlices>, kWantedBlocks / 2);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_divide(problem.shape.samples, per_split)));
  launch(forward_cubic3<Acc, Out, kSlices, kTapMajor>, grid, kCubic3Threads, kForwardCubic3SharedBytes<Acc, kSlices>,
         stream, problem, access_of(problem), per_split);
}

template <typename Acc, typename Out, int kSize>
void launch_forward_rows(const ForwardProblem& problem, cudaStream_t stream) {
  const int64_t tiles = ceil_divide(pair_count(problem.shape), kLanes),
                per_split = samples_per_split(problem.shape, tiles, 1, kWantedBlocks);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_divide(problem.shape.samples, per_split)));
  launch(forward_rows<Acc, Out, kSize>, grid, Rows<kSize>::kThreads, kForwardRowsSharedBytes<Acc, kSize>, stream,
         problem, access_of(problem), per_split);
}

// Tap-major there are kernels for what convolutions in tiles are given: slices of half types and float32.
template <typename Acc>
void launch_forward_as(const ForwardProblem& problem, cudaStream_t stream) {
  const bool is_rare = problem.tap_major && (problem.shape.slices > 1 || problem.out_dtype == Dtype::float64);
  const int size = is_rare ? 0 : special_size(problem.shape, problem.weight_dtype, problem.out_dtype);
  if (size == 0) return launch_forward_general<Acc>(problem, stream);
  with_usual_type<Acc>(problem.out_dtype, [&](auto out) {
    using Out = decltype(out);
    if (size == 5) return launch_forward_rows<Acc, Out, 5>(problem, stream);
    if constexpr (sizeof(Acc) == 4)
      if (size == 7) return launch_forward_rows<Acc, Out, 7>(problem, stream);
    if constexpr (sizeof(Out) <= 4)
      if (problem.tap_major) return launch_forward_cubic3<Acc, Out, 1, true>(problem, stream);
    if (problem.shape.slices == 1) return launch_forward_cubic3<Acc, Out, 1>(problem, stream);
    return launch_forward_cubic3<Acc, Out, 3>(problem, stream);
  });
}

inline void launch_forward(const ForwardProblem& problem, cudaStream_t stream) {
  if (problem.shape.samples == 0 || pair_count(problem.shape) == 0) return;
  if (accumulate_dtype(problem.weight_dtype) == Dtype::float64)
    launch_forward_as<double>(problem, stream);
  else
    launch_forward_as<float>(problem, stream);
}

// The launches of the backward kernels return their number of tiles.
template <typename Acc>
int64_t launch_backward_general(const BackwardProblem& problem, cudaStream_t stream) {
  const GeneralPlan plan = plan_general(problem.shape, true);
  launch(needs_complex(problem.shape) ? backward_general<Acc, true> : backward_general<Acc, false>,
         dim3(static_cast<unsigned>(plan.tiles)), kGeneralThreads, plan.shared_elements * sizeof(Acc), stream, problem,
         plan.tile_pairs);
  return plan.tiles;
}

template <typename Acc, typename Grad, int kSlices, bool kTapMajor = false>
int64_t launch_backward_cubic3(const BackwardProblem& problem, cudaStream_t stream) {
  const int64_t tiles = cubic3_backward_tiles(problem.shape);
  launch(backward_cubic3<Acc, Grad, kSlices, kTapMajor>, dim3(static_cast<unsigned>(tiles)), kCubic3Threads,
         Cubic3BackwardShared<Acc, Grad, kSlices>::kTotal, stream, problem, access_of(problem),
         cubic3_sample_warps(problem.shape));
  return tiles;
}

template <typename Acc, typename Grad, int kSize>
int64_t launch_backward_rows(const BackwardProblem& problem, cudaStream_t stream) {
  const int64_t tiles = rows_backward_tiles(problem.shape);
  launch(backward_rows<Acc, Grad, kSize>, dim3(static_cast<unsigned>(tiles)), Rows<kSize>::kThreads,
         BackwardRowsShared<Acc, Grad, kSize>::kTotal, stream, problem, access_of(problem),
         rows_have_few_pairs(problem.shape));
  return tiles;
}

template <typename Acc>
int64_t launch_backward_tiles(const BackwardProblem& problem, cudaStream_t stream) {
  const int size = special_size(problem.shape, problem.weight_dtype, problem.grad_dtype);
  if (size == 0) return launch_backward_general<Acc>(problem, stream);
  return with_usual_type<Acc>(problem.grad_dtype, [&](auto grad) {
    using Grad = decltype(grad);
    if (size == 5) return launch_backward_rows<Acc, Grad, 5>(problem, stream);
    if constexpr (sizeof(Acc) == 4)
      if (size == 7) return launch_backward_rows<Acc, Grad, 7>(problem, stream);
    if constexpr (sizeof(Acc) == 4)
      if (grad_is_tap_major(problem)) return launch_backward_cubic3<Acc, Grad, 1, true>(problem, stream);
    if (problem.shape.slices == 1) return launch_backward_cubic3<Acc, Grad, 1>(problem, stream);
    return launch_backward_cubic3<Acc, Grad, 3>(problem, stream);
  });
}

template <typename Acc>
void launch_backward_as(const BackwardProblem& problem, cudaStream_t stream) {
  const int64_t tiles = pair_count(problem.shape) > 0 ? launch_backward_tiles<Acc>(problem, stream) : 0;
  if (problem.grad_shift && problem.shape.samples > 0)
    launch(sum_partials<Acc>, dim3(static_cast<unsigned>(partial_stride(problem.shape.samples) / kSumRows)),
           kSumThreads, kSumThreads / kLanes * kSumRows * sizeof(Acc), stream, static_cast<const Acc*>(problem.partial),
           tiles, problem.shape.samples, static_cast<Acc*>(problem.grad_shift));
}

// With no samples grad_weight is filled with zeros, with no pairs grad_shift is.
inline void launch_backward(const BackwardProblem& problem, cudaStream_t stream) {
  if (!problem.grad_weight && !problem.grad_shift) return;
  if (accumulate_dtype(problem.weight_dtype) == Dtype::float64)
    launch_backward_as<double>(problem, stream);
  else
    launch_backward_as<float>(problem, stream);
}

}  // namespace crossd_ops::cuda
