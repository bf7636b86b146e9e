#include "convolution/cuda/tiles.h"

#include "convolution/cuda/tiles_input_launch.cuh"
#include "convolution/cuda/tiles_kernels_launch.cuh"
#include "convolution/cuda/tiles_launch.cuh"

namespace crossd_ops::cuda {

void convolve_tiles(const TilesProblem& problem, void* stream) {
  launch_tiles(problem, static_cast<cudaStream_t>(stream));
}

void tiles_input_gradient(const TilesInputProblem& problem, void* stream) {
  launch_tiles_input_gradient(problem, static_cast<cudaStream_t>(stream));
}

void tiles_kernels_gradient(const TilesKernelsProblem& problem, void* stream) {
  launch_tiles_kernels_gradient(problem, static_cast<cudaStream_t>(stream));
}

}  // namespace crossd_ops::cuda
