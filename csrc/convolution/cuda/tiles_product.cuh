// What the convolution in tiles and its gradients share: the steps of a reduction in shared memory, and the products
// and results of a tile.
#pragma once
#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "common/cuda/tensor_core.cuh"
#include "convolution/tiles_problem.h"

namespace crossd_ops::cuda {

constexpr int kTilesThreads = 64, kTilesStages = 3;
constexpr int kStepVectors = 4;                            // of the reduction: 32 elements of half types
constexpr int kRowsAtOnce = kTilesThreads / kStepVectors;  // that the threads copy a vector of
constexpr int kColumns = static_cast<int>(kTileColumns);
template <typename T>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));

// The two warps of a block are below each other in tiles of 128 rows, and side by side in those of 64. To multiply the
// elements of two vectors a warp of M x N reads (M + N) / 4 wavefronts for M * N / 128 instructions: the fewer, the
// larger it is. With its copies a step of 128 rows has 224 wavefronts for 128 instructions; four warps, of 64 x 32,
// would have 288. One of 64 rows has 160 for 64; four of 32 x 32 would have 192.
constexpr int kWarpRows = 64;
template <int kRows>
constexpr int kWarpsAcross = kTilesThreads / kLanes * kWarpRows / kRows;
template <int kRows>
constexpr int kStageVectors = (kRows + kColumns) * kStepVectors;
template <int kRows>
constexpr size_t kTilesSharedBytes = kTilesStages * kStageVectors<kRows> * kVectorBytes;

// Where a vector of a row of a step lies, so that those of eight neighbouring rows are in different banks.
__device__ __forceinline__ int step_place(int row, int vector) {
  return row * kStepVectors + (vector ^ (row / 2 % kStepVectors));
}

// Operands of the columns of a step, whose rows in shared memory are the columns.
template <typename T, int kRows>
class ColumnsInRows {
 public:
  __device__ __forceinline__ ColumnsInRows(int lane, int first_column)
      : place_(step_place(kRows + first_column + lane / 16 * 8 + lane % 8, lane / 8 % 2)) {}

  // Of the n-th 16 columns, in that half of the step's vectors that begins at `half`.
  __device__ __forceinline__ void load(const uint4* stage, int half, int n, uint32_t (&columns)[4]) const {
    load_operands<T>(stage + (place_ ^ half) + n * 16 * kStepVectors, columns);
  }

 private:
  const int place_;  // as WarpTile's
};

// Where a vector of a row of a tile lies; what a warp stores at once, 16 or 32 bytes of a row, is in different banks.
template <typename T>
__device__ __forceinline__ int result_place(int row, int vector) {
  constexpr int kTileVectors = kColumns / kVector<T>, kVectors = static_cast<int>(sizeof(T)) / 2;
  return row * kTileVectors + (vector ^ (row * kVectors % kTileVectors));
}

// Of all output channels; no data: none.
template <typename T>
struct TilesBias {
  const void* data;
  int64_t stride;
  bool in_float;  // whatever T is: a parameter in float32 beside half types is read as it is

  __device__ __forceinline__ float at(int channel) const {
    return in_float ? static_cast<const float*>(data)[channel * stride]
                    : to_float(static_cast<const T*>(data)[channel * stride]);
  }
};

// A warp's part of a tile, in registers: as many products of 16 x 8. A row of a product's operands is two
// vectors, whatever their type.
template <typename T, int kRows, template <typename, int> class Columns>
class WarpTile {
 public:
  __device__ __forceinline__ WarpTile()
      : lane_(static_cast<int>(threadIdx.x) % kLanes),
        first_row_(static_cast<int>(threadIdx.x) / kLanes / kWarpsAcross<kRows> * kWarpRows),
        first_column_(static_cast<int>(threadIdx.x) / kLanes % kWarpsAcross<kRows> * (kColumns / kWarpsAcross<kRows>)),
        pixels_place_(step_place(first_row_ + lane_ % 16, lane_ / 16)),
        columns_(lane_, first_column_) {}

  __device__ __forceinline__ void add_step(const uint4* stage) {
#pragma unroll
    for (int half = 0; half < kStepVectors; half += 2) {
      uint32_t pixels[kDown][4], channels[kAcross / 2][4];
#pragma unroll
      for (int m = 0; m < kDown; ++m)
        load_operands<T>(stage + (pixels_place_ ^ half) + m * 16 * kStepVectors, pixels[m]);
#pragma unroll
      for (int n = 0; n < kAcross / 2; ++n) columns_.load(stage, half, n, channels[n]);
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
#pragma unroll
        for (int n = 0; n < kAcross; ++n)
          multiply_add<T>(sums_[m][n], pixels[m], channels[n / 2][n % 2 * 2], channels[n / 2][n % 2 * 2 + 1]);
      }
    }
  }

  // With the bias of the tile's channels, `count` of them from the first on, rounded once; to rows of kColumns
  // elements.
  __device__ __forceinline__ void store(const TilesBias<T>& bias, int first, int count, uint4* tile) const {
#pragma unroll
    for (int n = 0; n < kAcross; ++n) {
      const int column = first_column_ + n * 8 + lane_ % 4 * 2;
      float of_channels[2] = {0, 0};
      if (bias.data && column < count) {
        of_channels[0] = bias.at(first + column);
        of_channels[1] = bias.at(first + column + 1);
      }
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first_row_ + m * 16 + half * 8 + lane_ / 4;
          const float* sums = sums_[m][n] + 2 * half;
          T* elements = reinterpret_cast<T*>(tile + result_place<T>(row, column / kVector<T>));
          store_pair(elements + column % kVector<T>, sums[0] + of_channels[0], sums[1] + of_channels[1]);
        }
      }
    }
  }

 private:
  static constexpr int kDown = kWarpRows / 16, kAcross = kColumns / kWarpsAcross<kRows> / 8;

  const int lane_, first_row_, first_column_;
  // Of the row whose address the lane brings, the vector in the first half of a step; an even number of vectors further
  // on, that in the other half is exchanged with it.
  const int pixels_place_;
  const Columns<T, kRows> columns_;
  float sums_[kDown][kAcross][4] = {};
};

// All steps of a tile, in stages of so many vectors: copies of two are under way while one is worked on.
template <int kVectors, typename Fetch, typename Tile>
__device__ __forceinline__ void add_steps(int steps, Fetch& fetch, Tile& tile, uint4* stages) {
  for (int step = 0; step < kTilesStages - 1; ++step) {
    if (step < steps) fetch.start(stages + step * kVectors);
    commit_copies();
  }
  int stage = 0, free_stage = kTilesStages - 1;
  for (int step = 0; step < steps; ++step) {
    wait_copies<kTilesStages - 2>();
    __syncthreads();  // the step is there for all, and the stage of the one before is no longer read
    if (step + kTilesStages - 1 < steps) fetch.start(stages + free_stage * kVectors);
    commit_copies();
    tile.add_step(stages + stage * kVectors);
    free_stage = stage, stage = stage + 1 == kTilesStages ? 0 : stage + 1;
  }
  __syncthreads();
}

// A tile of so many pixels and channels, from shared memory to where its rows begin.
template <typename T, int kRows, typename BeginOf>
__device__ __forceinline__ void write_tile(const uint4* tile, int pixels, int channels, BeginOf&& begin_of) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * kColumns / kVector<T>; i += kTilesThreads) {
    const int row = i / (kColumns / kVector<T>), vector = i % (kColumns / kVector<T>);
    if (row < pixels && vector * kVector<T> < channels)
      store_vector(begin_of(row) + vector * kVector<T>, tile[result_place<T>(row, vector)]);
  }
}

}  // namespace crossd_ops::cuda
