// The whole head, from the input of a layer to its shift: the equations are in head/problem.h.
//
// In training two launches: the statistics (head_statistics.cuh), and the pooled scores of each part of a sample, which
// the block that is last of a sample joins. In evaluation the second, and a launch that joins. No hidden channel goes
// to memory: both passes make them from the input, of which the second finds in L2 what is small enough; of less than
// 64 channels in float32 the input has fewer bytes than hidden channels that are written and read again. Inputs of at
// most three channels have kernels of their own (few_channels/). Floor in bytes: the input once for each pass.
#pragma once
#include "common/cuda/last_block.cuh"
#include "head/cuda/head_statistics.cuh"

namespace crossd_ops::cuda {

__host__ __device__ inline RotationHeadForward rotation_problem(const HeadForward& problem, float* pooled) {
  return {problem.input.shape, nullptr, {}, Dtype::float32, problem.exact, problem.shift, problem.statistics, pooled};
}

// The rows of shared memory that both ways need. mean, variance: [16], of which a thread reads what may be its own. To
// be followed by __syncthreads.
__device__ __forceinline__ void write_rows(const HeadParameters& parameters, const float* mean, const float* variance,
                                           HeadShared& shared) {
  const auto value = [](const HeadValues& values, int index) {
    return load_as<float>(values.dtype, values.data, index);
  };
  const int channel = threadIdx.x;
  if (threadIdx.x < kLanes) {
    if (channel < kHeadChannels) shared.bias2[channel] = value(parameters.bias2, channel);
    float* weight2 = shared.rows[kWeight2];
    for (int i = channel; i < kHeadChannels * kHiddenChannels; i += kLanes) weight2[i] = value(parameters.weight2, i);
    if (channel < kHiddenChannels) {
      shared.rows[kBias][channel] = value(parameters.bias1, channel);
      shared.rows[kMean][channel] = mean[channel];
      shared.rows[kScale][channel] = static_cast<float>(1 / sqrt(variance[channel] + parameters.epsilon));
      shared.rows[kGain][channel] = value(parameters.gain, channel);
      shared.rows[kOffset][channel] = value(parameters.offset, channel);
    }
  }
}

// What a thread needs for its quarter of every pixel, from shared memory: weight2 is [4][16].
struct ScoreRows {
  Four weight2[kHeadChannels];
  float bias2;

  __device__ __forceinline__ ScoreRows(const float* shared_weight2, const float* shared_bias2)
      : bias2(shared_bias2[threadIdx.x % kQuarters]) {
#pragma unroll
    for (int score = 0; score < kHeadChannels; ++score)
      weight2[score] = load_four(shared_weight2 + score * kHiddenChannels + threadIdx.x % kQuarters * kOfQuarter);
  }
};
struct QuarterRows : ScoreRows {
  Four mean, scale, gain, offset;

  __device__ __forceinline__ explicit QuarterRows(const HeadShared& shared)
      : ScoreRows(shared.rows[kWeight2], shared.bias2),
        mean(shared.row(kMean)),
        scale(shared.row(kScale)),
        gain(shared.row(kGain)),
        offset(shared.row(kOffset)) {}
};

// Of a pixel, a thread's own: four hidden channels and a score.
struct ScoredQuarter {
  Four active;              // max(gain n + offset, 0), with the names of head/problem.h
  bool is_off[kOfQuarter];  // whether the maximum is 0
  float score;
};
struct HeadQuarter : ScoredQuarter {
  Four normalised;  // n
};
// Of what each quarter of a pixel adds to the scores the sums, a score to each quarter.
__device__ __forceinline__ float sum_of_quarters(const float (&scores)[kHeadChannels]) {
  const bool odd = threadIdx.x & 1, second = threadIdx.x & 2;
  float halves[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float own = odd ? scores[2 * i + 1] : scores[2 * i], others = odd ? scores[2 * i] : scores[2 * i + 1];
    halves[i] = own + __shfl_xor_sync(kAllLanes, others, 1);
  }
  return (second ? halves[1] : halves[0]) + __shfl_xor_sync(kAllLanes, second ? halves[0] : halves[1], 2);
}
// By all quarters of a pixel. values: gain n + offset.
__device__ __forceinline__ ScoredQuarter scored_quarter(const Four& values, const ScoreRows& rows) {
  ScoredQuarter result;
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i) {
    result.is_off[i] = values.at[i] <= 0;  // NaN stays
    result.active.at[i] = result.is_off[i] ? 0 : values.at[i];
  }
  float scores[kHeadChannels] = {};
#pragma unroll
  for (int score = 0; score < kHeadChannels; ++score)
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i)
      scores[score] = fma(rows.weight2[score].at[i], result.active.at[i], scores[score]);
  result.score = rows.bias2 + sum_of_quarters(scores);
  return result;
}
__device__ __forceinline__ HeadQuarter quarter_of(const Four& hidden, const QuarterRows& rows) {
  Four normalised, values;
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i) {
    normalised.at[i] = (hidden.at[i] - rows.mean.at[i]) * rows.scale.at[i];
    values.at[i] = fma(rows.gain.at[i], normalised.at[i], rows.offset.at[i]);
  }
  return {scored_quarter(values, rows), normalised};
}

// The threads of each score joined, as what the first of some parts of a sample has, [4][3]; the others have nothing.
// shared: where nobody reads, of which only the first warp's lanes read what is written.
__device__ __forceinline__ void write_pooled(Pooled<float> pooled, float* shared, float* pooled_parts, int64_t item,
                                             int64_t next_item) {
  float* target = pooled_parts + item * kHeadChannels * 3;
  const int values = static_cast<int>(next_item - item) * kHeadChannels * 3;
  for (int i = kHeadChannels * 3 + threadIdx.x; i < values; i += kHeadThreads)
    target[i] = i % 3 == 0 ? Pooled<float>().maximum : 0;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  join_lanes(pooled, kHeadChannels);
  if (lane < kHeadChannels) {
    float* at = shared + (warp * kHeadChannels + lane) * 3;
    at[0] = pooled.maximum, at[1] = pooled.sum, at[2] = pooled.weighted;
  }
  __syncthreads();
  if (warp != 0) return;
  const Pooled<float> total = join_parts(shared, kHeadWarps);
  if (lane >= kHeadChannels) return;
  float* at = target + lane * 3;
  at[0] = total.maximum, at[1] = total.sum, at[2] = total.weighted;
}

// Joins a sample by the block that brings the last of its items, without tickets by none: in evaluation, where no
// earlier launch has set them to zero, rotation_head_finish does it.
__device__ __forceinline__ void finish_if_last(const HeadForward& problem, const HeadWork& work,
                                               const HeadPooled& pooled, int64_t sample, int64_t items) {
  if (!pooled.tickets) return;
  const unsigned all = work.parts.count;
  const bool is_last = is_last_block(pooled.tickets + sample, all, static_cast<unsigned>(items));
  if (threadIdx.x < kLanes && is_last)
    finish_sample(rotation_problem(problem, pooled.parts), sample,
                  join_parts(pooled.parts + sample * all * kHeadChannels * 3, work.parts.count));
}

// moments: of head_moments
template <typename T>
__global__ void __launch_bounds__(kHeadThreads, kHeadForwardBlocks)
    head_pool(HeadForward problem, HeadWork work, const float* moments, HeadPooled target) {
  HeadTiles<T> tiles(problem.input, problem.parameters.weight1, work);
  float *scratch = tiles.shared.hidden[0], *statistics = tiles.shared.hidden[kHeadWarps / 2];
  join_moments(problem, work, moments, reinterpret_cast<double*>(scratch), statistics);
  write_rows(problem.parameters, statistics, statistics + kHiddenChannels, tiles.shared);
  __syncthreads();
  for (int64_t item = tiles.items.first(); item < tiles.items.last();) {
    const int64_t first_item = item;
    const PixelRange range = tiles.items.next_range(item);
    PixelWalk walk = tiles.walk(range);
    Pooled<float> pooled;
    for (int left = length_of(range); left > 0; left -= tiles.pixels()) {
      tiles.make_hidden(range.sample, walk.place(problem.input.strides, tiles.inside(left)));
      walk.advance(tiles.pixels());
      __syncthreads();
      const QuarterRows rows(tiles.shared);
      tiles.for_each_pixel(left, [&](int, bool inside, const Four& hidden) {
        const float score = quarter_of(hidden, rows).score;
        if (inside) pooled.add(score);
      });
      __syncthreads();
    }
    write_pooled(pooled, tiles.shared.tile[0], target.parts, first_item, item);
    finish_if_last(problem, work, target, range.sample, item - first_item);
  }
}

}  // namespace crossd_ops::cuda
