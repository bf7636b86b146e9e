// The whole head on the current CUDA device, in the order of a stream (a cudaStream_t). Asynchronous; a launch that
// fails throws std::runtime_error.
#pragma once
#include <cstddef>

#include "head/problem.h"

namespace crossd_ops::cuda {

// workspace: on the device, as many floats as the functions below say.
void head_forward(const HeadForward& problem, float* workspace, void* stream);
void head_backward(const HeadBackward& problem, float* workspace, void* stream);

size_t head_workspace_elements(const HeadForward& problem);
size_t head_workspace_elements(const HeadBackward& problem);

}  // namespace crossd_ops::cuda
