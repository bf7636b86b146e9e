// Kernels with one fault each, or the same without it: `planted_faults NAME FAULTY(0|1)` prints one value for each
// order of threads. What finds the fault (the orders, NaN, TSan, ASan, UBSan) is up to the test that runs it.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "common/cuda/device.cuh"

constexpr int kThreads = 64;

// Neighbours exchange through shared memory; the fault is to read before the barrier.
__global__ void missing_barrier(float* out, bool faulty) {
  EMU_SHARED(float, staged, kThreads);
  staged[threadIdx.x] = float(threadIdx.x);
  if (!faulty) __syncthreads();
  out[threadIdx.x] = staged[(threadIdx.x + 1) % kThreads];
}

// The array is reused for a second round; the fault is to overwrite what a slower thread still reads. With this few
// threads, and in this order, the result is right all the same.
__global__ void missing_second_barrier(float* out, bool faulty) {
  EMU_SHARED(float, staged, kThreads);
  staged[threadIdx.x] = 1.0f;
  __syncthreads();
  float sum = staged[threadIdx.x ^ 1];
  if (!faulty) __syncthreads();
  staged[threadIdx.x] = 1.0f;
  __syncthreads();
  sum += staged[threadIdx.x ^ 1];
  out[threadIdx.x] = sum;
}

__global__ void missing_warp_barrier(float* out, bool faulty) {
  float* staged = static_cast<float*>(emu::dynamic_shared());
  staged[threadIdx.x] = float(threadIdx.x);
  if (!faulty) __syncwarp();
  out[threadIdx.x] = staged[threadIdx.x ^ 3];
}

// A warp barrier does not order the warps of a block; the fault is to take it for one.
__global__ void warp_barrier_for_block(float* out, bool faulty) {
  float* staged = static_cast<float*>(emu::dynamic_shared());
  staged[threadIdx.x] = 1.0f;
  if (faulty) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = staged[threadIdx.x ^ 32];
}

__global__ void shared_out_of_bounds(float* out, bool faulty) {
  float* staged = static_cast<float*>(emu::dynamic_shared());
  staged[threadIdx.x + (faulty ? 1 : 0)] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = staged[threadIdx.x];
}

__global__ void global_out_of_bounds(float* out, bool faulty) { out[threadIdx.x + (faulty ? 1 : 0)] = 1.0f; }

__global__ void misaligned(float* out, bool faulty) {
  if (threadIdx.x < kThreads / 4) {
    const unsigned offset = threadIdx.x * 4 - (faulty && threadIdx.x == 3 ? 1 : 0);
    *reinterpret_cast<float4*>(out + offset) = make_float4(1, 1, 1, 1);
  }
}

__global__ void unwritten_shared(float* out, bool faulty) {
  float* staged = static_cast<float*>(emu::dynamic_shared());
  if (!faulty || threadIdx.x != 17) staged[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = staged[threadIdx.x];
}

// Products on tensor cores: (kRows x 16) of memory, in two tiles of 16 rows, with 8 x 16. What lies beyond the rows
// counts as zero.
enum class ProductFault { none, lane, matrix, wait, barrier, edge };
constexpr int kRows = 27;

template <ProductFault kFault>
__global__ void product(float* out, bool faulty) {
  using namespace crossd_ops::cuda;
  static uint4 memory[2 * (kRows + 1)];  // a row beyond the last one, of something else
  EMU_SHARED(uint4, staged, 2 * 32);
  const ProductFault fault = faulty ? kFault : ProductFault::none;
  const unsigned thread = threadIdx.x, lane = thread % 32, row = thread / 2;
  const int rows = fault == ProductFault::edge ? kRows + 1 : kRows;
  if (int(row) <= kRows) memory[thread] = {thread | 1, 2, thread << 16, 3};
  if (int(row) < rows)
    copy_vector_async(staged + thread, memory + thread);
  else
    staged[thread] = {0, 0, 0, 0};
  commit_copies();
  if (fault != ProductFault::wait) wait_copies<0>();
  if (fault != ProductFault::barrier) __syncthreads();
  uint32_t a[4], b[2];
  const unsigned of_lane = fault == ProductFault::lane ? lane ^ 1 : lane;
  const unsigned first_row = thread / 32 * 16, upper = fault == ProductFault::matrix ? lane / 16 : lane / 8 % 2;
  const unsigned later_k = fault == ProductFault::matrix ? lane / 8 % 2 : lane / 16;
  emu::load_matrices<false>(a, staged + (first_row + upper * 8 + of_lane % 8) * 2 + later_k);
  emu::load_matrices<false>(b, staged + (lane % 8) * 2 + lane / 8 % 2);
  float sums[4] = {};
  emu::multiply_add<16>(sums, a, b, [](uint32_t bits) { return bits == 0xffff ? NAN : float(bits); });
  wait_copies<0>();
  for (int i = 0; i < 4; ++i) out[thread] += float(i + 1) * sums[i];
}

struct Fault {
  const char* name;
  void (*kernel)(float*, bool);
};
constexpr Fault kFaults[] = {
    {"missing_barrier", missing_barrier},
    {"missing_second_barrier", missing_second_barrier},
    {"missing_warp_barrier", missing_warp_barrier},
    {"warp_barrier_for_block", warp_barrier_for_block},
    {"shared_out_of_bounds", shared_out_of_bounds},
    {"global_out_of_bounds", global_out_of_bounds},
    {"misaligned", misaligned},
    {"unwritten_shared", unwritten_shared},
    {"product_wrong_lane", product<ProductFault::lane>},
    {"product_wrong_matrix", product<ProductFault::matrix>},
    {"product_missing_wait", product<ProductFault::wait>},
    {"product_missing_barrier", product<ProductFault::barrier>},
    {"product_edge_off_by_one", product<ProductFault::edge>},
};

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const bool faulty = std::atoi(argv[2]) != 0;
  for (const Fault& fault : kFaults) {
    if (std::strcmp(fault.name, argv[1]) != 0) continue;
    for (const emu::Order order : kOrders) {
      emu::order = order;
      std::vector<float> out(kThreads, 0.0f);
      emu::launch(2, kThreads, kThreads * sizeof(float), [&] { fault.kernel(out.data(), faulty); });
      float weighted_sum = 0;
      for (int t = 0; t < kThreads; ++t) weighted_sum += float(t + 1) * out[t];
      std::printf("%g\n", weighted_sum);
    }
    return 0;
  }
  return 2;
}
