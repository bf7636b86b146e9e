// What the kernels of odd cubic sizes 5 and 7 share. A block has K warps and 32 pairs, one for each lane: warp z holds
// W[:, :, z] of the pairs in registers, K^2 of them, so the axes 0 and 1 need no other thread; for axis 2 a plane
// passes through shared memory and warp y takes row y. All strides there are odd: no bank conflicts.
//
// Of few pairs, as a network's stem has, a block of the backward takes 8 instead, and its lanes four samples of them at
// a time: four times the blocks, and the sums of grad_weight still end in registers, over lanes in a fixed order.
#pragma once
#include <type_traits>

#include "common/cuda/element.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/taps.cuh"
#include "shift/cuda/tile.cuh"

namespace crossd_ops::cuda {

constexpr int kRowsGroup = 16;  // samples whose taps are computed at a time
// Of a sample: axis 0, derivative of axis 0, axis 1, axis 2 from these offsets on. Those of four samples are in banks
// of their own.
constexpr int kRowsTapStride = 52;
constexpr int kRowsSampleLanes = 4;                       // that have a pair each, where there are few pairs
constexpr int kRowsFewPairs = kLanes / kRowsSampleLanes;  // of a block then
constexpr int kRowsDerivative = 16, kRowsAxis1 = 32, kRowsAxis2 = 40;

template <int kSize>
struct Rows {
  static constexpr int kThreads = kSize * kLanes, kPlane = kSize * kSize, kVolume = kSize * kPlane;
  static_assert(kSize % 2 == 1 && 2 * kSize - 1 <= 16 && kSize <= 8);

  __device__ explicit Rows(const ShiftShape& shape, bool few_pairs = false)
      : few(few_pairs),
        lane(threadIdx.x % kLanes),
        warp(threadIdx.x / kLanes),
        pairs(few ? kRowsFewPairs : kLanes),
        pair(few ? lane % kRowsFewPairs : lane),
        sample(few ? lane / kRowsFewPairs : 0),
        first(static_cast<int64_t>(blockIdx.x) * pairs) {
    const int64_t left = pair_count(shape) - first;
    count = left < pairs ? static_cast<int>(left) : pairs;
  }
  __device__ int at(int y, int z) const { return lane * kPlane + y * kSize + z; }  // of a plane, [lanes, K, K]

  const bool few;
  const int lane, warp, pairs, pair, sample;  // sample: which one of those that the lanes take together
  const int64_t first;
  int count;  // of the pairs
};

// Position of an element of a pair in a tile of weights, see Cubic3Order.
struct RowsOrder {
  __device__ RowsOrder(const WeightStrides& strides, bool vectors, int size)
      : x(vectors ? static_cast<int>(strides.kernel[0]) : size * size),
        y(vectors ? static_cast<int>(strides.kernel[1]) : size),
        z(vectors ? static_cast<int>(strides.kernel[2]) : 1) {}
  const int x, y, z;
};

// function(elements), of a tile's whole weights, as a constant.
template <int kSize, typename Function>
__device__ __forceinline__ void with_tile_elements(const Rows<kSize>& rows, Function&& function) {
  if (rows.few)
    function(std::integral_constant<int, kRowsFewPairs * rows.kVolume>{});
  else
    function(std::integral_constant<int, kLanes * rows.kVolume>{});
}

// W[:, :, warp] of the lane's pair, zeros without a pair. `scratch`: 32 K^3 elements of the block.
template <int kSize, typename Acc>
__device__ __forceinline__ void load_rows_weight(const ShiftShape& shape, Dtype dtype, const void* weight,
                                                 const WeightStrides& strides, bool vectors, const Rows<kSize>& rows,
                                                 Acc* scratch, Acc (&values)[kSize][kSize]) {
  vectors = vectors && rows.count == rows.pairs;
  if (vectors) {
    with_weight_type<Acc>(dtype, [&](auto type) {
      const auto* from = static_cast<const decltype(type)*>(weight) + rows.first * rows.kVolume;
      with_tile_elements(rows, [&](auto elements) {
        load_vectors<decltype(elements)::value, rows.kThreads>(threadIdx.x, from, scratch);
      });
    });
  } else if (rows.sample == 0) {
    const bool active = rows.pair < rows.count;
    const int64_t offset = active ? pair_offset(strides, shape.in_channels, rows.first + rows.pair) : 0;
#pragma unroll 1
    for (int i = 0; i < rows.kPlane; ++i)
      scratch[rows.pair * rows.kVolume + i * kSize + rows.warp] =
          active ? load_as<Acc>(dtype, weight, offset + kernel_offset(strides, i / kSize, i % kSize, rows.warp)) : 0;
  }
  __syncthreads();
  const RowsOrder order(strides, vectors, kSize);
#pragma unroll
  for (int x = 0; x < kSize; ++x) {
#pragma unroll
    for (int y = 0; y < kSize; ++y)
      values[x][y] = scratch[rows.pair * rows.kVolume + x * order.x + y * order.y + rows.warp * order.z];
  }
  __syncthreads();
}

// Taps of samples first .. first + count - 1. Axis 0, whose slice is known at run time only, and its derivative are
// written for n = -(K-1) .. K-1, the others for n = 0 .. K-1.
template <int kSize, typename Acc>
__device__ void compute_rows_taps(const ShiftShape& shape, const void* shift, int64_t first, int count, Acc* taps) {
  constexpr CircleTable<kSize> circle;
  for (int task = threadIdx.x; task < 3 * count; task += Rows<kSize>::kThreads) {
    const int sample = task / 3, axis = task - sample * 3;
    Acc values[kSize];
    odd_taps(static_cast<const Acc*>(shift)[(first + sample) * 3 + select(shape.axis, axis)], values);
    Acc* to = taps + sample * kRowsTapStride + (axis == 0 ? 0 : axis == 1 ? kRowsAxis1 : kRowsAxis2);
#pragma unroll
    for (int n = 0; n < kSize; ++n) {
      if (axis > 0) {
        to[n] = values[n];
        continue;
      }
      Acc derivative = 0;
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        derivative += static_cast<Acc>(circle.derivative[(n - j + kSize) % kSize]) * values[j];
      to[n + kSize - 1] = values[n], to[n + kRowsDerivative + kSize - 1] = derivative;
      if (n > 0) to[n - 1] = values[n], to[n - 1 + kRowsDerivative] = derivative;
    }
  }
}

// The circulant of the taps (n = 0 .. K-1 at a vector's boundary of shared memory), or its transpose.
template <bool kAdjoint, int kSize, typename Acc>
__device__ __forceinline__ void apply_taps(const Acc* shared, const Acc (&values)[kSize], Acc (&result)[kSize]) {
  Acc taps[8];
  read_shared(shared, taps);
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    Acc sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += taps[(kAdjoint ? j - i + kSize : i - j + kSize) % kSize] * values[j];
    result[i] = sum;
  }
}

// D of CircleTable times the values, or its transpose, -D.
template <bool kAdjoint, int kSize, typename Acc>
__device__ __forceinline__ void differentiate(const Acc (&values)[kSize], Acc (&result)[kSize]) {
  constexpr CircleTable<kSize> circle;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    Acc sum = 0;
#pragma unroll
    for (int n = 1; 2 * n < kSize; ++n)
      sum += static_cast<Acc>(kAdjoint ? -circle.derivative[n] : circle.derivative[n]) *
             (values[(i - n + kSize) % kSize] - values[(i + n) % kSize]);
    result[i] = sum;
  }
}

// u[y] = sum_x' d(slice - x'; s0) W[x'][y]
template <int kSize, typename Acc>
__device__ __forceinline__ void contract_rows(const Acc* taps, int slice, const Acc (&weight)[kSize][kSize],
                                              Acc (&u)[kSize]) {
#pragma unroll
  for (int y = 0; y < kSize; ++y) u[y] = 0;
#pragma unroll
  for (int x = 0; x < kSize; ++x) {
    const Acc tap = taps[slice - x + kSize - 1];
#pragma unroll
    for (int y = 0; y < kSize; ++y) u[y] += tap * weight[x][y];
  }
}

}  // namespace crossd_ops::cuda
