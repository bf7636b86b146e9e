// Cubic K = 5 and 7, for tiles of 32 pairs: see rows_tile.cuh.
//   u = sum_x' d(x - x'; s0) W[x'],  v = A1 u  in warp z;  out = A2 v  in warp y              A_axis: circulants of the
//   taps
// Bytes: W once for each split of the samples, every output once. 3 K^2 multiply-adds for K outputs of a thread.
#pragma once
#include "common/cuda/device.cuh"
#include "shift/cuda/rows_tile.cuh"

namespace crossd_ops::cuda {

// Dynamic shared memory: taps, then two planes in turn, which the weights use before.
template <typename Acc, int kSize>
constexpr size_t kForwardRowsSharedBytes = (kRowsGroup * kRowsTapStride + kLanes * Rows<kSize>::kVolume) * sizeof(Acc);

// A plane of the block's pairs to the slice's rows of `out`, [pairs, slices, K, K] from the block's first pair on.
template <int kSize, typename Acc, typename Out>
__device__ __forceinline__ void store_rows_plane(const Rows<kSize>& rows, const Acc* plane, int slices, int slice,
                                                 bool vectors, Out* out) {
  if (vectors && slices == 1 && rows.count == kLanes)
    return store_vectors<kLanes * rows.kPlane, rows.kThreads>(threadIdx.x, plane, out);
#pragma unroll 1
  for (int i = threadIdx.x; i < rows.count * rows.kPlane; i += rows.kThreads) {
    const int pair = i / rows.kPlane, element = i - pair * rows.kPlane;
    out[static_cast<int64_t>(pair * slices + slice) * rows.kPlane + element] = convert<Out>(plane[i]);
  }
}

// The same where the pairs of an element follow each other, `pairs` in all.
template <int kSize, typename Acc, typename Out>
__device__ __forceinline__ void store_rows_taps(const Rows<kSize>& rows, const Acc* plane, int64_t pairs, Out* out) {
  if (rows.lane >= rows.count) return;
#pragma unroll 1
  for (int tap = rows.warp; tap < rows.kPlane; tap += kSize)
    out[tap * pairs + rows.lane] = convert<Out>(plane[rows.at(0, tap)]);
}

// grid: tiles of 32 pairs x splits of the samples, `samples_per_split` each.
template <typename Acc, typename Out, int kSize>
__global__ void __launch_bounds__(Rows<kSize>::kThreads, 2)
    forward_rows(const ForwardProblem problem, TileAccess vectors, int64_t samples_per_split) {
  const ShiftShape& shape = problem.shape;
  const Rows<kSize> rows(shape);
  const int64_t begin = blockIdx.y * samples_per_split;
  const int64_t end = begin + samples_per_split < shape.samples ? begin + samples_per_split : shape.samples;
  Acc* all_taps = dynamic_shared<Acc>();
  Acc* planes = all_taps + kRowsGroup * kRowsTapStride;
  Acc weight[kSize][kSize];
  load_rows_weight(shape, problem.weight_dtype, problem.weight, problem.weight_strides, vectors.weight, rows, planes,
                   weight);
  int turn = 0;
  for (int64_t sample = begin; sample < end; ++sample) {
    const int in_group = static_cast<int>((sample - begin) % kRowsGroup);
    if (in_group == 0) {  // the taps of the group before were last read before the last barrier
      compute_rows_taps<kSize>(shape, problem.shift, sample,
                               static_cast<int>(end - sample < kRowsGroup ? end - sample : kRowsGroup), all_taps);
      __syncthreads();
    }
    const Acc* taps = all_taps + in_group * kRowsTapStride;
    const int64_t pairs = pair_count(shape), of_pair = shape.slices * rows.kPlane;
    Out* out = static_cast<Out*>(problem.out) + sample * pairs * of_pair;
    out += problem.tap_major ? rows.first : rows.first * of_pair;
    for (int slice = 0; slice < shape.slices; ++slice, turn ^= 1) {
      Acc* plane = planes + turn * kLanes * rows.kPlane;
      Acc values[kSize], result[kSize];
      contract_rows(taps, shape.first_slice + slice, weight, values);
      apply_taps<false>(taps + kRowsAxis1, values, result);
#pragma unroll
      for (int y = 0; y < kSize; ++y) plane[rows.at(y, rows.warp)] = result[y];
      __syncthreads();
#pragma unroll
      for (int z = 0; z < kSize; ++z) values[z] = plane[rows.at(rows.warp, z)];
      apply_taps<false>(taps + kRowsAxis2, values, result);
#pragma unroll
      for (int z = 0; z < kSize; ++z) plane[rows.at(rows.warp, z)] = result[z];
      __syncthreads();
      if (problem.tap_major)
        store_rows_taps(rows, plane, pairs, out + slice * rows.kPlane * pairs);
      else
        store_rows_plane(rows, plane, shape.slices, slice, vectors.out, out);
    }
  }
}

}  // namespace crossd_ops::cuda
