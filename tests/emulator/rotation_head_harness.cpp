// The launchers of the rotation head, run by the emulator, as C functions for ctypes. An error is returned as text.
#include "harness.h"

#include "head/cuda/rotation_launch.cuh"

using harness::error_of;

EXPORT const char* emulated_rotation_head(const crossd_ops::RotationHeadForward* problem) {
  return error_of([&] { crossd_ops::cuda::launch_rotation_head(*problem, nullptr); });
}
EXPORT const char* emulated_rotation_head_backward(const crossd_ops::RotationHeadBackward* problem) {
  return error_of([&] { crossd_ops::cuda::launch_rotation_head_backward(*problem, nullptr); });
}
EXPORT size_t emulated_partial_elements(const crossd_ops::MapShape* shape) {
  return crossd_ops::cuda::head_partial_elements(*shape);
}

// Lets the mirrored structs be compared: the size, and the offset of the last member.
EXPORT void emulated_layout(size_t* forward_size, size_t* forward_partial, size_t* backward_size,
                            size_t* backward_strides) {
  *forward_size = sizeof(crossd_ops::RotationHeadForward);
  *forward_partial = offsetof(crossd_ops::RotationHeadForward, partial);
  *backward_size = sizeof(crossd_ops::RotationHeadBackward);
  *backward_strides = offsetof(crossd_ops::RotationHeadBackward, grad_strides);
}
