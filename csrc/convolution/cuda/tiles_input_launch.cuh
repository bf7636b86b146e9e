// Chooses the size of tiles for a gradient of the input and launches them. The same source for nvcc and for the
// emulator of the tests.
#pragma once
#include <numeric>

#include "convolution/cuda/tiles_input.cuh"
#include "convolution/cuda/tiles_launch.cuh"

namespace crossd_ops::cuda {

inline InputShape input_shape(const TilesInputProblem& problem) {
  const Remainders remainders = remainders_of(problem.image, problem.stride);
  InputShape shape{};
  shape.groups = int_of_tiles(problem.groups), shape.in_channels = int_of_tiles(problem.in_channels);
  shape.out_channels = int_of_tiles(problem.out_channels);
  for (int i = 0; i < 2; ++i) {
    shape.image[i] = int_of_tiles(problem.image[i]), shape.kernel[i] = int_of_tiles(problem.kernel[i]);
    shape.result[i] = int_of_tiles(problem.result[i]), shape.stride[i] = int_of_tiles(problem.stride[i]);
    shape.padding[i] = int_of_tiles(problem.padding[i]), shape.dilation[i] = int_of_tiles(problem.dilation[i]);
    shape.remainders[i] = int_of_tiles(remainders.count[i]), shape.grad_pixel[i] = int_of_tiles(problem.grad_pixel[i]);
    const int common = std::gcd(shape.stride[i], shape.dilation[i]);
    shape.tap_step[i] = shape.stride[i] / common, shape.grad_step[i] = shape.dilation[i] / common;
    int_of_tiles(problem.image[i] + problem.stride[i] + problem.padding[i] + problem.kernel[i] * problem.dilation[i]);
  }
  int_of_tiles(problem.result[0] * problem.grad_pixel[0] + problem.result[1] * problem.grad_pixel[1]);
  int_of_tiles(problem.kernel[0] * problem.kernel[1] * problem.groups * problem.out_channels * problem.in_channels);
  int_of_tiles(problem.image[0] * problem.image[1]);
  shape.most_pixels = int_of_tiles(remainders.pixels[0] * remainders.pixels[1]);
  shape.grad_sample = problem.grad_sample;
  return shape;
}

template <typename T, int kRows>
void launch_tiles_input_of(const TilesInputProblem& problem, cudaStream_t stream) {
  const int64_t blocks = blocks_of_input_gradient(problem, kRows);
  launch(grad_input_tiles<T, kRows>, dim3(static_cast<unsigned>(int_of_tiles(blocks))), dim3(kTilesThreads),
         kTilesSharedBytes<kRows>, stream, input_shape(problem), static_cast<const T*>(problem.grad),
         static_cast<const T*>(problem.kernels), static_cast<T*>(problem.grad_input));
}

template <typename T>
void launch_tiles_input_as(const TilesInputProblem& problem, cudaStream_t stream) {
  if (rows_of_input_gradient(problem) == kManyTileRows)
    launch_tiles_input_of<T, kManyTileRows>(problem, stream);
  else
    launch_tiles_input_of<T, kFewTileRows>(problem, stream);
}

inline void launch_tiles_input_gradient(const TilesInputProblem& problem, cudaStream_t stream) {
  check_whole_vectors(
      problem.dtype,
      {problem.in_channels, problem.out_channels, problem.grad_sample, problem.grad_pixel[0], problem.grad_pixel[1]},
      {problem.grad, problem.kernels, problem.grad_input});
  if (problem.samples * problem.groups * problem.in_channels * problem.image[0] * problem.image[1] == 0)
    return;  // a grid without blocks is an error
  with_type_of_tiles(problem.dtype, [&](auto element) { launch_tiles_input_as<decltype(element)>(problem, stream); });
}

}  // namespace crossd_ops::cuda
