// Lays out the work and runs it on torch's threads; the parts of a sample are joined in their order.
#include "cpu/rotation_head.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/capability.h"
#include "cpu/rotation_head_plan.h"
#include "rotation_head_math.h"

namespace crossd_ops::cpu {
namespace {

const RotationHeadKernels& kernels() {
  return kernels_in_use(rotation_head_kernels_baseline(), rotation_head_kernels_avx2(), rotation_head_kernels_avx512());
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kSmallestPart = 1024;        // pixels
constexpr int64_t kWorthAThread = 8192;        // pixels, about 10 microseconds
constexpr int64_t kSamplesWorthAThread = 128;  // of the few numbers that a sample ends with

// Samples are split only where they alone would not give every thread of a large machine something to do.
Parts split(const MapShape& shape) {
  const int64_t pixels = shape.pixels(), most = ceil_divide(pixels, kSmallestPart);
  const int64_t pixels_per_part = ceil_divide(pixels, std::clamp<int64_t>(ceil_divide(64, shape.samples), 1, most));
  return {pixels, shape.columns, ceil_divide(pixels, pixels_per_part), pixels_per_part};
}

int64_t grain(const Parts& parts) { return std::max<int64_t>(1, kWorthAThread / parts.pixels_per_part); }

// The parts of one channel of one sample, [parts, 4] apart from each other.
Pooled joined(const Pooled* pooled, int64_t parts) {
  Pooled total = pooled[0];
  for (int64_t part = 1; part < parts; ++part)
    total.maximum = std::max(total.maximum, pooled[part * kHeadChannels].maximum);
  total.sum = total.weighted = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const Pooled& one = pooled[part * kHeadChannels];
    const double factor = one.maximum == total.maximum ? 1.0 : std::exp(one.maximum - total.maximum);
    total.sum += factor * one.sum, total.weighted += factor * one.weighted;
  }
  return total;
}

template <typename Acc>
void finish_sample(const RotationHeadForward& problem, const Pooled* pooled, int64_t parts, int64_t sample) {
  Acc* statistics = static_cast<Acc*>(problem.statistics) + sample * kHeadChannels * 3;
  double v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) {
    const Pooled total = joined(pooled + sample * parts * kHeadChannels + channel, parts);
    Acc* of_channel = statistics + channel * 3;
    of_channel[0] = static_cast<Acc>(total.maximum), of_channel[1] = static_cast<Acc>(total.sum);
    of_channel[2] = static_cast<Acc>(total.weighted / total.sum);
    v[channel] = of_channel[2];  // as the backward will read it
  }
  const Vector3 shift = shift_of_rotation(v, problem.exact);
  Acc* target = static_cast<Acc*>(problem.shift) + sample * 3;
  target[0] = static_cast<Acc>(shift.x), target[1] = static_cast<Acc>(shift.y), target[2] = static_cast<Acc>(shift.z);
}

template <typename Acc>
void run_forward(const RotationHeadForward& problem, void (*pool)(const PoolPlan&, int64_t, Pooled*)) {
  const MapShape& shape = problem.shape;
  const PoolPlan plan{split(shape), problem.map, problem.map_strides, pixel_order(shape, problem.map_strides),
                      problem.dtype};
  const int64_t parts = plan.parts.count;
  std::vector<Pooled> pooled(shape.samples * parts * kHeadChannels);
  torch::stable::parallel_for(0, shape.samples * parts, grain(plan.parts), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) pool(plan, item, pooled.data() + item * kHeadChannels);
  });
  torch::stable::parallel_for(0, shape.samples, kSamplesWorthAThread, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) finish_sample<Acc>(problem, pooled.data(), parts, sample);
  });
}

template <typename Acc>
void channel_gradients(const RotationHeadBackward& problem, int64_t sample, ChannelGradient* channels) {
  const Acc* statistics = static_cast<const Acc*>(problem.statistics) + sample * kHeadChannels * 3;
  const Acc* grad_shift = static_cast<const Acc*>(problem.grad_shift) + sample * 3;
  double v[kHeadChannels], grad_v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) v[channel] = statistics[channel * 3 + 2];
  grad_of_pooled(v, {grad_shift[0], grad_shift[1], grad_shift[2]}, problem.exact, grad_v);
  for (int channel = 0; channel < kHeadChannels; ++channel) {
    const Acc* of_channel = statistics + channel * 3;
    channels[channel] = {of_channel[0], grad_v[channel] / of_channel[1], of_channel[2]};
  }
}

template <typename Acc>
void run_backward(const RotationHeadBackward& problem,
                  void (*map_gradient)(const MapGradientPlan&, int64_t, const ChannelGradient*)) {
  const MapShape& shape = problem.shape;
  const PixelOrder order = pixel_order(shape, problem.map_strides),
                   grad_order = pixel_order(shape, problem.grad_strides);
  const MapGradientPlan plan{split(shape),         problem.map,
                             problem.grad_map,     problem.map_strides,
                             problem.grad_strides, order == grad_order ? order : PixelOrder::strided,
                             problem.dtype};
  torch::stable::parallel_for(0, shape.samples * plan.parts.count, grain(plan.parts), [&](int64_t begin, int64_t end) {
    ChannelGradient channels[kHeadChannels];
    for (int64_t item = begin; item < end; ++item) {
      if (item == begin || item % plan.parts.count == 0)
        channel_gradients<Acc>(problem, item / plan.parts.count, channels);
      map_gradient(plan, item, channels);
    }
  });
}

}  // namespace

void rotation_head_forward(RotationHeadForward problem) {
  if (problem.shape.samples == 0) return;
  simplify_pixels(problem.shape, problem.map_strides, nullptr);
  if (problem.dtype == Dtype::float64) return run_forward<double>(problem, kernels().pool_float64);
  run_forward<float>(problem, kernels().pool_float32);
}

void rotation_head_backward(RotationHeadBackward problem) {
  if (problem.shape.samples == 0) return;
  simplify_pixels(problem.shape, problem.map_strides, &problem.grad_strides);
  if (problem.dtype == Dtype::float64) return run_backward<double>(problem, kernels().map_gradient_float64);
  run_backward<float>(problem, kernels().map_gradient_float32);
}

}  // namespace crossd_ops::cpu
