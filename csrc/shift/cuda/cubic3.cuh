// The hot size, K = 3. A thread owns a pair and keeps its 27 weights in registers; a warp works on its own.
//   out[x] = synthesis of exp(-i phases) (A + B cos(phi_x) + C sin(phi_x))       A, B, C: spectra of W, see
//   cubic3_spectrum.cuh
// 62 operations for a sample, instead of 81 with circulants. Results pass through shared memory so that stores
// coalesce. Bytes, the floor: 27 E once for each pair and split of the samples, 9 E_out for each sample and pair.
// Instructions (SASS, sm_90): 94 for a sample and pair with bfloat16 output, 90 with float32, stores included, and 9
// for its share of the phases. Tap-major, a warp's results of a tap are neighbours as they are, and are stored at once.
#pragma once
#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "shift/cuda/cubic3_spectrum.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/tile.cuh"

namespace crossd_ops::cuda {

constexpr int kCubic3Warps = 4;
constexpr int kCubic3Threads = kCubic3Warps * kLanes;
constexpr int kCubic3Volume = 27, kCubic3Plane = 9;

// Elements of Out that a warp stores at a time: of 4 samples, 9 vectors of a half type for each 8 lanes.
template <typename Acc, int kSlices>
constexpr int kForwardChunk = kSlices > 1 ? 1 : 16 / static_cast<int>(sizeof(Acc));

// What a warp works on: pairs first .. first + count - 1, one for each lane.
struct Cubic3Warp {
  __device__ Cubic3Warp(const ShiftShape& shape, int64_t warp_index)
      : lane(threadIdx.x % kLanes), first(warp_index * kLanes) {
    const int64_t left = pair_count(shape) - first;
    count = left >= kLanes ? kLanes : left > 0 ? static_cast<int>(left) : 0;
  }
  int lane, count;
  int64_t first;
};

// Position in a lane's 27 elements of shared memory of element i in canonical order. A tile that was moved in vectors
// has the order of global memory, in which the axes may be permuted; in all orders the stride of 27 is free of bank
// conflicts.
struct Cubic3Order {
  __device__ Cubic3Order(const WeightStrides& strides, bool vectors)
      : x(vectors ? static_cast<int>(strides.kernel[0]) : 9),
        y(vectors ? static_cast<int>(strides.kernel[1]) : 3),
        z(vectors ? static_cast<int>(strides.kernel[2]) : 1) {}
  __device__ __forceinline__ int operator()(int i) const { return i / 9 * x + i / 3 % 3 * y + i % 3 * z; }
  const int x, y, z;
};

// The weights of the lane's pair in canonical order, zeros without a pair. `scratch`: kLanes * 27 elements of the warp.
template <typename Acc>
__device__ __forceinline__ void load_cubic3_weight(const ShiftShape& shape, Dtype dtype, const void* weight,
                                                   const WeightStrides& strides, bool vectors, const Cubic3Warp& warp,
                                                   Acc* scratch, Acc (&values)[27]) {
  vectors = vectors && warp.count == kLanes;
  if (vectors) {
    with_weight_type<Acc>(dtype, [&](auto type) {
      load_vectors<kLanes * kCubic3Volume, kLanes>(
          warp.lane, static_cast<const decltype(type)*>(weight) + warp.first * kCubic3Volume, scratch);
    });
  } else {
    const int64_t offset = warp.lane < warp.count ? pair_offset(strides, shape.in_channels, warp.first + warp.lane) : 0;
#pragma unroll 1
    for (int i = 0; i < kCubic3Volume; ++i)
      scratch[warp.lane * kCubic3Volume + i] =
          warp.lane < warp.count ? load_as<Acc>(dtype, weight, offset + kernel_offset(strides, i / 9, i / 3 % 3, i % 3))
                                 : 0;
  }
  __syncwarp();
  const Cubic3Order order(strides, vectors);
#pragma unroll
  for (int i = 0; i < kCubic3Volume; ++i) values[i] = scratch[warp.lane * kCubic3Volume + order(i)];
  __syncwarp();
}

// Stores what a warp staged, [kChunk, lanes, kRow], to `out`, [samples, pairs, kRow] from the warp's first pair on.
// Where the vectors of a lane go, in vectors from `out`, is the same for all chunks.
template <int kRow, int kChunk, typename Acc, typename Out>
class RowWriter {
 public:
  __device__ RowWriter(const Cubic3Warp& warp, int64_t pairs, bool vectors)
      : warp_(warp), pairs_(pairs), vectors_(vectors && warp.count == kLanes) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int vector = round * kLanes + warp.lane, sample = vector / kVectors;
      target_[round] =
          sample * static_cast<uint32_t>(pairs * kRow / kVectorElements<Acc>) + (vector - sample * kVectors);
    }
  }
  __device__ __forceinline__ void store(const Acc* stage, int samples, Out* out) const {
    if (!vectors_) return store_elements(stage, samples, out);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int vector = round * kLanes + warp_.lane;
      if (vector >= samples * kVectors) break;
      Acc values[kVectorElements<Acc>];
      read_shared(stage + vector * kVectorElements<Acc>, values);
      reinterpret_cast<TileVector<Out, Acc>*>(out)[target_[round]] = pack<Out>(values);
    }
  }

 private:
  static constexpr int kElements = kLanes * kRow, kVectors = kElements / kVectorElements<Acc>;  // of a sample
  static constexpr int kRounds = (kChunk * kVectors + kLanes - 1) / kLanes;
  static_assert(kElements % kVectorElements<Acc> == 0);

  __device__ void store_elements(const Acc* stage, int samples, Out* out) const {
#pragma unroll 1
    for (int i = warp_.lane; i < samples * kElements; i += kLanes) {
      const int sample = i / kElements, element = i - sample * kElements;
      if (element < warp_.count * kRow) out[sample * pairs_ * kRow + element] = convert<Out>(stage[i]);
    }
  }

  const Cubic3Warp& warp_;
  const int64_t pairs_;
  const bool vectors_;
  uint32_t target_[kRounds];
};

// A pair's plane, whose elements are `step` apart.
template <typename Acc, typename Out>
__device__ __forceinline__ void store_taps(const Acc (&plane)[9], int64_t step, Out* to) {
#pragma unroll
  for (int i = 0; i < 9; ++i, to += step) *to = convert<Out>(plane[i]);
}

template <typename Acc, int kSlices>
constexpr int kForwardScratch = kLanes * (kForwardChunk<Acc, kSlices> * kSlices * kCubic3Plane > kCubic3Volume
                                              ? kForwardChunk<Acc, kSlices> * kSlices * kCubic3Plane
                                              : kCubic3Volume);
template <typename Acc, int kSlices>
constexpr size_t kForwardCubic3SharedBytes =
    (kGroupSamples * kPhaseStride + kCubic3Warps * kForwardScratch<Acc, kSlices>)*sizeof(Acc);

// grid: tiles of 128 pairs x splits of the samples, `samples_per_split` each.
template <typename Acc, typename Out, int kSlices, bool kTapMajor>
__global__ void __launch_bounds__(kCubic3Threads, sizeof(Acc) == 4 ? 6 : 3)
    forward_cubic3(const ForwardProblem problem, TileAccess vectors, int64_t samples_per_split) {
  constexpr int kChunk = kForwardChunk<Acc, kSlices>, kRow = kSlices * kCubic3Plane;
  const ShiftShape& shape = problem.shape;
  const int64_t pairs = pair_count(shape), begin = blockIdx.y * samples_per_split;
  const int64_t end = begin + samples_per_split < shape.samples ? begin + samples_per_split : shape.samples;
  const int warp_index = threadIdx.x / kLanes;
  const Cubic3Warp warp(shape, static_cast<int64_t>(blockIdx.x) * kCubic3Warps + warp_index);
  Acc* all_phases = dynamic_shared<Acc>();
  Acc* stage = all_phases + kGroupSamples * kPhaseStride + warp_index * kForwardScratch<Acc, kSlices>;
  const RowWriter<kRow, kChunk, Acc, Out> writer(warp, pairs, vectors.out);
  Acc weight[27];
  load_cubic3_weight(shape, problem.weight_dtype, problem.weight, problem.weight_strides, vectors.weight, warp, stage,
                     weight);
  analyse_weight(weight);
  for (int64_t group = begin; group < end; group += kGroupSamples) {
    const int group_samples = static_cast<int>(end - group < kGroupSamples ? end - group : kGroupSamples);
    __syncthreads();  // the phases of the group before are no longer read
    compute_phases(shape, problem.shift, group, group_samples, kCubic3Threads, all_phases);
    __syncthreads();
    Out* out = static_cast<Out*>(problem.out) + group * pairs * kRow;
    out += kTapMajor ? warp.first + warp.lane : warp.first * kRow;
    int chunk = 0;
    const auto work_on = [&](int samples) {
#pragma unroll
      for (int sample = 0; sample < kChunk; ++sample) {
        if (sample >= samples) break;
        const Cubic3Phases<Acc> phases(all_phases + (chunk + sample) * kPhaseStride);
        Acc* row = stage + (sample * kLanes + warp.lane) * kRow;
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
          Acc spectrum[9], plane[9];
          contract_slices(phases, slice, weight, spectrum);
          rotate<false>(phases, spectrum);
          synthesise(spectrum, plane);
          if constexpr (kTapMajor) {
            Out* to = out + (sample * kSlices + slice) * kCubic3Plane * pairs;
            if (warp.lane < warp.count) store_taps(plane, pairs, to);
          } else {
#pragma unroll
            for (int i = 0; i < 9; ++i) row[slice * kCubic3Plane + i] = plane[i];
          }
        }
      }
      if constexpr (kTapMajor) return;
      __syncwarp();
      writer.store(stage, samples, out);
      __syncwarp();
    };
    // A full chunk, whose number of samples the compiler knows, has no branches.
    for (; chunk + kChunk <= group_samples; chunk += kChunk, out += kChunk * pairs * kRow) work_on(kChunk);
    if (chunk < group_samples) work_on(group_samples - chunk);
  }
}

}  // namespace crossd_ops::cuda
