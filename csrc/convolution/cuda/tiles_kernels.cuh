// The gradient of the kernels of the convolution in tiles, as implicit products of matrices on tensor cores.
//
//   grad_kernels[b, t, o, c] = sum over pixels p of grad[b, p, o] * input[b, p * stride - padding + t * dilation, c]
//
// 0 outside of the image; channels of the same group. A block makes a tile of a sample: output channels times columns,
// which are the input channels of one tap after the other's, in vectors, so that few channels fill a tile as well as
// many. The reduction goes along pixels, some in a step; where blocks share them (see plan_of_kernels_gradient), each
// leaves sums in float, which are added in a fixed order. Bytes: the gradient of the kernels once, grad once for each
// tile of columns, the input once for each tap and tile of output channels, all but the first time from caches.
#pragma once
#include "convolution/cuda/tiles_kernels_operands.cuh"
#include "convolution/tiles_kernels_problem.h"

namespace crossd_ops::cuda {

// TilesKernelsProblem in 32 bits but for offsets between samples.
struct KernelsShape {
  TilesShape tiles;
  int grad_pixel[2];
  int64_t grad_sample;
  int samples;
  int of_split;  // pixels
  int step[2];   // whole rows of the result and the rest, from a thread's pixel to its next
};

template <int kChunks>
constexpr int kKernelsStageVectors = (1 + kChunks) * kChunkVectors;
template <int kChunks>
constexpr size_t kKernelsSharedBytes = kTilesStages * kKernelsStageVectors<kChunks> * kVectorBytes;

// A tile of which sample and group a block makes, and of which pixels.
struct KernelsPlace {
  int split, sample, group, first_channel, first_column, first_pixel, last_pixel;  // columns in vectors
};
template <typename T, int kChunks>
__device__ __forceinline__ KernelsPlace kernels_place(const KernelsShape& shape) {
  const TilesShape& tiles = shape.tiles;
  const int columns = tiles.kernel[0] * tiles.kernel[1] * tiles.in_channels / kVector<T>;
  const int across = (columns + kChunks * kRowVectors<T> - 1) / (kChunks * kRowVectors<T>);
  const int down = (tiles.out_channels + kKernelsRows - 1) / kKernelsRows;
  const int block = static_cast<int>(blockIdx.x), rows = block / across, group = rows / down;
  const int sample = group / tiles.groups,
            split = kChunks == 1 ? sample / shape.samples : 0;  // wide tiles see all pixels
  const int first_pixel = split * shape.of_split, left = tiles.pixels - first_pixel;
  return {split,
          sample - split * shape.samples,
          group - sample * tiles.groups,
          (rows - group * down) * kKernelsRows,
          (block - rows * across) * kChunks * kRowVectors<T>,
          first_pixel,
          first_pixel + (left < shape.of_split ? left : shape.of_split)};
}

// Brings the steps of the reduction to shared memory, one after the other. A thread has a vector of output channels and
// one of each chunk of columns, of some pixels of every step.
template <typename T, int kChunks>
class PixelsFetch {
 public:
  __device__ __forceinline__ PixelsFetch(const KernelsShape& shape, const KernelsPlace& place, const T* grad,
                                         const T* input)
      : shape_(shape), input_(input + int64_t{place.sample} * shape.tiles.input_sample) {
    const TilesShape& tiles = shape.tiles;
    const int vector = static_cast<int>(threadIdx.x) % kRowVectors<T>;
    const int first_row = static_cast<int>(threadIdx.x) / kRowVectors<T>;
    const int channel = place.first_channel + vector * kVector<T>;
    place_ = row_place<T>(first_row, vector);
    has_channel_ = channel < tiles.out_channels;
    grad_ = grad + int64_t{place.sample} * shape.grad_sample + place.group * tiles.out_channels + channel;
    pixels_left_ = place.last_pixel - place.first_pixel - first_row;
    y_ = (place.first_pixel + first_row) / tiles.result[1], x_ = (place.first_pixel + first_row) % tiles.result[1];
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const KernelsColumn column = kernels_column<T>(tiles, place.first_column + chunk * kRowVectors<T> + vector);
      const bool is_column = column.tap[0] < tiles.kernel[0];
      top_[chunk] = is_column ? column.tap[0] * tiles.dilation[0] - tiles.padding[0] : kFarAway;
      left_[chunk] = column.tap[1] * tiles.dilation[1] - tiles.padding[1];
      offset_[chunk] = input_offset(top_[chunk], left_[chunk]) + place.group * tiles.in_channels + column.channel;
    }
  }

  // The next step, into a stage of shared memory.
  __device__ __forceinline__ void start(uint4* stage) {
    const TilesShape& tiles = shape_.tiles;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      uint4* row = stage + place_ + i * kKernelsThreads;
      const bool is_pixel = pixels_left_ > 0;
      const T* from = grad_ + (y_ * shape_.grad_pixel[0] + x_ * shape_.grad_pixel[1]);
      copy_vector_async<false>(row, from, is_pixel && has_channel_);
      // Behind the last pixel nothing is seen, which 0 times NaN is not.
      const unsigned down = is_pixel ? y_ * tiles.stride[0] : kFarAway, right = x_ * tiles.stride[1];
      const unsigned of_pixel = input_offset(down, right);
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        const bool is_inside = top_[chunk] + down < static_cast<unsigned>(tiles.image[0]) &&
                               left_[chunk] + right < static_cast<unsigned>(tiles.image[1]);
        copy_vector_async<true>(row + (1 + chunk) * kChunkVectors, input_ + (offset_[chunk] + of_pixel), is_inside);
      }
      y_ += shape_.step[0], x_ += shape_.step[1];
      if (x_ >= tiles.result[1]) x_ -= tiles.result[1], ++y_;
      pixels_left_ -= kRowsOfThreads<T>;
    }
  }

 private:
  static constexpr int kRows = kStepPixels<T> / kRowsOfThreads<T>, kFarAway = 1 << 30;

  // Of a pixel from the image's first, which may lie before it: right modulo 2^32.
  __device__ __forceinline__ unsigned input_offset(unsigned y, unsigned x) const {
    return y * static_cast<unsigned>(shape_.tiles.input_pixel[0]) +
           x * static_cast<unsigned>(shape_.tiles.input_pixel[1]);
  }

  const KernelsShape& shape_;
  const T *input_, *grad_;
  int place_;  // of the first row's vector in a stage; kRowsOfThreads rows further on it is the same
  bool has_channel_;
  int pixels_left_, y_, x_;                // from the next row on; of it
  unsigned top_[kChunks], left_[kChunks];  // what the first pixel sees
  unsigned offset_[kChunks];
};

// A warp's part of a tile, in registers: of a chunk alone half of the output channels and half of the columns; of
// several all output channels and a quarter of each chunk, which of three reads 28 wavefronts for 24 products, not 32.
// Of halved steps it has half of the columns for half of the pixels: 40 wavefronts for 48 products of three chunks, and
// of one 24 for 16 instead of 16 for 8; at the end one warp adds what another has of the same sums.
template <typename T, bool kHalvedSteps, int kChunks>
class KernelsWarpTile {
 public:
  __device__ __forceinline__ KernelsWarpTile()
      : grad_(first_row(), /*depth_is_second=*/true), input_(first_column(), /*depth_is_second=*/false) {}

  // Whether the warp has the whole sums, after join().
  __device__ __forceinline__ static bool has_sums() { return !kHalvedSteps || half_of_steps() == 0; }

  __device__ __forceinline__ void add_step(const uint4* stage) {
#pragma unroll
    for (int part = 0; part < kStepPixels<T> / Operands::kDepth; part += kHalvedSteps ? 2 : 1) {
      const int pixel = (part + (kHalvedSteps ? half_of_steps() : 0)) * Operands::kDepth;
      uint32_t grads[kDown][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m) grad_.load(stage, pixel, m, grads[m]);
#pragma unroll
      for (int n = 0; n < kPairs; ++n) {
        uint32_t inputs[4];
        input_.load(stage + (1 + n / kChunkPairs) * kChunkVectors, pixel, n % kChunkPairs, inputs);
#pragma unroll
        for (int m = 0; m < kDown; ++m) {
          multiply_add<T>(sums_[m][2 * n], grads[m], inputs[0], inputs[1]);
          multiply_add<T>(sums_[m][2 * n + 1], grads[m], inputs[2], inputs[3]);
        }
      }
    }
  }

  // Adds what two warps have of the same sums, by way of all stages, which nobody uses before or after without a
  // barrier.
  __device__ __forceinline__ void join(uint4* stages) {
    if constexpr (!kHalvedSteps) return;
    static_assert(sizeof sums_ * kKernelsThreads / 2 <= kKernelsSharedBytes<kChunks>);
    float* sums = reinterpret_cast<float*>(stages) + threadIdx.x % (kKernelsThreads / 2);
    if (!has_sums()) for_each_sum([&](int at, float& sum) { sums[at * (kKernelsThreads / 2)] = sum; });
    __syncthreads();
    if (has_sums()) for_each_sum([&](int at, float& sum) { sum += sums[at * (kKernelsThreads / 2)]; });
    __syncthreads();
  }

  // Calls function(row, chunk, column of the chunk, two neighbouring sums) for each pair.
  template <typename Function>
  __device__ __forceinline__ void for_each_pair(Function&& function) const {
    if (!has_sums()) return;
#pragma unroll
    for (int n = 0; n < 2 * kPairs; ++n) {
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          function(first_row() + m * 16 + half * 8 + lane() / 4, n / (2 * kChunkPairs),
                   first_column() + n % (2 * kChunkPairs) * 8 + lane() % 4 * 2, sums_[m][n][2 * half],
                   sums_[m][n][2 * half + 1]);
      }
    }
  }

 private:
  using Operands = OperandsAcrossRows<T>;
  static constexpr int kWarpsAcross = kHalvedSteps || kChunks == 1 ? 2 : 4;
  static constexpr int kWarpRows =
      kHalvedSteps ? kKernelsRows : kKernelsRows * kWarpsAcross / (kKernelsThreads / kLanes);
  static constexpr int kDown = kWarpRows / 16;
  static constexpr int kWarpColumns = kKernelsRows / kWarpsAcross;                       // of a chunk
  static constexpr int kChunkPairs = kWarpColumns / 16, kPairs = kChunks * kChunkPairs;  // of eight columns

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ __forceinline__ static int first_row() {
    return kHalvedSteps ? 0 : static_cast<int>(threadIdx.x) / kLanes / kWarpsAcross * kWarpRows;
  }
  __device__ __forceinline__ static int half_of_steps() {
    return static_cast<int>(threadIdx.x) / (kKernelsThreads / 2);
  }
  template <typename Function>
  __device__ __forceinline__ void for_each_sum(Function&& function) {
#pragma unroll
    for (int m = 0; m < kDown; ++m) {
#pragma unroll
      for (int n = 0; n < 2 * kPairs; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) function((m * 2 * kPairs + n) * 4 + i, sums_[m][n][i]);
      }
    }
  }
  __device__ __forceinline__ static int first_column() {
    return static_cast<int>(threadIdx.x) / kLanes % kWarpsAcross * kWarpColumns;
  }

  const Operands grad_, input_;
  float sums_[kDown][2 * kPairs][4] = {};
};

// Of the tensor that a block writes: the elements that its tile's first row has of a vector of columns.
__device__ __forceinline__ int64_t grad_kernels_offset(const KernelsShape& shape, const KernelsPlace& place,
                                                       const KernelsColumn& column) {
  const TilesShape& tiles = shape.tiles;
  const int64_t sample = int64_t{place.split} * shape.samples + place.sample;
  const int64_t tap = (sample * tiles.kernel[0] + column.tap[0]) * tiles.kernel[1] + column.tap[1];
  return ((tap * tiles.groups + place.group) * tiles.out_channels + place.first_channel) * tiles.in_channels +
         column.channel;
}

// A multiprocessor has registers for two blocks of wide tiles.
template <typename T, bool kHalvedSteps, int kChunks>
__global__ void __launch_bounds__(kKernelsThreads, kChunks > 1    ? 2
                                                   : kHalvedSteps ? 4
                                                                  : 5)
    grad_kernels_tiles(KernelsShape shape, const T* grad, const T* input, float* partial, T* grad_kernels) {
  uint4* stages = dynamic_shared<uint4>();
  __shared__ KernelsPlace place;  // until the tile is written: registers are for its sums
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) place = kernels_place<T, kChunks>(shape);
  __syncthreads();
  const int steps = (place.last_pixel - place.first_pixel + kStepPixels<T> - 1) / kStepPixels<T>;
  PixelsFetch<T, kChunks> fetch(shape, place, grad, input);
  KernelsWarpTile<T, kHalvedSteps, kChunks> tile;
  add_steps<kKernelsStageVectors<kChunks>>(steps, fetch, tile, stages);
  tile.join(stages);
  const TilesShape& tiles = shape.tiles;
  const int rows = tiles.out_channels - place.first_channel;
  if (kChunks == 1 && partial) {
    tile.for_each_pair([&](int row, int chunk, int own, float first, float second) {
      const int vector = own / kVector<T>, element = own % kVector<T>;
      const KernelsColumn column = kernels_column<T>(tiles, place.first_column + chunk * kRowVectors<T> + vector);
      if (row < rows && column.tap[0] < tiles.kernel[0])
        store_pair(partial + grad_kernels_offset(shape, place, column) + row * tiles.in_channels + element, first,
                   second);
    });
    return;
  }
  constexpr int kTileVectors = kKernelsRows * kRowVectors<T>;  // of a chunk
  tile.for_each_pair([&](int row, int chunk, int own, float first, float second) {
    T* elements = reinterpret_cast<T*>(stages + chunk * kTileVectors + row_place<T>(row, own / kVector<T>));
    store_pair(elements + own % kVector<T>, first, second);
  });
  __syncthreads();
  const int vector = thread % kRowVectors<T>;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const KernelsColumn column = kernels_column<T>(tiles, place.first_column + chunk * kRowVectors<T> + vector);
    T* to = grad_kernels + grad_kernels_offset(shape, place, column);
#pragma unroll
    for (int i = 0; i < kKernelsRows / kRowsOfThreads<T>; ++i) {
      const int row = thread / kRowVectors<T> + i * kRowsOfThreads<T>;
      if (row < rows && column.tap[0] < tiles.kernel[0])
        store_vector(to + row * tiles.in_channels, stages[chunk * kTileVectors + row_place<T>(row, vector)]);
    }
  }
}

// A thread adds four neighbours of all splits, in their order.
template <typename T>
__global__ void __launch_bounds__(kKernelsThreads)
    add_splits(const float* partial, int splits, int64_t fours, T* grad_kernels) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kKernelsThreads + threadIdx.x;
  if (own >= fours) return;
  float4 sums{};
#pragma unroll 4
  for (int split = 0; split < splits; ++split) {
    const float4 part = reinterpret_cast<const float4*>(partial)[split * fours + own];
    sums.x += part.x, sums.y += part.y, sums.z += part.z, sums.w += part.w;
  }
  if constexpr (sizeof(T) == 4)
    reinterpret_cast<float4*>(grad_kernels)[own] = sums;
  else
    reinterpret_cast<uint2*>(grad_kernels)[own] = {pack_pair(sums.x, sums.y, T{}), pack_pair(sums.z, sums.w, T{})};
}

}  // namespace crossd_ops::cuda
