// The pixels that each output pixel of a convolution sees, as columns of a matrix: what is asked for, as plain numbers.
// Free of torch.
#pragma once
#include <array>
#include <cstdint>

#include "common/dtype.h"

namespace crossd_ops {

// Of depth, height and width; images have a depth of 1.
using Axes = std::array<int64_t, 3>;

struct ColumnsProblem {
  int64_t samples, channels;
  Axes image, kernel, result, stride, padding, dilation;
  int64_t image_sample, image_channel;  // strides in elements, any values
  Axes image_pixel;
  int64_t row;  // elements from one row of the columns to the next: at least those of the result
  Dtype dtype;
};

}  // namespace crossd_ops
