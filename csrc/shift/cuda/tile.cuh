// Tiles: the elements of neighbouring pairs, moved between global and shared memory in vectors of 16 bytes where they
// lie densely and aligned, which the launcher finds out, and one by one elsewhere.
#pragma once
#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/problem.h"

namespace crossd_ops::cuda {

// Which tensors can be moved in vectors.
struct TileAccess {
  bool weight, grad_weight, grad, out;
};

template <typename T>
constexpr int kVectorElements = kVectorBytes / static_cast<int>(sizeof(T));

template <typename Acc>
struct WideVector;  // of the accumulate type, in shared memory
template <>
struct WideVector<float> {
  using Type = float4;
};
template <>
struct WideVector<double> {
  using Type = double2;
};

// kCount elements at an address in shared memory that is aligned to 16 bytes.
template <int kCount, typename Acc>
__device__ __forceinline__ void read_shared(const Acc* from, Acc (&values)[kCount]) {
  using Wide = typename WideVector<Acc>::Type;
  static_assert(kCount % kVectorElements<Acc> == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += kVectorElements<Acc>) {
    const Wide wide = *reinterpret_cast<const Wide*>(from + i);
    values[i] = wide.x, values[i + 1] = wide.y;
    if constexpr (sizeof(Acc) == 4) values[i + 2] = wide.z, values[i + 3] = wide.w;
  }
}
template <int kCount, typename Acc>
__device__ __forceinline__ void write_shared(Acc* to, const Acc (&values)[kCount]) {
  using Wide = typename WideVector<Acc>::Type;
#pragma unroll
  for (int i = 0; i < kCount; i += kVectorElements<Acc>) {
    if constexpr (sizeof(Acc) == 4)
      *reinterpret_cast<Wide*>(to + i) = Wide{values[i], values[i + 1], values[i + 2], values[i + 3]};
    else
      *reinterpret_cast<Wide*>(to + i) = Wide{values[i], values[i + 1]};
  }
}

// A vector of global memory and the elements in it.
template <typename T, typename Acc>
__device__ __forceinline__ void unpack(uint4 vector, Acc (&values)[kVectorElements<T>]) {
  const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (int i = 0; i < kVectorElements<T>; ++i) {
    T element;
    if constexpr (sizeof(T) == 2)
      element.bits = static_cast<uint16_t>(words[i / 2] >> i % 2 * 16);
    else
      memcpy(&element, &words[i * sizeof(T) / 4], sizeof(T));
    values[i] = load_element<Acc>(&element);
  }
}
template <typename T, typename Acc>
__device__ __forceinline__ uint4 pack(const Acc (&values)[kVectorElements<T>]) {
  uint4 vector;
  if constexpr (sizeof(T) == 2) {
    vector = {pack_pair(values[0], values[1], T{}), pack_pair(values[2], values[3], T{}),
              pack_pair(values[4], values[5], T{}), pack_pair(values[6], values[7], T{})};
  } else {
    memcpy(&vector, values, kVectorBytes);
  }
  return vector;
}

// The threads that move a tile together: `index` of `count`.
struct Team {
  int index, count;
};

template <typename T, typename Acc>
__device__ __forceinline__ void load_vectors(const Team& team, const T* from, int elements, Acc* to) {
  for (int v = team.index; v < elements / kVectorElements<T>; v += team.count) {
    Acc values[kVectorElements<T>];
    const uint4 vector = reinterpret_cast<const uint4*>(from)[v];
    unpack<T>(vector, values);
    write_shared(to + v * kVectorElements<T>, values);
  }
}
template <typename T, typename Acc>
__device__ __forceinline__ void store_vectors(const Team& team, const Acc* from, int elements, T* to) {
  for (int v = team.index; v < elements / kVectorElements<T>; v += team.count) {
    Acc values[kVectorElements<T>];
    read_shared(from + v * kVectorElements<T>, values);
    reinterpret_cast<uint4*>(to)[v] = pack<T>(values);
  }
}

// The types that a weight accumulated in Acc can have.
template <typename Acc, typename Function>
__device__ __forceinline__ void with_weight_type(Dtype dtype, Function&& function) {
  if constexpr (sizeof(Acc) == 8) {
    function(double{});
  } else {
    if (dtype == Dtype::float32)
      function(float{});
    else if (dtype == Dtype::bfloat16)
      function(BFloat16{});
    else
      function(Float16{});
  }
}

}  // namespace crossd_ops::cuda
