// Lays out the work and runs it on torch's threads; the parts of a sample are joined in their order.
#include "head/cpu/rotation.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "common/cpu/capability.h"
#include "head/cpu/pooled.h"
#include "head/cpu/rotation_plan.h"

namespace crossd_ops::cpu {
namespace {

const RotationHeadKernels& kernels() {
  return kernels_in_use(rotation_head_kernels_baseline(), rotation_head_kernels_avx2(), rotation_head_kernels_avx512());
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kSmallestPart = 1024;  // pixels
constexpr int64_t kWorthAThread = 8192;  // pixels, about 10 microseconds

// Samples are split only where they alone would not give every thread of a large machine something to do.
Parts split(const MapShape& shape) {
  const int64_t pixels = shape.pixels(), most = ceil_divide(pixels, kSmallestPart);
  const int64_t pixels_per_part = ceil_divide(pixels, std::clamp<int64_t>(ceil_divide(64, shape.samples), 1, most));
  return {pixels, shape.columns, ceil_divide(pixels, pixels_per_part), pixels_per_part};
}

int64_t grain(const Parts& parts) { return std::max<int64_t>(1, kWorthAThread / parts.pixels_per_part); }

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
    for (int64_t sample = begin; sample < end; ++sample)
      finish_sample(pooled.data() + sample * parts * kHeadChannels, parts, problem.exact,
                    static_cast<Acc*>(problem.statistics) + sample * kHeadChannels * 3,
                    static_cast<Acc*>(problem.shift) + sample * 3);
  });
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
      const int64_t sample = item / plan.parts.count;
      if (item == begin || item % plan.parts.count == 0)
        channel_gradients(static_cast<const Acc*>(problem.statistics) + sample * kHeadChannels * 3,
                          static_cast<const Acc*>(problem.grad_shift) + sample * 3, problem.exact, channels);
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
