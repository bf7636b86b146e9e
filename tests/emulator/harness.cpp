// The launchers of the CUDA kernels, run by the emulator, as C functions for ctypes. An error is returned as text.
#include "harness.h"

#include "shift/cuda/launch.cuh"

using harness::error_of;

namespace {

// A bit for each tensor, in the order of the struct.
int bits(const crossd_ops::cuda::TileAccess& access) {
  return access.weight | access.grad_weight << 1 | access.grad << 2 | access.out << 3;
}

}  // namespace

EXPORT const char* emulated_forward(const crossd_ops::ForwardProblem* problem) {
  return error_of([&] { crossd_ops::cuda::launch_forward(*problem, nullptr); });
}
EXPORT const char* emulated_backward(const crossd_ops::BackwardProblem* problem) {
  return error_of([&] { crossd_ops::cuda::launch_backward(*problem, nullptr); });
}
EXPORT size_t emulated_partial_elements(const crossd_ops::ShiftShape* shape) {
  return crossd_ops::cuda::backward_partial_elements(*shape);
}
EXPORT int emulated_forward_access(const crossd_ops::ForwardProblem* problem) {
  return bits(crossd_ops::cuda::access_of(*problem));
}
EXPORT int emulated_backward_access(const crossd_ops::BackwardProblem* problem) {
  return bits(crossd_ops::cuda::access_of(*problem));
}
EXPORT int emulated_special_size(const crossd_ops::ShiftShape* shape, crossd_ops::Dtype weight,
                                 crossd_ops::Dtype other) {
  return crossd_ops::cuda::special_size(*shape, weight, other);
}
EXPORT void emulated_set_order(int order, uint64_t seed) {
  const std::lock_guard<std::mutex> lock(harness::one_launch_at_a_time);
  emu::order = static_cast<emu::Order>(order);
  emu::seed = seed;
}
EXPORT void emulated_statistics(uint64_t* launches, size_t* largest_dynamic_shared) {
  *launches = emu::statistics.launches;
  *largest_dynamic_shared = emu::statistics.largest_dynamic_shared;
}

// Lets the mirrored structs be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* forward_size, size_t* forward_tap_major, size_t* backward_size,
                            size_t* backward_partial) {
  *forward_size = sizeof(crossd_ops::ForwardProblem);
  *forward_tap_major = offsetof(crossd_ops::ForwardProblem, tap_major);
  *backward_size = sizeof(crossd_ops::BackwardProblem);
  *backward_partial = offsetof(crossd_ops::BackwardProblem, partial);
}
