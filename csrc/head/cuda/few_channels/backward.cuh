// The gradients of the head's parameters where the input has few channels and needs none, as that of a network's first
// layer, with the names of head/problem.h and few_channels/pixels.cuh. All follow from sums over pixels, without a
// pass for g_h:
//
//   S(g_z n)_h = scale_h (W1_h S(g_z x'^T)_h + (W1 p + b1 - mean)_h S(g_z)_h)
//   g_W1 = gain scale (S(g_z x'^T) - S(g_z) S(x')^T / N - S(g_z n) S(n x'^T) / N)
//   S(n x'^T) = scale W1 (S(x' x'^T) - S(x') S(x')^T / N)
//
// and of given statistics g_W1 = gain scale S(g_z x^T). The first pass over a block's pixels has
// the moments, for which the second has no registers left. Floor in bytes: the input once.
#pragma once
#include "head/cuda/few_channels/pixels.cuh"
#include "head/cuda/head_join.cuh"

namespace crossd_ops::cuda {

// What a block leaves: as head_sums, then S(g_z x'^T), [channel][16], and the moments.
constexpr int kFewRows = kHiddenRows + kFewChannels, kFewOfHidden = kFewRows * kHiddenChannels;
constexpr int kFewSums = kFewOfHidden + kFewMomentsRow;
static_assert(kFewSums % kLanes == 0);

// A thread's own, of its quarter.
struct FewSums {
  float rows[kFewRows * kOfQuarter] = {};  // the second, of g_z n, stays 0

  __device__ __forceinline__ void add(const ScoreGradients& grad, const Four& active, const FewChannels& x) {
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) {
      rows[i] += grad.hidden.at[i];
#pragma unroll
      for (int score = 0; score < kHeadChannels; ++score) {
        float& sum = rows[(2 + score) * kOfQuarter + i];
        sum = fma(grad.scores[score], active.at[i], sum);
      }
#pragma unroll
      for (int j = 0; j < kFewChannels; ++j) {
        float& sum = rows[(kHiddenRows + j) * kOfQuarter + i];
        sum = fma(grad.hidden.at[i], x.at[j], sum);
      }
    }
  }
};

// The block's sums, [kFewOfHidden]. of_warps: [kHeadWarps][kFewOfHidden]
__device__ __forceinline__ void write_few_sums(FewSums& sums, const FewShared& shared, float* of_warps, float* target) {
  sum_over_lanes<kQuarters>(sums.rows);
  const int thread = threadIdx.x, lane = thread % kLanes;
  float* own = of_warps + thread / kLanes * kFewOfHidden + lane * kOfQuarter;
  if (lane < kQuarters)
#pragma unroll
    for (int row = 0; row < kFewRows; ++row) store_four(own + row * kHiddenChannels, sums.rows + row * kOfQuarter);
  __syncthreads();
  const auto is_product = [](int index) { return index / kHiddenChannels == 1; };
  if (thread < kFewOfHidden && !is_product(thread)) target[thread] = sum_over_warps(of_warps, kFewOfHidden, thread);
  if (thread >= kHiddenChannels) return;
  float product = shared.offsets[thread] * sum_over_warps(of_warps, kFewOfHidden, thread);
#pragma unroll
  for (int j = 0; j < kFewChannels; ++j)
    product = fma(shared.weights[thread][j],
                  sum_over_warps(of_warps, kFewOfHidden, (kHiddenRows + j) * kHiddenChannels + thread), product);
  target[kHiddenChannels + thread] = product;
}

template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadBackwardBlocks)
    head_sums_few(HeadBackward problem, HeadWork work, float* sums) {
  const HeadInput& input = problem.input;
  FewShared& shared = *dynamic_shared<FewShared>();
  const FewPixels<T> pixels(input, problem.training);
  const HeadItems items(input.shape, work);
  float *of_warps = reinterpret_cast<float*>(&shared + 1), *target = sums + static_cast<int64_t>(blockIdx.x) * kFewSums;
  write_few_moments(pixels, items, of_warps, target + kFewOfHidden);
  write_few_rows(problem.parameters, input, pixels.pivot, problem.mean, problem.variance, shared);
  const int thread = threadIdx.x, first_of_warp = thread / kLanes * kLanes;
  FewSums own_sums;
  for (int64_t item = items.first(); item < items.last();) {
    const PixelRange range = items.next_range(item);
    PixelWalk walk(input.shape, static_cast<int>(range.first + threadIdx.x));
    if (threadIdx.x < kLanes) write_channels(rotation_problem(problem), range.sample, shared.channels);
    __syncthreads();
    const FewRows rows(shared);  // not before: write_channels needs registers
    FewChannels next = pixels.load(range.sample, walk.place(input.strides, thread < length_of(range)));
    const ChannelGradient<float> channel = channel_gradient(shared.channels);
    for (int left = length_of(range); left > 0; left -= kHeadThreads) {
      const FewChannels own = next;
      walk.advance(kHeadThreads);
      next = pixels.load(range.sample, walk.place(input.strides, thread + kHeadThreads < left));
      const int inside = left - first_of_warp;
#pragma unroll 1
      for (int i = 0; i < kFewTurns; ++i) {
        const FewChannels x = pixel_of_lane(own, pixel_of_turn(i));
        const ScoredQuarter quarter = scored_quarter(x, rows);
        own_sums.add(score_gradients(quarter, pixel_of_turn(i) < inside, channel, rows), quarter.active, x);
      }
    }
    __syncthreads();
  }
  write_few_sums(own_sums, shared, of_warps, target);
}

// g_W1 of a hidden channel and a channel, from all sums; products: S(g_z x'^T) of both.
__device__ __forceinline__ double grad_of_few_weights(const HeadBackward& problem, int hidden, int channel,
                                                      double pixels, double sum, double product, const double* moments,
                                                      double products) {
  const HeadParameters& parameters = problem.parameters;
  const double scale = 1 / sqrt(problem.variance[hidden] + parameters.epsilon);
  const double gain = load_as<float>(parameters.gain.dtype, parameters.gain.data, hidden);
  if (!problem.training) return gain * scale * products;
  double of_normalised = 0;
  for (int i = 0; i < problem.input.channels; ++i) {
    const double covariance = moments[place_of_product(i, channel)] - moments[i] * moments[channel] / pixels;
    of_normalised +=
        scale * covariance *
        load_as<float>(parameters.weight1.dtype, parameters.weight1.data, hidden * problem.input.channels + i);
  }
  return gain * scale * (products - (sum * moments[channel] + product * of_normalised) / pixels);
}

// As head_join, with all sums in `sums`, [blocks][kFewSums]; the blocks that join S(g_z x'^T) make g_W1 of it. dynamic
// shared memory: 4 * kHeadThreads sums.
template <typename Sum>
__global__ void __launch_bounds__(kHeadThreads)
    head_join_few(HeadBackward problem, int blocks, double pixels, const float* sums) {
  Sum* scratch = dynamic_shared<Sum>();
  if (blockIdx.x == gridDim.x - 1) return write_grad_bias2(problem, scratch);
  const int lane = threadIdx.x % kLanes;
  const int index = static_cast<int>(blockIdx.x) * kLanes + lane;
  Sum totals[3] = {};  // the lane's own; of a row of g_z and one of g_z n; of the moments, twice
  sum_columns({sums + index, sums + lane, sums + kFewOfHidden + lane % kFewMomentsRow}, kFewSums, blocks, scratch,
              totals);
  if (threadIdx.x >= kLanes) return;
  if (index < kHiddenSums) return write_hidden_sum(problem, index, totals[0]);
  const int hidden = index % kHiddenChannels, channel = (index - kHiddenSums) / kHiddenChannels;
  scratch[lane] = totals[1], scratch[kLanes + lane] = totals[2];  // which no other lane has read
  __syncwarp();
  if (channel >= problem.input.channels) return;
  const HeadTarget& target = problem.grad_weight1;
  store_as(target.dtype, target.data, hidden * problem.input.channels + channel,
           grad_of_few_weights(problem, hidden, channel, pixels, scratch[hidden], scratch[kHiddenChannels + hidden],
                               scratch + kLanes, totals[0]));
}

}  // namespace crossd_ops::cuda
