// Device functions that need no other lane: loads, atomics, fences, fast mathematics.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>

#include "machine.h"

template <typename T>
T __ldg(const T* address) {
  return *address;
}

namespace emu::detail {

// By the PTX memory model: a fence before an atomic releases, a fence after an atomic acquires.
inline void before_atomic(void* address) {
  Fiber& fiber = *machine().current;
  if (fiber.fenced) release(address);
  fiber.fenced = false;
  fiber.last_atomic = address;
}
inline void fence() {
  IgnoreAccesses ignore;
  Fiber& fiber = *machine().current;
#if !defined(EMU_METER)  // which takes an acquisition for a barrier's
  if (fiber.last_atomic) acquire(fiber.last_atomic);
#endif
  fiber.fenced = true;
}

// Works for any type that the host can exchange atomically, float and double included. Returns the old value.
template <typename T, typename Update>
T atomic_update(T* address, Update&& update) {
#if defined(EMU_METER)  // which counts an atomic as a read and a write
  const T old = *address;
  *address = update(old);
  return old;
#endif
  {
    IgnoreAccesses ignore;
    before_atomic(address);
  }
  T old_value, new_value;
  __atomic_load(address, &old_value, __ATOMIC_RELAXED);
  do {
    new_value = update(old_value);
  } while (!__atomic_compare_exchange(address, &old_value, &new_value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old_value;
}

}  // namespace emu::detail

// common_type_t keeps T from being deduced from the second argument, as CUDA's overloads do.
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  return emu::detail::atomic_update(address, [=](T old_value) { return T(old_value + value); });
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
  return emu::detail::atomic_update(address, [=](T old_value) { return std::max(old_value, value); });
}
template <typename T>
T atomicMin(T* address, std::common_type_t<T> value) {
  return emu::detail::atomic_update(address, [=](T old_value) { return std::min(old_value, value); });
}
template <typename T>
T atomicExch(T* address, std::common_type_t<T> value) {
  return emu::detail::atomic_update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return emu::detail::atomic_update(address, [=](T old_value) { return old_value == expected ? value : old_value; });
}

// All fibers run on one host thread: only the compiler could reorder.
inline void __threadfence() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  emu::detail::fence();
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float numerator, float denominator) { return numerator / denominator; }

using std::max;
using std::min;
