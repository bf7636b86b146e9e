// The launcher of the gradient of the kernels of the convolution in tiles, run by the emulator, as C functions for
// ctypes. An error is returned as text.
#include "harness.h"

#include "convolution/cuda/tiles_kernels_launch.cuh"

using harness::error_of;

EXPORT const char* emulated_tiles_kernels_gradient(const crossd_ops::TilesKernelsProblem* problem) {
  return error_of([&] { crossd_ops::cuda::launch_tiles_kernels_gradient(*problem, nullptr); });
}

EXPORT void plan_of_kernels_gradient(const crossd_ops::TilesKernelsProblem* problem, int64_t* numbers) {
  const crossd_ops::KernelsPlan plan = crossd_ops::plan_of_kernels_gradient(*problem);
  numbers[0] = plan.chunks, numbers[1] = plan.tiles, numbers[2] = plan.splits, numbers[3] = plan.of_split;
  numbers[4] = plan.halved_steps;
}

// Lets the mirrored struct be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* size, size_t* dtype) {
  using crossd_ops::TilesKernelsProblem;
  *size = sizeof(TilesKernelsProblem), *dtype = offsetof(TilesKernelsProblem, dtype);
}
