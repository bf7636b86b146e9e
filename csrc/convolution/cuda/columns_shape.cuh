// Where pixels lie: of an image, and of those that see them. What kernels of columns are given of a ColumnsProblem.
#pragma once
#include <limits>
#include <stdexcept>
#include <string>

#include "common/cuda/device.cuh"
#include "convolution/columns_problem.h"

namespace crossd_ops::cuda {

// ColumnsProblem in 32 bits but for offsets.
struct ColumnsShape {
  int channels, taps, pixels;  // taps: elements of a kernel; pixels: of the result
  int image[3], kernel[3], result[3], stride[3], padding[3], dilation[3];
  int phases[3], of_phase[3], places;  // of the way back: of all phases, and of each; together, some beyond the image
  int64_t image_sample, image_channel, image_pixel[3];
  int64_t row;  // of columns, in elements: whole vectors
};

template <typename T>
constexpr int kColumnsVector = kVectorBytes / static_cast<int>(sizeof(T));

struct Coordinates {
  int z, y, x;
};
__device__ __forceinline__ Coordinates coordinates_of(int index, const int (&sizes)[3]) {
  const int plane = sizes[1] * sizes[2], z = index / plane, left = index - z * plane, y = left / sizes[2];
  return {z, y, left - y * sizes[2]};
}
__device__ __forceinline__ int64_t image_offset(const ColumnsShape& shape, const Coordinates& at) {
  return at.z * shape.image_pixel[0] + at.y * shape.image_pixel[1] + at.x * shape.image_pixel[2];
}
__device__ __forceinline__ bool is_inside(const Coordinates& at, const int (&sizes)[3]) {
  return static_cast<unsigned>(at.z) < static_cast<unsigned>(sizes[0]) &&
         static_cast<unsigned>(at.y) < static_cast<unsigned>(sizes[1]) &&
         static_cast<unsigned>(at.x) < static_cast<unsigned>(sizes[2]);
}
// The pixel of the image that the first element of a kernel sees from pixel `index` of the result.
__device__ __forceinline__ Coordinates first_seen(const ColumnsShape& shape, int index) {
  const Coordinates at = coordinates_of(index, shape.result);
  return {at.z * shape.stride[0] - shape.padding[0], at.y * shape.stride[1] - shape.padding[1],
          at.x * shape.stride[2] - shape.padding[2]};
}
__device__ __forceinline__ Coordinates steps_of_tap(const ColumnsShape& shape, int tap) {
  const Coordinates at = coordinates_of(tap, shape.kernel);
  return {at.z * shape.dilation[0], at.y * shape.dilation[1], at.x * shape.dilation[2]};
}
__device__ __forceinline__ Coordinates sum(const Coordinates& a, const Coordinates& b) {
  return {a.z + b.z, a.y + b.y, a.x + b.x};
}

// Of the image's pixel `at`, what pixel of the result sees it through a tap along one axis; or none, below 0.
__device__ __forceinline__ int seeing(const ColumnsShape& shape, int axis, int at, int tap) {
  const int reached = at + shape.padding[axis] - tap * shape.dilation[axis];
  const int pixel = reached / shape.stride[axis];
  return pixel * shape.stride[axis] == reached && pixel < shape.result[axis] ? pixel : -1;
}

// What the kernels compute in 32 bits must fit there: pixels of a channel, and paddings with what a kernel reaches.
inline int narrow(int64_t value) {
  if (value > std::numeric_limits<int>::max() || value < -std::numeric_limits<int>::max())
    throw std::invalid_argument("columns: expected pixels and paddings below 2^31, got " + std::to_string(value));
  return static_cast<int>(value);
}
inline int64_t product(const Axes& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

inline ColumnsShape columns_shape(const ColumnsProblem& problem) {
  ColumnsShape shape{};
  shape.channels = narrow(problem.channels), shape.taps = narrow(product(problem.kernel));
  shape.pixels = narrow(product(problem.result));
  narrow(problem.channels * product(problem.kernel));
  for (int i = 0; i < 3; ++i) {
    shape.image[i] = narrow(problem.image[i]), shape.kernel[i] = narrow(problem.kernel[i]);
    shape.result[i] = narrow(problem.result[i]), shape.stride[i] = narrow(problem.stride[i]);
    shape.padding[i] = narrow(problem.padding[i]), shape.dilation[i] = narrow(problem.dilation[i]);
    shape.image_pixel[i] = problem.image_pixel[i];
    narrow(problem.image[i] + problem.padding[i]);
    narrow(problem.padding[i] + (problem.result[i] - 1) * problem.stride[i] +
           (problem.kernel[i] - 1) * problem.dilation[i]);
  }
  shape.image_sample = problem.image_sample, shape.image_channel = problem.image_channel, shape.row = problem.row;
  return shape;
}

}  // namespace crossd_ops::cuda
