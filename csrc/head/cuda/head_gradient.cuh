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
  float* sums;      // [blocks][kHiddenSums]
  float* weight1;   // [blocks][16][columns]
  int64_t columns;  // channels of the input, in whole tiles
};

struct ScoreGradients {
  Four hidden;                  // g_z of the quarter
  float scores[kHeadChannels];  // g_m
};
__device__ __forceinline__ RotationHeadBackward rotation_problem(const HeadBackward& problem) {
  return {{}, nullptr, {}, Dtype::float32, problem.exact, problem.grad_shift, problem.statistics, nullptr, {}};
}

// By all quarters of a pixel; of a pixel that is not inside all are 0.
__device__ __forceinline__ ScoreGradients score_gradients(const HeadQuarter& quarter, bool inside,
                                                          const HeadShared& shared) {
  const int lane = threadIdx.x % kLanes;
  const float* at = shared.channels + lane % kQuarters * 3;
  const ChannelGradient<float> channel{at[0], at[1], at[2]};
  const float own = inside ? channel.at(quarter.score) : 0;
  ScoreGradients result{};
#pragma unroll
  for (int score = 0; score < kHeadChannels; ++score) {
    result.scores[score] = __shfl_sync(kAllLanes, own, lane - lane % kQuarters + score);
    const Four weight = load_four(shared.row(kWeight2 + score));
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i)
      result.hidden.at[i] = fma(weight.at[i], result.scores[score], result.hidden.at[i]);
  }
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i)
    if (quarter.active.at[i] == 0) result.hidden.at[i] = 0;
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadBackwardBlocks)
    head_sums(HeadBackward problem, HeadWork work, float* sums) {
  HeadTiles<T> tiles(problem.input, problem.parameters.weight1, work);
  write_rows(problem.parameters, problem.mean, problem.variance, tiles.shared);
  float own[kHiddenRows][kOfQuarter] = {};
  for (int64_t item = tiles.first_item(); item < tiles.last_item(); ++item) {
    const PixelRange range = range_of(work.parts, problem.input.shape, item);
    if (tiles.warp == 0) write_channels(rotation_problem(problem), range.sample, tiles.shared.channels);
    for (int64_t first = range.first; first < range.last; first += tiles.pixels()) {
      tiles.make_hidden(
          place_of_pixel(problem.input.shape, problem.input.strides, range, tiles.first_of_warp(first) + tiles.lane));
      __syncthreads();
      tiles.for_each_pixel(range, first, [&](const float*, bool inside, const Four& hidden) {
        const HeadQuarter quarter = quarter_of(hidden, tiles.shared);
        const ScoreGradients grad = score_gradients(quarter, inside, tiles.shared);
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
__device__ __forceinline__ void join_sums(const HeadBackward& problem, const HeadWork& work, const float* sums,
                                          double* scratch, float* shared) {
  constexpr int kRows = kHeadThreads / kLanes;
  static_assert(kLanes == 2 * kHiddenChannels);
  const int column = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
  double sum = 0;
  for (int block = row; problem.training && block < work.blocks; block += kRows)
    sum += sums[block * kHiddenSums + column];
  scratch[threadIdx.x] = sum;
  __syncthreads();
  if (row != 0) return;
  for (int other = 1; other < kRows; ++other) sum += scratch[other * kLanes + column];
  const HeadValues& gain = problem.parameters.gain;
  shared[column] =
      static_cast<float>(load_as<float>(gain.dtype, gain.data, column % kHiddenChannels) * sum / work.pixels);
}

// g_h of a thread's quarter, to where nobody else reads and this thread has read.
__device__ __forceinline__ void store_grad_hidden(const Four& hidden, bool inside, const HeadShared& shared,
                                                  float* target) {
  const HeadQuarter quarter = quarter_of(hidden, shared);
  const ScoreGradients grad = score_gradients(quarter, inside, shared);
  const Four scale = load_four(shared.row(kScale)), gain = load_four(shared.row(kGain));
  const Four mean_grad = load_four(shared.row(kMeanGrad)), mean_product = load_four(shared.row(kMeanProduct));
  float values[kOfQuarter];
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i) {
    const float rest = fma(-quarter.normalised.at[i], mean_product.at[i], -mean_grad.at[i]);
    values[i] = inside ? scale.at[i] * fma(gain.at[i], grad.hidden.at[i], rest) : 0;
  }
  store_four(target, values);
}

// A lane's part of the gradient of the first convolution: four hidden channels, those of a quarter, of four channels of
// its warp's chunk; over the pixels of a tile.
__device__ __forceinline__ void add_grad_weight(const float* tile, const float* grad_hidden, int channels,
                                                float (&grad)[kOfQuarter][4]) {
  const int lane = threadIdx.x % kLanes, channel = lane / kQuarters * 4;
  if (channel >= channels) return;
#pragma unroll 4
  for (int pixel = 0; pixel < kTile; ++pixel) {
    const Four x = load_four(tile + pixel * kTileRow + channel);
    const Four hidden = load_four(grad_hidden + hidden_place(pixel, lane % kQuarters));
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) grad[i][j] = fma(hidden.at[i], x.at[j], grad[i][j]);
  }
}

// The gradient of a tile, in its place: each lane of its own pixel.
__device__ __forceinline__ void make_grad_input(const float* weights, const float* grad_hidden, int channels,
                                                float* tile) {
  const int lane = threadIdx.x % kLanes;
  float hidden[kHiddenChannels];
#pragma unroll
  for (int quarter = 0; quarter < kQuarters; ++quarter) {
    const Four four = load_four(grad_hidden + hidden_place(lane, quarter));
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) hidden[quarter * kOfQuarter + i] = four.at[i];
  }
#pragma unroll 1
  for (int channel = 0; channel < channels; channel += 4) {
    float grad[4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int h = 0; h < kHiddenChannels; h += 4) {
        const Four weight = load_four(weights + (channel + j) * kWeightRow + h);
#pragma unroll
        for (int i = 0; i < 4; ++i) grad[j] = fma(weight.at[i], hidden[h + i], grad[j]);
      }
    store_four(tile + lane * kTileRow + channel, grad);
  }
}

constexpr int kGradRow = kTile + 8;  // floats: vectors of neighbouring rows lie in other banks

// Of the warps that have the same channels, into the block's part.
template <typename T>
__device__ __forceinline__ void write_grad_weight(HeadTiles<T>& tiles, int first_chunk,
                                                  const float (&grad)[kOfQuarter][4], const HeadGradientParts& target) {
  const int ways = tiles.work.ways, lane = tiles.lane;
  float* own = tiles.shared.tile[tiles.warp];
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i)
    store_four(own + (i * kQuarters + lane % kQuarters) * kGradRow + lane / kQuarters * 4, grad[i]);
  __syncthreads();
  for (int i = threadIdx.x; i < ways * kHiddenChannels * kTile; i += kHeadThreads) {
    const int way = i / (kHiddenChannels * kTile), hidden = i / kTile % kHiddenChannels, channel = i % kTile;
    const int place = (hidden % kOfQuarter * kQuarters + hidden / kOfQuarter) * kGradRow + channel;
    float sum = 0;
    for (int warp = way; warp < kHeadWarps; warp += ways) sum += tiles.shared.tile[warp][place];
    const int64_t column = static_cast<int64_t>(first_chunk + way) * kTile + channel;
    if (column < target.columns)
      target.weight1[(static_cast<int64_t>(blockIdx.x) * kHiddenChannels + hidden) * target.columns + column] = sum;
  }
}

// blockIdx.y: as many chunks of channels as a block has ways.
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadBackwardBlocks)
    head_gradient(HeadBackward problem, HeadWork work, HeadGradientParts parts) {
  const HeadInput& input = problem.input;
  HeadTiles<T> tiles(input, problem.parameters.weight1, work);
  HeadShared& shared = tiles.shared;
  write_rows(problem.parameters, problem.mean, problem.variance, tiles.shared);
  join_sums(problem, work, parts.sums, reinterpret_cast<double*>(shared.hidden[0]), shared.rows[kMeanGrad]);
  const int first_chunk = static_cast<int>(blockIdx.y) * work.ways, chunk = first_chunk + tiles.way;
  const int channels = tiles.channels_of(chunk);
  const float* grad_hidden = shared.hidden[tiles.warp - tiles.way];
  float* tile = shared.tile[tiles.warp];
  float grad_weight[kOfQuarter][4] = {};
  for (int64_t item = tiles.first_item(); item < tiles.last_item(); ++item) {
    const PixelRange range = range_of(work.parts, input.shape, item);
    if (tiles.warp == 0) write_channels(rotation_problem(problem), range.sample, shared.channels);
    for (int64_t first = range.first; first < range.last; first += tiles.pixels()) {
      const int64_t pixel = tiles.first_of_warp(first) + tiles.lane;
      const int64_t place = place_of_pixel(input.shape, input.strides, range, pixel);
      tiles.make_hidden(place);
      __syncthreads();
      tiles.for_each_pixel(range, first, [&](float* at, bool inside, const Four& hidden) {
        store_grad_hidden(hidden, inside, shared, at);
      });
      __syncthreads();
      if (channels > 0) {
        if (!tiles.stays()) tiles.load(chunk, place);
        if (problem.need_parameters) add_grad_weight(tile, grad_hidden, channels, grad_weight);
        if (problem.grad_input) {
          __syncwarp();
          make_grad_input(shared.weights[tiles.warp], grad_hidden, channels, tile);
          const MapStrides& strides = problem.grad_strides;
          const int64_t offset = static_cast<int64_t>(chunk) * kTile * strides.channel;
          const T* beside = static_cast<const T*>(problem.grad_beside);
          store_tile(tile, static_cast<T*>(problem.grad_input) + offset, beside ? beside + offset : nullptr,
                     strides.channel, work.grad_packed, place_of_pixel(input.shape, strides, range, pixel), channels);
        }
      }
      __syncthreads();
    }
  }
  if (problem.need_parameters) write_grad_weight(tiles, first_chunk, grad_weight, parts);
}

}  // namespace crossd_ops::cuda
