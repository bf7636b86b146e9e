// What a kernel's source names: qualifiers, built-in types and variables, and what a test sets and reads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#define __global__
#define __device__
#define __host__
#define __constant__
#if defined(EMU_METER)
#define __forceinline__ inline __attribute__((always_inline))  // what is counted has the place of each call
#else
#define __forceinline__ inline
#endif
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other, so one copy serves them all
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr size_t count() const { return size_t(x) * y * z; }
};
#if defined(EMU_METER)
namespace emu::detail {
template <typename T>
struct Two {
  T x, y;
};
template <typename T>
struct Four {
  T x, y, z, w;
};
// Copied in one access, as on the device; g++ would copy the members of a plain struct one by one.
template <typename Members>
struct alignas(sizeof(Members)) Whole : Members {
  typedef float Vector __attribute__((vector_size(sizeof(Members)), may_alias));
  template <typename... Values>
  Whole(Values... values) : Members{values...} {}
  Whole(const Whole& other) { *this = other; }
  Whole& operator=(const Whole& other) {
    *reinterpret_cast<Vector*>(this) = reinterpret_cast<const Vector&>(other);
    return *this;
  }
};
}  // namespace emu::detail
using int2 = emu::detail::Whole<emu::detail::Two<int>>;
using int4 = emu::detail::Whole<emu::detail::Four<int>>;
using uint2 = emu::detail::Whole<emu::detail::Two<unsigned>>;
using uint4 = emu::detail::Whole<emu::detail::Four<unsigned>>;
using float2 = emu::detail::Whole<emu::detail::Two<float>>;
using float4 = emu::detail::Whole<emu::detail::Four<float>>;
using double2 = emu::detail::Whole<emu::detail::Two<double>>;
#else
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
#endif
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

using cudaStream_t = void*;
constexpr int warpSize = 32;
inline uint3 blockIdx;
inline dim3 blockDim, gridDim;
#define threadIdx (::emu::detail::thread_index())

namespace emu {

// A launch that would fail or hang on the device.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order in which the threads of a block run between two barriers.
enum class Order { forward, reverse, random };
inline Order order = Order::forward;
inline uint64_t seed = 0;  // of Order::random

// The limit of compute capability 9.0 and 10.0 for one block; a test lowers it for an older device.
inline size_t dynamic_shared_limit = 227 * 1024;

// What ThreadSanitizer takes for an order between the blocks of a launch: that of their runs, or, if false, atomics and
// fences alone, so that it finds races between blocks too. That takes time, and no kernel with __shared__ arrays, of
// which one copy serves all blocks.
inline bool blocks_are_ordered = true;

struct Statistics {
  uint64_t launches = 0;
  uint64_t blocks = 0;
  uint64_t switches = 0;  // between fibers
  size_t largest_dynamic_shared = 0;
};
inline Statistics statistics;

}  // namespace emu
