// Cubic weights of a size that the compiler knows, with what a row sees in registers: slices, of which a row sees
// kSize x kSize pixels, and volumes.
//
// Bytes: columns once; the image once from memory, and from caches as often as a kernel has elements. The adjoint G of
// the columns' making is what the gradient is, of what is seen; and so are the shift's, of an axis along a kernel
// <x, D * G>, as D makes the derivative of all taps (taps.cuh); of a slice's <x, G'>, of taps derived.
#pragma once
#include "convolution/shifted_columns/cuda/sums.cuh"
#include "convolution/shifted_columns/cuda/window.cuh"

namespace crossd_ops::cuda {

// Of the taps n of an axis all that stand in d(k - i), for the compiler to keep in registers.
template <int kSize, typename Acc>
__device__ __forceinline__ void copy_taps(const Acc* taps, Acc (&to)[kSize]) {
#pragma unroll
  for (int n = 0; n < kSize; ++n) to[n] = taps[n];
}

// values[i] <- sum_k d(k - i) values[k] along one axis of [kDepth, kSize, kSize]; kAdjoint: d(i - k).
template <bool kAdjoint, int kAxis, int kDepth, int kSize, int kChannels, typename Acc>
__device__ __forceinline__ void shift_along(const Acc (&taps)[kSize],
                                            Acc (&values)[kDepth * kSize * kSize][kChannels]) {
  constexpr int kStep = kAxis == 0 ? kSize * kSize : kAxis == 1 ? kSize : 1;
#pragma unroll
  for (int first = 0; first < kDepth * kSize * kSize; ++first) {
    if (first / kStep % kSize != 0) continue;
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      Acc line[kSize];
#pragma unroll
      for (int i = 0; i < kSize; ++i) line[i] = values[first + i * kStep][channel];
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        Acc sum = taps[kAdjoint ? i : (kSize - i) % kSize] * line[0];
#pragma unroll
        for (int k = 1; k < kSize; ++k)
          sum += taps[kAdjoint ? (i - k + kSize) % kSize : (k - i + kSize) % kSize] * line[k];
        values[first + i * kStep][channel] = sum;
      }
    }
  }
}
template <bool kAdjoint, int kDepth, int kSize, int kChannels, typename Acc>
__device__ __forceinline__ void shift_all(const Acc (&taps)[3][kSize],
                                          Acc (&values)[kDepth * kSize * kSize][kChannels]) {
  if constexpr (kDepth > 1) shift_along<kAdjoint, 0, kDepth>(taps[0], values);
  shift_along<kAdjoint, 1, kDepth>(taps[1], values);
  shift_along<kAdjoint, 2, kDepth>(taps[2], values);
}

// kDepth: 1 for slices, kSize for volumes.
template <typename T, typename Acc, int kChannels, int kSize, int kDepth>
__global__ void __launch_bounds__(kShiftedThreads)
    shifted_columns_cubic(ShiftedShape shape, const T* image, const Acc* shift, T* columns) {
  __shared__ ShiftedTaps<Acc> shared;
  const ShiftedPart part(shape);
  shared.compute(shape, shift + part.sample * 3);
  __syncthreads();
  Acc taps[3][kSize];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) copy_taps(shared.taps[axis], taps[axis]);
  if constexpr (kDepth == 1) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) taps[0][i] = shared.taps[0][shared.of_slice(shape, i)];
  }
  image += part.sample * shape.columns.image_sample;
  const int tasks = part.tasks(shape);
  for (int task = static_cast<int>(threadIdx.x); task < tasks; task += kShiftedThreads) {
    const ShiftedTask<kChannels, kDepth == 1> own(shape, part, task);
    Acc values[kDepth * kSize * kSize][kChannels];
#pragma unroll
    for (int i = 0; i < kDepth * kSize * kSize; ++i)
      own.load_seen(shape, image, i / (kSize * kSize), i / kSize % kSize, i % kSize, values[i]);
    shift_all<false, kDepth>(taps, values);
    T* const to = columns + own.column(shape);
#pragma unroll
    for (int i = 0; i < kSize * kSize * kSize; ++i) {
      const int z = i / (kSize * kSize), inside = i % (kSize * kSize);
      Acc value[kChannels];
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel)
        value[channel] = kDepth == 1 ? taps[0][z] * values[inside][channel] : values[kDepth == 1 ? 0 : i][channel];
      store_channels(to + (z * shape.element[0] + i / kSize % kSize * shape.element[1] + i % kSize * shape.element[2]) *
                              shape.of_group,
                     value);
    }
  }
}

// sum_m D(m) values[i - m] along one axis: the derivative of the adjoint's values in the shift.
template <int kAxis, int kDepth, int kSize, int kChannels, typename Acc>
__device__ __forceinline__ Acc derivative_along(const Acc (&values)[kDepth * kSize * kSize][kChannels], int i,
                                                int channel) {
  constexpr CircleTable<kSize> circle;
  constexpr int kStep = kAxis == 0 ? kSize * kSize : kAxis == 1 ? kSize : 1;
  const int at = i / kStep % kSize, first = i - at * kStep;
  Acc sum = 0;
#pragma unroll
  for (int m = 1; 2 * m < kSize; ++m)  // D(-m) = -D(m)
    sum += static_cast<Acc>(circle.derivative[m]) * (values[first + (at - m + kSize) % kSize * kStep][channel] -
                                                     values[first + (at + m) % kSize * kStep][channel]);
  return sum;
}

// The columns' gradient of a row: of slices times the taps of the depth, and times their derivatives.
template <int kSize, int kDepth, int kChannels, typename T, typename Acc>
__device__ __forceinline__ void load_grad_columns(const ShiftedShape& shape, const T* from, const Acc (&taps)[kSize],
                                                  const Acc (&derived)[kSize],
                                                  Acc (&grad)[kDepth * kSize * kSize][kChannels],
                                                  Acc (&of_slice)[kSize * kSize][kChannels]) {
#pragma unroll
  for (int i = 0; i < kSize * kSize * kSize; ++i) {
    const int z = i / (kSize * kSize), inside = i % (kSize * kSize);
    Acc value[kChannels];
    load_channels(from + (z * shape.element[0] + i / kSize % kSize * shape.element[1] + i % kSize * shape.element[2]) *
                             shape.of_group,
                  value);
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      if constexpr (kDepth > 1) {
        grad[i][channel] = value[channel];
      } else {
        grad[inside][channel] = z == 0 ? taps[0] * value[channel] : grad[inside][channel] + taps[z] * value[channel];
        of_slice[inside][channel] =
            z == 0 ? derived[0] * value[channel] : of_slice[inside][channel] + derived[z] * value[channel];
      }
    }
  }
}

// seen, sums: null where they are not wanted.
template <typename T, typename Acc, int kChannels, int kSize, int kDepth>
__global__ void __launch_bounds__(kShiftedThreads)
    shifted_gradient_cubic(ShiftedShape shape, const T* grad_columns, const T* image, const Acc* shift, T* seen,
                           Acc* sums) {
  __shared__ ShiftedTaps<Acc> shared;
  const ShiftedPart part(shape);
  shared.compute(shape, shift + part.sample * 3);
  __syncthreads();
  Acc taps[3][kSize], derived[kSize];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) copy_taps(shared.taps[axis], taps[axis]);
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const int n = kDepth == 1 ? shared.of_slice(shape, i) : 0;
    derived[i] = shared.derivatives[0][n];
    if constexpr (kDepth == 1) taps[0][i] = shared.taps[0][n];
  }
  image += part.sample * shape.columns.image_sample;
  Acc shares[3] = {};
  const int tasks = part.tasks(shape);
  for (int task = static_cast<int>(threadIdx.x); task < tasks; task += kShiftedThreads) {
    const ShiftedTask<kChannels, kDepth == 1> own(shape, part, task);
    Acc grad[kDepth * kSize * kSize][kChannels], of_slice[kSize * kSize][kChannels];
    load_grad_columns<kSize, kDepth>(shape, grad_columns + own.column(shape), taps[0], derived, grad, of_slice);
    shift_all<true, kDepth>(taps, grad);
    if (seen) {
      T* to = seen + own.of_seen(shape);
#pragma unroll
      for (int i = 0; i < kDepth * kSize * kSize; ++i) store_channels(to + i * shape.columns.channels, grad[i]);
    }
    if (!sums) continue;
    if constexpr (kDepth == 1) shift_all<true, kDepth>(taps, of_slice);
#pragma unroll
    for (int i = 0; i < kDepth * kSize * kSize; ++i) {
      Acc value[kChannels];
      own.load_seen(shape, image, i / (kSize * kSize), i / kSize % kSize, i % kSize, value);
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
        if constexpr (kDepth == 1)
          shares[0] += value[channel] * of_slice[i][channel];
        else
          shares[0] += value[channel] * derivative_along<0, kDepth, kSize>(grad, i, channel);
        shares[1] += value[channel] * derivative_along<1, kDepth, kSize>(grad, i, channel);
        shares[2] += value[channel] * derivative_along<2, kDepth, kSize>(grad, i, channel);
      }
    }
  }
  if (sums) write_shift_sums(shape, part, kShiftedWarps, shares, sums);
}

}  // namespace crossd_ops::cuda
