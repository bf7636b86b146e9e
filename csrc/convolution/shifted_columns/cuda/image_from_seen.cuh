// The gradient of the image from that of what each pixel of the result sees:
//
//   image[q] = sum over all p and k with p * stride - padding + k * dilation = q of seen[p, k]
//
// Each thread adds up channels of one pixel, in the order of the kernel's elements. Bytes: what is seen once, but for
// what of it lies outside of the image; the image once.
#pragma once
#include "convolution/shifted_columns/cuda/window.cuh"

namespace crossd_ops::cuda {

// kChannels next to each other: a vector of 16 bytes, or 1.
template <int kChannels, typename T>
__device__ __forceinline__ void copy_channels(const T* from, T* to) {
  if constexpr (kChannels == 1) {
    *to = *from;
  } else {
    const uint4 vector = *reinterpret_cast<const uint4*>(from);
    memcpy(to, &vector, kVectorBytes);
  }
}

// Of a pixel of the image, along one axis: which pixel of the result sees it, from tap to tap without a division.
class SeeingPixel {
 public:
  __device__ __forceinline__ SeeingPixel(const ShiftedShape& shape, int axis, int at)
      : stride_(shape.columns.stride[axis]),
        step_(shape.tap_pixels[axis]),
        rest_of_step_(shape.tap_rest[axis]),
        pixels_(shape.columns.result[axis]) {
    const int reached = at + shape.columns.padding[axis];
    pixel_ = reached / stride_, rest_ = reached - pixel_ * stride_;
  }
  __device__ __forceinline__ bool is_there() const {
    return rest_ == 0 && static_cast<unsigned>(pixel_) < static_cast<unsigned>(pixels_);
  }
  __device__ __forceinline__ int pixel() const { return pixel_; }
  __device__ __forceinline__ void next_tap() {
    const bool borrows = rest_ < rest_of_step_;
    rest_ += borrows ? stride_ - rest_of_step_ : -rest_of_step_;
    pixel_ -= borrows ? step_ + 1 : step_;
  }

 private:
  int stride_, step_, rest_of_step_, pixels_, pixel_, rest_;
};

// A grid of shape.parts blocks for each of its samples.
template <typename T, typename Acc, int kChannels>
__global__ void __launch_bounds__(kShiftedThreads, 3)
    image_from_seen(ShiftedShape shape, const T* seen, bool accumulate, T* image) {
  const ColumnsShape& columns = shape.columns;
  const int64_t sample = shape.first_sample + blockIdx.x / shape.parts;
  const int task = static_cast<int>(blockIdx.x % shape.parts) * kShiftedThreads + static_cast<int>(threadIdx.x);
  const int place = task / shape.lanes, channel = (task - place * shape.lanes) * kChannels;
  const Coordinates at = coordinates_of(place, columns.image);
  if (at.z >= columns.image[0]) return;
  const int64_t before = sample * columns.pixels - shape.first_row;  // rows, of those that are there
  Acc sums[kChannels] = {};
  __align__(16) T values[kChannels];
  int tap = 0;
  SeeingPixel z(shape, 0, at.z);
#pragma unroll 1
  for (int d = 0; d < columns.kernel[0]; ++d, z.next_tap()) {
    SeeingPixel y(shape, 1, at.y);
#pragma unroll 1
    for (int h = 0; h < columns.kernel[1]; ++h, y.next_tap()) {
      SeeingPixel x(shape, 2, at.x);
#pragma unroll 1
      for (int w = 0; w < columns.kernel[2]; ++w, x.next_tap(), ++tap) {
        if (!z.is_there() || !y.is_there() || !x.is_there()) continue;
        const int64_t row = before + (z.pixel() * columns.result[1] + y.pixel()) * columns.result[2] + x.pixel();
        if (row < 0 || row >= shape.rows) continue;
        copy_channels<kChannels>(seen + (row * columns.taps + tap) * columns.channels + channel, values);
#pragma unroll
        for (int i = 0; i < kChannels; ++i) sums[i] += load_element<Acc>(values + i);
      }
    }
  }
  T* const to = image + sample * columns.image_sample + image_offset(columns, at) + channel;
  if (accumulate) {
    copy_channels<kChannels>(to, values);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sums[i] += load_element<Acc>(values + i);
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) values[i] = convert<T>(sums[i]);
  if constexpr (kChannels == 1) {
    *to = values[0];
  } else {
    uint4 vector;
    memcpy(&vector, values, kVectorBytes);
    store_vector(to, vector);
  }
}

}  // namespace crossd_ops::cuda
