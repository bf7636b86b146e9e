#include "shift/cuda/shift.h"

#include "shift/cuda/launch.cuh"

namespace crossd_ops::cuda {

void fourier_shift_forward(const ForwardProblem& problem, void* stream) {
  launch_forward(problem, static_cast<cudaStream_t>(stream));
}

void fourier_shift_backward(const BackwardProblem& problem, void* stream) {
  launch_backward(problem, static_cast<cudaStream_t>(stream));
}

size_t fourier_shift_partial_elements(const ShiftShape& shape) { return backward_partial_elements(shape); }

}  // namespace crossd_ops::cuda
