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
#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "common/cuda/tensor_core.cuh"
#include "convolution/tiles_problem.h"

namespace crossd_ops::cuda {

// TilesProblem in 32 bits but for offsets between samples.
struct TilesShape {
  int groups, in_channels, out_channels;  // of a group
  int image[2], kernel[2], result[2], stride[2], padding[2], dilation[2];
  int pixels;          // of the result
  int input_pixel[2];  // strides of the input
  int64_t input_sample;
};

constexpr int kTilesThreads = 128, kTilesStages = 3;
constexpr int kStepVectors = 4;                            // of the reduction: 32 elements of half types
constexpr int kRowsAtOnce = kTilesThreads / kStepVectors;  // that the threads copy a vector of
constexpr int kColumns = static_cast<int>(kTileColumns), kWarpColumns = kColumns / 2;
template <typename T>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));

// Two warps along a tile's rows, two along its columns.
template <int kRows>
constexpr int kWarpRows = kRows / 2;
template <int kRows>
constexpr int kStageVectors = (kRows + kColumns) * kStepVectors;
template <int kRows>
constexpr size_t kTilesSharedBytes = kTilesStages * kStageVectors<kRows> * kVectorBytes;

// Where a vector of a row of a step lies, so that those of eight neighbouring rows are in different banks.
__device__ __forceinline__ int step_place(int row, int vector) {
  return row * kStepVectors + (vector ^ (row / 2 % kStepVectors));
}

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

// Brings the steps of the reduction to shared memory, one after the other. A thread has one vector of every step, in
// some rows of the input and of the kernels.
template <typename T, int kRows>
class StepFetch {
 public:
  __device__ __forceinline__ StepFetch(const TilesShape& shape, const TilesPlace& place, const T* input,
                                       const T* kernels)
      : shape_(shape),
        input_(input + place.sample * shape.input_sample + place.group * shape.in_channels),
        place_(step_place(first_row(), first_vector())),
        channel_(first_vector() * kVector<T>),
        channels_left_(shape.out_channels - place.first_channel - first_row()) {
    const int64_t taps = shape.kernel[0] * shape.kernel[1];
    const int first_channel = place.group * shape.out_channels + place.first_channel + first_row();
    kernels_ = kernels + (place.sample * taps * all_out_channels() + first_channel) * shape.in_channels;
#pragma unroll
    for (int i = 0; i < kInputRows; ++i) {
      const int pixel = place.first_pixel + i * kRowsAtOnce + first_row(), down = pixel / shape.result[1];
      // Those behind the last see others' pixels, or none.
      top_[i] = down * shape.stride[0] - shape.padding[0];
      left_[i] = (pixel - down * shape.result[1]) * shape.stride[1] - shape.padding[1];
      offset_[i] = offset_of(top_[i], left_[i]);
    }
    pass_taps();
  }

  // The next step, into a stage of shared memory.
  __device__ __forceinline__ void start(uint4* stage) {
    const bool is_tap = tap_[0] < shape_.kernel[0];
    const int down = is_tap ? tap_[0] * shape_.dilation[0] : kFarAway, right = tap_[1] * shape_.dilation[1];
    const unsigned of_tap = offset_of(down, right) + channel_;
#pragma unroll
    for (int i = 0; i < kInputRows; ++i) {
      const bool is_inside = static_cast<unsigned>(top_[i] + down) < static_cast<unsigned>(shape_.image[0]) &&
                             static_cast<unsigned>(left_[i] + right) < static_cast<unsigned>(shape_.image[1]);
      copy_vector_async<true>(stage + place_ + i * kTilesThreads, input_ + (offset_[i] + of_tap), is_inside);
    }
    const int tap = tap_[0] * shape_.kernel[1] + tap_[1];
    const unsigned of_kernels = tap * all_out_channels() * shape_.in_channels + channel_;
#pragma unroll
    for (int i = 0; i < kColumns / kRowsAtOnce; ++i) {
      const int row = i * kRowsAtOnce;
      copy_vector_async<false>(stage + kRows * kStepVectors + place_ + i * kTilesThreads,
                               kernels_ + (of_kernels + row * shape_.in_channels), is_tap && row < channels_left_);
    }
    channel_ += kStepVectors * kVector<T>;
    pass_taps();
  }

 private:
  static constexpr int kInputRows = kRows / kRowsAtOnce, kFarAway = 1 << 30;

  __device__ __forceinline__ static int first_row() { return static_cast<int>(threadIdx.x) / kStepVectors; }
  __device__ __forceinline__ static int first_vector() { return static_cast<int>(threadIdx.x) % kStepVectors; }
  __device__ __forceinline__ int all_out_channels() const { return shape_.groups * shape_.out_channels; }
  // Of a pixel from the image's first, which may lie before it: right modulo 2^32.
  __device__ __forceinline__ unsigned offset_of(int y, int x) const {
    return static_cast<unsigned>(y) * static_cast<unsigned>(shape_.input_pixel[0]) +
           static_cast<unsigned>(x) * static_cast<unsigned>(shape_.input_pixel[1]);
  }
  // Channels behind those of a tap are the next one's.
  __device__ __forceinline__ void pass_taps() {
    while (channel_ >= shape_.in_channels) {
      channel_ -= shape_.in_channels;
      if (++tap_[1] == shape_.kernel[1]) tap_[1] = 0, ++tap_[0];
    }
  }

  const TilesShape& shape_;
  const T *input_, *kernels_;
  const int place_;  // of the first row's vector in a stage; kRowsAtOnce rows further on it is the same
  int channel_, channels_left_, tap_[2] = {0, 0};
  int top_[kInputRows], left_[kInputRows];  // the pixels that the first tap sees
  unsigned offset_[kInputRows];
};

// A warp's part of a tile, in registers: as many products of 16 x 8. A row of a product's operands is two
// vectors, whatever their type.
template <typename T, int kRows>
class WarpTile {
 public:
  __device__ __forceinline__ WarpTile()
      : lane_(static_cast<int>(threadIdx.x) % kLanes),
        first_row_(static_cast<int>(threadIdx.x) / kLanes / 2 * kWarpRows<kRows>),
        first_column_(static_cast<int>(threadIdx.x) / kLanes % 2 * kWarpColumns),
        pixels_place_(step_place(first_row_ + lane_ % 16, lane_ / 16)),
        channels_place_(step_place(kRows + first_column_ + lane_ / 16 * 8 + lane_ % 8, lane_ / 8 % 2)) {}

  __device__ __forceinline__ void add_step(const uint4* stage) {
#pragma unroll
    for (int half = 0; half < kStepVectors; half += 2) {
      uint32_t pixels[kDown][4], channels[kAcross / 2][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m)
        load_operands<T>(stage + (pixels_place_ ^ half) + m * 16 * kStepVectors, pixels[m]);
#pragma unroll
      for (int n = 0; n < kAcross / 2; ++n)
        load_operands<T>(stage + (channels_place_ ^ half) + n * 16 * kStepVectors, channels[n]);
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
#pragma unroll
        for (int n = 0; n < kAcross; ++n)
          multiply_add<T>(sums_[m][n], pixels[m], channels[n / 2][n % 2 * 2], channels[n / 2][n % 2 * 2 + 1]);
      }
    }
  }

  // With the bias of the tile's channels, of which there are `count`, rounded once; to rows of kColumns elements.
  __device__ __forceinline__ void store(const T* bias, int64_t bias_stride, int count, uint4* tile) const {
#pragma unroll
    for (int n = 0; n < kAcross; ++n) {
      const int column = first_column_ + n * 8 + lane_ % 4 * 2;
      float of_channels[2] = {0, 0};
      if (bias && column < count) {
        of_channels[0] = to_float(bias[column * bias_stride]);
        of_channels[1] = to_float(bias[(column + 1) * bias_stride]);
      }
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first_row_ + m * 16 + half * 8 + lane_ / 4;
          const float* sums = sums_[m][n] + 2 * half;
          T* elements = reinterpret_cast<T*>(tile + tile_place(row, column / kVector<T>));
          store_pair(elements + column % kVector<T>, sums[0] + of_channels[0], sums[1] + of_channels[1]);
        }
      }
    }
  }

  // Of a vector of a row; what a warp stores at once, 16 or 32 bytes of a row, is in different banks.
  __device__ __forceinline__ static int tile_place(int row, int vector) {
    constexpr int kRowVectors = kColumns / kVector<T>, kVectors = static_cast<int>(sizeof(T)) / 2;
    return row * kRowVectors + (vector ^ (row * kVectors % kRowVectors));
  }

 private:
  static constexpr int kDown = kWarpRows<kRows> / 16, kAcross = kWarpColumns / 8;

  const int lane_, first_row_, first_column_;
  // Of the row whose address the lane brings, the vector in the first half of a step; an even number of vectors further
  // on, that in the other half is exchanged with it.
  const int pixels_place_, channels_place_;
  float sums_[kDown][kAcross][4] = {};
};

template <typename T, int kRows>
__global__ void __launch_bounds__(kTilesThreads)
    convolve_tiles(TilesShape shape, const T* input, const T* kernels, const T* bias, int64_t bias_stride, T* out) {
  uint4* stages = dynamic_shared<uint4>();
  const TilesPlace place = tiles_place<kRows>(shape);
  const int steps =
      (shape.kernel[0] * shape.kernel[1] * shape.in_channels / kVector<T> + kStepVectors - 1) / kStepVectors;
  StepFetch<T, kRows> fetch(shape, place, input, kernels);
  WarpTile<T, kRows> tile;
  // Copies of two steps are under way while one is worked on.
  for (int step = 0; step < kTilesStages - 1; ++step) {
    if (step < steps) fetch.start(stages + step * kStageVectors<kRows>);
    commit_copies();
  }
  int stage = 0, free_stage = kTilesStages - 1;
  for (int step = 0; step < steps; ++step) {
    wait_copies<kTilesStages - 2>();
    __syncthreads();  // the step is there for all, and the stage of the one before is no longer read
    if (step + kTilesStages - 1 < steps) fetch.start(stages + free_stage * kStageVectors<kRows>);
    commit_copies();
    tile.add_step(stages + stage * kStageVectors<kRows>);
    free_stage = stage, stage = stage + 1 == kTilesStages ? 0 : stage + 1;
  }
  __syncthreads();
  const int first_channel = place.group * shape.out_channels + place.first_channel;
  const int count = shape.out_channels - place.first_channel, channels = shape.groups * shape.out_channels;
  tile.store(bias ? bias + first_channel * bias_stride : nullptr, bias_stride, count, stages);
  __syncthreads();
  out += (place.sample * shape.pixels + place.first_pixel) * channels + first_channel;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * kColumns / kVector<T>; i += kTilesThreads) {
    const int row = i / (kColumns / kVector<T>), vector = i % (kColumns / kVector<T>);
    if (place.first_pixel + row < shape.pixels && vector * kVector<T> < count)
      store_vector(out + static_cast<int64_t>(row) * channels + vector * kVector<T>,
                   stages[tile.tile_place(row, vector)]);
  }
}

}  // namespace crossd_ops::cuda
