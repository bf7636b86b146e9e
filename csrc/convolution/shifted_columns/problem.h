// What each pixel of a convolution's result sees of its image, shifted in place of the weight: what is asked for, as
// plain numbers, and the plan that follows from it. Free of torch.
//
//   U[p, i] = sum_k d(k0 - i0; s0) d(k1 - i1; s1) d(k2 - i2; s2) x[p, k]
//
// of elements i of the weight and k of a kernel. Where a slice is taken, k of its axis is the slice's index alone.
#pragma once
#include <algorithm>

#include "convolution/columns_problem.h"

namespace crossd_ops {

struct ShiftedColumnsProblem {
  int64_t samples, channels, groups;
  Axes image, kernel, result, stride, padding, dilation;  // images and their kernels have a depth of 1
  Axes weight;                                            // sizes of the weight's axes, as they lie in memory
  int sliced, index;        // which of the weight's axes is sliced, and where; -1: none, of volumes
  int64_t first_row, rows;  // of all (B, result) pixels those that are worked on
  int64_t image_sample;     // strides in elements; channels lie next to each other
  Axes image_pixel;
  Dtype dtype, shift_dtype;  // of images and columns; of the shift and its gradient: accumulate_dtype(dtype)
  bool accumulate;           // the image's gradient is added to what is there
};

constexpr int64_t kMostShiftedSize = 7;  // of an axis of the weight

// The weight's axis along an axis of the image: the sliced one along the depth, of which there is 1 then.
inline int weight_axis(const ShiftedColumnsProblem& problem, int axis) {
  if (problem.sliced < 0) return axis;
  return axis == 0 ? problem.sliced : axis <= problem.sliced ? axis - 1 : axis;
}

inline bool has_shifted_columns(const ShiftedColumnsProblem& problem) {
  bool fits = problem.shift_dtype == accumulate_dtype(problem.dtype);
  if (problem.sliced >= 0) fits = fits && problem.image[0] == 1 && problem.result[0] == 1 && problem.padding[0] == 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t size = problem.weight[weight_axis(problem, axis)];
    fits = fits && size % 2 == 1 && size <= kMostShiftedSize;
    fits = fits && problem.kernel[axis] == (problem.sliced >= 0 && axis == 0 ? 1 : size);
  }
  return fits;
}

// Channels that a thread has at a time, by which pixels are shared out: of a half type pairs where groups have them.
// The kernels' threads may have more.
inline int64_t shifted_columns_channels(const ShiftedColumnsProblem& problem) {
  return size_of(problem.dtype) == 2 && problem.channels / problem.groups % 2 == 0 ? 2 : 1;
}

// A block has so many pixels of one sample: constants, so that results do not depend on the device.
inline int64_t shifted_columns_pixels(const ShiftedColumnsProblem& problem) {
  constexpr int64_t kTasks = 1024;  // of a block, four of each thread, which use the same taps
  return std::max<int64_t>(kTasks / std::max<int64_t>(problem.channels / shifted_columns_channels(problem), 1), 1);
}

// Parts of a sample, each with sums of the shift's gradient.
inline int64_t shifted_columns_partials(const ShiftedColumnsProblem& problem) {
  const int64_t pixels = problem.result[0] * problem.result[1] * problem.result[2];
  const int64_t of_part = shifted_columns_pixels(problem);
  return std::max<int64_t>((pixels + of_part - 1) / of_part, 1);
}

}  // namespace crossd_ops
