// The launchers of the convolution in tiles, run by the emulator, as C functions for ctypes. An error is returned as
// text.
#include "harness.h"

#include "convolution/cuda/tiles_input_launch.cuh"
#include "convolution/cuda/tiles_launch.cuh"

using harness::error_of;

EXPORT const char* emulated_convolve_tiles(const crossd_ops::TilesProblem* problem) {
  return error_of([&] { crossd_ops::cuda::launch_tiles(*problem, nullptr); });
}

EXPORT const char* emulated_tiles_input_gradient(const crossd_ops::TilesInputProblem* problem) {
  return error_of([&] { crossd_ops::cuda::launch_tiles_input_gradient(*problem, nullptr); });
}

EXPORT int64_t rows_of_tile(int64_t samples, int64_t pixels, int64_t out_channels) {
  return crossd_ops::rows_of_tile(samples, pixels, out_channels);
}

// Lets the mirrored structs be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* size, size_t* dtype) {
  *size = sizeof(crossd_ops::TilesProblem), *dtype = offsetof(crossd_ops::TilesProblem, dtype);
}

EXPORT void emulated_input_layout(size_t* size, size_t* dtype) {
  *size = sizeof(crossd_ops::TilesInputProblem), *dtype = offsetof(crossd_ops::TilesInputProblem, dtype);
}
