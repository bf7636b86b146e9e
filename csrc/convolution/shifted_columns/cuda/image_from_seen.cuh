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

// A grid of shape.parts blocks for each of its samples.
template <typename T, typename Acc, int kChannels>
__global__ void __launch_bounds__(kShiftedThreads, 3)
    image_from_seen(ShiftedShape shape, const T* seen, bool accumulate, T* image) {
  const ColumnsShape& columns = shape.columns;
  const int64_t sample = shape.first_sample + blockIdx.x / shape.parts;
  const int task = static_cast<int>(blockIdx.x % shape.parts) * kShiftedThreads + static_cast<int>(threadIdx.x);
  const int pixel = task / shape.lanes, channel = (task - pixel * shape.lanes) * kChannels;
  const Coordinates at = coordinates_of(pixel, columns.image);
  if (at.z >= columns.image[0]) return;
  const int64_t before = sample * columns.pixels - shape.first_row;  // rows, of those that are there
  Acc sums[kChannels] = {};
  __align__(16) T values[kChannels];
  for (int d = 0; d < columns.kernel[0]; ++d) {
    const int z = seeing(columns, 0, at.z, d);
    if (z < 0) continue;
    for (int h = 0; h < columns.kernel[1]; ++h) {
      const int y = seeing(columns, 1, at.y, h);
      if (y < 0) continue;
      for (int w = 0; w < columns.kernel[2]; ++w) {
        const int x = seeing(columns, 2, at.x, w);
        const int64_t row = before + (z * columns.result[1] + y) * columns.result[2] + x;
        if (x < 0 || row < 0 || row >= shape.rows) continue;
        const int tap = (d * columns.kernel[1] + h) * columns.kernel[2] + w;
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
