// The Fourier shift on the current CUDA device, in the order of a stream (a cudaStream_t). Asynchronous; a launch that
// fails throws std::runtime_error.
#pragma once
#include <cstddef>

#include "shift/problem.h"

namespace crossd_ops::cuda {

void fourier_shift_forward(const ForwardProblem& problem, void* stream);
void fourier_shift_backward(const BackwardProblem& problem, void* stream);

// Elements, of the accumulate type, of BackwardProblem::partial.
size_t fourier_shift_partial_elements(const ShiftShape& shape);

}  // namespace crossd_ops::cuda
