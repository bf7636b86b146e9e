// What the CPU kernels of one instruction set are given: the problem, the taps of every sample, and where rows lie.
//
// The weights of 4 to 16 pairs p = (o, c) are transposed into one vector per kernel element ("tile"), so that every
// arithmetic instruction serves as many pairs as a vector has lanes, whatever the kernel size.
#pragma once
#include <cstddef>
#include <cstdint>

#include "shift/problem.h"

namespace crossd_ops::cpu {

// Taps d(n; s) of all samples, n = -(K-1) .. K-1, so that a circulant matrix needs no modulo:
//   at(b, axis, kind)[n].  Even K has an imaginary part (one-sided Nyquist frequency); derivatives are with respect to
//   s.
enum class TapKind : int { real = 0, imaginary = 1, real_derivative = 2, imaginary_derivative = 3 };

template <typename Acc>
struct Taps {
  const Acc* data;    // [B, 3, kinds, length]
  int kinds;          // 2 (forward) or 4 (backward)
  int length;         // 2 * max(K) - 1, rounded up
  int32_t center[3];  // K - 1 of each axis: where n = 0 lies

  const Acc* at(int64_t sample, int axis, TapKind kind) const {
    return data + ((sample * 3 + axis) * kinds + static_cast<int>(kind)) * length + center[axis];
  }
};

// A tensor [.., O, C, rows] where `rows` are the kernel elements of one pair in canonical order.
struct Rows {
  void* data;
  Dtype dtype;
  int count;                                // rows of a pair
  int64_t sample, out_channel, in_channel;  // strides in elements
  const int64_t* offset;                    // [count], of each row
  // Dense: a pair is `count` neighbouring elements, pair follows pair, and row_at[i] is the row that lies at element i.
  // Tiles are then read and written in a run; otherwise element by element.
  bool dense;
  const int32_t* row_at;  // [count], if dense
};

template <typename Acc>
struct ForwardPlan {
  ShiftShape shape;
  Taps<Acc> taps;
  const Acc*
      harmonics;  // [B, 3, 2, 3]: cos and sin of 2 pi (n - s) / 3, n = 0 .. 2; null unless the weight is 3 x 3 x 3
  Rows weight, out;
  int64_t pairs;             // P = O C
  int64_t samples_per_item;  // a work item is one tile with this many samples
};

template <typename Acc>
struct BackwardPlan {
  ShiftShape shape;
  Taps<Acc> taps;
  const Acc* harmonics;            // as in ForwardPlan
  Rows grad, weight, grad_weight;  // grad_weight.data null: not wanted
  int64_t pairs;
  int64_t pairs_per_chunk;  // a work item is one chunk: its size depends on P alone, so sums do not depend on threads
  double* partial;          // [chunks, B, 3]: the chunk's part of grad_shift; null: not wanted
};

// One instruction set's kernels. Forward: items = tiles x sample groups, begin..end of them. Backward: chunks.
struct Kernels {
  int lanes_float32, lanes_float64;
  void (*forward_float32)(const ForwardPlan<float>&, int64_t begin, int64_t end);
  void (*forward_float64)(const ForwardPlan<double>&, int64_t begin, int64_t end);
  void (*backward_float32)(const BackwardPlan<float>&, int64_t begin, int64_t end);
  void (*backward_float64)(const BackwardPlan<double>&, int64_t begin, int64_t end);
};
const Kernels* kernels_baseline();
const Kernels* kernels_avx2();  // null where this is not x86-64
const Kernels* kernels_avx512();

// Scratch memory of one work item range, 64-byte aligned. Here and not a standard container: a template of the standard
// library instantiated in a file compiled for AVX-512 may be the copy that the linker keeps for everyone.
void* allocate_scratch(size_t bytes);
void free_scratch(void*);

}  // namespace crossd_ops::cpu
