// Lays out the work of the whole head and runs it on torch's threads; sums are joined in a fixed order.
#include "head/cpu/head.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/cpu/capability.h"
#include "head/cpu/plan.h"
#include "head/cpu/pooled.h"

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

// Of float32, as all that the operators hand to the CPU.
const float* floats(const HeadValues& values) { return static_cast<const float*>(values.data); }
float* floats(const HeadTarget& target) { return static_cast<float*>(target.data); }

// weight1 with the channels of the input first, both times 1 / sqrt(variance + epsilon) where statistics are given.
struct FoldedWeight {
  std::vector<float> weight, bias;
  std::vector<double> scale;
};
FoldedWeight folded(const HeadParameters& parameters, int64_t channels, const float* mean, const float* variance) {
  FoldedWeight result{std::vector<float>(channels * kHiddenChannels), std::vector<float>(kHiddenChannels),
                      std::vector<double>(kHiddenChannels, 1.0)};
  for (int h = 0; h < kHiddenChannels; ++h) {
    double bias = floats(parameters.bias1)[h];
    if (mean) {
      result.scale[h] = 1 / std::sqrt(variance[h] + parameters.epsilon);
      bias = (bias - mean[h]) * result.scale[h];
    }
    result.bias[h] = static_cast<float>(bias);
    for (int64_t c = 0; c < channels; ++c)
      result.weight[c * kHiddenChannels + h] =
          static_cast<float>(floats(parameters.weight1)[h * channels + c] * result.scale[h]);
  }
  return result;
}

HeadPlan head_plan(const HeadInput& input, const HeadParameters& parameters, const FoldedWeight& weight) {
  return {split(input.shape),
          input.channels,
          static_cast<const float*>(input.data),
          input.shape,
          input.strides,
          weight.weight.data(),
          weight.bias.data(),
          floats(parameters.gain),
          floats(parameters.offset),
          floats(parameters.weight2),
          floats(parameters.bias2)};
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
  const auto move = [&](float& value, double to) { value += static_cast<float>(share * (to - value)); };
  for (int h = 0; h < kHiddenChannels; ++h) {
    move(floats(running.mean)[h], batch.mean[h]);
    move(floats(running.variance)[h], batch.squares[h] / (batch.count - 1));
  }
}

void batch_statistics(const HeadForward& problem) {
  const FoldedWeight weight = folded(problem.parameters, problem.input.channels, nullptr, nullptr);
  const HeadPlan plan = head_plan(problem.input, problem.parameters, weight);
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

void write_small_gradients(const HeadBackward& problem, const HiddenSums& sums, const std::vector<double>& scale) {
  for (int h = 0; h < kHiddenChannels; ++h) {
    const double rest = problem.training ? sums.grad[h] : 0;  // of which the mean takes all; NaN stays NaN
    floats(problem.grad_bias1)[h] =
        static_cast<float>(floats(problem.parameters.gain)[h] * scale[h] * (sums.grad[h] - rest));
    floats(problem.grad_gain)[h] = static_cast<float>(sums.grad_normalised[h]);
    floats(problem.grad_offset)[h] = static_cast<float>(sums.grad[h]);
  }
  for (int s = 0; s < kHeadChannels; ++s) {
    for (int h = 0; h < kHiddenChannels; ++h)
      floats(problem.grad_weight2)[s * kHiddenChannels + h] = static_cast<float>(sums.grad_weight2[s][h]);
  }
}

void write_grad_bias2(const HeadBackward& problem, const std::vector<ChannelGradient>& channels) {
  double sums[kHeadChannels] = {};
  for (size_t i = 0; i < channels.size(); ++i)
    sums[i % kHeadChannels] += channels[i].scale * problem.statistics[i * 3 + 1];  // the gradient of v
  for (int s = 0; s < kHeadChannels; ++s) floats(problem.grad_bias2)[s] = static_cast<float>(sums[s]);
}

void write_grad_weight1(const HeadBackward& problem, const std::vector<float>& partial, int64_t parts,
                        const std::vector<double>& scale) {
  const int64_t channels = problem.input.channels, weights = channels * kHiddenChannels;
  const int64_t grain = std::max<int64_t>(1, kWeightsWorthAThread / (parts * kHiddenChannels));
  torch::stable::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      double sums[kHiddenChannels] = {};
      for (int64_t part = 0; part < parts; ++part)
        for (int h = 0; h < kHiddenChannels; ++h) sums[h] += partial[part * weights + c * kHiddenChannels + h];
      for (int h = 0; h < kHiddenChannels; ++h)
        floats(problem.grad_weight1)[h * channels + c] = static_cast<float>(sums[h] * scale[h]);
    }
  });
}

}  // namespace

void head_forward(HeadForward problem) {
  simplify_pixels(problem.input.shape, problem.input.strides, nullptr);
  if (problem.training) {
    batch_statistics(problem);
  } else {
    std::copy_n(floats(problem.given_mean), kHiddenChannels, problem.mean);
    std::copy_n(floats(problem.given_variance), kHiddenChannels, problem.variance);
  }
  const HeadInput& input = problem.input;
  const FoldedWeight weight = folded(problem.parameters, input.channels, problem.mean, problem.variance);
  const HeadPlan plan = head_plan(input, problem.parameters, weight);
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
  const FoldedWeight weight = folded(problem.parameters, input.channels, problem.mean, problem.variance);
  const std::vector<ChannelGradient> channels = score_gradients(problem);
  std::vector<float> mean_grad(kHiddenChannels), mean_product(kHiddenChannels);
  HeadGradientPlan plan{head_plan(input, problem.parameters, weight),
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
      mean_grad[h] = static_cast<float>(floats(problem.parameters.gain)[h] * total.grad[h] / pixels);
      mean_product[h] = static_cast<float>(floats(problem.parameters.gain)[h] * total.grad_normalised[h] / pixels);
    }
  }
  plan.grad_input = static_cast<float*>(problem.grad_input);
  plan.grad_beside = static_cast<const float*>(problem.grad_beside);
  const int64_t weights = problem.need_parameters ? input.channels * kHiddenChannels : 0;
  std::vector<float> grad_weight(chunks.count() * weights);
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end) {
    kernels().backward(plan, begin, end, problem.training ? nullptr : sums_of(chunk),
                       weights ? &grad_weight[chunk * weights] : nullptr);
  });
  if (!problem.need_parameters) return;
  write_small_gradients(problem, joined_sums(sums), weight.scale);
  write_grad_bias2(problem, channels);
  write_grad_weight1(problem, grad_weight, chunks.count(), weight.scale);
}

}  // namespace crossd_ops::cpu
