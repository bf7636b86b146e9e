// The adjoint of rows.cuh. For the gradient g of slice x:
//   k = A2^T g, e = D2^T k  in warp y;  h = A1^T k, u = A0 W  in warp z                  D: derivative of a circulant,
//   A' = A D gW[x'] += d(x - x'; s0) h,   gs_0 += sum_x' d'(x - x'; s0) <h, W[x']>,   gs_1 += <h, D1 u>,   gs_2 += <e,
//   A1 u>
// Bytes: g, W and gW once each. About 8 K^2 multiply-adds for K gradients of a thread.
#pragma once
#include "common/cuda/device.cuh"
#include "shift/cuda/partial_sums.cuh"
#include "shift/cuda/rows_tile.cuh"

namespace crossd_ops::cuda {

template <typename Acc, typename Grad, int kSize>
struct BackwardRowsShared {  // byte offsets; the planes k and e and the buffers of g lie where the weights are at the
                             // start and the end
  static constexpr size_t kElements = kLanes * Rows<kSize>::kPlane;
  static constexpr size_t kSums = kRowsGroup * kRowsTapStride * sizeof(Acc),
                          kTile = kSums + kSize * kRowsGroup * 3 * sizeof(Acc);
  static constexpr size_t kBuffers = 2 * kElements * sizeof(Acc), kWork = kBuffers + 2 * kElements * sizeof(Grad);
  static constexpr size_t kWeight = kLanes * Rows<kSize>::kVolume * sizeof(Acc);
  static constexpr size_t kTotal = kTile + (kWork > kWeight ? kWork : kWeight);
  static_assert(kTile % kVectorBytes == 0 && kBuffers % kVectorBytes == 0 &&
                kElements * sizeof(Grad) % kVectorBytes == 0);
};

// Starts to bring the gradients of a slice into `buffer`, [lanes, K, K], or [K, K, lanes] where they are tap-major;
// zeros where there is no pair, or no sample.
template <int kSize, typename Grad>
__device__ __forceinline__ void fetch_rows_grad(const BackwardProblem& problem, const TileAccess& vectors,
                                                const Rows<kSize>& rows, int64_t sample, int slice, Grad* buffer) {
  constexpr int kWidth = kVectorElements<Grad>, kOfTap = kLanes / kWidth, kVectors = kOfTap * rows.kPlane;
  constexpr int kOfFewPairs = kVectors / kRowsSampleLanes, kOfFewTaps = kOfTap / kRowsSampleLanes;  // of a sample
  const GradStrides& strides = problem.grad_strides;
  const Grad* grad = static_cast<const Grad*>(problem.grad) + sample * strides.sample + slice * strides.kernel[0];
  const int64_t left = problem.shape.samples - sample;
  if (vectors.grad && problem.shape.slices == 1 && rows.count == rows.pairs) {
    const bool tap_major = vectors.grad_is_tap_major;
    grad += rows.first * (tap_major ? 1 : rows.kPlane);
#pragma unroll
    for (int first = 0; first < kVectors; first += rows.kThreads) {
      const int vector = first + threadIdx.x;
      if (vector >= kVectors) break;
      int of_sample = tap_major ? vector % kOfTap : vector, of_lanes = 0;
      if (rows.few) {
        const int each = tap_major ? kOfFewTaps : kOfFewPairs;
        of_lanes = of_sample / each, of_sample -= of_lanes * each;
      }
      const int64_t offset = of_lanes * strides.sample + of_sample * kWidth;
      copy_vector_async<false>(buffer + vector * kWidth,
                               grad + offset + (tap_major ? vector / kOfTap * strides.kernel[2] : 0), of_lanes < left);
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < kLanes * rows.kPlane; i += rows.kThreads) {
    const int lane = vectors.grad_is_tap_major ? i % kLanes : i / rows.kPlane;
    const int element = vectors.grad_is_tap_major ? i / kLanes : i - lane * rows.kPlane;
    const int pair = rows.few ? lane % kRowsFewPairs : lane, of_lanes = rows.few ? lane / kRowsFewPairs : 0;
    buffer[i] =
        pair < rows.count && of_lanes < left
            ? grad[of_lanes * strides.sample + pair_offset(strides, problem.shape.in_channels, rows.first + pair) +
                   kernel_offset(strides, 0, element / kSize, element % kSize)]
            : Grad{};
  }
}

// Row `warp` of the lane's pair in a buffer.
template <int kSize, typename Grad, typename Acc>
__device__ __forceinline__ void read_rows_grad(const Rows<kSize>& rows, bool tap_major, const Grad* buffer,
                                               Acc (&values)[kSize]) {
  if (!tap_major) return read_elements(buffer, rows.at(rows.warp, 0), values);
#pragma unroll
  for (int z = 0; z < kSize; ++z) values[z] = load_element<Acc>(buffer + (rows.warp * kSize + z) * kLanes + rows.lane);
}

// Warp z's part, h and e of its column given: adds to grad_weight and to the shares of gs.
template <int kSize, typename Acc>
__device__ __forceinline__ void backward_rows_column(const Acc* taps, int slice, const Acc (&weight)[kSize][kSize],
                                                     const Acc (&h)[kSize], const Acc (&e)[kSize], bool need_weight,
                                                     bool need_shift, Acc (&grad_weight)[kSize][kSize],
                                                     Acc (&shares)[3]) {
  if (need_weight) {
#pragma unroll
    for (int x = 0; x < kSize; ++x) {
      const Acc tap = taps[slice - x + kSize - 1];
#pragma unroll
      for (int y = 0; y < kSize; ++y) grad_weight[x][y] += tap * h[y];
    }
  }
  if (need_shift) {
    Acc u[kSize], derived[kSize];
    contract_rows(taps, slice, weight, u);
    differentiate<false>(u, derived);
#pragma unroll
    for (int y = 0; y < kSize; ++y) shares[1] += h[y] * derived[y];
    apply_taps<false>(taps + kRowsAxis1, u, derived);
#pragma unroll
    for (int y = 0; y < kSize; ++y) shares[2] += e[y] * derived[y];
#pragma unroll
    for (int x = 0; x < kSize; ++x) {
      Acc product = 0;
#pragma unroll
      for (int y = 0; y < kSize; ++y) product += h[y] * weight[x][y];
      shares[0] += taps[kRowsDerivative + slice - x + kSize - 1] * product;
    }
  }
}

// Adds what the lanes of a pair have, of their samples, in a fixed order, and stores it.
template <int kSize, typename Acc>
__device__ __forceinline__ void store_rows_grad_weight(const BackwardProblem& problem, bool vectors,
                                                       const Rows<kSize>& rows, Acc* tile,
                                                       const Acc (&grad_weight)[kSize][kSize]) {
  const WeightStrides& strides = problem.grad_weight_strides;
  vectors = vectors && rows.count == rows.pairs;
  const RowsOrder order(strides, vectors, kSize);
#pragma unroll
  for (int x = 0; x < kSize; ++x) {
#pragma unroll
    for (int y = 0; y < kSize; ++y) {
      const Acc sum = rows.few ? sum_of_warp(grad_weight[x][y], kRowsFewPairs) : grad_weight[x][y];
      if (rows.sample == 0) tile[rows.pair * rows.kVolume + x * order.x + y * order.y + rows.warp * order.z] = sum;
    }
  }
  __syncthreads();
  if (vectors) {
    with_weight_type<Acc>(problem.weight_dtype, [&](auto type) {
      auto* to = static_cast<decltype(type)*>(problem.grad_weight) + rows.first * rows.kVolume;
      with_tile_elements(
          rows, [&](auto elements) { store_vectors<decltype(elements)::value, rows.kThreads>(threadIdx.x, tile, to); });
    });
  } else if (rows.lane < rows.count) {
    const int64_t offset = pair_offset(strides, problem.shape.in_channels, rows.first + rows.lane);
#pragma unroll 1
    for (int i = 0; i < rows.kPlane; ++i)
      store_as(problem.weight_dtype, problem.grad_weight,
               offset + kernel_offset(strides, i / kSize, i % kSize, rows.warp),
               tile[rows.lane * rows.kVolume + i * kSize + rows.warp]);
  }
}

// Of a lane's sample, over the pairs of a block: each lane of the sample has the sum then.
template <int kSize, typename Acc>
__device__ __forceinline__ Acc sum_of_pairs(const Rows<kSize>& rows, Acc value) {
  if (!rows.few) value = sum_of_warp(value, kRowsFewPairs);
  return sum_of_warp<kRowsFewPairs>(value);
}

// grid: tiles of 32 pairs, or of 8; a block takes all samples in turn, or four at a time, so that grad_weight is summed
// in one fixed order.
template <typename Acc, typename Grad, int kSize>
__global__ void __launch_bounds__(Rows<kSize>::kThreads, sizeof(Acc) == 4 && kSize == 5 ? 2 : 1)
    backward_rows(const BackwardProblem problem, TileAccess vectors, bool few_pairs) {
  using Shared = BackwardRowsShared<Acc, Grad, kSize>;
  const ShiftShape& shape = problem.shape;
  const Rows<kSize> rows(shape, few_pairs);
  const int step = rows.few ? kRowsSampleLanes : 1;
  char* shared = dynamic_shared<char>();
  Acc* all_taps = reinterpret_cast<Acc*>(shared);
  Acc* sums = reinterpret_cast<Acc*>(shared + Shared::kSums);
  Acc* k_plane = reinterpret_cast<Acc*>(shared + Shared::kTile);
  Acc* e_plane = k_plane + Shared::kElements;
  Grad* buffers = reinterpret_cast<Grad*>(shared + Shared::kTile + Shared::kBuffers);
  const bool need_weight = problem.grad_weight != nullptr, need_shift = problem.grad_shift != nullptr;
  Acc weight[kSize][kSize], grad_weight[kSize][kSize] = {}, shares[3] = {0, 0, 0};
  load_rows_weight(shape, problem.weight_dtype, problem.weight, problem.weight_strides, vectors.weight, rows, k_plane,
                   weight);
  if (shape.samples > 0) fetch_rows_grad(problem, vectors, rows, 0, 0, buffers);
  commit_copies();
  int64_t sample = 0, group = 0;
  int slice = 0;
  for (int turn = 0; sample < shape.samples; turn ^= 1) {
    const int in_group = static_cast<int>(sample - group);
    const int64_t next_sample = slice + 1 < shape.slices ? sample : sample + step;
    const int next_slice = slice + 1 < shape.slices ? slice + 1 : 0;
    if (next_sample < shape.samples)
      fetch_rows_grad(problem, vectors, rows, next_sample, next_slice, buffers + (turn ^ 1) * Shared::kElements);
    commit_copies();
    if (in_group == 0 && slice == 0) {
      const int left = static_cast<int>(shape.samples - sample < kRowsGroup ? shape.samples - sample : kRowsGroup);
      compute_rows_taps<kSize>(shape, problem.shift, sample, left, all_taps);
    }
    wait_copies<1>();
    __syncthreads();
    const int rest = static_cast<int>(shape.samples - sample < step ? shape.samples - sample : step);
    // A lane without a sample has gradients of zero, and the taps of the last one.
    const Acc* taps = all_taps + (in_group + (rows.sample < rest ? rows.sample : rest - 1)) * kRowsTapStride;
    Acc values[kSize], h[kSize], e[kSize];
    read_rows_grad(rows, vectors.grad_is_tap_major, buffers + turn * Shared::kElements, values);
    apply_taps<true>(taps + kRowsAxis2, values, h);
    differentiate<true>(h, e);
#pragma unroll
    for (int z = 0; z < kSize; ++z) k_plane[rows.at(rows.warp, z)] = h[z], e_plane[rows.at(rows.warp, z)] = e[z];
    __syncthreads();
#pragma unroll
    for (int y = 0; y < kSize; ++y) values[y] = k_plane[rows.at(y, rows.warp)], e[y] = e_plane[rows.at(y, rows.warp)];
    apply_taps<true>(taps + kRowsAxis1, values, h);
    backward_rows_column(taps, shape.first_slice + slice, weight, h, e, need_weight, need_shift, grad_weight, shares);
    if (next_slice == 0) {
#pragma unroll
      for (int axis = 0; axis < 3; ++axis) {
        const Acc sum = sum_of_pairs(rows, shares[axis]);
        if (rows.pair == 0) sums[(rows.warp * kRowsGroup + in_group + rows.sample) * 3 + axis] = sum;
        shares[axis] = 0;
      }
      if (in_group + step == kRowsGroup || next_sample >= shape.samples) {
        __syncthreads();  // also: the taps are no longer read
        if (need_shift) write_partial<kSize, kRowsGroup>(problem, group, in_group + rest, sums);
        group = next_sample;
      }
    }
    sample = next_sample, slice = next_slice;
  }
  if (need_weight) store_rows_grad_weight(problem, vectors.grad_weight, rows, k_plane, grad_weight);
}

}  // namespace crossd_ops::cuda
