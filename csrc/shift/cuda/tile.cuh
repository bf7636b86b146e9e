// Tiles: the elements of neighbouring pairs, moved between global and shared memory in vectors of 16 bytes where they
// lie densely and aligned, which the launcher finds out, and one by one elsewhere.
#pragma once
#include <type_traits>

#include "common/cuda/device.cuh"
#include "common/cuda/element.cuh"
#include "shift/cuda/pairs.cuh"
#include "shift/problem.h"

namespace crossd_ops::cuda {

// Which tensors can be moved in vectors, and whether the gradient is so as a tap-major one.
struct TileAccess {
  bool weight, grad_weight, grad, out, grad_is_tap_major;
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
    if constexpr (sizeof(Acc) * kCount == 8)
      *reinterpret_cast<float2*>(to) = float2{values[0], values[1]};
    else if constexpr (sizeof(Acc) == 4)
      *reinterpret_cast<Wide*>(to + i) = Wide{values[i], values[i + 1], values[i + 2], values[i + 3]};
    else
      *reinterpret_cast<Wide*>(to + i) = Wide{values[i], values[i + 1]};
  }
}

// kCount neighbouring elements from `first` on of an array in shared memory that is aligned to 4 bytes. Half types are
// read in words: one by one they take twice the reads, and two lanes collide in a bank.
template <int kCount, typename T, typename Acc>
__device__ __forceinline__ void read_elements(const T* from, int first, Acc (&values)[kCount]) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t* at = reinterpret_cast<const uint32_t*>(from) + first / 2;
    uint32_t words[kCount / 2 + 1];
#pragma unroll
    for (int i = 0; i < kCount / 2 + 1; ++i) words[i] = at[i];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const uint64_t both = words[i / 2] | static_cast<uint64_t>(i / 2 < kCount / 2 ? words[i / 2 + 1] : 0) << 32;
      const auto aligned = static_cast<uint32_t>(both >> first % 2 * 16);
      values[i] = to_float(T{static_cast<uint16_t>(aligned >> i % 2 * 16)});
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = load_element<Acc>(from + first + i);
  }
}

// What a thread moves between global memory and 16 bytes of Acc in shared memory, so that neighbouring threads touch
// neighbouring banks: 16 bytes of global memory, or 8 of a half type.
template <typename T, typename Acc>
using TileVector = std::conditional_t<sizeof(T) == sizeof(Acc), uint4, uint2>;

template <typename T, typename Acc>
__device__ __forceinline__ void unpack(TileVector<T, Acc> vector, Acc (&values)[kVectorElements<Acc>]) {
  if constexpr (sizeof(T) == sizeof(Acc)) {
    memcpy(values, &vector, kVectorBytes);
  } else {
    const uint32_t words[2] = {vector.x, vector.y};
#pragma unroll
    for (int i = 0; i < kVectorElements<Acc>; ++i) {
      const T element = {static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)};
      values[i] = to_float(element);
    }
  }
}
template <typename T, typename Acc>
__device__ __forceinline__ TileVector<T, Acc> pack(const Acc (&values)[kVectorElements<Acc>]) {
  if constexpr (sizeof(T) == sizeof(Acc)) {
    uint4 vector;
    memcpy(&vector, values, kVectorBytes);
    return vector;
  } else {
    return {pack_pair(values[0], values[1], T{}), pack_pair(values[2], values[3], T{})};
  }
}

// Tiles of kElements that kThreads threads move together. All loads are under way before the first is waited for.
template <int kElements, int kThreads, typename T, typename Acc>
__device__ __forceinline__ void load_vectors(int thread, const T* from, Acc* to) {
  constexpr int kVectors = kElements / kVectorElements<Acc>, kRounds = (kVectors + kThreads - 1) / kThreads;
  static_assert(kElements % kVectorElements<Acc> == 0);
  TileVector<T, Acc> vectors[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round)
    if (const int v = round * kThreads + thread; (round + 1) * kThreads <= kVectors || v < kVectors)
      vectors[round] = reinterpret_cast<const TileVector<T, Acc>*>(from)[v];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int v = round * kThreads + thread;
    if ((round + 1) * kThreads > kVectors && v >= kVectors) break;
    Acc values[kVectorElements<Acc>];
    unpack<T>(vectors[round], values);
    write_shared(to + v * kVectorElements<Acc>, values);
  }
}
template <int kElements, int kThreads, typename T, typename Acc>
__device__ __forceinline__ void store_vectors(int thread, const Acc* from, T* to) {
  constexpr int kVectors = kElements / kVectorElements<Acc>;
  static_assert(kElements % kVectorElements<Acc> == 0);
#pragma unroll
  for (int first = 0; first < kVectors; first += kThreads) {
    const int v = first + thread;
    if (first + kThreads > kVectors && v >= kVectors) break;
    Acc values[kVectorElements<Acc>];
    read_shared(from + v * kVectorElements<Acc>, values);
    reinterpret_cast<TileVector<T, Acc>*>(to)[v] = pack<T>(values);
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
