// The launchers of the columns, run by the emulator, as C functions for ctypes. An error is returned as text.
#include <cstddef>
#include <exception>
#include <mutex>
#include <string>

#include "convolution/cuda/columns_launch.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::mutex one_launch_at_a_time;  // ctypes releases Python's lock, and the emulator has one machine
thread_local std::string last_error;

template <typename Function>
const char* error_of(Function&& function) {
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  try {
    function();
  } catch (const std::exception& error) {
    last_error = error.what();
    return last_error.c_str();
  }
  return nullptr;
}

}  // namespace

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
