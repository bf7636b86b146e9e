#include "head/cuda/head.h"

#include "head/cuda/head_launch.cuh"

namespace crossd_ops::cuda {

void head_forward(const HeadForward& problem, float* workspace, void* stream) {
  launch_head(problem, workspace, static_cast<cudaStream_t>(stream));
}

void head_backward(const HeadBackward& problem, float* workspace, void* stream) {
  launch_head_backward(problem, workspace, static_cast<cudaStream_t>(stream));
}

size_t head_workspace_elements(const HeadForward& problem) { return head_workspace(problem).total(); }
size_t head_workspace_elements(const HeadBackward& problem) { return head_workspace(problem).total(); }

}  // namespace crossd_ops::cuda
