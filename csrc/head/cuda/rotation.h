// The rotation head on the current CUDA device, in the order of a stream (a cudaStream_t). Asynchronous; a launch that
// fails throws std::runtime_error.
#pragma once
#include <cstddef>

#include "head/rotation_problem.h"

namespace crossd_ops::cuda {

void rotation_head_forward(const RotationHeadForward& problem, void* stream);
void rotation_head_backward(const RotationHeadBackward& problem, void* stream);

// Elements, of the accumulate type, of RotationHeadForward::partial.
size_t rotation_head_partial_elements(const MapShape& shape);

}  // namespace crossd_ops::cuda
