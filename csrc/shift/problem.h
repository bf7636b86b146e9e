// What a Fourier shift is asked to do, as plain numbers: the one struct that the CPU kernels, the CUDA kernels and the
// emulator of the tests take. Free of torch and of CUDA.
//
//   out[b, o, c, x, y, z] = Re sum_{x',y',z'} d(x-x'; s_b0) d(y-y'; s_b1) d(z-z'; s_b2) weight[o, c, x', y', z']
//   d(n; s) = (1/K) sum_{f in fftfreq(K)} exp(2 pi i f (n - s)),   indices modulo K
//
// Axes are in *canonical order*: axis 0 is the one along which a slice is taken, the other two keep their order. A
// slice along any spatial axis of the weight is then the same problem, with permuted strides and permuted columns of
// the shift.
#pragma once
#include <cstdint>

#include "common/dtype.h"

namespace crossd_ops {

constexpr int kMaxKernel = 15;  // largest kernel size along any axis

struct ShiftShape {
  int64_t samples;       // B
  int64_t out_channels;  // O
  int64_t in_channels;   // C, of one group
  int32_t kernel[3];     // K0, K1, K2 in canonical order
  int32_t axis[3];       // canonical axis a is spatial axis axis[a] of the weight and column axis[a] of the shift
  int32_t first_slice;   // the output holds slices first_slice .. first_slice + slices - 1 along canonical axis 0
  int32_t slices;        // 1: one slice. K0: the whole 3D weight (first_slice is 0)
};

// Strides in elements; any value, 0 included (an expanded tensor).
struct WeightStrides {
  int64_t out_channel, in_channel, kernel[3];
};
struct GradStrides {
  int64_t sample, out_channel, in_channel, kernel[3];  // kernel[0]: between slices
};

struct ForwardProblem {
  ShiftShape shape;
  const void* weight;  // [O, C, K0, K1, K2], strided
  WeightStrides weight_strides;
  Dtype weight_dtype;
  Dtype out_dtype;
  const void* shift;  // [B, 3], contiguous, accumulate_dtype(weight_dtype)
  void* out;          // [B, O, C, slices, K1, K2], contiguous, out_dtype
  bool tap_major;     // out is [B, slices, K1, K2, O, C] instead
};

struct BackwardProblem {
  ShiftShape shape;
  const void* grad;  // [B, O, C, slices, K1, K2], strided
  GradStrides grad_strides;
  Dtype grad_dtype;
  Dtype weight_dtype;
  const void* weight;  // [O, C, K0, K1, K2], strided
  WeightStrides weight_strides;
  const void* shift;  // [B, 3], contiguous, accumulate_dtype(weight_dtype)
  void* grad_weight;  // [O, C, K0, K1, K2], strided, weight_dtype; null: not wanted
  WeightStrides grad_weight_strides;
  void* grad_shift;  // [B, 3], contiguous, accumulate_dtype(weight_dtype); null: not wanted
  void* partial;     // workspace of the backend for the sums of grad_shift, accumulate_dtype; null where grad_shift is
};

}  // namespace crossd_ops
