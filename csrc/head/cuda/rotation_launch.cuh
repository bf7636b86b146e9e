// Chooses the kernels of the rotation head for a problem and launches them. The same source for nvcc and for the
// emulator.
#pragma once
#include <algorithm>

#include "head/cuda/rotation.cuh"

namespace crossd_ops::cuda {

constexpr int64_t kHeadWantedBlocks = 512;   // fill every GPU of today: a constant, so that results do not depend on it
constexpr int64_t kHeadSmallestPart = 1024;  // pixels

inline HeadParts split_pixels(const MapShape& shape) {
  const auto ceil_divide = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t pixels = shape.pixels(), most = ceil_divide(pixels, kHeadSmallestPart);
  const int64_t wanted = ceil_divide(kHeadWantedBlocks, std::max<int64_t>(shape.samples, 1));
  const int64_t of_part = ceil_divide(pixels, std::clamp<int64_t>(wanted, 1, most));
  return {static_cast<int>(ceil_divide(pixels, of_part)), of_part};
}

inline size_t head_partial_elements(const MapShape& shape) {
  const int parts = split_pixels(shape).count;
  return parts == 1 ? 0 : static_cast<size_t>(shape.samples) * parts * kHeadChannels * 3;
}

// Interleaved pixels are read in packs of 16 bytes that hold whole pixels.
inline PixelOrder order_in_packs(const MapShape& shape, const MapStrides& strides, const void* data, Dtype dtype) {
  const PixelOrder order = pixel_order(shape, strides);
  const uintptr_t pixel_bytes = static_cast<uintptr_t>(kHeadChannels * size_of(dtype));
  const bool whole_pixels = pixel_bytes <= kVectorBytes && strides.sample % kHeadChannels == 0 &&
                            reinterpret_cast<uintptr_t>(data) % pixel_bytes == 0;
  return order == PixelOrder::interleaved && !whole_pixels ? PixelOrder::strided : order;
}

template <PixelOrder kOrder>
struct Order {
  static constexpr PixelOrder value = kOrder;
};
// Calls function(Acc{}, T{}, Order<...>{}).
template <typename Function>
void with_map_type(Dtype dtype, PixelOrder order, Function&& function) {
  const auto with_order = [&](auto acc, auto element) {
    if (order == PixelOrder::planar) return function(acc, element, Order<PixelOrder::planar>{});
    if constexpr (sizeof(element) <= 4)
      if (order == PixelOrder::interleaved) return function(acc, element, Order<PixelOrder::interleaved>{});
    function(acc, element, Order<PixelOrder::strided>{});
  };
  switch (dtype) {
    case Dtype::float64: return with_order(double{}, double{});
    case Dtype::float32: return with_order(float{}, float{});
    case Dtype::bfloat16: return with_order(float{}, BFloat16{});
    case Dtype::float16: return with_order(float{}, Float16{});
  }
}

inline void launch_rotation_head(RotationHeadForward problem, cudaStream_t stream) {
  if (problem.shape.samples == 0) return;
  simplify_pixels(problem.shape, problem.map_strides, nullptr);
  const HeadParts parts = split_pixels(problem.shape);
  const dim3 grid(static_cast<unsigned>(problem.shape.samples * parts.count));
  const PixelOrder order = order_in_packs(problem.shape, problem.map_strides, problem.map, problem.dtype);
  with_map_type(problem.dtype, order, [&](auto acc, auto element, auto of) {
    launch(rotation_head_pool<decltype(acc), decltype(element), decltype(of)::value>, grid, dim3(kHeadThreads),
           kHeadWarps * kHeadChannels * 3 * sizeof(acc), stream, problem, parts);
    if (parts.count > 1)
      launch(rotation_head_finish<decltype(acc)>, dim3(static_cast<unsigned>(problem.shape.samples)), dim3(kLanes), 0,
             stream, problem, parts.count);
  });
}

inline void launch_rotation_head_backward(RotationHeadBackward problem, cudaStream_t stream) {
  if (problem.shape.samples == 0) return;
  simplify_pixels(problem.shape, problem.map_strides, &problem.grad_strides);
  const HeadParts parts = split_pixels(problem.shape);
  const dim3 grid(static_cast<unsigned>(problem.shape.samples * parts.count));
  const PixelOrder order = order_in_packs(problem.shape, problem.map_strides, problem.map, problem.dtype);
  const PixelOrder grad_order = order_in_packs(problem.shape, problem.grad_strides, problem.grad_map, problem.dtype);
  with_map_type(problem.dtype, order == grad_order ? order : PixelOrder::strided, [&](auto acc, auto element, auto of) {
    launch(rotation_head_gradient<decltype(acc), decltype(element), decltype(of)::value>, grid, dim3(kHeadThreads),
           kHeadChannels * 3 * sizeof(acc), stream, problem, parts);
  });
}

}  // namespace crossd_ops::cuda
