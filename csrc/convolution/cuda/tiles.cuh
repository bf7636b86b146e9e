// The convolution of each sample with kernels of its own, as implicit products of matrices on tensor cores.
//
//   out[b, p, o] = bias[o] + sum over taps t and channels c of input[b, p * stride - padding + t * dilation, c] *
//                  kernels[b, t, o, c]
//
// of pixels p, 0 outside of the image; channels of the same group. A block makes a tile of pixels and output channels
// of a sample. The reduction goes along taps and channels together, in vectors of 16 bytes: a step takes four, whatever
// tap they belong to, so that few channels fill a step as well as many. float32 is rounded to TF32. Bytes: output once,
// the kernels once for each tile of pixels, the input once for each tap and tile of channels, all but the first time
// from caches.
#pragma once
#include "convolution/cuda/tiles_product.cuh"

namespace crossd_ops::cuda {

// TilesProblem in 32 bits but for offsets between samples.
struct TilesShape {
  int groups, in_channels, out_channels;  // of a group
  int image[2], kernel[2], result[2], stride[2], padding[2], dilation[2];
  int pixels;          // of the result
  int input_pixel[2];  // strides of the input
  int64_t input_sample;
};

// A tile of which sample, group, pixels and output channels of the group a block makes.
struct TilesPlace {
  int64_t sample;
  int group, first_pixel, first_channel;
};
template <int kRows>
__device__ __forceinline__ TilesPlace tiles_place(const TilesShape& shape) {
  const int across = (shape.out_channels + kColumns - 1) / kColumns, down = (shape.pixels + kRows - 1) / kRows;
  const int block = static_cast<int>(blockIdx.x), pixels = block / across, group = pixels / down;
  const int sample = group / shape.groups;
  return {sample, group - sample * shape.groups, (pixels - group * down) * kRows, (block - pixels * across) * kColumns};
}

// Where a thread is in the reduction: at a tap, and at the first channel of its vector.
struct TapWalk {
  int channel, tap[2] = {0, 0};

  // Channels behind those of a tap are the next one's.
  __device__ __forceinline__ void pass_taps(int channels, int taps_across) {
    while (channel >= channels) {
      channel -= channels;
      if (++tap[1] == taps_across) tap[1] = 0, ++tap[0];
    }
  }
};

// Copies a vector of some pixels, which are rows of a tile, to the stages: every thread one of each kRowsAtOnce rows.
template <typename T, int kRows>
class PixelRows {
 public:
  static constexpr int kRowsOfThread = kRows / kRowsAtOnce;
  static constexpr int kFarAway = 1 << 30;  // from every pixel

  // strides: of pixels in memory.
  __device__ __forceinline__ PixelRows(const T* image, const int (&size)[2], const int (&strides)[2])
      : image_(image), size_(size), strides_(strides) {}

  __device__ __forceinline__ void see(int i, int top, int left) {
    top_[i] = top, left_[i] = left;
    offset_[i] = offset_of(top, left);
  }

  // Of the pixels that lie so far from those seen; to the thread's place in the first row.
  __device__ __forceinline__ void start(int down, int right, int channel, uint4* to) const {
    const unsigned of_tap = offset_of(down, right) + channel;
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      const bool is_inside = static_cast<unsigned>(top_[i] + down) < static_cast<unsigned>(size_[0]) &&
                             static_cast<unsigned>(left_[i] + right) < static_cast<unsigned>(size_[1]);
      copy_vector_async<true>(to + i * kTilesThreads, image_ + (offset_[i] + of_tap), is_inside);
    }
  }

 private:
  // Of a pixel from the image's first, which may lie before it: right modulo 2^32.
  __device__ __forceinline__ unsigned offset_of(int y, int x) const {
    return static_cast<unsigned>(y) * static_cast<unsigned>(strides_[0]) +
           static_cast<unsigned>(x) * static_cast<unsigned>(strides_[1]);
  }

  const T* image_;
  const int (&size_)[2], (&strides_)[2];
  int top_[kRowsOfThread], left_[kRowsOfThread];
  unsigned offset_[kRowsOfThread];
};

// A thread has one vector of every step, in some rows of the input and of the kernels.
__device__ __forceinline__ int row_of_thread() { return static_cast<int>(threadIdx.x) / kStepVectors; }
__device__ __forceinline__ int vector_of_thread() { return static_cast<int>(threadIdx.x) % kStepVectors; }

// Brings the steps of the reduction to shared memory, one after the other.
template <typename T, int kRows>
class StepFetch {
 public:
  __device__ __forceinline__ StepFetch(const TilesShape& shape, const TilesPlace& place, const T* input,
                                       const T* kernels)
      : shape_(shape),
        pixels_(input + place.sample * shape.input_sample + place.group * shape.in_channels, shape.image,
                shape.input_pixel),
        walk_{vector_of_thread() * kVector<T>},
        place_(step_place(row_of_thread(), vector_of_thread())),
        channels_left_(shape.out_channels - place.first_channel - row_of_thread()) {
    const int64_t taps = shape.kernel[0] * shape.kernel[1];
    const int first_channel = place.group * shape.out_channels + place.first_channel + row_of_thread();
    kernels_ = kernels + (place.sample * taps * all_out_channels() + first_channel) * shape.in_channels;
#pragma unroll
    for (int i = 0; i < Pixels::kRowsOfThread; ++i) {
      const int pixel = place.first_pixel + i * kRowsAtOnce + row_of_thread(), down = pixel / shape.result[1];
      // Those behind the last see others' pixels, or none.
      pixels_.see(i, down * shape.stride[0] - shape.padding[0],
                  (pixel - down * shape.result[1]) * shape.stride[1] - shape.padding[1]);
    }
    walk_.pass_taps(shape.in_channels, shape.kernel[1]);
  }

  // The next step, into a stage of shared memory.
  __device__ __forceinline__ void start(uint4* stage) {
    const auto& tap = walk_.tap;
    const bool is_tap = tap[0] < shape_.kernel[0];
    pixels_.start(is_tap ? tap[0] * shape_.dilation[0] : Pixels::kFarAway, tap[1] * shape_.dilation[1], walk_.channel,
                  stage + place_);
    const unsigned of_kernels =
        (tap[0] * shape_.kernel[1] + tap[1]) * all_out_channels() * shape_.in_channels + walk_.channel;
#pragma unroll
    for (int i = 0; i < kColumns / kRowsAtOnce; ++i) {
      const int row = i * kRowsAtOnce;
      copy_vector_async<false>(stage + kRows * kStepVectors + place_ + i * kTilesThreads,
                               kernels_ + (of_kernels + row * shape_.in_channels), is_tap && row < channels_left_);
    }
    walk_.channel += kStepVectors * kVector<T>;
    walk_.pass_taps(shape_.in_channels, shape_.kernel[1]);
  }

 private:
  using Pixels = PixelRows<T, kRows>;

  __device__ __forceinline__ int all_out_channels() const { return shape_.groups * shape_.out_channels; }

  const TilesShape& shape_;
  Pixels pixels_;
  TapWalk walk_;
  const int place_;  // of the first row's vector in a stage; kRowsAtOnce rows further on it is the same
  const T* kernels_;
  int channels_left_;
};

template <typename T, int kRows>
__global__ void __launch_bounds__(kTilesThreads)
    convolve_tiles(TilesShape shape, const T* input, const T* kernels, TilesBias<T> bias, T* out) {
  uint4* stages = dynamic_shared<uint4>();
  const TilesPlace place = tiles_place<kRows>(shape);
  const int steps =
      (shape.kernel[0] * shape.kernel[1] * shape.in_channels / kVector<T> + kStepVectors - 1) / kStepVectors;
  StepFetch<T, kRows> fetch(shape, place, input, kernels);
  WarpTile<T, kRows, ColumnsInRows> tile;
  add_steps<kStageVectors<kRows>>(steps, fetch, tile, stages);
  const int first_channel = place.group * shape.out_channels + place.first_channel;
  const int count = shape.out_channels - place.first_channel, channels = shape.groups * shape.out_channels;
  tile.store(bias, first_channel, count, stages);
  __syncthreads();
  out += (place.sample * shape.pixels + place.first_pixel) * channels + first_channel;
  write_tile<T, kRows>(stages, shape.pixels - place.first_pixel, count,
                       [&](int row) { return out + static_cast<int64_t>(row) * channels; });
}

}  // namespace crossd_ops::cuda
