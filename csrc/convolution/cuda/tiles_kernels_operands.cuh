// Steps of the gradient of the kernels in shared memory, whose rows are pixels, what their columns are, and the
// operands of products in them.
#pragma once
#include "convolution/cuda/tiles.cuh"
#include "convolution/tiles_kernels_problem.h"

namespace crossd_ops::cuda {

// A row of a step is a pixel, a row of a tile an output channel; both have the vectors of 64 output channels or of a
// chunk of columns. Of float32, whose rows are twice as wide, a step has half as many pixels.
constexpr int kKernelsThreads = 128;
constexpr int kKernelsRows = static_cast<int>(kKernelsTileRows);
static_assert(kKernelsTileRows == kKernelsChunkColumns);
template <typename T>
constexpr int kRowVectors = kKernelsRows / kVector<T>;
template <typename T>
constexpr int kRowsOfThreads = kKernelsThreads / kRowVectors<T>;
constexpr int kChunkVectors = kKernelsThreads * 2;
template <typename T>
constexpr int kStepPixels = kChunkVectors / kRowVectors<T>;
static_assert(kKernelsStepPixels % kStepPixels<BFloat16> == 0 && kKernelsStepPixels % kStepPixels<float> == 0);

// Where a vector of a row lies, so that those of eight neighbouring rows are in different banks; of float32, two
// neighbouring vectors of four rows.
template <typename T>
__device__ __forceinline__ int row_place(int row, int vector) {
  return row * kRowVectors<T> + (vector ^ (sizeof(T) == 2 ? row % 8 : row % 4 * 2));
}

// Of a vector of columns. Behind the last column, tap[0] is the kernel's size.
struct KernelsColumn {
  int tap[2], channel;
};
template <typename T>
__device__ __forceinline__ KernelsColumn kernels_column(const TilesShape& shape, int vector) {
  const int vectors = shape.in_channels / kVector<T>, tap = vector / vectors;
  const int down = tap / shape.kernel[1] < shape.kernel[0] ? tap / shape.kernel[1] : shape.kernel[0];
  return {{down, tap % shape.kernel[1]}, (vector - tap * vectors) * kVector<T>};
}

// Operands of products whose reduction goes along the rows of a step: of 16 columns, in two halves of eight.
template <typename T>
class OperandsAcrossRows {
 public:
  static constexpr int kDepth = 32 / static_cast<int>(sizeof(T));  // rows of a product

  // depth_is_second: of four registers the second belongs to the other columns, and the third to the other rows.
  __device__ __forceinline__ OperandsAcrossRows(int first_column, bool depth_is_second)
      : depth_is_second_(depth_is_second), element_(lane() / 4 % 4) {
    const int row = depth_is_second ? lane() / 16 * 8 + lane() % 8 : lane() % 16;
    const int half = depth_is_second ? lane() / 8 % 2 : lane() / 16;
    place_ = sizeof(T) == 2 ? row_place<T>(row, first_column / kVector<T> + half)
                            : row_place<T>(lane() % 4, first_column / kVector<T> + lane() / 16);
  }

  // Of the rows from `row` on, a whole number of depths, and the columns from 16 * block on. As many vectors further on
  // as are whole blocks or, of float32, halves, a vector is exchanged with another.
  __device__ __forceinline__ void load(const uint4* rows, int row, int block, uint32_t (&registers)[4]) const {
    const uint4* first = rows + row * kRowVectors<T>;
    if constexpr (sizeof(T) == 2) {
      load_matrices<true>(first + (place_ ^ block * 2), registers);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = depth_is_second_ ? i % 2 : i / 2, depth = depth_is_second_ ? i / 2 : i % 2;
        const uint4* vector = first + depth * 4 * kRowVectors<T> + (place_ ^ (block * 4 + half * 2));
        registers[i] = round_to_tf32(reinterpret_cast<const uint32_t*>(vector)[element_]);
      }
    }
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }

  const bool depth_is_second_;
  const int element_;  // of a vector
  int place_;          // of the row whose address the lane brings, or of the vector in which its element is
};

}  // namespace crossd_ops::cuda
