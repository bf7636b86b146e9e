// The launchers of the shifted columns, run by the emulator, as C functions for ctypes. An error is returned as text.
#include "harness.h"

#include "convolution/shifted_columns/cuda/launch.cuh"

using crossd_ops::ShiftedColumnsProblem;
using harness::error_of;

EXPORT const char* emulated_image_to_shifted_columns(const ShiftedColumnsProblem* problem, const void* image,
                                                     const void* shift, void* columns) {
  return error_of([&] { crossd_ops::cuda::launch_image_to_shifted_columns(*problem, image, shift, columns, nullptr); });
}
EXPORT const char* emulated_shifted_columns_gradient(const ShiftedColumnsProblem* problem, const void* columns,
                                                     const void* image, const void* shift, void* seen, void* partial) {
  return error_of([&] {
    crossd_ops::cuda::launch_shifted_columns_gradient(*problem, columns, image, shift, seen, partial, nullptr);
  });
}
EXPORT const char* emulated_seen_to_image(const ShiftedColumnsProblem* problem, const void* seen, void* image) {
  return error_of([&] { crossd_ops::cuda::launch_seen_to_image(*problem, seen, image, nullptr); });
}

EXPORT int64_t partials_of(const ShiftedColumnsProblem* problem) {
  return crossd_ops::shifted_columns_partials(*problem);
}

// Lets the mirrored struct be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* size, size_t* last) {
  *size = sizeof(ShiftedColumnsProblem), *last = offsetof(ShiftedColumnsProblem, accumulate);
}
