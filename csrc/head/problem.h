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
  const float* data;  // [B, channels, rows, columns], strided
  MapStrides strides;
};

// All contiguous.
struct HeadParameters {
  const float *weight1, *bias1;  // [16, channels], [16]
  const float *gain, *offset;    // [16]
  const float *weight2, *bias2;  // [4, 16], [4]
  double epsilon;
};

struct HeadForward {
  HeadInput input;
  HeadParameters parameters;
  bool training, exact;
  float *mean, *variance;  // [16]: written in training (variance: biased), else read
  float* shift;            // [B, 3]
  float* statistics;       // [B, 4, 3], as RotationHeadForward's
};

struct HeadBackward {
  HeadInput input;
  HeadParameters parameters;
  bool training, exact;
  const float *mean, *variance;  // as the forward wrote or read them
  const float* statistics;
  const float* grad_shift;  // [B, 3], contiguous
  float* grad_input;        // null: not wanted
  MapStrides grad_strides;
  bool need_parameters;  // else none of the following is written
  float *grad_weight1, *grad_bias1, *grad_gain, *grad_offset, *grad_weight2, *grad_bias2;
};

}  // namespace crossd_ops
