// Elements in global memory: any of the four dtypes, computed with in the accumulate type Acc (float or double).
#pragma once
#include "common/cuda/device.cuh"
#include "common/dtype.h"

namespace crossd_ops::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }

template <typename Acc, typename T>
__device__ __forceinline__ Acc load_element(const T* address) {
  if constexpr (sizeof(T) == 8)
    return static_cast<Acc>(*address);
  else
    return static_cast<Acc>(to_float(*address));
}
template <typename T, typename Acc>
__device__ __forceinline__ T convert(Acc value) {
  if constexpr (sizeof(T) == 2) {
    T result;
    from_float(static_cast<float>(value), result);
    return result;
  } else {
    return static_cast<T>(value);
  }
}

// Calls function(T{}) with the type of the dtype. All threads of a warp take the same way.
template <typename Function>
__device__ __forceinline__ void with_element_type(Dtype dtype, Function&& function) {
  switch (dtype) {
    case Dtype::float64: return function(double{});
    case Dtype::float32: return function(float{});
    case Dtype::bfloat16: return function(BFloat16{});
    case Dtype::float16: return function(Float16{});
  }
}

template <typename Acc>
__device__ __forceinline__ Acc load_as(Dtype dtype, const void* base, int64_t index) {
  Acc value = 0;
  with_element_type(dtype,
                    [&](auto type) { value = load_element<Acc>(static_cast<const decltype(type)*>(base) + index); });
  return value;
}
template <typename Acc>
__device__ __forceinline__ void store_as(Dtype dtype, void* base, int64_t index, Acc value) {
  with_element_type(dtype,
                    [&](auto type) { static_cast<decltype(type)*>(base)[index] = convert<decltype(type)>(value); });
}

}  // namespace crossd_ops::cuda
