// Chooses a kernel for shifted columns and launches it. The same source for nvcc and for the emulator of the tests.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "convolution/shifted_columns/cuda/any_size.cuh"
#include "convolution/shifted_columns/cuda/cubic.cuh"
#include "convolution/shifted_columns/cuda/image_from_seen.cuh"

namespace crossd_ops::cuda {

inline ShiftedShape shifted_shape(const ShiftedColumnsProblem& problem, int channels_of_thread) {
  if (!has_shifted_columns(problem))
    throw std::runtime_error("crossd_ops: expected shifted columns of odd sizes up to 7, and a shift of their type");
  ColumnsProblem columns{problem.samples, problem.channels, problem.image,   problem.kernel,
                         problem.result,  problem.stride,   problem.padding, problem.dilation};
  columns.image_sample = problem.image_sample, columns.image_channel = 1, columns.image_pixel = problem.image_pixel;
  ShiftedShape shape{};
  shape.columns = columns_shape(columns);
  shape.of_group = narrow(problem.channels / problem.groups);
  shape.lanes = narrow(problem.channels / channels_of_thread);
  shape.of_part = narrow(shifted_columns_pixels(problem)), shape.parts = narrow(shifted_columns_partials(problem));
  const int steps[3] = {narrow(problem.weight[1] * problem.weight[2]), narrow(problem.weight[2]), 1};
  for (int axis = 0; axis < 3; ++axis) {
    const int of_weight = weight_axis(problem, axis);
    shape.weight[axis] = narrow(problem.weight[of_weight]);
    shape.element[axis] = steps[of_weight], shape.shift_axis[axis] = of_weight;
    shape.tap_pixels[axis] = shape.columns.dilation[axis] / shape.columns.stride[axis];
    shape.tap_rest[axis] = shape.columns.dilation[axis] % shape.columns.stride[axis];
  }
  shape.index = problem.sliced < 0 ? -1 : problem.index;
  shape.elements = narrow(product(problem.weight));
  narrow(problem.channels * product(problem.weight));
  shape.samples = problem.samples, shape.first_row = problem.first_row, shape.rows = problem.rows;
  return shape;
}

// Those samples that have rows, or all of them; their number.
inline int64_t set_samples(ShiftedShape& shape, bool all) {
  const int64_t pixels = std::max(shape.columns.pixels, 1);
  shape.first_sample = all ? 0 : shape.first_row / pixels;
  if (all) return shape.samples;
  return shape.rows == 0 ? 0 : (shape.first_row + shape.rows - 1) / pixels + 1 - shape.first_sample;
}

// Whether the image's pixels and these tensors begin at so many elements.
template <typename T>
bool begin_at(const ShiftedColumnsProblem& problem, int elements, std::initializer_list<const void*> tensors) {
  bool begin = problem.samples == 1 || problem.image_sample % elements == 0;
  for (int axis = 0; axis < 3; ++axis)
    begin = begin && (problem.image[axis] == 1 || problem.image_pixel[axis] % elements == 0);
  for (const void* tensor : tensors) begin = begin && reinterpret_cast<uintptr_t>(tensor) % (elements * sizeof(T)) == 0;
  return begin;
}

// Channels of a thread: four, two or one of a half type. Volumes have no registers for four.
template <typename T>
int channels_of_thread(const ShiftedColumnsProblem& problem, std::initializer_list<const void*> tensors) {
  const int64_t of_group = problem.channels / problem.groups;
  if (problem.sliced >= 0 && of_group % 4 == 0 && begin_at<T>(problem, 4, tensors)) return 4;
  return of_group % 2 == 0 && begin_at<T>(problem, 2, tensors) ? 2 : 1;
}

inline bool is_cubic_weight(const ShiftedColumnsProblem& problem, int64_t size, bool slices) {
  return (problem.sliced >= 0) == slices && problem.weight == Axes{size, size, size};
}

// Threads of a block of the kernels for any size, so that what each has is in 48 KB; at most twice that of one warp.
inline int threads_of_any_size(const ShiftedShape& shape, size_t of_element) {
  int threads = kShiftedThreads;
  while (threads > kLanes && shape.columns.taps * of_element * threads > 48 * 1024) threads /= 2;
  return threads;
}

// Calls function(channels, kSize, kDepth), the template's arguments, for a size that has kernels of its own; false:
// none.
template <typename T, typename Function>
bool with_cubic_size(const ShiftedColumnsProblem& problem, std::initializer_list<const void*> tensors,
                     Function&& function) {
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 3> three;
  constexpr std::integral_constant<int, 4> four;
  const bool slices = is_cubic_weight(problem, 3, true);
  if (!slices && !is_cubic_weight(problem, 3, false)) return false;
  if constexpr (sizeof(T) == 2) {
    const int channels = channels_of_thread<T>(problem, tensors);
    if (channels == 4) return function(four, three, one), true;
    if (channels == 2) return slices ? function(two, three, one) : function(two, three, three), true;
  }
  return slices ? function(one, three, one) : function(one, three, three), true;
}

// Calls function(T{}, Acc{}) with the types of a problem.
template <typename Function>
void with_shifted_types(Dtype dtype, Function&& function) {
  switch (dtype) {
    case Dtype::float64: return function(double{}, double{});
    case Dtype::float32: return function(float{}, float{});
    case Dtype::bfloat16: return function(BFloat16{}, float{});
    case Dtype::float16: return function(Float16{}, float{});
  }
}

inline dim3 blocks_of_samples(int64_t samples, int parts) {
  return dim3(static_cast<unsigned>(narrow(samples * parts)));
}

inline void launch_image_to_shifted_columns(const ShiftedColumnsProblem& problem, const void* image, const void* shift,
                                            void* columns, cudaStream_t stream) {
  ShiftedShape shape = shifted_shape(problem, 1);
  const int64_t samples = set_samples(shape, false);
  if (samples * problem.channels == 0) return;  // a grid without blocks is an error
  const dim3 blocks = blocks_of_samples(samples, shape.parts);
  with_shifted_types(problem.dtype, [&](auto type, auto accumulate) {
    using T = decltype(type);
    using Acc = decltype(accumulate);
    const auto start = [&](auto kernel, int threads, size_t shared) {
      launch(kernel, blocks, dim3(threads), shared, stream, shape, static_cast<const T*>(image),
             static_cast<const Acc*>(shift), static_cast<T*>(columns));
    };
    const bool special = with_cubic_size<T>(problem, {image, columns}, [&](auto channels, auto size, auto depth) {
      shape.lanes /= channels;
      start(shifted_columns_cubic<T, Acc, channels, size, depth>, kShiftedThreads, 0);
    });
    if (special) return;
    const int threads = threads_of_any_size(shape, sizeof(Acc));
    start(shifted_columns_any<T, Acc>, threads, sizeof(Acc) * shape.columns.taps * threads);
  });
}

inline void launch_shifted_columns_gradient(const ShiftedColumnsProblem& problem, const void* grad_columns,
                                            const void* image, const void* shift, void* seen, void* partial,
                                            cudaStream_t stream) {
  ShiftedShape shape = shifted_shape(problem, 1);
  const int64_t samples = set_samples(shape, partial != nullptr);
  if (samples == 0 || (!seen && !partial)) return;
  const dim3 blocks = blocks_of_samples(samples, shape.parts);
  with_shifted_types(problem.dtype, [&](auto type, auto accumulate) {
    using T = decltype(type);
    using Acc = decltype(accumulate);
    const auto start = [&](auto kernel, int threads, size_t shared) {
      launch(kernel, blocks, dim3(threads), shared, stream, shape, static_cast<const T*>(grad_columns),
             static_cast<const T*>(image), static_cast<const Acc*>(shift), static_cast<T*>(seen),
             static_cast<Acc*>(partial));
    };
    const bool special =
        with_cubic_size<T>(problem, {grad_columns, image, seen}, [&](auto channels, auto size, auto depth) {
          shape.lanes /= channels;
          start(shifted_gradient_cubic<T, Acc, channels, size, depth>, kShiftedThreads, 0);
        });
    if (special) return;
    const size_t of_element = sizeof(Acc) * (problem.sliced < 0 ? 1 : 2);  // of slices what is derived, too
    const int threads = threads_of_any_size(shape, of_element);
    start(shifted_gradient_any<T, Acc>, threads, of_element * shape.columns.taps * threads);
  });
}

inline void launch_seen_to_image(const ShiftedColumnsProblem& problem, const void* seen, void* image,
                                 cudaStream_t stream) {
  ShiftedShape shape = shifted_shape(problem, 1);
  const int64_t samples = set_samples(shape, !problem.accumulate), pixels = product(problem.image);
  if (samples * pixels * problem.channels == 0) return;
  with_shifted_types(problem.dtype, [&](auto type, auto accumulate) {
    using T = decltype(type);
    using Acc = decltype(accumulate);
    constexpr int kVector = kColumnsVector<T>;
    const bool vectors = problem.channels % kVector == 0 && begin_at<T>(problem, kVector, {seen, image});
    shape.lanes /= vectors ? kVector : 1;
    shape.parts = narrow(pixels * shape.lanes + kShiftedThreads - 1) / kShiftedThreads;
    launch(vectors ? image_from_seen<T, Acc, kVector> : image_from_seen<T, Acc, 1>,
           blocks_of_samples(samples, shape.parts), dim3(kShiftedThreads), 0, stream, shape,
           static_cast<const T*>(seen), problem.accumulate, static_cast<T*>(image));
  });
}

}  // namespace crossd_ops::cuda
