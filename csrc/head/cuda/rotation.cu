#include "head/cuda/rotation.h"

#include "head/cuda/rotation_launch.cuh"

namespace crossd_ops::cuda {

void rotation_head_forward(const RotationHeadForward& problem, void* stream) {
  launch_rotation_head(problem, static_cast<cudaStream_t>(stream));
}

void rotation_head_backward(const RotationHeadBackward& problem, void* stream) {
  launch_rotation_head_backward(problem, static_cast<cudaStream_t>(stream));
}

size_t rotation_head_partial_elements(const MapShape& shape) { return head_partial_elements(shape); }

}  // namespace crossd_ops::cuda
