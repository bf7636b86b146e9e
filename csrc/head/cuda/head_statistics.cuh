// The statistics of the hidden channels over a batch: what each block has of them, and how blocks are joined.
//
// Mean and sum of squared deviations, never sums of squares: in float32 for each thread (Welford 1962), lanes, warps
// and blocks joined in a fixed order (Chan, Golub, LeVeque 1979), the blocks in float64. Floor in bytes: the input
// once.
#pragma once
#include "head/cuda/head_tile.cuh"

namespace crossd_ops::cuda {

constexpr int kHeadForwardBlocks = 2;  // at once on a multiprocessor
constexpr int kMomentRows = 3;         // of what a block has, [3][16]: count, mean, sum of squared deviations

// What the second launch leaves of each part of a sample, and by which its blocks know the last part of one.
struct HeadPooled {
  float* parts;       // [samples, parts, 4, 3]
  unsigned* tickets;  // [samples], which the first launch sets to zero; null without it
};
__device__ __forceinline__ void reset_tickets(const HeadPooled& pooled, int64_t samples) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kHeadThreads + threadIdx.x;
  for (int64_t sample = thread; sample < samples; sample += static_cast<int64_t>(gridDim.x) * kHeadThreads)
    pooled.tickets[sample] = 0;
}

// Of a thread's quarter.
struct HiddenMoments {
  float count = 0, mean[kOfQuarter] = {}, squares[kOfQuarter] = {};

  __device__ __forceinline__ void add(const Four& hidden) {
    count += 1;
    const float share = 1 / count;
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) {
      const float difference = hidden.at[i] - mean[i];
      mean[i] += difference * share;
      squares[i] += difference * (hidden.at[i] - mean[i]);
    }
  }
  __device__ __forceinline__ void add(const HiddenMoments& other) {
    const float total = count + other.count, share = total > 0 ? other.count / total : 0;
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) {
      const float difference = other.mean[i] - mean[i];
      mean[i] += difference * share;
      squares[i] += other.squares[i] + difference * difference * count * share;
    }
    count = total;
  }
};

// The threads of each quarter joined, and written by the first of it, to [3][16].
__device__ __forceinline__ void write_moments(HiddenMoments moments, HiddenMoments* shared, float* target) {
#pragma unroll
  for (int distance = kLanes / 2; distance >= kQuarters; distance /= 2) {
    HiddenMoments other;
    other.count = __shfl_xor_sync(kAllLanes, moments.count, distance);
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) {
      other.mean[i] = __shfl_xor_sync(kAllLanes, moments.mean[i], distance);
      other.squares[i] = __shfl_xor_sync(kAllLanes, moments.squares[i], distance);
    }
    moments.add(other);
  }
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  if (lane < kQuarters) shared[warp * kQuarters + lane] = moments;
  __syncthreads();
  if (threadIdx.x >= kQuarters) return;
  for (int other = 1; other < kHeadWarps; ++other) moments.add(shared[other * kQuarters + lane]);
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i) {
    float* at = target + lane * kOfQuarter + i;
    at[0] = moments.count, at[kHiddenChannels] = moments.mean[i], at[2 * kHiddenChannels] = moments.squares[i];
  }
}

// moments: [blocks][3][16]
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadForwardBlocks)
    head_moments(HeadForward problem, HeadWork work, float* moments, HeadPooled pooled) {
  reset_tickets(pooled, problem.input.shape.samples);
  HeadTiles<T> tiles(problem.input, problem.parameters.weight1, work);
  if (threadIdx.x < kHiddenChannels)
    tiles.shared.rows[kBias][threadIdx.x] =
        load_as<float>(problem.parameters.bias1.dtype, problem.parameters.bias1.data, threadIdx.x);
  HiddenMoments own;
  for (int64_t item = tiles.items.first(); item < tiles.items.last();) {
    const PixelRange range = tiles.items.next_range(item);
    PixelWalk walk = tiles.walk(range);
    for (int left = length_of(range); left > 0; left -= tiles.pixels()) {
      tiles.make_hidden(range.sample, walk.place(problem.input.strides, tiles.inside(left)));
      walk.advance(tiles.pixels());
      __syncthreads();
      tiles.for_each_pixel(left, [&](int, bool inside, const Four& hidden) {
        if (inside) own.add(hidden);
      });
      __syncthreads();
    }
  }
  write_moments(own, reinterpret_cast<HiddenMoments*>(tiles.shared.tile),
                moments + static_cast<int64_t>(blockIdx.x) * kMomentRows * kHiddenChannels);
}

// What a batch norm keeps, by one warp. Lanes from 16 on have no channel.
__device__ __forceinline__ void track(const RunningStatistics& running, double mean, double variance) {
  const int channel = threadIdx.x % kLanes;
  const int64_t batches = running.batches ? *running.batches + 1 : 0;
  __syncwarp();
  if (channel == 0 && running.batches) *running.batches = batches;
  if (channel >= kHiddenChannels || !running.mean.data) return;
  const double share = !running.of_all ? running.momentum : batches > 0 ? 1.0 / static_cast<double>(batches) : 0;
  const auto move = [&](const HeadTarget& target, double to) {
    const float value = load_as<float>(target.dtype, target.data, channel);
    store_as(target.dtype, target.data, channel, value + static_cast<float>(share * (to - value)));
  };
  move(running.mean, mean), move(running.variance, variance);
}

// The statistics in use, into shared[0 .. 31]: mean and variance of channel c by thread c, which gives those of a
// batch. By every block in the same way; the first one writes them, and what the norm keeps. To be followed by
// __syncthreads.
__device__ __forceinline__ void use_statistics(const HeadForward& problem, const HeadWork& work, double mean,
                                               double squares, float* shared) {
  const int channel = threadIdx.x;
  if (channel < kHiddenChannels) {
    double variance = squares / work.pixels;
    if (!problem.training) {
      mean = load_as<float>(problem.given_mean.dtype, problem.given_mean.data, channel);
      variance = load_as<float>(problem.given_variance.dtype, problem.given_variance.data, channel);
    }
    shared[channel] = static_cast<float>(mean), shared[kHiddenChannels + channel] = static_cast<float>(variance);
    if (blockIdx.x == 0) problem.mean[channel] = shared[channel];
    if (blockIdx.x == 0) problem.variance[channel] = shared[kHiddenChannels + channel];
  }
  if (problem.training && blockIdx.x == 0 && channel < kLanes)
    track(problem.running, mean, squares / (work.pixels - 1));
}

// The same from what the blocks have of a batch.
__device__ __forceinline__ void join_moments(const HeadForward& problem, const HeadWork& work, const float* moments,
                                             double* sums, float* shared) {
  constexpr int kRows = kHeadThreads / kHiddenChannels;
  const int channel = threadIdx.x % kHiddenChannels, row = threadIdx.x / kHiddenChannels;
  double mean = 0, squares = 0;
  const double pixels = work.pixels;
  if (problem.training) {  // the first block's mean is taken off, so that no large number is squared
    const double from = moments[kHiddenChannels + channel];
    double sum = 0;
    for (int block = row; block < work.blocks; block += kRows) {
      const float* at = moments + block * kMomentRows * kHiddenChannels + channel;
      const double difference = at[kHiddenChannels] - from;
      sum += at[0] * difference;
      squares += at[2 * kHiddenChannels] + at[0] * difference * difference;
    }
    sums[threadIdx.x * 2] = sum, sums[threadIdx.x * 2 + 1] = squares;
    __syncthreads();
    if (threadIdx.x < kHiddenChannels) {
      for (int other = 1; other < kRows; ++other) {
        sum += sums[(other * kHiddenChannels + channel) * 2];
        squares += sums[(other * kHiddenChannels + channel) * 2 + 1];
      }
      squares = fmax(squares - sum * sum / pixels, 0.0);
      mean = from + sum / pixels;
    }
  }
  use_statistics(problem, work, mean, squares, shared);
}

}  // namespace crossd_ops::cuda
