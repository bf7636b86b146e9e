// Kernels with one fault each, or the same without it: `planted_faults NAME FAULTY(0|1)` prints one value for each
// order of threads. What finds the fault (the orders, NaN, TSan, ASan, UBSan) is up to the test that runs it.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"

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
