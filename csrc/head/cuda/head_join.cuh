// The join of the small gradients of the head from what head_sums and head_gradient leave of each block, in float64 and
// in a fixed order.
#pragma once
#include "head/cuda/head_gradient.cuh"

namespace crossd_ops::cuda {

// That of bias2, which is that of the pooled scores, summed over the samples: by one block.
__device__ __forceinline__ void write_grad_bias2(const HeadBackward& problem, double* scratch) {
  double sums[kHeadChannels] = {};
  for (int64_t sample = threadIdx.x; sample < problem.input.shape.samples; sample += kHeadThreads) {
    const float *statistics = problem.statistics + sample * kHeadChannels * 3, *grad = problem.grad_shift + sample * 3;
    double v[kHeadChannels], grad_v[kHeadChannels];
#pragma unroll
    for (int score = 0; score < kHeadChannels; ++score) v[score] = statistics[score * 3 + 2];
    grad_of_pooled(v, {grad[0], grad[1], grad[2]}, problem.exact, grad_v);
#pragma unroll
    for (int score = 0; score < kHeadChannels; ++score) sums[score] += grad_v[score];
  }
#pragma unroll
  for (int score = 0; score < kHeadChannels; ++score) scratch[score * kHeadThreads + threadIdx.x] = sums[score];
  __syncthreads();
  if (threadIdx.x >= kHeadChannels) return;
  double sum = 0;
  for (int thread = 0; thread < kHeadThreads; ++thread) sum += scratch[threadIdx.x * kHeadThreads + thread];
  store_as(problem.grad_bias2.dtype, problem.grad_bias2.data, threadIdx.x, sum);
}

// Sum `index` of kHiddenSums to where it belongs.
__device__ __forceinline__ void write_hidden_sum(const HeadBackward& problem, int index, double sum) {
  const int hidden = index % kHiddenChannels, row = index / kHiddenChannels;
  const HeadTarget& target = row == 0 ? problem.grad_offset : row == 1 ? problem.grad_gain : problem.grad_weight2;
  store_as(target.dtype, target.data, row < 2 ? hidden : index - 2 * kHiddenChannels, sum);
  if (row > 0) return;
  const double rest = problem.training ? sum : 0;  // of which the mean takes all; NaN stays NaN
  const HeadValues& gain = problem.parameters.gain;
  const double scale = 1 / sqrt(problem.variance[hidden] + problem.parameters.epsilon);
  store_as(problem.grad_bias1.dtype, problem.grad_bias1.data, hidden,
           load_as<float>(gain.dtype, gain.data, hidden) * scale * (sum - rest));
}

// A lane's columns of what each block has, rows of `step`, summed: in the first warp, whose lane reads what all warps
// write into scratch, [kCount][kHeadThreads].
template <typename Sum, int kCount>
__device__ __forceinline__ void sum_columns(const float* const (&columns)[kCount], int64_t step, int blocks,
                                            Sum* scratch, Sum (&sums)[kCount]) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (int block = warp; block < blocks; block += kHeadWarps)
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] += columns[i][block * step];
#pragma unroll
  for (int i = 0; i < kCount; ++i) scratch[i * kHeadThreads + threadIdx.x] = sums[i];
  __syncthreads();
  if (warp != 0) return;
  for (int other = 1; other < kHeadWarps; ++other)
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] += scratch[i * kHeadThreads + other * kLanes + lane];
}

// A block for 32 sums, of kHiddenSums + 16 columns, and a last one. dynamic shared memory: 4 * kHeadThreads sums.
template <typename Sum>
__global__ void __launch_bounds__(kHeadThreads) head_join(HeadBackward problem, HeadGradientParts parts) {
  Sum* scratch = dynamic_shared<Sum>();
  if (blockIdx.x == gridDim.x - 1) return write_grad_bias2(problem, scratch);
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kLanes + lane;
  const bool of_sums = index < kHiddenSums;
  const int64_t step = of_sums ? kHiddenSums : kHiddenChannels * parts.columns;
  const float* from = of_sums ? parts.sums + index : parts.weight1 + (index - kHiddenSums);
  Sum sums[1] = {};
  sum_columns({from}, step, of_sums ? parts.sum_blocks : parts.blocks, scratch, sums);
  if (warp != 0) return;
  const Sum sum = sums[0];
  if (of_sums) return write_hidden_sum(problem, static_cast<int>(index), sum);
  const int64_t hidden = (index - kHiddenSums) / parts.columns, channel = (index - kHiddenSums) % parts.columns;
  const HeadTarget& target = problem.grad_weight1;
  if (channel < problem.input.channels)
    store_as(target.dtype, target.data, hidden * problem.input.channels + channel, sum);
}

}  // namespace crossd_ops::cuda
