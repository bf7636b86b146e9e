// The convolution of each sample with kernels of its own, and the gradients of its input and of the kernels, on the
// current CUDA device, in the order of a stream (a cudaStream_t). Asynchronous; a launch that fails throws
// std::runtime_error.
#pragma once
#include "convolution/tiles_kernels_problem.h"
#include "convolution/tiles_problem.h"

namespace crossd_ops::cuda {

void convolve_tiles(const TilesProblem& problem, void* stream);
void tiles_input_gradient(const TilesInputProblem& problem, void* stream);
void tiles_kernels_gradient(const TilesKernelsProblem& problem, void* stream);

}  // namespace crossd_ops::cuda
