// What the whole head's CPU kernels of one instruction set are given. A work item is one part of one sample's pixels; a
// kernel takes a run of items and gives the sums over them, which the caller joins in a fixed order.
#pragma once
#include <cstdint>

#include "head/cpu/rotation_plan.h"
#include "head/problem.h"

namespace crossd_ops::cpu {

constexpr int64_t kTilePixels = 128;  // what is hidden of so many pixels stays in the first cache

struct HiddenMoments {
  double count, mean[kHiddenChannels], squares[kHiddenChannels];  // squares: sum of squared deviations from the mean
};

// Sums over pixels, with the names of head/problem.h: of g_z, of g_z n, of g_m max(gain n + offset, 0)^T.
struct HiddenSums {
  double grad[kHiddenChannels], grad_normalised[kHiddenChannels], grad_weight2[kHeadChannels][kHiddenChannels];
};

// normalised = weight x + bias: the deviation is already divided out, so that weight^T leads back as well.
struct HeadPlan {
  Parts parts;
  int64_t channels;
  const void* input;
  MapShape shape;  // simplified
  MapStrides strides;
  Dtype dtype;                 // of input, its gradient and what is added to that: not float64
  const float *weight, *bias;  // [channels, 16], [16]
  const float *gain, *offset;
  const float *weight2, *bias2;  // [4, 16], [4]
};

// The gradient of weight x + bias is gain g_z - mean_grad - mean_product n.
struct HeadGradientPlan {
  HeadPlan head;
  const ChannelGradient* channels;        // [samples, 4]
  const float *mean_grad, *mean_product;  // [16]: gain S(g_z) / N and gain S(g_z n) / N, or 0
  void* grad_input;                       // null: not wanted
  const void* grad_beside;                // of the same strides, added to it; null: nothing
  MapStrides grad_strides;
};

struct HeadKernels {
  void (*moments)(const HeadPlan&, int64_t begin, int64_t end, HiddenMoments*);
  void (*pool)(const HeadPlan&, int64_t begin, int64_t end, Pooled*);  // [end - begin, 4]
  // Null: not wanted. grad_weight: [channels, 16], added to.
  void (*backward)(const HeadGradientPlan&, int64_t begin, int64_t end, HiddenSums*, float* grad_weight);
  // Neighbouring elements, converted.
  void (*read)(const void* source, Dtype, int64_t count, float* target);
  void (*write)(const float* source, int64_t count, void* target, Dtype);
};
const HeadKernels* head_kernels_baseline();
const HeadKernels* head_kernels_avx2();  // null where this is not x86-64
const HeadKernels* head_kernels_avx512();

}  // namespace crossd_ops::cpu
