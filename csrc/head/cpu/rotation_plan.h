// What the rotation head's CPU kernels of one instruction set are given. A work item is one part of one sample's
// pixels, all four channels of it, so that an interleaved map is read once.
#pragma once
#include <cstdint>

#include "head/rotation_problem.h"

namespace crossd_ops::cpu {

// The softmax-weighted sum of some elements, in a form in which two of them can be joined.
struct Pooled {
  double maximum, sum, weighted;  // sum of exp(m - maximum), and of m exp(m - maximum)
};

// The parts of every sample; their number depends on the shape alone.
struct Parts {
  int64_t pixels, columns;
  int64_t count, pixels_per_part;
};

struct PoolPlan {
  Parts parts;
  const void* map;
  MapStrides strides;
  PixelOrder order;
  Dtype dtype;
};

// grad = scale exp(m - maximum) (1 + m - v), for one channel.
struct ChannelGradient {
  double maximum, scale, v;
};

struct MapGradientPlan {
  Parts parts;
  const void* map;
  void* grad_map;
  MapStrides strides, grad_strides;
  PixelOrder order;  // interleaved and planar: of both tensors
  Dtype dtype;
};

struct RotationHeadKernels {
  // Item: sample * parts.count + part. pooled: [4], of this part.
  void (*pool_float32)(const PoolPlan&, int64_t item, Pooled* pooled);
  void (*pool_float64)(const PoolPlan&, int64_t item, Pooled* pooled);
  // channels: [4], of the item's sample.
  void (*map_gradient_float32)(const MapGradientPlan&, int64_t item, const ChannelGradient* channels);
  void (*map_gradient_float64)(const MapGradientPlan&, int64_t item, const ChannelGradient* channels);
};
const RotationHeadKernels* rotation_head_kernels_baseline();
const RotationHeadKernels* rotation_head_kernels_avx2();  // null where this is not x86-64
const RotationHeadKernels* rotation_head_kernels_avx512();

}  // namespace crossd_ops::cpu
