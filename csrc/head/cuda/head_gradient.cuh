// From the gradient of the shift back to the input and the parameters of the head: the equations are in head/problem.h.
//
// Three launches: the sums over pixels that the batch norm's gradient needs, and those of its own parameters and the
// second convolution's; the gradient of the input, and each block's part of that of the first convolution; the join of
// the small gradients, in float64. Hidden channels are made again from the input. Floor in bytes: the input for the
// sums; the input, the gradient that lies beside, and the result.
#pragma once
#include "head/cuda/head.cuh"

namespace crossd_ops::cuda {

constexpr int kHeadBackwardBlocks = 2;  // at once on a multiprocessor
// Of a block, with the names of head/problem.h: of g_z and of g_z n, [16] each, and of g_m max(...)^T, [4][16].
constexpr int kHiddenRows = 2 + kHeadChannels, kHiddenSums = kHiddenRows * kHiddenChannels;

struct HeadGradientParts {
  float* sums;      // [sum_blocks][kHiddenSums]
  float* weight1;   // [blocks][16][columns]
  int64_t columns;  // channels of the input, in whole tiles
  int sum_blocks, blocks;
};

struct ScoreGradients {
  Four hidden;                  // g_z of the quarter
  float scores[kHeadChannels];  // g_m
};
__device__ __forceinline__ RotationHeadBackward rotation_problem(const HeadBackward& problem) {
  return {{}, nullptr, {}, Dtype::float32, problem.exact, problem.grad_shift, problem.statistics, nullptr, {}};
}

// Of the thread's score.
__device__ __forceinline__ ChannelGradient<float> channel_gradient(const float* channels) {
  const float* at = channels + threadIdx.x % kQuarters * 3;
  return {at[0], at[1], at[2]};
}
// By all quarters of a pixel; of a pixel that is not inside all are 0.
__device__ __forceinline__ ScoreGradients score_gradients(const ScoredQuarter& quarter, bool inside,
                                                          const ChannelGradient<float>& channel,
                                                          const ScoreRows& rows) {
  const int lane = threadIdx.x % kLanes;
  const float own = inside ? channel.at(quarter.score) : 0;
  ScoreGradients result{};
#pragma unroll
  for (int score = 0; score < kHeadChannels; ++score) {
    result.scores[score] = __shfl_sync(kAllLanes, own, lane - lane % kQuarters + score);
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i)
      result.hidden.at[i] = fma(rows.weight2[score].at[i], result.scores[score], result.hidden.at[i]);
  }
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i)
    if (quarter.is_off[i]) result.hidden.at[i] = 0;
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadBackwardBlocks)
    head_sums(HeadBackward problem, HeadWork work, float* sums) {
  HeadTiles<T> tiles(problem.input, problem.parameters.weight1, work);
  write_rows(problem.parameters, problem.mean, problem.variance, tiles.shared);
  float own[kHiddenRows][kOfQuarter] = {};
  for (int64_t item = tiles.items.first(); item < tiles.items.last();) {
    if (threadIdx.x < kLanes)
      write_channels(rotation_problem(problem), tiles.items.sample_of(item), tiles.shared.channels);
    const PixelRange range = tiles.items.next_range(item);  // not before: write_channels needs registers
    PixelWalk walk = tiles.walk(range);
    for (int left = length_of(range); left > 0; left -= tiles.pixels()) {
      tiles.make_hidden(range.sample, walk.place(problem.input.strides, tiles.inside(left)));
      walk.advance(tiles.pixels());
      __syncthreads();
      const QuarterRows rows(tiles.shared);
      const ChannelGradient<float> channel = channel_gradient(tiles.shared.channels);
      tiles.for_each_pixel(left, [&](int, bool inside, const Four& hidden) {
        const HeadQuarter quarter = quarter_of(hidden, rows);
        const ScoreGradients grad = score_gradients(quarter, inside, channel, rows);
#pragma unroll
        for (int i = 0; i < kOfQuarter; ++i) {
          own[0][i] += grad.hidden.at[i];
          own[1][i] = fma(grad.hidden.at[i], quarter.normalised.at[i], own[1][i]);
#pragma unroll
          for (int score = 0; score < kHeadChannels; ++score)
            own[2 + score][i] = fma(grad.scores[score], quarter.active.at[i], own[2 + score][i]);
        }
      });
      __syncthreads();
    }
  }
  float* shared = tiles.shared.tile[0];                // [kHiddenRows * kOfQuarter][kLine]: a line for each sum
  constexpr int kLine = kHeadThreads + 2 * kQuarters;  // neighbouring lines begin in other banks
#pragma unroll
  for (int row = 0; row < kHiddenRows; ++row)
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) shared[(row * kOfQuarter + i) * kLine + threadIdx.x] = own[row][i];
  __syncthreads();
  if (threadIdx.x >= kHiddenSums) return;
  const int row = threadIdx.x / kHiddenChannels, hidden = threadIdx.x % kHiddenChannels;
  const float* line = shared + (row * kOfQuarter + hidden % kOfQuarter) * kLine + hidden / kOfQuarter;
  float sum = 0;
#pragma unroll 8
  for (int thread = 0; thread < kHeadThreads; thread += kQuarters) sum += line[thread];
  sums[static_cast<int64_t>(blockIdx.x) * kHiddenSums + threadIdx.x] = sum;
}

// Means over the batch, gain S(g_z) / N and gain S(g_z n) / N, into two rows, [2][16]; 0 where statistics are given. To
// be followed by __syncthreads; scratch belongs to the first warp, which reads it.
__device__ __forceinline__ void join_sums(const HeadBackward& problem, double pixels, const HeadGradientParts& parts,
                                          double* scratch, float* shared) {
  constexpr int kRows = kHeadThreads / kLanes;
  static_assert(kLanes == 2 * kHiddenChannels);
  const int column = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
  double sum = 0;
#pragma unroll 4
  for (int block = row; problem.training && block < parts.sum_blocks; block += kRows)
    sum += parts.sums[block * kHiddenSums + column];
  scratch[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kLanes) return;
  for (int other = 1; other < kRows; ++other) sum += scratch[other * kLanes + column];
  const HeadValues& gain = problem.parameters.gain;
  shared[column] = static_cast<float>(load_as<float>(gain.dtype, gain.data, column % kHiddenChannels) * sum / pixels);
}

// g_h of a thread's quarter; 0 of a pixel that is not inside.
__device__ __forceinline__ Four grad_of_hidden(const Four& hidden, bool inside, const HeadShared& shared) {
  const QuarterRows rows(shared);  // for each pixel anew: registers are few
  const HeadQuarter quarter = quarter_of(hidden, rows);
  const ScoreGradients grad = score_gradients(quarter, inside, channel_gradient(shared.channels), rows);
  const Four mean_grad = shared.row(kMeanGrad), mean_product = shared.row(kMeanProduct);
  Four result;
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i) {
    const float rest = fma(-quarter.normalised.at[i], mean_product.at[i], -mean_grad.at[i]);
    result.at[i] = inside ? rows.scale.at[i] * fma(rows.gain.at[i], grad.hidden.at[i], rest) : 0;
  }
  return result;
}

constexpr int kGradRow = kTile + 8;  // floats: vectors of neighbouring rows lie in other banks

// Of the warps that have the same channels, into the block's part.
template <typename T>
__device__ __forceinline__ void write_grad_weight(HeadTiles<T>& tiles, int first_chunk,
                                                  const typename HeadTiles<T>::Products::GradWeight& grad,
                                                  const HeadGradientParts& target) {
  const int ways = tiles.work.ways;
  HeadTiles<T>::Products::store_grad_weight(grad, tiles.shared.tile[tiles.warp], kGradRow);
  __syncthreads();
  constexpr int kRowVectors = kTile / 4;
#pragma unroll 1
  for (int i = threadIdx.x; i < ways * kHiddenChannels * kRowVectors; i += kHeadThreads) {
    const int way = i / (kHiddenChannels * kRowVectors), row = i / kRowVectors % kHiddenChannels;
    const int channel = i % kRowVectors * 4, hidden = row % kQuarters * kOfQuarter + row / kQuarters;
    float sums[4] = {};
    for (int warp = way; warp < kHeadWarps; warp += ways) {
      const Four part = load_four(tiles.shared.tile[warp] + row * kGradRow + channel);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[j] += part.at[j];
    }
    const int64_t column = static_cast<int64_t>(first_chunk + way) * kTile + channel;
    if (column >= target.columns) continue;
    const int64_t to = (static_cast<int64_t>(blockIdx.x) * kHiddenChannels + hidden) * target.columns + column;
    store_four(target.weight1 + to, sums);
  }
}

// g_x of a chunk of channels, `beside` added to it; grad_place: of the lane's pixel.
template <typename T>
__device__ __forceinline__ void write_grad_input(const HeadBackward& problem, HeadTiles<T>& tiles, int64_t sample,
                                                 int64_t grad_place, int chunk) {
  using Products = typename HeadTiles<T>::Products;
  const MapStrides& strides = problem.grad_strides;
  const int64_t offset = sample * strides.sample + static_cast<int64_t>(chunk) * kTile * strides.channel;
  T* const target = static_cast<T*>(problem.grad_input) + offset;
  const T* beside = static_cast<const T*>(problem.grad_beside);
  if (beside) beside += offset;
  const auto* weights = tiles.weights(chunk);
  const float* hidden = tiles.shared_hidden();
  float* grad = tiles.shared.tile[tiles.warp];
  if constexpr (std::is_same_v<T, BFloat16>) {
    const bool has_channels = channel_of_vectors() < tiles.channels_of(chunk);
    Products::make_grad_input(weights, hidden, [&](int i, float (&values)[8]) {
      const int64_t place = place_of_vector(grad_place, i), at = place + channel_of_vectors();
      if (!tiles.work.grad_packed) {
        float* of_tile = grad + tile_place<float>(pixel_of_vector(i), channel_of_vectors());
        store_four(of_tile, values), store_four(of_tile + 4, values + 4);
      } else if (place >= 0 && has_channels) {
        store_sums(values, beside ? beside + at : nullptr, target + at);
      }
    });
    if (tiles.work.grad_packed) return;
  } else {
    __syncwarp();
    Products::make_grad_input(weights, hidden, tiles.channels_of(chunk), grad);
  }
  store_tile(grad, target, beside, strides.channel, tiles.work.grad_packed, grad_place, tiles.channels_of(chunk));
}

// blockIdx.y: as many chunks of channels as a block has ways.
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadBackwardBlocks)
    head_gradient(HeadBackward problem, HeadWork work, HeadGradientParts parts) {
  const HeadInput& input = problem.input;
  HeadTiles<T> tiles(input, problem.parameters.weight1, work);
  HeadShared& shared = tiles.shared;
  write_rows(problem.parameters, problem.mean, problem.variance, tiles.shared);
  join_sums(problem, work.pixels, parts, reinterpret_cast<double*>(shared.hidden[0]), shared.rows[kMeanGrad]);
  const int first_chunk = static_cast<int>(blockIdx.y) * work.ways, chunk = first_chunk + tiles.way;
  const int channels = tiles.channels_of(chunk);
  using Products = typename HeadTiles<T>::Products;
  typename Products::GradWeight grad_weight;
  for (int64_t item = tiles.items.first(); item < tiles.items.last();) {
    if (threadIdx.x < kLanes)
      write_channels(rotation_problem(problem), tiles.items.sample_of(item), tiles.shared.channels);
    const PixelRange range = tiles.items.next_range(item);  // not before: write_channels needs registers
    PixelWalk walk = tiles.walk(range);
    for (int left = length_of(range); left > 0; left -= tiles.pixels()) {
      const bool is_inside = tiles.inside(left);
      const int64_t place = walk.place(input.strides, is_inside),
                    grad_place = walk.place(problem.grad_strides, is_inside);
      tiles.template make_hidden<true>(range.sample, place);
      walk.advance(tiles.pixels());
      __syncthreads();
      tiles.for_each_pixel(left, [&](int pixel, bool inside, const Four& hidden) {
        const Four grad = grad_of_hidden(hidden, inside, shared);
        Products::store_grad_hidden(grad.at, pixel, tiles.shared_hidden());
      });
      __syncthreads();
      if (channels > 0) {
        if (!tiles.stays()) tiles.load(chunk, range.sample, place);
        if (problem.need_parameters)
          Products::add_grad_weight(tiles.tile(), tiles.shared_hidden(), channels, grad_weight);
        if (problem.grad_input) write_grad_input(problem, tiles, range.sample, grad_place, chunk);
      }
      __syncthreads();
    }
  }
  if (problem.need_parameters) write_grad_weight(tiles, first_chunk, grad_weight, parts);
}

}  // namespace crossd_ops::cuda
