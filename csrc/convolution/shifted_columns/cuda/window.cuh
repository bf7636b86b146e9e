// What the kernels of shifted columns share: which rows and channels a thread has, the pixels that a row sees, and the
// taps of a sample.
#pragma once
#include "common/cuda/element.cuh"
#include "convolution/cuda/columns_shape.cuh"
#include "convolution/shifted_columns/problem.h"
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/taps.cuh"

namespace crossd_ops::cuda {

// ShiftedColumnsProblem in 32 bits but for offsets; axes are those of the image.
struct ShiftedShape {
  ColumnsShape columns;            // of all channels
  int of_group;                    // channels
  int lanes;                       // of a pixel
  int of_part, parts;              // pixels of a block; blocks of a sample
  int weight[3];                   // sizes
  int element[3];                  // how far elements of the weight are apart in a row, in channels of a group
  int shift_axis[3];               // the shift's number, by the axis of the image
  int index;                       // of the slice, along the depth; -1: none
  int elements;                    // of the weight
  int tap_pixels[3], tap_rest[3];  // how far a tap reaches: pixels of the result, and what is left
  int64_t samples, first_sample;   // of the shift; of the grid
  int64_t first_row, rows;
};

constexpr int kShiftedThreads = 256;
constexpr int kShiftedWarps = kShiftedThreads / kLanes;
constexpr int kMostTaps = static_cast<int>(kMostShiftedSize);

// Channels next to each other, that a thread has: one, or of a half type two or four, in a word or two.
template <typename Acc, typename T, int kChannels>
__device__ __forceinline__ void load_channels(const T* from, Acc (&to)[kChannels]) {
  if constexpr (kChannels == 1) {
    to[0] = load_element<Acc>(from);
  } else {
    uint32_t words[kChannels / 2];
    if constexpr (kChannels == 4) {
      const uint2 both = *reinterpret_cast<const uint2*>(from);
      words[0] = both.x, words[1] = both.y;
    } else {
      words[0] = *reinterpret_cast<const uint32_t*>(from);
    }
#pragma unroll
    for (int i = 0; i < kChannels; ++i) to[i] = to_float(T{static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)});
  }
}
template <typename Acc, typename T, int kChannels>
__device__ __forceinline__ void store_channels(T* to, const Acc (&from)[kChannels]) {
  if constexpr (kChannels == 4)
    *reinterpret_cast<uint2*>(to) = uint2{pack_pair(from[0], from[1], T{}), pack_pair(from[2], from[3], T{})};
  else if constexpr (kChannels == 2)
    store_pair(to, from[0], from[1]);
  else
    *to = convert<T>(from[0]);
}

// The pixels of a sample that a block has: begin .. end - 1, of those that are asked for.
struct ShiftedPart {
  int64_t sample;
  int part, begin, end;

  __device__ __forceinline__ explicit ShiftedPart(const ShiftedShape& shape)
      : sample(shape.first_sample + blockIdx.x / shape.parts), part(blockIdx.x % shape.parts) {
    const int64_t before = shape.first_row - first_row(shape), last = before + shape.rows;
    const int64_t from = static_cast<int64_t>(part) * shape.of_part, to = from + shape.of_part;
    const int64_t pixels = shape.columns.pixels;
    begin = static_cast<int>(before < from ? from : before < pixels ? before : pixels);
    end = static_cast<int>(min_of(min_of(to, pixels), last > 0 ? last : 0));
  }
  __device__ __forceinline__ int64_t first_row(const ShiftedShape& shape) const {
    return sample * shape.columns.pixels;
  }
  // Of (pixel, channels), that the block's threads take in turn.
  __device__ __forceinline__ int tasks(const ShiftedShape& shape) const {
    return end > begin ? (end - begin) * shape.lanes : 0;
  }

 private:
  __device__ __forceinline__ static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
};

// One row and the channels that a thread works on. kFlat: an image, whose depth needs no look.
template <int kChannels, bool kFlat>
struct ShiftedTask {
  int channel;
  int64_t row;       // of those that are asked for
  Coordinates seen;  // the first pixel that is seen

  __device__ __forceinline__ ShiftedTask(const ShiftedShape& shape, const ShiftedPart& part, int task) {
    const int own = task / shape.lanes, pixel = part.begin + own;
    channel = (task - own * shape.lanes) * kChannels;
    row = part.first_row(shape) + pixel - shape.first_row;
    if constexpr (kFlat) {
      const ColumnsShape& columns = shape.columns;
      const int y = pixel / columns.result[2], x = pixel - y * columns.result[2];
      seen = {0, y * columns.stride[1] - columns.padding[1], x * columns.stride[2] - columns.padding[2]};
    } else {
      seen = first_seen(shape.columns, pixel);
    }
  }
  // Of the first element of the weight; elements are of_group apart.
  __device__ __forceinline__ int64_t column(const ShiftedShape& shape) const {
    const int64_t before = row * (static_cast<int64_t>(shape.columns.channels) * shape.elements);
    if (shape.of_group == shape.columns.channels) return before + channel;
    const int group = channel / shape.of_group;
    return before + group * (static_cast<int64_t>(shape.of_group) * shape.elements) +
           (channel - group * shape.of_group);
  }
  // Of the first element of a kernel; elements are all channels apart.
  __device__ __forceinline__ int64_t of_seen(const ShiftedShape& shape) const {
    return row * (static_cast<int64_t>(shape.columns.channels) * shape.columns.taps) + channel;
  }
  // What an element of a kernel sees, 0 outside of the image.
  template <typename T, typename Acc>
  __device__ __forceinline__ void load_seen(const ShiftedShape& shape, const T* image, int z, int y, int x,
                                            Acc (&to)[kChannels]) const {
    const ColumnsShape& columns = shape.columns;
    const Coordinates at = {kFlat ? 0 : seen.z + z * columns.dilation[0], seen.y + y * columns.dilation[1],
                            seen.x + x * columns.dilation[2]};
    const bool is_there = kFlat ? static_cast<unsigned>(at.y) < static_cast<unsigned>(columns.image[1]) &&
                                      static_cast<unsigned>(at.x) < static_cast<unsigned>(columns.image[2])
                                : is_inside(at, columns.image);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) to[i] = 0;
    if (is_there) load_channels(image + image_offset(columns, at) + channel, to);
  }
};

// Of a sample, by the axis of the image. derivatives: of the depth of slices the taps' own; else those of shift 0,
// which make the derivative of the taps by convolution with them (CircleTable).
template <typename Acc>
struct ShiftedTaps {
  Acc taps[3][kMostTaps], derivatives[3][kMostTaps];

  __device__ __forceinline__ void compute(const ShiftedShape& shape, const Acc* shift /* [3] */) {
    const int axis = static_cast<int>(threadIdx.x) / kMostTaps, n = static_cast<int>(threadIdx.x) % kMostTaps;
    const int size = axis < 3 ? select(shape.weight, axis) : 0;
    if (n >= size) return;
    const Tap<Acc> tap = tap_at(n, size, shift[select(shape.shift_axis, axis)]);
    taps[axis][n] = tap.real;
    derivatives[axis][n] =
        axis == 0 && shape.index >= 0 ? tap.real_derivative : tap_at(n, size, static_cast<Acc>(0)).real_derivative;
  }
  // Where, of a slice, an element of the weight has its tap.
  __device__ __forceinline__ static int of_slice(const ShiftedShape& shape, int element) {
    const int n = shape.index - element;
    return n < 0 ? n + shape.weight[0] : n;
  }
};

}  // namespace crossd_ops::cuda
