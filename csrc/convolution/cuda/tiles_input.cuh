// The gradient of the input of the convolution in tiles, as implicit products of matrices on tensor cores.
//
//   grad_input[b, q, c] = sum over taps t and output channels o of grad[b, p, o] * kernels[b, t, o, c]
//
// where p * stride - padding + t * dilation = q; channels of the same group. Along an axis, pixels q whose remainders
// modulo the stride are the same are seen by the same taps, and at each of them the result's pixels p are neighbours
// where the q are: such pixels form a convolution of their own, of the result with some of the taps, without strides,
// so that no zeros are multiplied. Pixels that no tap sees have a reduction of no steps. A block makes a tile of pixels
// and input channels of a sample. Bytes: grad_input once, the kernels once for each tile of pixels that their tap sees,
// grad once for each tap and tile of channels, all but the first time from caches.
#pragma once
#include "convolution/cuda/tiles.cuh"

namespace crossd_ops::cuda {

// TilesInputProblem in 32 bits but for offsets between samples. Remainders of one image are as many as it has pixels.
struct InputShape {
  int groups, in_channels, out_channels;  // of a group
  int image[2], kernel[2], result[2], stride[2], padding[2], dilation[2];
  int remainders[2];
  int tap_step[2], grad_step[2];  // between taps that see a pixel; what they see lies so far back in the result
  int most_pixels;                // of one remainder
  int grad_pixel[2];              // strides
  int64_t grad_sample;
};

// Along an axis, pixels with one remainder: the first one, how many there are, the taps that see them, and the pixel of
// the result that the first sees by the first tap.
struct RemainderAxis {
  int first, pixels, first_tap, taps, seen;
};
__device__ __forceinline__ RemainderAxis remainder_axis(const InputShape& shape, int axis, int first) {
  const int stride = shape.stride[axis], kernel = shape.kernel[axis];
  int tap = 0, distance = first + shape.padding[axis];
  for (; tap < kernel && distance % stride != 0; ++tap) distance -= shape.dilation[axis];
  return {first, (shape.image[axis] - first + stride - 1) / stride, tap,
          (kernel - tap + shape.tap_step[axis] - 1) / shape.tap_step[axis], distance / stride};
}

// A tile of which sample, group, pixels and input channels of the group a block makes.
struct InputPlace {
  int64_t sample;
  int group, first_pixel, first_channel;
  RemainderAxis axis[2];
};
template <int kRows>
__device__ __forceinline__ InputPlace input_place(const InputShape& shape) {
  const int across = (shape.in_channels + kColumns - 1) / kColumns, down = (shape.most_pixels + kRows - 1) / kRows;
  const int block = static_cast<int>(blockIdx.x), pixels = block / across, part = pixels / down;
  const int row = part / shape.remainders[1], group = row / shape.remainders[0], sample = group / shape.groups;
  return {sample,
          group - sample * shape.groups,
          (pixels - part * down) * kRows,
          (block - pixels * across) * kColumns,
          {remainder_axis(shape, 0, row - group * shape.remainders[0]),
           remainder_axis(shape, 1, part - row * shape.remainders[1])}};
}

// Where a vector of columns lies in a step whose rows are its reduction, from the step's first: those of eight
// neighbouring rows are in different banks, and those of four vectors of rows; of float32 only half as many.
template <typename T>
__device__ __forceinline__ int reduced_place(int row, int vector) {
  const int of_vector = row / kVector<T>, in_vector = row % kVector<T>;
  const int spread = sizeof(T) == 2 ? in_vector ^ 2 * of_vector : 2 * (in_vector ^ of_vector);
  return row * (kColumns / kVector<T>)+(vector ^ spread);
}

// Brings the steps of the reduction to shared memory, one after the other: as StepFetch, but of the kernels a thread
// copies a vector of columns in some rows of its vector of the reduction.
template <typename T, int kRows>
class InputStepFetch {
 public:
  __device__ __forceinline__ InputStepFetch(const InputShape& shape, const InputPlace& place, const T* grad,
                                            const T* kernels)
      : shape_(shape),
        pixels_(grad + place.sample * shape.grad_sample + place.group * shape.out_channels, shape.result,
                shape.grad_pixel),
        walk_{vector_of_thread() * kVector<T>},
        taps_{place.axis[0].taps, place.axis[1].taps},
        place_(step_place(row_of_thread(), vector_of_thread())) {
    const RemainderAxis &down = place.axis[0], &right = place.axis[1];
    const int column = place.first_channel + row_of_thread() % kRowVectors * kVector<T>;
    const int row = row_of_thread() / kRowVectors;
    const int64_t tap = (place.sample * shape.kernel[0] + down.first_tap) * shape.kernel[1] + right.first_tap;
    kernels_ =
        kernels + (tap * all_out_channels() + place.group * shape.out_channels + row) * shape.in_channels + column;
    has_column_ = column < shape.in_channels;
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      kernels_place_[i] =
          reduced_place<T>(vector_of_thread() * kVector<T> + row + i * kRowsApart, row_of_thread() % kRowVectors);
#pragma unroll
    for (int i = 0; i < Pixels::kRowsOfThread; ++i) {
      const int pixel = place.first_pixel + i * kRowsAtOnce + row_of_thread(), y = pixel / right.pixels;
      // Those behind the last see others' pixels, or none.
      pixels_.see(i, down.seen + y, right.seen + pixel - y * right.pixels);
    }
    walk_.pass_taps(shape.out_channels, taps_[1]);
  }

  // The next step, into a stage of shared memory.
  __device__ __forceinline__ void start(uint4* stage) {
    const auto& tap = walk_.tap;
    const bool is_tap = tap[0] < taps_[0];
    pixels_.start(is_tap ? -tap[0] * shape_.grad_step[0] : Pixels::kFarAway, -tap[1] * shape_.grad_step[1],
                  walk_.channel, stage + place_);
    const int of_tap = tap[0] * shape_.tap_step[0] * shape_.kernel[1] + tap[1] * shape_.tap_step[1];
    const unsigned of_kernels = (of_tap * all_out_channels() + walk_.channel) * shape_.in_channels;
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      copy_vector_async<false>(stage + kRows * kStepVectors + kernels_place_[i],
                               kernels_ + (of_kernels + i * kRowsApart * shape_.in_channels), is_tap && has_column_);
    walk_.channel += kStepVectors * kVector<T>;
    walk_.pass_taps(shape_.out_channels, taps_[1]);
  }

 private:
  using Pixels = PixelRows<T, kRows>;
  static constexpr int kRowVectors = kColumns / kVector<T>;
  static constexpr int kRowsApart = kRowsAtOnce / kRowVectors, kRowsOfThread = kVector<T> / kRowsApart;

  __device__ __forceinline__ int all_out_channels() const { return shape_.groups * shape_.out_channels; }

  const InputShape& shape_;
  Pixels pixels_;
  TapWalk walk_;
  const int taps_[2];
  const int place_;  // as StepFetch's
  int kernels_place_[kRowsOfThread];
  const T* kernels_;
  bool has_column_;
};

// Operands of the columns of a step, whose rows in shared memory are those of its reduction.
template <typename T, int kRows>
class ColumnsAcrossRows {
 public:
  __device__ __forceinline__ ColumnsAcrossRows(int lane, int first_column)
      : element_(sizeof(T) == 2 ? 0 : lane / 4 % 4),
        place_(kRows * kStepVectors + (sizeof(T) == 2
                                           ? reduced_place<T>(lane % 16, first_column / kVector<T> + lane / 16)
                                           : reduced_place<T>(lane % 4, first_column / kVector<T> + lane / 16))) {}

  // As ColumnsInRows; an even number of columns' vectors further on is another place of the same row.
  __device__ __forceinline__ void load(const uint4* stage, int half, int n, uint32_t (&columns)[4]) const {
    if constexpr (sizeof(T) == 2) {
      load_matrices<true>(stage + (place_ ^ (half * 2 ^ n * 2)) + half * kVector<T> * (kColumns / kVector<T>), columns);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int vector = half + i % 2, across = n * 4 + i / 2 * 2;
        const uint4* row = stage + (place_ ^ (vector * 2 ^ across)) + vector * kVector<T> * (kColumns / kVector<T>);
        columns[i] = round_to_tf32(reinterpret_cast<const uint32_t*>(row)[element_]);
      }
    }
  }

 private:
  const int element_;  // of a vector
  const int place_;    // of the row, or the element, that the lane brings in the first half
};

template <typename T, int kRows>
__global__ void __launch_bounds__(kTilesThreads)
    grad_input_tiles(InputShape shape, const T* grad, const T* kernels, T* grad_input) {
  uint4* stages = dynamic_shared<uint4>();
  const InputPlace place = input_place<kRows>(shape);
  const RemainderAxis &down = place.axis[0], &right = place.axis[1];
  const int pixels = down.pixels * right.pixels - place.first_pixel;
  if (pixels <= 0) return;  // fewer than of another remainder
  const int steps = (down.taps * right.taps * shape.out_channels / kVector<T> + kStepVectors - 1) / kStepVectors;
  InputStepFetch<T, kRows> fetch(shape, place, grad, kernels);
  WarpTile<T, kRows, ColumnsAcrossRows> tile;
  add_steps<kStageVectors<kRows>>(steps, fetch, tile, stages);
  tile.store(TilesBias<T>{}, 0, 0, stages);
  __syncthreads();
  const int channels = shape.groups * shape.in_channels;
  grad_input +=
      place.sample * shape.image[0] * shape.image[1] * channels + place.group * shape.in_channels + place.first_channel;
  write_tile<T, kRows>(stages, pixels, shape.in_channels - place.first_channel, [&](int row) {
    const int pixel = place.first_pixel + row, y = pixel / right.pixels, x = pixel - y * right.pixels;
    const int64_t at = static_cast<int64_t>(down.first + y * shape.stride[0]) * shape.image[1] + right.first;
    return grad_input + (at + x * shape.stride[1]) * channels;
  });
}

}  // namespace crossd_ops::cuda
