// The launchers of the columns, run by the emulator, as C functions for ctypes. An error is returned as text.
#include "harness.h"

#include "convolution/cuda/columns_launch.cuh"

using harness::error_of;

EXPORT const char* emulated_image_to_columns(const crossd_ops::ColumnsProblem* problem, const void* image,
                                             void* columns) {
  return error_of([&] { crossd_ops::cuda::launch_image_to_columns(*problem, image, columns, nullptr); });
}
EXPORT const char* emulated_columns_to_image(const crossd_ops::ColumnsProblem* problem, const void* columns,
                                             void* image) {
  return error_of([&] { crossd_ops::cuda::launch_columns_to_image(*problem, columns, image, nullptr); });
}

// Lets the mirrored struct be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* size, size_t* dtype) {
  *size = sizeof(crossd_ops::ColumnsProblem), *dtype = offsetof(crossd_ops::ColumnsProblem, dtype);
}
