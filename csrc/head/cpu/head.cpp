// Lays out the work of the whole head and runs it on torch's threads; sums are joined in a fixed order.
#include "head/cpu/head.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/cpu/capability.h"
#include "head/cpu/plan.h"
#include "head/cpu/pooled.h"
#include "head/cpu/values.h"

namespace crossd_ops::cpu {
namespace {

const HeadKernels& kernels() {
  return kernels_in_use(head_kernels_baseline(), head_kernels_avx2(), head_kernels_avx512());
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kMostChunks = 64;             // a large machine's threads, and partial sums of the weight
constexpr int64_t kLargestPart = 2048;          // pixels whose scores are summed in float32
constexpr int64_t kWorthAThread = 1 << 18;      // multiply-adds, about 10 microseconds
constexpr int64_t kWeightsWorthAThread = 4096;  // of partial sums to join

// Whole tiles, but for the last of a sample.
Parts split(const MapShape& shape) {
  const int64_t pixels = shape.pixels();
  const int64_t share = ceil_divide(ceil_divide(pixels * shape.samples, kMostChunks), kTilePixels) * kTilePixels;
  const int64_t pixels_per_part = std::min(share, kLargestPart);
  return {pixels, shape.columns, ceil_divide(pixels, pixels_per_part), pixels_per_part};
}

// Runs of items; their number depends on the shape alone.
class Chunks {
 public:
  Chunks(const Parts& parts, const HeadInput& input)
      : items_(input.shape.samples * parts.count), count_(std::min(items_, kMostChunks)) {
    const int64_t work = ceil_divide(input.shape.samples * parts.pixels, count_) * kHiddenChannels;
    grain_ = std::max<int64_t>(1, kWorthAThread / (work * (input.channels + kHeadChannels)));
  }
  int64_t items() const { return items_; }
  int64_t count() const { return count_; }
  int64_t first(int64_t chunk) const { return items_ * chunk / count_; }

  // body(chunk, its first item, the one after its last)
  template <typename Body>
  void for_each(const Body& body) const {
    torch::stable::parallel_for(0, count_, grain_, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) body(chunk, first(chunk), first(chunk + 1));
    });
  }

 private:
  int64_t items_, count_, grain_;
};

FloatValues floats(const HeadValues& values, int64_t count) { return {kernels(), values, count}; }
FloatTarget floats(const HeadTarget& target, int64_t count) { return {kernels(), target, count}; }

struct FloatParameters {
  FloatValues weight1, bias1, gain, offset, weight2, bias2;

  FloatParameters(const HeadParameters& of, int64_t channels)
      : weight1(floats(of.weight1, channels * kHiddenChannels)),
        bias1(floats(of.bias1, kHiddenChannels)),
        gain(floats(of.gain, kHiddenChannels)),
        offset(floats(of.offset, kHiddenChannels)),
        weight2(floats(of.weight2, kHeadChannels * kHiddenChannels)),
        bias2(floats(of.bias2, kHeadChannels)) {}
};

// weight1 with the channels of the input first, both times 1 / sqrt(variance + epsilon) where statistics are given.
struct FoldedWeight {
  std::vector<float> weight, bias;
  std::vector<double> scale;
};
FoldedWeight folded(const FloatParameters& parameters, int64_t channels, const float* mean, const float* variance,
                    double epsilon) {
  FoldedWeight result{std::vector<float>(channels * kHiddenChannels), std::vector<float>(kHiddenChannels),
                      std::vector<double>(kHiddenChannels, 1.0)};
  for (int h = 0; h < kHiddenChannels; ++h) {
    double bias = parameters.bias1[h];
    if (mean) {
      result.scale[h] = 1 / std::sqrt(variance[h] + epsilon);
      bias = (bias - mean[h]) * result.scale[h];
    }
    result.bias[h] = static_cast<float>(bias);
    for (int64_t c = 0; c < channels; ++c)
      result.weight[c * kHiddenChannels + h] =
          static_cast<float>(parameters.weight1[h * channels + c] * result.scale[h]);
  }
  return result;
}

HeadPlan head_plan(const HeadInput& input, const FloatParameters& parameters, const FoldedWeight& weight) {
  return {split(input.shape),
          input.channels,
          input.data,
          input.shape,
          input.strides,
          input.dtype,
          weight.weight.data(),
          weight.bias.data(),
          parameters.gain.data(),
          parameters.offset.data(),
          parameters.weight2.data(),
          parameters.bias2.data()};
}

// Chan, Golub, LeVeque 1979.
void join(HiddenMoments& total, const HiddenMoments& other) {
  const double count = total.count + other.count, share = other.count / count;
  for (int h = 0; h < kHiddenChannels; ++h) {
    const double difference = other.mean[h] - total.mean[h];
    total.mean[h] += difference * share;
    total.squares[h] += other.squares[h] + difference * difference * total.count * share;
  }
  total.count = count;
}

void track(const RunningStatistics& running, const HiddenMoments& batch) {
  const int64_t batches = running.batches ? ++*running.batches : 0;
  if (!running.mean.data) return;
  const double share = !running.of_all ? running.momentum : batches > 0 ? 1.0 / static_cast<double>(batches) : 0;
  const auto move = [&](const HeadTarget& target, const auto& towards) {
    const FloatValues before = floats(HeadValues{target.data, target.dtype}, kHiddenChannels);
    FloatTarget after = floats(target, kHiddenChannels);
    for (int h = 0; h < kHiddenChannels; ++h)
      after[h] = before[h] + static_cast<float>(share * (towards(h) - before[h]));
  };
  move(running.mean, [&](int h) { return batch.mean[h]; });
  move(running.variance, [&](int h) { return batch.squares[h] / (batch.count - 1); });
}

void batch_statistics(const HeadForward& problem, const FloatParameters& parameters) {
  const FoldedWeight weight = folded(parameters, problem.input.channels, nullptr, nullptr, 0);
  const HeadPlan plan = head_plan(problem.input, parameters, weight);
  const Chunks chunks(plan.parts, problem.input);
  std::vector<HiddenMoments> moments(chunks.count());
  chunks.for_each(
      [&](int64_t chunk, int64_t begin, int64_t end) { kernels().moments(plan, begin, end, &moments[chunk]); });
  for (size_t chunk = 1; chunk < moments.size(); ++chunk) join(moments[0], moments[chunk]);
  for (int h = 0; h < kHiddenChannels; ++h) {
    problem.mean[h] = static_cast<float>(moments[0].mean[h]);
    problem.variance[h] = static_cast<float>(moments[0].squares[h] / moments[0].count);
  }
  track(problem.running, moments[0]);
}

// What leads from the gradient of the shift to that of the scores, [samples, 4].
std::vector<ChannelGradient> score_gradients(const HeadBackward& problem) {
  const int64_t samples = problem.input.shape.samples;
  std::vector<ChannelGradient> channels(samples * kHeadChannels);
  torch::stable::parallel_for(0, samples, kSamplesWorthAThread, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample)
      channel_gradients(problem.statistics + sample * kHeadChannels * 3, problem.grad_shift + sample * 3, problem.exact,
                        &channels[sample * kHeadChannels]);
  });
  return channels;
}

HiddenSums joined_sums(const std::vector<HiddenSums>& parts) {
  HiddenSums total{};
  for (const HiddenSums& part : parts) {
    for (int h = 0; h < kHiddenChannels; ++h) {
      total.grad[h] += part.grad[h], total.grad_normalised[h] += part.grad_normalised[h];
      for (int s = 0; s < kHeadChannels; ++s) total.grad_weight2[s][h] += part.grad_weight2[s][h];
    }
  }
  return total;
}

void write_small_gradients(const HeadBackward& problem, const FloatValues& gain, const HiddenSums& sums,
                           const std::vector<double>& scale) {
  FloatTarget bias1 = floats(problem.grad_bias1, kHiddenChannels), of_gain = floats(problem.grad_gain, kHiddenChannels),
              offset = floats(problem.grad_offset, kHiddenChannels),
              weight2 = floats(problem.grad_weight2, kHeadChannels * kHiddenChannels);
  for (int h = 0; h < kHiddenChannels; ++h) {
    const double rest = problem.training ? sums.grad[h] : 0;  // of which the mean takes all; NaN stays NaN
    bias1[h] = static_cast<float>(gain[h] * scale[h] * (sums.grad[h] - rest));
    of_gain[h] = static_cast<float>(sums.grad_normalised[h]);
    offset[h] = static_cast<float>(sums.grad[h]);
  }
  for (int s = 0; s < kHeadChannels; ++s) {
    for (int h = 0; h < kHiddenChannels; ++h)
      weight2[s * kHiddenChannels + h] = static_cast<float>(sums.grad_weight2[s][h]);
  }
}

void write_grad_bias2(const HeadBackward& problem, const std::vector<ChannelGradient>& channels) {
  double sums[kHeadChannels] = {};
  for (size_t i = 0; i < channels.size(); ++i)
    sums[i % kHeadChannels] += channels[i].scale * problem.statistics[i * 3 + 1];  // the gradient of v
  FloatTarget bias2 = floats(problem.grad_bias2, kHeadChannels);
  for (int s = 0; s < kHeadChannels; ++s) bias2[s] = static_cast<float>(sums[s]);
}

void write_grad_weight1(const HeadBackward& problem, const std::vector<float>& partial, int64_t parts,
                        const std::vector<double>& scale) {
  const int64_t channels = problem.input.channels, weights = channels * kHiddenChannels;
  const int64_t grain = std::max<int64_t>(1, kWeightsWorthAThread / (parts * kHiddenChannels));
  FloatTarget target = floats(problem.grad_weight1, weights);
  float* const weight1 = target.data();
  torch::stable::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      double sums[kHiddenChannels] = {};
      for (int64_t part = 0; part < parts; ++part)
        for (int h = 0; h < kHiddenChannels; ++h) sums[h] += partial[part * weights + c * kHiddenChannels + h];
      for (int h = 0; h < kHiddenChannels; ++h) weight1[h * channels + c] = static_cast<float>(sums[h] * scale[h]);
    }
  });
}

}  // namespace

void head_forward(HeadForward problem) {
  simplify_pixels(problem.input.shape, problem.input.strides, nullptr);
  const HeadInput& input = problem.input;
  const FloatParameters parameters(problem.parameters, input.channels);
  if (problem.training) {
    batch_statistics(problem, parameters);
  } else {
    kernels().read(problem.given_mean.data, problem.given_mean.dtype, kHiddenChannels, problem.mean);
    kernels().read(problem.given_variance.data, problem.given_variance.dtype, kHiddenChannels, problem.variance);
  }
  const FoldedWeight weight =
      folded(parameters, input.channels, problem.mean, problem.variance, problem.parameters.epsilon);
  const HeadPlan plan = head_plan(input, parameters, weight);
  const Chunks chunks(plan.parts, input);
  const int64_t parts = plan.parts.count;
  std::vector<Pooled> pooled(chunks.items() * kHeadChannels);
  chunks.for_each(
      [&](int64_t, int64_t begin, int64_t end) { kernels().pool(plan, begin, end, &pooled[begin * kHeadChannels]); });
  torch::stable::parallel_for(0, input.shape.samples, kSamplesWorthAThread, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample)
      finish_sample(&pooled[sample * parts * kHeadChannels], parts, problem.exact,
                    problem.statistics + sample * kHeadChannels * 3, problem.shift + sample * 3);
  });
}

void head_backward(HeadBackward problem) {
  simplify_pixels(problem.input.shape, problem.input.strides, problem.grad_input ? &problem.grad_strides : nullptr);
  const HeadInput& input = problem.input;
  const FloatParameters parameters(problem.parameters, input.channels);
  const FoldedWeight weight =
      folded(parameters, input.channels, problem.mean, problem.variance, problem.parameters.epsilon);
  const std::vector<ChannelGradient> channels = score_gradients(problem);
  std::vector<float> mean_grad(kHiddenChannels), mean_product(kHiddenChannels);
  HeadGradientPlan plan{head_plan(input, parameters, weight),
                        channels.data(),
                        mean_grad.data(),
                        mean_product.data(),
                        nullptr,
                        nullptr,
                        problem.grad_strides};
  const Chunks chunks(plan.head.parts, input);
  std::vector<HiddenSums> sums(problem.training || problem.need_parameters ? chunks.count() : 0);
  const auto sums_of = [&](int64_t chunk) { return sums.empty() ? nullptr : &sums[chunk]; };
  if (problem.training) {
    chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end) {
      kernels().backward(plan, begin, end, sums_of(chunk), nullptr);
    });
    const HiddenSums total = joined_sums(sums);
    const double pixels = static_cast<double>(input.shape.samples * input.shape.pixels());
    for (int h = 0; h < kHiddenChannels; ++h) {
      mean_grad[h] = static_cast<float>(parameters.gain[h] * total.grad[h] / pixels);
      mean_product[h] = static_cast<float>(parameters.gain[h] * total.grad_normalised[h] / pixels);
    }
  }
  plan.grad_input = problem.grad_input;
  plan.grad_beside = problem.grad_beside;
  const int64_t weights = problem.need_parameters ? input.channels * kHiddenChannels : 0;
  std::vector<float> grad_weight(chunks.count() * weights);
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end) {
    kernels().backward(plan, begin, end, problem.training ? nullptr : sums_of(chunk),
                       weights ? &grad_weight[chunk * weights] : nullptr);
  });
  if (!problem.need_parameters) return;
  write_small_gradients(problem, parameters.gain, joined_sums(sums), weight.scale);
  write_grad_bias2(problem, channels);
  write_grad_weight1(problem, grad_weight, chunks.count(), weight.scale);
}

}  // namespace crossd_ops::cpu
