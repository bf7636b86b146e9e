// Weights of any odd sizes up to kMostShiftedSize, as the kernels of cubic.cuh, with what a row sees in shared memory:
// a place for each thread, which it alone uses. A line of it at a time is in registers.
#pragma once
#include "convolution/shifted_columns/cuda/sums.cuh"
#include "convolution/shifted_columns/cuda/window.cuh"

namespace crossd_ops::cuda {

// A thread's elements of a kernel, in shared memory.
template <typename Acc>
class ShiftedPlace {
 public:
  __device__ __forceinline__ ShiftedPlace(const ShiftedShape& shape, Acc* memory)
      : shape_(shape), memory_(memory + threadIdx.x), threads_(static_cast<int>(blockDim.x)) {}
  __device__ __forceinline__ Acc& operator[](int element) const { return memory_[element * threads_]; }

  // values[i] <- sum_k d(k - i) values[k] along all axes of the kernel; kAdjoint: d(i - k).
  template <bool kAdjoint>
  __device__ __forceinline__ void shift(const ShiftedTaps<Acc>& taps) const {
    const int (&kernel)[3] = shape_.columns.kernel;
    if (shape_.index < 0) shift_along<kAdjoint>(taps.taps[0], kernel[0], kernel[1] * kernel[2]);
    shift_along<kAdjoint>(taps.taps[1], kernel[1], kernel[2]);
    shift_along<kAdjoint>(taps.taps[2], kernel[2], 1);
  }
  // sum_m D(m) values[i - m] along an axis, of which i is `at`: the derivative in the shift. D(0) = 0 of what is not
  // finite is nan.
  __device__ __forceinline__ Acc derivative(const Acc* derivatives, int size, int step, int i, int at) const {
    Acc sum = 0;
    for (int m = 0; m < size; ++m) sum += derivatives[m] * (*this)[i + (at < m ? size - m : -m) * step];
    return sum;
  }

 private:
  template <bool kAdjoint>
  __device__ __forceinline__ void shift_along(const Acc* taps, int size, int step) const {
    for (int number = 0; number < shape_.columns.taps / size; ++number) {
      const int before = number / step, first = before * step * size + (number - before * step);
      Acc line[kMostTaps];
#pragma unroll
      for (int k = 0; k < kMostTaps; ++k) line[k] = k < size ? (*this)[first + k * step] : static_cast<Acc>(0);
      for (int i = 0; i < size; ++i) {
        Acc sum = 0;
#pragma unroll
        for (int k = 0; k < kMostTaps; ++k) {
          const int n = kAdjoint ? i - k : k - i;
          if (k < size) sum += taps[n < 0 ? n + size : n] * line[k];
        }
        (*this)[first + i * step] = sum;
      }
    }
  }

  const ShiftedShape& shape_;
  Acc* memory_;
  int threads_;
};

// Calls function(element, z, y, x) for each of these sizes.
template <typename Function>
__device__ __forceinline__ void for_each_element(int depth, int height, int width, Function&& function) {
  int element = 0;
  for (int z = 0; z < depth; ++z)
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) function(element++, z, y, x);
}

template <typename T, typename Acc>
__global__ void __launch_bounds__(kShiftedThreads, 2)
    shifted_columns_any(ShiftedShape shape, const T* image, const Acc* shift, T* columns) {
  __shared__ ShiftedTaps<Acc> taps;
  const ShiftedPart part(shape);
  taps.compute(shape, shift + part.sample * 3);
  __syncthreads();
  const ShiftedPlace<Acc> values(shape, dynamic_shared<Acc>());
  const int (&kernel)[3] = shape.columns.kernel;
  const int tasks = part.tasks(shape);
  image += part.sample * shape.columns.image_sample;
  for (int task = static_cast<int>(threadIdx.x); task < tasks; task += static_cast<int>(blockDim.x)) {
    const ShiftedTask<1, false> own(shape, part, task);
    for_each_element(kernel[0], kernel[1], kernel[2], [&](int element, int z, int y, int x) {
      Acc value[1];
      own.load_seen(shape, image, z, y, x, value);
      values[element] = value[0];
    });
    values.template shift<false>(taps);
    T* const to = columns + own.column(shape);
    for_each_element(shape.weight[0], shape.weight[1], shape.weight[2], [&](int element, int z, int y, int x) {
      const Acc value =
          shape.index < 0 ? values[element] : taps.taps[0][taps.of_slice(shape, z)] * values[y * kernel[2] + x];
      to[(z * shape.element[0] + y * shape.element[1] + x * shape.element[2]) * shape.of_group] = convert<T>(value);
    });
  }
}

// A row's part of the gradient of the shift, from the adjoint's values; of_slice: those of the taps derived.
template <typename T, typename Acc>
__device__ __forceinline__ void add_shares(const ShiftedShape& shape, const ShiftedTask<1, false>& own, const T* image,
                                           const ShiftedTaps<Acc>& taps, const ShiftedPlace<Acc>& grad,
                                           const ShiftedPlace<Acc>& of_slice, Acc (&shares)[3]) {
  const int (&kernel)[3] = shape.columns.kernel;
  for_each_element(kernel[0], kernel[1], kernel[2], [&](int element, int z, int y, int x) {
    Acc value[1];
    own.load_seen(shape, image, z, y, x, value);
    const Acc of_depth = shape.index < 0
                             ? grad.derivative(taps.derivatives[0], kernel[0], kernel[1] * kernel[2], element, z)
                             : of_slice[element];
    shares[0] += value[0] * of_depth;
    shares[1] += value[0] * grad.derivative(taps.derivatives[1], kernel[1], kernel[2], element, y);
    shares[2] += value[0] * grad.derivative(taps.derivatives[2], kernel[2], 1, element, x);
  });
}

// seen, sums: null where they are not wanted.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kShiftedThreads, 2)
    shifted_gradient_any(ShiftedShape shape, const T* grad_columns, const T* image, const Acc* shift, T* seen,
                         Acc* sums) {
  __shared__ ShiftedTaps<Acc> taps;
  const ShiftedPart part(shape);
  taps.compute(shape, shift + part.sample * 3);
  __syncthreads();
  const ShiftedPlace<Acc> grad(shape, dynamic_shared<Acc>());
  const ShiftedPlace<Acc> of_slice(shape, dynamic_shared<Acc>() + shape.columns.taps * blockDim.x);  // of slices alone
  image += part.sample * shape.columns.image_sample;
  Acc shares[3] = {};
  const int tasks = part.tasks(shape);
  for (int task = static_cast<int>(threadIdx.x); task < tasks; task += static_cast<int>(blockDim.x)) {
    const ShiftedTask<1, false> own(shape, part, task);
    const T* const from = grad_columns + own.column(shape);
    for_each_element(shape.weight[0], shape.weight[1], shape.weight[2], [&](int element, int z, int y, int x) {
      const int at = z * shape.element[0] + y * shape.element[1] + x * shape.element[2];
      const Acc value = load_element<Acc>(from + at * shape.of_group);
      if (shape.index < 0) {
        grad[element] = value;
      } else {
        const int inside = y * shape.columns.kernel[2] + x, n = taps.of_slice(shape, z);
        grad[inside] = taps.taps[0][n] * value + (z == 0 ? static_cast<Acc>(0) : grad[inside]);
        of_slice[inside] = taps.derivatives[0][n] * value + (z == 0 ? static_cast<Acc>(0) : of_slice[inside]);
      }
    });
    grad.template shift<true>(taps);
    if (seen) {
      T* const to = seen + own.of_seen(shape);
      for (int i = 0; i < shape.columns.taps; ++i) to[i * shape.columns.channels] = convert<T>(grad[i]);
    }
    if (!sums) continue;
    if (shape.index >= 0) of_slice.template shift<true>(taps);
    add_shares(shape, own, image, taps, grad, of_slice, shares);
  }
  if (sums) write_shift_sums(shape, part, static_cast<int>(blockDim.x) / kLanes, shares, sums);
}

}  // namespace crossd_ops::cuda
