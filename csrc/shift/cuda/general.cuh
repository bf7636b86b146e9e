// Any kernel sizes from 1 to 15, odd or even, in run-time loops over a tile of pairs in shared memory.
//   out = Re (a2 + i b2) (a1 + i b1) (a0 + i b0) W, one axis after the other; a, b: the taps of taps.cuh as circulants
// The imaginary parts come from even sizes and are kept only where two axes or more are even: one alone cancels in Re.
// Adjoint, for the gradient g of a slice x, without conjugation since Re is taken last:
//   H = (a1 + i b1)^T (a2 + i b2)^T g,   gW[x'] += Re d(x - x'; s0) H,   gs_axis = <g, Re of the product with d' on
//   that axis>
// Bytes: W once for each split of the samples, every output and every g once.
#pragma once
#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/cuda/partial_sums.cuh"
#include "shift/cuda/taps.cuh"

namespace crossd_ops::cuda {

constexpr int kGeneralThreads = 256;
constexpr int kGeneralWarps = kGeneralThreads / kLanes;
constexpr int kGeneralTapElements = 3 * 4 * kMaxKernel;
constexpr int kGeneralGroup = 8;  // samples whose sums a block of the backward writes at a time
constexpr int kGeneralSumElements = kGeneralWarps * kGeneralGroup * 3;

template <typename Acc>
struct Complex {
  Acc real, imaginary;
};
template <typename Acc>
struct ComplexPointer {  // of taps, or of a plane [pairs of the tile, K1, K2]; imaginary: null for real values
  Acc* real;
  Acc* imaginary;
  __device__ ComplexPointer at(int offset) const { return {real + offset, imaginary ? imaginary + offset : nullptr}; }
};

// sum_j d(i - j) values[j], or sum_j d(j - i) values[j] for the adjoint; the values are `stride` apart.
template <bool kAdjoint, bool kComplex, typename Acc>
__device__ Complex<Acc> convolve(ComplexPointer<Acc> taps, int size, int i, ComplexPointer<Acc> values, int stride) {
  Complex<Acc> sum = {0, 0};
  int n = kAdjoint && i > 0 ? size - i : i;
#pragma unroll 4  // sizes are 15 at most: 16 steps at a time, the compiler's choice, would never run
  for (int j = 0; j < size; ++j) {
    const Acc a = taps.real[n], value = values.real[j * stride];
    sum.real += a * value;
    if constexpr (kComplex) {
      const Acc b = taps.imaginary[n];
      sum.imaginary += b * value;
      if (values.imaginary)
        sum.real -= b * values.imaginary[j * stride], sum.imaginary += a * values.imaginary[j * stride];
    }
    if constexpr (kAdjoint)
      n = n + 1 == size ? 0 : n + 1;
    else
      n = n == 0 ? size - 1 : n - 1;
  }
  return sum;
}

// What a block works on, pairs first_pair .. first_pair + count - 1, and its shared memory, handed out piece by piece.
template <typename Acc, bool kComplex>
class GeneralTile {
 public:
  __device__ GeneralTile(const ShiftShape& shape, int tile_pairs)
      : k0(shape.kernel[0]),
        k1(shape.kernel[1]),
        k2(shape.kernel[2]),
        plane(k1 * k2),
        first_pair(static_cast<int64_t>(blockIdx.x) * tile_pairs),
        shape_(shape),
        tile_pairs_(tile_pairs),
        free_(dynamic_shared<Acc>()) {
    const int64_t left = pair_count(shape) - first_pair;
    count = static_cast<int>(left < tile_pairs ? left : tile_pairs);
    taps_ = take(kGeneralTapElements);
  }
  __device__ Acc* take(int elements) {
    Acc* taken = free_;
    free_ += elements;
    return taken;
  }
  __device__ Acc* take_volumes() { return take(tile_pairs_ * k0 * plane); }
  __device__ ComplexPointer<Acc> take_plane(bool real = !kComplex) {
    Acc* first = take(tile_pairs_ * plane);
    return {first, real ? nullptr : take(tile_pairs_ * plane)};
  }

  // Elements (pair, y, z) that the calling thread owns, the same ones every time: function(element, pair, y, z).
  template <typename Function>
  __device__ void for_each(Function&& function) const {
    for (int element = threadIdx.x; element < count * plane; element += kGeneralThreads) {
      const int pair = element / plane, inside = element - pair * plane, y = inside / k2;
      function(element, pair, y, inside - y * k2);
    }
  }

  __device__ void compute_taps(const Acc* shift /* [3] */) {
    const int thread = threadIdx.x, axis = thread / kMaxKernel, n = thread % kMaxKernel;
    const int size = select(shape_.kernel, axis);
    if (axis >= 3 || n >= size) return;
    const Tap<Acc> tap = tap_at(n, size, shift[select(shape_.axis, axis)]);
    Acc* to = taps_ + axis * 4 * kMaxKernel + n;
    to[0] = tap.real, to[kMaxKernel] = tap.imaginary;
    to[2 * kMaxKernel] = tap.real_derivative, to[3 * kMaxKernel] = tap.imaginary_derivative;
  }
  __device__ ComplexPointer<Acc> taps(int axis, bool derivative = false) const {
    Acc* real = taps_ + (axis * 4 + (derivative ? 2 : 0)) * kMaxKernel;
    return {real, real + kMaxKernel};
  }

  __device__ void load_weight(Dtype dtype, const void* weight, const WeightStrides& strides,
                              Acc* to /* [count, K0, K1, K2] */) const {
    for_each([&](int, int pair, int y, int z) {
      const int64_t offset = pair_offset(strides, shape_.in_channels, first_pair + pair);
      for (int x = 0; x < k0; ++x)
        to[volume_index(pair, x, y, z)] = load_as<Acc>(dtype, weight, offset + kernel_offset(strides, x, y, z));
    });
  }
  __device__ int volume_index(int pair, int x, int y, int z) const { return ((pair * k0 + x) * k1 + y) * k2 + z; }

  const int k0, k1, k2, plane;
  const int64_t first_pair;
  int count;

 private:
  const ShiftShape& shape_;
  int tile_pairs_;
  Acc* free_;
  Acc* taps_;
};

// grid: tiles of pairs x splits of the samples.
template <typename Acc, bool kComplex>
__global__ void __launch_bounds__(kGeneralThreads, 2) forward_general(const ForwardProblem problem, int tile_pairs) {
  const ShiftShape& shape = problem.shape;
  GeneralTile<Acc, kComplex> tile(shape, tile_pairs);
  Acc* weight = tile.take_volumes();
  const ComplexPointer<Acc> after_axis0 = tile.take_plane(), after_axis1 = tile.take_plane();
  tile.load_weight(problem.weight_dtype, problem.weight, problem.weight_strides, weight);
  for (int64_t sample = blockIdx.y; sample < shape.samples; sample += gridDim.y) {
    tile.compute_taps(static_cast<const Acc*>(problem.shift) + sample * 3);
    __syncthreads();
    for (int slice = 0; slice < shape.slices; ++slice) {
      const int x = shape.first_slice + slice;
      tile.for_each([&](int element, int pair, int y, int z) {
        const ComplexPointer<Acc> column = {weight + tile.volume_index(pair, 0, y, z), nullptr};
        const auto sum = convolve<false, kComplex>(tile.taps(0), tile.k0, x, column, tile.plane);
        after_axis0.real[element] = sum.real;
        if constexpr (kComplex) after_axis0.imaginary[element] = sum.imaginary;
      });
      __syncthreads();
      tile.for_each([&](int element, int, int y, int) {
        const auto sum =
            convolve<false, kComplex>(tile.taps(1), tile.k1, y, after_axis0.at(element - y * tile.k2), tile.k2);
        after_axis1.real[element] = sum.real;
        if constexpr (kComplex) after_axis1.imaginary[element] = sum.imaginary;
      });
      __syncthreads();
      tile.for_each([&](int element, int pair, int, int z) {
        const auto sum = convolve<false, kComplex>(tile.taps(2), tile.k2, z, after_axis1.at(element - z), 1);
        const int inside = element - pair * tile.plane;
        const int64_t pairs = pair_count(shape), at = tile.first_pair + pair;
        const int64_t row = problem.tap_major ? ((sample * shape.slices + slice) * tile.plane + inside) * pairs + at
                                              : ((sample * pairs + at) * shape.slices + slice) * tile.plane + inside;
        store_as(problem.out_dtype, problem.out, row, sum.real);
      });
    }
    __syncthreads();  // the taps are about to be replaced
  }
}

template <typename Acc, bool kComplex>
struct GeneralBackwardPlanes {
  __device__ explicit GeneralBackwardPlanes(GeneralTile<Acc, kComplex>& tile)
      : weight(tile.take_volumes()),
        grad_weight(tile.take_volumes()),
        grad(tile.take_plane(true)),
        grad_axis2(tile.take_plane()),
        after_axis0(tile.take_plane()),
        after_axis1(tile.take_plane()),
        warp_sums(tile.take(kGeneralSumElements)) {}
  Acc *weight, *grad_weight;
  ComplexPointer<Acc> grad, grad_axis2;          // g, (a2 + i b2)^T g
  ComplexPointer<Acc> after_axis0, after_axis1;  // of the weight
  Acc* warp_sums;                                // [warps, kGeneralGroup, 3]
};

// The part of one slice: adds to the planes' grad_weight and to the thread's shares of the sample's grad_shift.
template <typename Acc, bool kComplex>
__device__ void backward_general_slice(const BackwardProblem& problem, const GeneralTile<Acc, kComplex>& tile,
                                       const GeneralBackwardPlanes<Acc, kComplex>& planes, int64_t sample, int slice,
                                       Acc (&shares)[3]) {
  const ShiftShape& shape = problem.shape;
  const int x = shape.first_slice + slice;
  tile.for_each([&](int element, int pair, int y, int z) {
    const int64_t offset = sample * problem.grad_strides.sample +
                           pair_offset(problem.grad_strides, shape.in_channels, tile.first_pair + pair);
    planes.grad.real[element] =
        load_as<Acc>(problem.grad_dtype, problem.grad, offset + kernel_offset(problem.grad_strides, slice, y, z));
    const ComplexPointer<Acc> column = {planes.weight + tile.volume_index(pair, 0, y, z), nullptr};
    const auto sum = convolve<false, kComplex>(tile.taps(0), tile.k0, x, column, tile.plane);
    planes.after_axis0.real[element] = sum.real;
    if constexpr (kComplex) planes.after_axis0.imaginary[element] = sum.imaginary;
  });
  __syncthreads();
  tile.for_each([&](int element, int, int y, int z) {
    const auto adjoint = convolve<true, kComplex>(tile.taps(2), tile.k2, z, planes.grad.at(element - z), 1);
    const auto sum =
        convolve<false, kComplex>(tile.taps(1), tile.k1, y, planes.after_axis0.at(element - y * tile.k2), tile.k2);
    planes.grad_axis2.real[element] = adjoint.real, planes.after_axis1.real[element] = sum.real;
    if constexpr (kComplex)
      planes.grad_axis2.imaginary[element] = adjoint.imaginary, planes.after_axis1.imaginary[element] = sum.imaginary;
  });
  __syncthreads();
  tile.for_each([&](int element, int pair, int y, int z) {
    const int column = element - y * tile.k2;
    const auto h = convolve<true, kComplex>(tile.taps(1), tile.k1, y, planes.grad_axis2.at(column), tile.k2);
    const auto d1 = convolve<false, kComplex>(tile.taps(1, true), tile.k1, y, planes.after_axis0.at(column), tile.k2);
    const auto d2 = convolve<false, kComplex>(tile.taps(2, true), tile.k2, z, planes.after_axis1.at(element - z), 1);
    const ComplexPointer<Acc> weight = {planes.weight + tile.volume_index(pair, 0, y, z), nullptr};
    const auto d0 = convolve<false, kComplex>(tile.taps(0, true), tile.k0, x, weight, tile.plane);
    shares[0] += h.real * d0.real;
    shares[1] += planes.grad_axis2.real[element] * d1.real;
    shares[2] += planes.grad.real[element] * d2.real;
    if constexpr (kComplex)
      shares[0] -= h.imaginary * d0.imaginary, shares[1] -= planes.grad_axis2.imaginary[element] * d1.imaginary;
#pragma unroll 4
    for (int from = 0, n = x; from < tile.k0; ++from, n = n == 0 ? tile.k0 - 1 : n - 1) {
      Acc& sum = planes.grad_weight[tile.volume_index(pair, from, y, z)];
      sum += tile.taps(0).real[n] * h.real;
      if constexpr (kComplex) sum -= tile.taps(0).imaginary[n] * h.imaginary;
    }
  });
  __syncthreads();
}

// grid: tiles of pairs; a block takes all samples in turn, so that grad_weight is summed in one fixed order.
template <typename Acc, bool kComplex>
__global__ void __launch_bounds__(kGeneralThreads, 2) backward_general(const BackwardProblem problem, int tile_pairs) {
  const ShiftShape& shape = problem.shape;
  GeneralTile<Acc, kComplex> tile(shape, tile_pairs);
  GeneralBackwardPlanes<Acc, kComplex> planes(tile);
  tile.load_weight(problem.weight_dtype, problem.weight, problem.weight_strides, planes.weight);
  tile.for_each([&](int, int pair, int y, int z) {
    for (int x = 0; x < tile.k0; ++x) planes.grad_weight[tile.volume_index(pair, x, y, z)] = 0;
  });
  for (int64_t sample = 0; sample < shape.samples; ++sample) {
    tile.compute_taps(static_cast<const Acc*>(problem.shift) + sample * 3);
    __syncthreads();
    const int in_group = static_cast<int>(sample % kGeneralGroup);
    Acc shares[3] = {0, 0, 0};
    for (int slice = 0; slice < shape.slices; ++slice)
      backward_general_slice(problem, tile, planes, sample, slice, shares);
    for (int axis = 0; axis < 3; ++axis) {
      const Acc sum = sum_of_warp(shares[axis]);
      if (threadIdx.x % kLanes == 0)
        planes.warp_sums[(threadIdx.x / kLanes * kGeneralGroup + in_group) * 3 + axis] = sum;
    }
    if (in_group + 1 == kGeneralGroup || sample + 1 == shape.samples) {
      __syncthreads();
      if (problem.grad_shift)
        write_partial<kGeneralWarps, kGeneralGroup>(problem, sample - in_group, in_group + 1, planes.warp_sums);
    }
  }
  if (!problem.grad_weight) return;
  tile.for_each([&](int, int pair, int y, int z) {
    const int64_t offset = pair_offset(problem.grad_weight_strides, shape.in_channels, tile.first_pair + pair);
    for (int x = 0; x < tile.k0; ++x)
      store_as(problem.weight_dtype, problem.grad_weight, offset + kernel_offset(problem.grad_weight_strides, x, y, z),
               planes.grad_weight[tile.volume_index(pair, x, y, z)]);
  });
}

}  // namespace crossd_ops::cuda
