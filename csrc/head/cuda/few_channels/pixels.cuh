// The head of an input of at most three channels, as a network's first layer has it, with the names of head/problem.h.
//
// x' = x - p, with p, the pivot, near the mean of the batch, so that no large numbers are squared. Of few channels the
// sums over pixels of x' and of x' x'^T hold all that the batch norm needs to know, for all hidden channels at once:
//
//   mean = W1 (p + S(x') / N) + b1,   variance_h = W1_h (S(x' x'^T) - S(x') S(x')^T / N) W1_h^T / N
//
// A thread has a pixel of each 256 in registers. Four threads, the quarters, get it by shuffles, and each makes four
// hidden channels and a score of it, as in the other kernels of the head.
#pragma once
#include "head/cuda/head.cuh"

namespace crossd_ops::cuda {

constexpr int kFewChannels = 3;
constexpr int kFewMoments = kFewChannels + kFewChannels * (kFewChannels + 1) / 2;  // with the upper triangle
constexpr int kFewMomentsRow = kHiddenChannels;                                    // behind them zeros
static_assert(kFewMoments <= kFewMomentsRow);

struct FewChannels {
  float at[kFewChannels];
};

// Where the product of two channels lies behind the sums of each, row by row.
__host__ __device__ constexpr int place_of_product(int one, int other) {
  const int row = one < other ? one : other, column = one < other ? other : one;
  return kFewChannels + row * kFewChannels - row * (row - 1) / 2 + column - row;
}

// S(x') and S(x' x'^T) of a thread's pixels.
struct FewMoments {
  float sums[kFewMoments] = {};

  __device__ __forceinline__ void add(const FewChannels& x) {
#pragma unroll
    for (int i = 0; i < kFewChannels; ++i) {
      sums[i] += x.at[i];
#pragma unroll
      for (int j = i; j < kFewChannels; ++j) {
        float& sum = sums[place_of_product(i, j)];
        sum = fma(x.at[i], x.at[j], sum);
      }
    }
  }
};

// A lane's sums over the lanes whose number differs by multiples of kNearest, for lanes below it.
template <int kNearest, int kCount>
__device__ __forceinline__ void sum_over_lanes(float (&sums)[kCount]) {
#pragma unroll
  for (int distance = kLanes / 2; distance >= kNearest; distance /= 2)
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] += __shfl_xor_sync(kAllLanes, sums[i], distance);
}
// Of what each warp has, [kHeadWarps][count], in the order of the warps.
__device__ __forceinline__ float sum_over_warps(const float* of_warps, int count, int index) {
  float sum = of_warps[index];
#pragma unroll
  for (int warp = 1; warp < kHeadWarps; ++warp) sum += of_warps[warp * count + index];
  return sum;
}

// A thread's pixels, less the pivot; channels that the input has not are 0.
template <typename T>
struct FewPixels {
  const HeadInput& input;
  FewChannels pivot{};

  // The pivot is the mean of 32 pixels spread over batch, rows and columns: the same for every warp. Without batch
  // statistics nothing is squared, and it is 0.
  __device__ __forceinline__ FewPixels(const HeadInput& input_, bool of_batch) : input(input_) {
    if (!of_batch) return;
    const int lane = threadIdx.x % kLanes;
    const auto spread = [&](int64_t count, int step) { return count * (lane * step % kLanes) / kLanes; };
    const FewChannels x =
        load(spread(input.shape.samples, 1),
             spread(input.shape.rows, 5) * input.strides.row + spread(input.shape.columns, 11) * input.strides.column);
    float sums[kFewChannels];
#pragma unroll
    for (int i = 0; i < kFewChannels; ++i) sums[i] = x.at[i] / kLanes;
    sum_over_lanes<1>(sums);
#pragma unroll
    for (int i = 0; i < kFewChannels; ++i) pivot.at[i] = sums[i];
  }

  // place: of PixelWalk; where that is no pixel, what adds nothing to any sum.
  __device__ __forceinline__ FewChannels load(int64_t sample, int64_t place) const {
    FewChannels x{};
    if (place < 0) return x;
    const T* at = static_cast<const T*>(input.data) + sample * input.strides.sample + place;
#pragma unroll
    for (int i = 0; i < kFewChannels; ++i)
      if (i < input.channels) x.at[i] = load_element<float>(at + i * input.strides.channel) - pivot.at[i];
    return x;
  }
};

// n = weights x' + offsets, and what follows it.
struct FewShared {
  double scratch[2 * kHeadThreads];
  float weights[kHiddenChannels][kFewChannels], offsets[kHiddenChannels];
  float gain[kHiddenChannels], offset[kHiddenChannels];
  float statistics[2 * kHiddenChannels];  // mean and variance in use
  float weight2[kHeadChannels][kHiddenChannels], bias2[kHeadChannels];
  float channels[kHeadChannels * 3];  // backward, see write_channels
};

// mean, variance: [16], of which a thread reads what may be its own. To be followed by __syncthreads.
__device__ __forceinline__ void write_few_rows(const HeadParameters& parameters, const HeadInput& input,
                                               const FewChannels& pivot, const float* mean, const float* variance,
                                               FewShared& shared) {
  const auto value = [](const HeadValues& values, int64_t index) {
    return load_as<float>(values.dtype, values.data, index);
  };
  const int thread = threadIdx.x;
  if (thread < kHeadChannels) shared.bias2[thread] = value(parameters.bias2, thread);
  if (thread < kHeadChannels * kHiddenChannels)
    shared.weight2[thread / kHiddenChannels][thread % kHiddenChannels] = value(parameters.weight2, thread);
  if (thread >= kHiddenChannels) return;
  const double scale = 1 / sqrt(variance[thread] + parameters.epsilon);
  double from_mean = static_cast<double>(value(parameters.bias1, thread)) - mean[thread];
#pragma unroll
  for (int i = 0; i < kFewChannels; ++i) {
    const double weight = i < input.channels ? value(parameters.weight1, thread * input.channels + i) : 0;
    from_mean += weight * pivot.at[i];
    shared.weights[thread][i] = static_cast<float>(scale * weight);
  }
  shared.offsets[thread] = static_cast<float>(scale * from_mean);
  shared.gain[thread] = value(parameters.gain, thread), shared.offset[thread] = value(parameters.offset, thread);
}

// What a thread needs for its quarter of every pixel: gain n + offset = weights x' + offset.
struct FewRows : ScoreRows {
  FewChannels weights[kOfQuarter];
  Four offset;

  __device__ __forceinline__ explicit FewRows(const FewShared& shared) : ScoreRows(shared.weight2[0], shared.bias2) {
    const int first = threadIdx.x % kQuarters * kOfQuarter;
#pragma unroll
    for (int i = 0; i < kOfQuarter; ++i) {
      const float gain = shared.gain[first + i];
#pragma unroll
      for (int j = 0; j < kFewChannels; ++j) weights[i].at[j] = gain * shared.weights[first + i][j];
      offset.at[i] = fma(gain, shared.offsets[first + i], shared.offset[first + i]);
    }
  }
};
// By all quarters of a pixel.
__device__ __forceinline__ ScoredQuarter scored_quarter(const FewChannels& x, const FewRows& rows) {
  Four values = rows.offset;
#pragma unroll
  for (int i = 0; i < kOfQuarter; ++i)
#pragma unroll
    for (int j = 0; j < kFewChannels; ++j) values.at[i] = fma(rows.weights[i].at[j], x.at[j], values.at[i]);
  return scored_quarter(values, static_cast<const ScoreRows&>(rows));
}

// The quarters take the 32 pixels of a warp in turns, eight at once.
constexpr int kFewTurns = kQuarters;
__device__ __forceinline__ int pixel_of_turn(int turn) {
  return turn * (kLanes / kQuarters) + static_cast<int>(threadIdx.x) % kLanes / kQuarters;
}
__device__ __forceinline__ FewChannels pixel_of_lane(const FewChannels& own, int lane) {
  FewChannels x;
#pragma unroll
  for (int i = 0; i < kFewChannels; ++i) x.at[i] = __shfl_sync(kAllLanes, own.at[i], lane);
  return x;
}

// The moments of a block's pixels, [kFewMomentsRow]. of_warps: [kHeadWarps][kFewMoments]
template <typename T>
__device__ __forceinline__ void write_few_moments(const FewPixels<T>& pixels, const HeadItems& items, float* of_warps,
                                                  float* target) {
  constexpr int kAtOnce = 4;  // pixels that a thread asks for before it waits
  const MapStrides& strides = pixels.input.strides;
  FewMoments own;
  for (int64_t item = items.first(); item < items.last();) {
    const PixelRange range = items.next_range(item);
    PixelWalk walk(items.shape, static_cast<int>(range.first + threadIdx.x));
    for (int left = length_of(range); left > 0; left -= kAtOnce * kHeadThreads) {
      FewChannels x[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        x[i] = pixels.load(range.sample, walk.place(strides, static_cast<int>(threadIdx.x) + i * kHeadThreads < left));
        walk.advance(kHeadThreads);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) own.add(x[i]);
    }
  }
  sum_over_lanes<1>(own.sums);
  if (threadIdx.x % kLanes == 0)
#pragma unroll
    for (int i = 0; i < kFewMoments; ++i) of_warps[threadIdx.x / kLanes * kFewMoments + i] = own.sums[i];
  __syncthreads();
  if (threadIdx.x < kFewMomentsRow)
    target[threadIdx.x] = threadIdx.x < kFewMoments ? sum_over_warps(of_warps, kFewMoments, threadIdx.x) : 0;
}

}  // namespace crossd_ops::cuda
