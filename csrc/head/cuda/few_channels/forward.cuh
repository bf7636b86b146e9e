// The forward pass of the head of an input of few channels: the equations are in few_channels/pixels.cuh. Floor in
// bytes: the input once for each of the two launches.
#pragma once
#include "head/cuda/few_channels/pixels.cuh"

namespace crossd_ops::cuda {

// moments: [blocks][kFewMomentsRow]
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadForwardBlocks)
    head_moments_few(HeadForward problem, HeadWork work, float* moments, HeadPooled pooled) {
  reset_tickets(pooled, problem.input.shape.samples);
  const FewPixels<T> pixels(problem.input, true);
  const HeadItems items(problem.input.shape, work);
  write_few_moments(pixels, items, dynamic_shared<float>(),
                    moments + static_cast<int64_t>(blockIdx.x) * kFewMomentsRow);
}

// The statistics in use, as join_moments has them.
__device__ __forceinline__ void join_few_moments(const HeadForward& problem, const HeadWork& work,
                                                 const FewChannels& pivot, const float* moments, FewShared& shared) {
  constexpr int kRows = kHeadThreads / kFewMomentsRow;
  const int column = threadIdx.x % kFewMomentsRow, row = threadIdx.x / kFewMomentsRow;
  double mean = 0, squares = 0;
  if (problem.training) {
    double *scratch = shared.scratch, *totals = scratch + kHeadThreads, sum = 0;
#pragma unroll 4
    for (int block = row; block < work.blocks; block += kRows) sum += moments[block * kFewMomentsRow + column];
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < kLanes) {
      if (threadIdx.x < kFewMomentsRow) {
        for (int other = 1; other < kRows; ++other) sum += scratch[other * kFewMomentsRow + column];
        totals[column] = sum;
      }
      __syncwarp();
      const HeadParameters& parameters = problem.parameters;
      double weights[kFewChannels];
      mean = load_as<float>(parameters.bias1.dtype, parameters.bias1.data, column);
#pragma unroll
      for (int i = 0; i < kFewChannels; ++i) {
        weights[i] = 0;
        if (i < problem.input.channels)
          weights[i] =
              load_as<float>(parameters.weight1.dtype, parameters.weight1.data, column * problem.input.channels + i);
        mean += weights[i] * (pivot.at[i] + totals[i] / work.pixels);
#pragma unroll
        for (int j = 0; j <= i; ++j) {
          const double product = totals[place_of_product(i, j)] - totals[i] * totals[j] / work.pixels;
          squares += (i == j ? 1 : 2) * weights[i] * weights[j] * product;
        }
      }
      squares = fmax(squares, 0.0);
    }
  }
  use_statistics(problem, work, mean, squares, shared.statistics);
}

// moments: of head_moments_few
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadForwardBlocks)
    head_pool_few(HeadForward problem, HeadWork work, const float* moments, HeadPooled target) {
  const HeadInput& input = problem.input;
  FewShared& shared = *dynamic_shared<FewShared>();
  const FewPixels<T> pixels(input, problem.training);
  const HeadItems items(input.shape, work);
  join_few_moments(problem, work, pixels.pivot, moments, shared);
  write_few_rows(problem.parameters, input, pixels.pivot, shared.statistics, shared.statistics + kHiddenChannels,
                 shared);
  __syncthreads();
  const FewRows rows(shared);
  const int thread = threadIdx.x, first_of_warp = thread / kLanes * kLanes;
  for (int64_t item = items.first(); item < items.last();) {
    const int64_t first_item = item;
    const PixelRange range = items.next_range(item);
    PixelWalk walk(input.shape, static_cast<int>(range.first + threadIdx.x));
    Pooled<float> pooled;
    FewChannels next = pixels.load(range.sample, walk.place(input.strides, thread < length_of(range)));
    for (int left = length_of(range); left > 0; left -= kHeadThreads) {
      const FewChannels own = next;
      walk.advance(kHeadThreads);
      next = pixels.load(range.sample, walk.place(input.strides, thread + kHeadThreads < left));
      const int inside = left - first_of_warp;
      float scores[kFewTurns], largest = pooled.maximum;
#pragma unroll
      for (int i = 0; i < kFewTurns; ++i) {
        scores[i] = scored_quarter(pixel_of_lane(own, pixel_of_turn(i)), rows).score;
        if (pixel_of_turn(i) < inside) largest = fmaxf(largest, scores[i]);
      }
      pooled.raise(largest);
#pragma unroll
      for (int i = 0; i < kFewTurns; ++i)
        if (pixel_of_turn(i) < inside) pooled.add_below(scores[i]);
    }
    write_pooled(pooled, reinterpret_cast<float*>(shared.scratch), target.parts, first_item, item);
    finish_if_last(problem, work, target, range.sample, item - first_item);
    __syncthreads();
  }
}

}  // namespace crossd_ops::cuda
