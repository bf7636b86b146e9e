// The launchers of the whole head, run by the emulator, as C functions for ctypes. An error is returned as text.
#include "harness.h"

#include "head/cuda/head_launch.cuh"

using harness::error_of;

EXPORT const char* emulated_head_forward(const crossd_ops::HeadForward* problem, float* workspace) {
  return error_of([&] { crossd_ops::cuda::launch_head(*problem, workspace, nullptr); });
}
EXPORT const char* emulated_head_backward(const crossd_ops::HeadBackward* problem, float* workspace) {
  return error_of([&] { crossd_ops::cuda::launch_head_backward(*problem, workspace, nullptr); });
}
EXPORT size_t emulated_forward_workspace(const crossd_ops::HeadForward* problem) {
  return crossd_ops::cuda::head_workspace(*problem).total();
}
EXPORT size_t emulated_backward_workspace(const crossd_ops::HeadBackward* problem) {
  return crossd_ops::cuda::head_workspace(*problem).total();
}

// Lets the mirrored structs be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* forward_size, size_t* forward_statistics, size_t* backward_size,
                            size_t* backward_last) {
  *forward_size = sizeof(crossd_ops::HeadForward);
  *forward_statistics = offsetof(crossd_ops::HeadForward, statistics);
  *backward_size = sizeof(crossd_ops::HeadBackward);
  *backward_last = offsetof(crossd_ops::HeadBackward, grad_bias2);
}
