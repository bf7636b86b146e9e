// What a kernel's source needs of its compiler: nvcc, or a C++ compiler with the emulator of the tests (-DCUDA_ON_CPU).
// Kernels include this file, are free of torch, and are started by launch(), so that one source serves both.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#if defined(CUDA_ON_CPU)
#include <vector>

#include "cuda_on_cpu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#endif

namespace crossd_ops::cuda {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kVectorBytes = 16;  // the widest access to global memory

// A half type is its bits: arithmetic is done in float.
struct alignas(2) BFloat16 {
  uint16_t bits;
};
struct alignas(2) Float16 {
  uint16_t bits;
};
static_assert(sizeof(BFloat16) == 2 && sizeof(Float16) == 2 && sizeof(uint4) == kVectorBytes);

#if defined(CUDA_ON_CPU)

using std::fma, std::fmod, std::rint;

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emu::dynamic_shared());
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
  emu::launch(grid, block, shared_bytes, [&] { kernel(arguments...); }, kernel);
}

inline float to_float(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline float to_float(Float16 value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                          : exponent     ? std::ldexp(1024.0f + fraction, exponent - 25)
                                         : std::ldexp(static_cast<float>(fraction), -24);
  return value.bits >> 15 ? -magnitude : magnitude;
}
inline void from_float(float value, BFloat16& result) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  result.bits =
      value != value ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // ties to even
}
inline void from_float(float value, Float16& result) {
  const float magnitude = std::fabs(value);
  int exponent = -14;  // of a subnormal number; the spacing is 2^(exponent - 10)
  if (magnitude >= 0x1p-14f) exponent = std::ilogb(magnitude);
  const float steps =
      value != value || magnitude >= 65520.0f ? 0.0f : std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  // The leading 1 of a normal number adds one to the exponent field; rounding up to 2048 carries into it as it must.
  uint32_t bits = ((exponent + 14) << 10) + static_cast<uint32_t>(steps);
  if (value != value)
    bits = 0x7fff;
  else if (magnitude >= 65520.0f)
    bits = 0x7c00;
  result.bits = static_cast<uint16_t>(bits | (std::signbit(value) && value == value ? 0x8000 : 0));
}

template <typename T>
uint32_t pack_pair(float first, float second, T) {
  T low, high;
  from_float(first, low), from_float(second, high);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

template <typename Acc>
void sin_cos_pi(Acc x, Acc* sine, Acc* cosine) {
  const double reduced = std::fmod(static_cast<double>(x), 2.0), pi = 3.14159265358979323846;
  *sine = static_cast<Acc>(std::sin(pi * reduced)), *cosine = static_cast<Acc>(std::cos(pi * reduced));
}

inline void store_vector(void* to_global, uint4 vector) { *static_cast<uint4*>(to_global) = vector; }

// Asynchronous copies arrive at the last moment that the device allows, in wait_copies, so that a missing wait shows.
struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  int group;
};
struct CopyQueue {
  std::vector<PendingCopy> pending;
  int group = 0;
};
inline CopyQueue& copy_queue() {
  static std::vector<CopyQueue> queues(1024);
  return queues[(threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x];
}
template <bool kByL1 = false>
__forceinline__ void copy_vector_async(void* to_shared, const void* from_global, bool is_there = true) {
#if defined(EMU_METER)  // which counts a copy where it is asked for
  static const uint4 zeros{};
  *static_cast<uint4*>(to_shared) = *static_cast<const uint4*>(is_there ? from_global : &zeros);
#else
  const emu::detail::IgnoreAccesses ignore;
  copy_queue().pending.push_back({to_shared, is_there ? from_global : nullptr, copy_queue().group});
#endif
}
inline void commit_copies() {
  const emu::detail::IgnoreAccesses ignore;
  ++copy_queue().group;
}
inline std::vector<PendingCopy> arriving_copies(int groups_left) {
  const emu::detail::IgnoreAccesses ignore;
  CopyQueue& queue = copy_queue();
  std::vector<PendingCopy> arriving, left;
  for (const PendingCopy& copy : queue.pending)
    (copy.group < queue.group - groups_left ? arriving : left).push_back(copy);
  queue.pending.swap(left);
  return arriving;
}
template <int kGroupsLeft>
void wait_copies() {
  for (const PendingCopy& copy : arriving_copies(kGroupsLeft))  // faults where the device would: misaligned
    *static_cast<uint4*>(copy.to) = copy.from ? *static_cast<const uint4*>(copy.from) : uint4{};
}

#else

template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ uint4 crossd_ops_dynamic_shared[];
  return reinterpret_cast<T*>(crossd_ops_dynamic_shared);
}

inline void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("crossd_ops: CUDA error: ") + cudaGetErrorString(status));
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
  if (shared_bytes > 48 * 1024)  // more than every kernel may use unasked
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  // clang-format off: it would part the brackets
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  // clang-format on
  check(cudaGetLastError());
}

__device__ __forceinline__ float to_float(BFloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }
__device__ __forceinline__ void from_float(float value, BFloat16& result) {
  result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ void from_float(float value, Float16& result) {
  result.bits = __half_as_ushort(__float2half_rn(value));
}

// Two neighbouring elements, the first in the low half.
__device__ __forceinline__ uint32_t pack_pair(float first, float second, BFloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}
__device__ __forceinline__ uint32_t pack_pair(float first, float second, Float16) {
  const __half2 pair = __floats2half2_rn(first, second);
  return __half_as_ushort(pair.x) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}

__device__ __forceinline__ void sin_cos_pi(float x, float* sine, float* cosine) { sincospif(x, sine, cosine); }
__device__ __forceinline__ void sin_cos_pi(double x, double* sine, double* cosine) { sincospi(x, sine, cosine); }

// Through an intrinsic: a plain store of what was computed element by element may be split into elements again.
__device__ __forceinline__ void store_vector(void* to_global, uint4 vector) {
  __stcg(static_cast<uint4*>(to_global), vector);
}

__device__ __forceinline__ void copy_vector_async(void* to_shared, const void* from_global) {
  __pipeline_memcpy_async(to_shared, from_global, kVectorBytes);
}
// Zeros where the vector is not there: the address is not looked at. The intrinsic would take an instruction for each
// case. kByL1: through the L1 cache, for what the block copies again soon.
template <bool kByL1>
__device__ __forceinline__ void copy_vector_async(void* to_shared, const void* from_global, bool is_there) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  const int there = is_there;
#define CROSSD_COPY(cache)                                               \
  asm volatile("{ .reg .pred no; setp.eq.s32 no, %2, 0; cp.async." cache \
               ".shared.global [%0], [%1], 16, no; }" ::"r"(to),         \
               "l"(from_global), "r"(there)                              \
               : "memory")
  if constexpr (kByL1)
    CROSSD_COPY("ca");
  else
    CROSSD_COPY("cg");
#undef CROSSD_COPY
}
__device__ __forceinline__ void commit_copies() { __pipeline_commit(); }
// Waits until at most kGroupsLeft of the calling thread's committed groups are under way; a barrier must follow.
template <int kGroupsLeft>
__device__ __forceinline__ void wait_copies() {
  __pipeline_wait_prior(kGroupsLeft);
}

#endif

// Two neighbouring elements, to where both begin.
template <typename T>
__device__ __forceinline__ void store_pair(T* elements, float first, float second) {
  if constexpr (sizeof(T) == 4)
    *reinterpret_cast<float2*>(elements) = float2{first, second};
  else
    *reinterpret_cast<uint32_t*>(elements) = pack_pair(first, second, T{});
}

}  // namespace crossd_ops::cuda
