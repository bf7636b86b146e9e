// What the whole head is asked to do, as plain numbers, free of torch: from the input of a layer to its shift.
//
//   h = W1 x + b1                                 the hidden channels of a pixel
//   n = (h - mean) / sqrt(variance + epsilon)     statistics over all pixels of the batch (training), or given
//   m = W2 max(gain n + offset, 0) + b2           the map of scores, from which head/rotation_problem.h goes on
//
// and back, from the gradient g_m of the map, with S the sum over the N pixels of the batch:
//
//   g_z = W2^T g_m where gain n + offset > 0, else 0
//   g_h = gain / sqrt(variance + epsilon) (g_z - S(g_z) / N - n S(g_z n) / N); without S where statistics are given
//   g_x = W1^T g_h,  g_W1 = S(g_h x^T),  g_gain = S(g_z n),  g_offset = S(g_z),  g_W2 = S(g_m max(gain n + offset,
//   0)^T)
//
// In training b1 changes nothing, so its gradient is 0; b2 is added to each pooled v, so its gradient is that of v.
#pragma once
#include <cstdint>

#include "head/rotation_problem.h"

namespace crossd_ops {

constexpr int kHiddenChannels = 16;

struct HeadInput {
  MapShape shape;
  int64_t channels;
  const void* data;  // [B, channels, rows, columns], strided; float32, bfloat16 or float16
  MapStrides strides;
  Dtype dtype;
};

// A contiguous tensor of float32, bfloat16 or float16, whatever the type of the input.
struct HeadValues {
  const void* data;
  Dtype dtype;
};
struct HeadTarget {
  void* data;
  Dtype dtype;
};

struct HeadParameters {
  HeadValues weight1, bias1;  // [16, channels], [16]
  HeadValues gain, offset;    // [16]
  HeadValues weight2, bias2;  // [4, 16], [4]
  double epsilon;
};

// What a batch norm keeps of the batches that it saw; data is null where it keeps none.
struct RunningStatistics {
  HeadTarget mean, variance;  // [16], variance: unbiased
  int64_t* batches;           // counted up; null: not counted
  double momentum;            // the share of this batch, unless
  int32_t of_all;             // that is 1 / batches, or 0 where they are not counted
};

struct HeadForward {
  HeadInput input;
  HeadParameters parameters;
  int32_t training, exact;
  HeadValues given_mean, given_variance;  // [16]: those used where this is no training
  float *mean, *variance;                 // [16]: those that were used; variance: biased
  RunningStatistics running;              // in training alone
  float* shift;                           // [B, 3]
  float* statistics;                      // [B, 4, 3], as RotationHeadForward's
};

struct HeadBackward {
  HeadInput input;
  HeadParameters parameters;
  int32_t training, exact;
  const float *mean, *variance;  // as the forward wrote them
  const float* statistics;
  const float* grad_shift;  // [B, 3], contiguous
  void* grad_input;         // of the input's type; null: not wanted
  const void* grad_beside;  // of the same type and strides: added to it; null: nothing
  MapStrides grad_strides;
  int32_t need_parameters;  // else none of the following is written
  HeadTarget grad_weight1, grad_bias1, grad_gain, grad_offset, grad_weight2, grad_bias2;
};

}  // namespace crossd_ops
