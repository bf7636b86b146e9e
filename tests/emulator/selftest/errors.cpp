// A launch that would fail or hang on the device is an emu::Error that says where; the next launch works again.
#include "check.h"

template <typename Kernel>
void expect_error(const char* text, dim3 grid, dim3 block, size_t dynamic_shared, Kernel&& kernel, int line) {
  std::string message = "no error";
  try {
    emu::launch(grid, block, dynamic_shared, kernel);
  } catch (const emu::Error& error) {
    message = error.what();
  }
  check(message.find(text) != std::string::npos, (message + ", expected: " + text).c_str(), line);
  int threads = 0;
  emu::launch(1, 64, 16, [&] {
    atomicAdd(&threads, 1);
    __syncthreads();
  });
  check(threads == 64, "the launch after an error", line);
}
#define EXPECT_ERROR(text, grid, block, dynamic_shared, ...) \
  expect_error(text, grid, block, dynamic_shared, [&] { __VA_ARGS__ }, __LINE__)

// Branches on lines of their own: a barrier is known by its line.
void different_barriers() {
  if (threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

void different_operations() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncwarp();
  }
}

void test_barriers() {
  EXPECT_ERROR("threads have passed by returning", 1, 64, 0, if (threadIdx.x < 63) __syncthreads(););
  expect_error("wait at different __syncthreads()", 1, 64, 0, different_barriers, __LINE__);
  EXPECT_ERROR("errors.cpp", 1, 64, 0, if (threadIdx.x == 5) return; __syncthreads(););
}

void test_warp_operations() {
  EXPECT_ERROR("omits the calling lane", 1, 32, 0, __shfl_sync(0x0000ffffu, 1, 0););
  EXPECT_ERROR("not all lanes of its mask reach", 1, 32, 0, if (threadIdx.x != 9) __syncwarp(););
  EXPECT_ERROR("not all lanes of its mask reach", 1, 48, 0, __shfl_down_sync(0xffffffffu, 1, 1););
  EXPECT_ERROR("not all lanes of its mask reach", 1, 32, 0, __ballot_sync(threadIdx.x < 8 ? 0x1ffu : 0xffffffffu, 1););
  expect_error("at different operations", 1, 32, 0, different_operations, __LINE__);
  EXPECT_ERROR("deadlock", 1, 32, 0, if (threadIdx.x < 16) __syncwarp(); else __syncthreads(););
}

void test_configuration() {
  EXPECT_ERROR("1025 threads", 1, 1025, 0, );
  EXPECT_ERROR("65 threads", 1, dim3(1, 1, 65), 0, );
  EXPECT_ERROR("empty grid", dim3(1, 0), 32, 0, );
  EXPECT_ERROR("empty grid or block", 1, 0, 0, );
  EXPECT_ERROR("1 x 65536 x 1 blocks", dim3(1, 65536), 32, 0, );
  EXPECT_ERROR("2147483648 x 1 x 1 blocks", dim3(1u << 31), 32, 0, );
  EXPECT_ERROR("232449 bytes of dynamic shared memory", 1, 32, 227 * 1024 + 1, );
  emu::dynamic_shared_limit = 99 * 1024;
  EXPECT_ERROR("limit 101376", 1, 32, 99 * 1024 + 1, );
  emu::dynamic_shared_limit = 227 * 1024;
}

int main() {
  for (const emu::Order order : kOrders) {
    emu::order = order;
    test_barriers();
    test_warp_operations();
    test_configuration();
    EXPECT_ERROR("thrown by the kernel", 2, 64, 0, if (threadIdx.x == 5) throw emu::Error("thrown by the kernel"););
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
