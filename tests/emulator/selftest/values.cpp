// Correct kernels give the right values, in three orders of threads.
#include <cmath>
#include <numeric>
#include <vector>

#include "check.h"

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffles(int* down, int* up, int* exchanged, int* narrow, int* from_lane, double* wide) {
  const int lane = int(threadIdx.x);
  down[lane] = __shfl_down_sync(kAll, lane, 3);
  up[lane] = __shfl_up_sync(kAll, lane, 3, 8);
  exchanged[lane] = __shfl_xor_sync(kAll, lane, 16);
  narrow[lane] = __shfl_xor_sync(kAll, lane, 9, 8);
  from_lane[lane] = __shfl_sync(kAll, lane, 5, 16);
  wide[lane] = __shfl_sync(kAll, lane + 0.25, 31);
}

void test_shuffles() {
  int down[32], up[32], exchanged[32], narrow[32], from_lane[32];
  double wide[32];
  emu::launch(1, 32, 0, [&] { shuffles(down, up, exchanged, narrow, from_lane, wide); });
  for (int lane = 0; lane < 32; ++lane) {
    CHECK(down[lane] == (lane < 29 ? lane + 3 : lane));
    CHECK(up[lane] == (lane % 8 >= 3 ? lane - 3 : lane));
    CHECK(exchanged[lane] == (lane ^ 16));
    CHECK(narrow[lane] == (lane & 8 ? lane ^ 9 : lane));
    CHECK(from_lane[lane] == (lane < 16 ? 5 : 21));
    CHECK(wide[lane] == 31.25);
  }
}

// Half-warps count their own rounds, then the whole warp meets: lanes that have done more operations must not mix them
// up.
__global__ void half_warps(int* sums, int* last, unsigned* votes) {
  const int lane = int(threadIdx.x);
  const bool low = lane < 16;
  int sum = lane;
  if (low) {
    for (int step = 8; step > 0; step >>= 1) sum += __shfl_xor_sync(0x0000ffffu, sum, step);
  } else {
    for (int step = 8; step > 1; step >>= 1) sum += __shfl_xor_sync(0xffff0000u, sum, step);
  }
  sums[lane] = sum;
  last[lane] = __shfl_sync(kAll, sum, 0);
  votes[lane] = __ballot_sync(kAll, lane % 3 == 0);
}

void test_half_warps() {
  int sums[32], last[32];
  unsigned votes[32];
  emu::launch(1, 32, 0, [&] { half_warps(sums, last, votes); });
  for (int lane = 0; lane < 32; ++lane) {
    CHECK(sums[lane] == (lane < 16 ? 120 : (lane % 2 ? 8 * 24 : 8 * 23)));
    CHECK(last[lane] == 120);
    CHECK(votes[lane] == 0x49249249u);
  }
}

__global__ void votes(int* any, int* all, int* undefined_source) {
  const int lane = int(threadIdx.x) % 32;
  any[threadIdx.x] = __any_sync(kAll, lane == 7) + 2 * __any_sync(kAll, 0);
  all[threadIdx.x] = __all_sync(kAll, lane < 32) + 2 * __all_sync(kAll, lane != 7);
  __syncwarp();
  if (lane < 16) undefined_source[threadIdx.x] = __shfl_sync(0x0000ffffu, lane, 20);
}

void test_votes() {
  int any[64], all[64], undefined_source[64];
  emu::launch(1, 64, 0, [&] { votes(any, all, undefined_source); });
  for (int t = 0; t < 64; ++t) CHECK(any[t] == 1 && all[t] == 1);
  CHECK(undefined_source[3] == -1);
}

// Block sums through a static array, dynamic shared memory and shuffles; the sum of the block is used by every thread.
template <int kWarps>
__global__ void block_sums(const float* values, float* normalised) {
  EMU_SHARED(float, warp_sums, kWarps);
  float* staged = static_cast<float*>(emu::dynamic_shared());
  const unsigned thread = threadIdx.x + threadIdx.y * blockDim.x;
  const unsigned threads = blockDim.x * blockDim.y;
  const size_t offset = size_t(blockIdx.x + blockIdx.y * gridDim.x) * threads;
  staged[thread] = values[offset + thread];
  __syncthreads();
  float sum = staged[threads - 1 - thread];
  for (int step = 16; step > 0; step >>= 1) sum += __shfl_down_sync(kAll, sum, step);
  if (thread % 32 == 0) warp_sums[thread / 32] = sum;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += warp_sums[warp];
  normalised[offset + thread] = values[offset + thread] / total;
}

void test_block_sums() {
  constexpr int kThreads = 96;
  std::vector<float> values(6 * kThreads), normalised(values.size(), NAN);
  std::iota(values.begin(), values.end(), 1.0f);
  emu::launch(dim3(2, 3), dim3(24, 4), kThreads * sizeof(float),
              [&] { block_sums<3>(values.data(), normalised.data()); });
  for (int block = 0; block < 6; ++block) {
    const float* first = values.data() + block * kThreads;
    const float total = std::accumulate(first, first + kThreads, 0.0f);
    for (int t = 0; t < kThreads; ++t) CHECK(normalised[block * kThreads + t] == first[t] / total);
  }
}

// Shared memory is garbage at the start of each block, the first and the later ones.
__global__ void unwritten(int* nan_count) {
  EMU_SHARED(float, array, 8);
  double* dynamic = static_cast<double*>(emu::dynamic_shared());
  if (threadIdx.x < 8)
    atomicAdd(nan_count, int(std::isnan(array[threadIdx.x])) + int(std::isnan(dynamic[threadIdx.x])));
  __syncthreads();
  if (threadIdx.x < 8) array[threadIdx.x] = 0.0f, dynamic[threadIdx.x] = 0.0;
}

void test_unwritten() {
  int nan_count = 0;
  emu::launch(3, 32, 8 * sizeof(double), [&] { unwritten(&nan_count); });
  CHECK(nan_count == 3 * 16);
}

__global__ void atomics(float* sum, int* largest, int* smallest, unsigned* claimed) {
  const int id = int(threadIdx.x + threadIdx.z * blockDim.x + blockIdx.x * 64);
  atomicAdd(sum, 0.5f);
  atomicMax(largest, id);
  atomicMin(smallest, id);
  if (atomicCAS(claimed, 0u, 1u) == 0u) atomicAdd(claimed, 10u);
  __threadfence();
}

void test_atomics() {
  float sum = 0;
  int largest = 0, smallest = 1 << 30;
  unsigned claimed = 0;
  emu::launch(5, dim3(16, 1, 4), 0, [&] { atomics(&sum, &largest, &smallest, &claimed); });
  CHECK(sum == 160.0f);
  CHECK(largest == 15 + 3 * 16 + 4 * 64 && smallest == 0);
  CHECK(claimed == 11u);
}

// The tickets that the threads of a block draw, before and after a barrier.
std::vector<int> tickets() {
  std::vector<int> drawn(128);
  int next = 0;
  emu::launch(1, 64, 0, [&] {
    drawn[threadIdx.x] = atomicAdd(&next, 1);
    __syncthreads();
    drawn[64 + threadIdx.x] = atomicAdd(&next, 1);
  });
  return drawn;
}

void test_order() {
  const std::vector<int> drawn = tickets();
  CHECK(drawn == tickets());
  CHECK((drawn[0] == 0 && drawn[63] == 63 && drawn[64] == 64) == (emu::order == emu::Order::forward));
  CHECK((drawn[0] == 63 && drawn[63] == 0 && drawn[64] == 127) == (emu::order == emu::Order::reverse));
  emu::seed = 1;
  CHECK((drawn == tickets()) == (emu::order != emu::Order::random));
  emu::seed = 0;
}

void test_statistics() {
  emu::statistics = {};
  emu::launch(2, 64, 100, [] {});
  emu::launch(3, 32, 40, [] { __syncthreads(); });
  CHECK(emu::statistics.launches == 2 && emu::statistics.blocks == 5);
  CHECK(emu::statistics.largest_dynamic_shared == 100);
  CHECK(emu::statistics.switches == 2 * (2 * 64 + 2 * 3 * 32));
}

int main() {
  for (const emu::Order order : kOrders) {
    emu::order = order;
    test_shuffles();
    test_half_warps();
    test_votes();
    test_block_sums();
    test_unwritten();
    test_atomics();
    test_order();
    test_statistics();
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
