// The adjoint of cubic3.cuh, in the same basis. For the gradient g of slice x, u = A + B cos(phi) + C sin(phi):
//   h = exp(i phases) analysis of g,   q = Im(conj(h) u)
//   gA += h,   gB += cos(phi) h,   gC += sin(phi) h                                  in registers, over the samples
//   gs_0 += cos(phi) <h, C> - sin(phi) <h, B>
//   gs_1 += sum_fg f q(f, g),   gs_2 += sum_fg g q(f, g)
// all gs times 2 pi / 3; gW is the synthesis of gA, gB, gC, done once. About 125 operations instead of 174 with
// circulants. Bytes, the floor: 9 E_g for each sample and pair, and W read and gW written once. The sums of gs over a
// tile of pairs add 3 elements for each sample and tile of 128 pairs: less than 1 % of g. Instructions (SASS, sm_90),
// for a sample and pair: 154 and a quarter of 153 for a chunk of 4 samples, so 192, with bfloat16; 183 with float32. 18
// bytes of a bfloat16 g against that need issue slots as much as bandwidth. A chunk is always full, so that nothing
// branches: samples that are missing have gradients and phases of zero. Both gradients are computed where one is
// wanted.
#pragma once
#include "shift/cuda/cubic3.cuh"
#include "shift/cuda/cubic3_grad.cuh"
#include "shift/cuda/partial_sums.cuh"

namespace crossd_ops::cuda {

// Blocks of a multiprocessor, which set the registers of a thread: more blocks hide more latency, larger chunks take
// fewer instructions. Half types do with 96 registers and 28 KB, for five blocks; a chunk of float takes 47 KB, for
// four.
template <typename Grad, int kSlices>
constexpr int kBackwardBlocks = sizeof(Grad) == 8                  ? 2
                                : sizeof(Grad) == 4 || kSlices > 1 ? 4
                                                                   : 5;

constexpr int kShareStride =
    kLanes + 4;  // of the lanes' shares of gs: whole vectors, and no bank conflict between rows

template <typename Acc, typename Grad, int kSlices>
struct Cubic3BackwardShared {  // byte offsets; the warp's own pieces are repeated for each warp
  static constexpr int kChunk = kBackwardChunk<Grad, kSlices>, kRow = kSlices * kCubic3Plane;
  static constexpr size_t kBuffer = kChunk * kLanes * kRow * sizeof(Grad),
                          kWeight = kLanes * kCubic3Volume * sizeof(Acc);
  static constexpr size_t kPhases = 0, kSums = kPhases + kGroupSamples * kPhaseStride * sizeof(Acc);
  static constexpr size_t kWarps = kSums + kCubic3Warps * kGroupSamples * 3 * sizeof(Acc);
  static constexpr size_t kShares =
      2 * kBuffer > kWeight ? 2 * kBuffer : kWeight;  // in a warp's piece, after buffers or weights
  static constexpr size_t kWarp = kShares + 3 * kChunk * kShareStride * sizeof(Acc);
  static constexpr size_t kTotal = kWarps + kCubic3Warps * kWarp;
  static_assert(kSums % kVectorBytes == 0 && kWarps % kVectorBytes == 0 && kShares % kVectorBytes == 0 &&
                kWarp % kVectorBytes == 0);
};

// One slice of one sample and pair; slice 0 sets the shares, which lack their common factor, the others add.
template <typename Acc>
__device__ __forceinline__ void backward_cubic3_slice(const Cubic3Phases<Acc>& phases, int slice,
                                                      const Acc (&weight)[27], const Acc (&grad)[9],
                                                      Acc (&grad_weight)[27], Acc (&shares)[3]) {
  const Acc cosine = phases.slice_cosine(slice), sine = phases.slice_sine(slice);
  Acc h[9], u[9], b = 0, c = 0, q[4];
  analyse(grad, h);
  rotate<true>(phases, h);
  contract_slices(phases, slice, weight, u);
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    grad_weight[i] += h[i], grad_weight[9 + i] += cosine * h[i], grad_weight[18 + i] += sine * h[i];
    b += h[i] * weight[9 + i], c += h[i] * weight[18 + i];
  }
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) q[pair] = h[1 + 2 * pair] * u[2 + 2 * pair] - h[2 + 2 * pair] * u[1 + 2 * pair];
  const Acc added[3] = {cosine * c - sine * b, q[0] + q[2] + q[3], q[1] + q[2] - q[3]};
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) shares[axis] = slice == 0 ? added[axis] : shares[axis] + added[axis];
}

// Sums the lanes' shares, [kChunk, 3, lanes], by 24 lanes.
template <int kChunk, typename Acc>
__device__ __forceinline__ void sum_shares(const Acc* shares, const Cubic3Warp& warp, Acc* sums) {
  constexpr int kLanesOfRow = 8 / kChunk, kElements = kLanes / kLanesOfRow;
  const int row = warp.lane / kLanesOfRow;
  Acc sum = 0;
  if (row < 3 * kChunk) {
    Acc values[kElements];
    read_shared(shares + row * kShareStride + warp.lane % kLanesOfRow * kElements, values);
    constexpr int kWidth = kVectorElements<Acc>;  // short chains of dependent additions
#pragma unroll
    for (int i = kWidth; i < kElements; ++i) values[i % kWidth] += values[i];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum += values[i];
  }
#pragma unroll
  for (int distance = 1; distance < kLanesOfRow; distance *= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  if (warp.lane % kLanesOfRow == 0 && row < 3 * kChunk)
    sums[row] = sum * static_cast<Acc>(2 * 3.14159265358979323846 / 3);
}

// Adds the sums of the warps that had other samples of the same pairs, in their order, and stores grad_weight.
template <typename Acc>
__device__ void store_cubic3_grad_weight(const BackwardProblem& problem, bool vectors, const Cubic3Warp& warp,
                                         int sample_warps, int sample_warp, char* warp_piece, size_t piece_bytes,
                                         Acc (&grad_weight)[27]) {
  Acc* stage = reinterpret_cast<Acc*>(warp_piece);
  const WeightStrides& strides = problem.grad_weight_strides;
  if (sample_warp > 0) {
#pragma unroll
    for (int i = 0; i < kCubic3Volume; ++i) stage[warp.lane * kCubic3Volume + i] = grad_weight[i];
  }
  __syncthreads();
  if (sample_warp != 0) return;
  for (int other = 1; other < sample_warps; ++other) {
    const Acc* theirs = reinterpret_cast<const Acc*>(warp_piece + other * piece_bytes);
#pragma unroll
    for (int i = 0; i < kCubic3Volume; ++i) grad_weight[i] += theirs[warp.lane * kCubic3Volume + i];
  }
  synthesise_grad_weight(grad_weight);
  vectors = vectors && warp.count == kLanes;
  const Cubic3Order order(strides, vectors);
#pragma unroll
  for (int i = 0; i < kCubic3Volume; ++i) stage[warp.lane * kCubic3Volume + order(i)] = grad_weight[i];
  __syncwarp();
  if (vectors) {
    with_weight_type<Acc>(problem.weight_dtype, [&](auto type) {
      store_vectors<kLanes * kCubic3Volume, kLanes>(
          warp.lane, stage, static_cast<decltype(type)*>(problem.grad_weight) + warp.first * kCubic3Volume);
    });
  } else if (warp.lane < warp.count) {
    const int64_t offset = pair_offset(strides, problem.shape.in_channels, warp.first + warp.lane);
#pragma unroll 1
    for (int i = 0; i < kCubic3Volume; ++i)
      store_as(problem.weight_dtype, problem.grad_weight, offset + kernel_offset(strides, i / 9, i / 3 % 3, i % 3),
               stage[warp.lane * kCubic3Volume + i]);
  }
}

// grid: tiles of 128 / sample_warps pairs. Neighbouring warps, sample_warps of them, share pairs and take chunks of
// samples in turn: where there are few pairs the GPU is filled so, and grad_weight still needs no second pass.
template <typename Acc, typename Grad, int kSlices, bool kTapMajor>
__global__ void __launch_bounds__(kCubic3Threads, kBackwardBlocks<Grad, kSlices>)
    backward_cubic3(const BackwardProblem problem, TileAccess vectors, int sample_warps) {
  using Shared = Cubic3BackwardShared<Acc, Grad, kSlices>;
  constexpr int kChunk = Shared::kChunk, kRow = Shared::kRow;
  static_assert(kGroupSamples % (kCubic3Warps * kChunk) == 0);
  const ShiftShape& shape = problem.shape;
  const int warp_index = threadIdx.x / kLanes, sample_warp = warp_index & (sample_warps - 1);
  const Cubic3Warp warp(shape,
                        static_cast<int64_t>(blockIdx.x) * (kCubic3Warps / sample_warps) + warp_index / sample_warps);
  char* shared = dynamic_shared<char>();
  char* piece = shared + Shared::kWarps + warp_index * Shared::kWarp;
  Acc* all_phases = reinterpret_cast<Acc*>(shared + Shared::kPhases);
  Acc* sums = reinterpret_cast<Acc*>(shared + Shared::kSums);
  Acc* all_shares = reinterpret_cast<Acc*>(piece + Shared::kShares);
  Acc weight[27], grad_weight[27] = {};
  load_cubic3_weight(shape, problem.weight_dtype, problem.weight, problem.weight_strides, vectors.weight, warp,
                     reinterpret_cast<Acc*>(piece), weight);
  analyse_weight(weight);
  const auto buffer = [&](int turn) { return reinterpret_cast<Grad*>(piece + turn * Shared::kBuffer); };
  const Cubic3GradFetch<kRow, kChunk, kTapMajor, Grad> reader(problem, vectors.grad, warp);
  const auto fetch = [&](int64_t sample, int turn) {
    if (sample < shape.samples && warp.count > 0) reader.start(sample, buffer(turn));
    commit_copies();
  };
  fetch(sample_warp * kChunk, 0);
  int turn = 0;
  for (int64_t group = 0; group < shape.samples; group += kGroupSamples) {
    const int group_samples =
        shape.samples - group < kGroupSamples ? static_cast<int>(shape.samples - group) : kGroupSamples;
    compute_phases(shape, problem.shift, group, group_samples, kCubic3Threads, all_phases);
    for (int i = threadIdx.x; i < kCubic3Warps * kGroupSamples * 3; i += kCubic3Threads) sums[i] = 0;
    __syncthreads();
    for (int chunk = sample_warp * kChunk; chunk < group_samples && warp.count > 0;
         chunk += sample_warps * kChunk, turn ^= 1) {
      fetch(group + chunk + sample_warps * kChunk, turn ^ 1);
      wait_copies<1>();
      __syncwarp();
#pragma unroll 2
      for (int sample = 0; sample < kChunk; ++sample) {
        const Cubic3Phases<Acc> phases(all_phases + (chunk + sample) * kPhaseStride);
        Acc shares[3];
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
          Acc grad[9];
          reader.read(buffer(turn), sample, slice, grad);
          backward_cubic3_slice(phases, slice, weight, grad, grad_weight, shares);
        }
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) all_shares[(sample * 3 + axis) * kShareStride + warp.lane] = shares[axis];
      }
      __syncwarp();  // the shares are written, the buffer is read; what follows is read before the next wait's barrier
      sum_shares<kChunk>(all_shares, warp, sums + (warp_index * kGroupSamples + chunk) * 3);
    }
    __syncthreads();
    if (problem.grad_shift) write_partial<kCubic3Warps, kGroupSamples>(problem, group, group_samples, sums);
    __syncthreads();  // sums and phases are about to be replaced
  }
  if (problem.grad_weight)
    store_cubic3_grad_weight(problem, vectors.grad_weight, warp, sample_warps, sample_warp, piece, Shared::kWarp,
                             grad_weight);
}

}  // namespace crossd_ops::cuda
