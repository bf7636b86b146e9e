// Chooses the size of tiles for a problem and launches them. The same source for nvcc and for the emulator of the
// tests.
#pragma once
#include <initializer_list>
#include <limits>
#include <stdexcept>

#include "convolution/cuda/tiles.cuh"
#include "convolution/tiles_problem.h"

namespace crossd_ops::cuda {

// What the kernels compute in 32 bits must fit there; the operators choose tiles for nothing that does not.
inline int int_of_tiles(int64_t value) {
  if (value > std::numeric_limits<int>::max() / 4 || value < 0)
    throw std::runtime_error("crossd_ops: tiles of sizes beyond 2^29");
  return static_cast<int>(value);
}

template <typename Problem>
TilesShape tiles_shape(const Problem& problem) {
  TilesShape shape{};
  shape.groups = int_of_tiles(problem.groups), shape.in_channels = int_of_tiles(problem.in_channels);
  shape.out_channels = int_of_tiles(problem.out_channels);
  for (int i = 0; i < 2; ++i) {
    shape.image[i] = int_of_tiles(problem.image[i]), shape.kernel[i] = int_of_tiles(problem.kernel[i]);
    shape.result[i] = int_of_tiles(problem.result[i]), shape.stride[i] = int_of_tiles(problem.stride[i]);
    shape.padding[i] = int_of_tiles(problem.padding[i]), shape.dilation[i] = int_of_tiles(problem.dilation[i]);
    shape.input_pixel[i] = int_of_tiles(problem.input_pixel[i]);
    int_of_tiles(problem.result[i] * problem.stride[i] + problem.kernel[i] * problem.dilation[i]);
  }
  int_of_tiles(problem.image[0] * problem.input_pixel[0] + problem.image[1] * problem.input_pixel[1]);
  int_of_tiles(problem.kernel[0] * problem.kernel[1] * problem.groups * problem.out_channels * problem.in_channels);
  shape.pixels = int_of_tiles(problem.result[0] * problem.result[1]);
  shape.input_sample = problem.input_sample;
  return shape;
}

// sizes: those in elements that must be whole vectors, as tensors must begin at one.
inline void check_whole_vectors(Dtype dtype, std::initializer_list<int64_t> sizes,
                                std::initializer_list<const void*> tensors) {
  bool fits = dtype != Dtype::float64;
  for (const int64_t size : sizes) fits = fits && size % tiles_vector(dtype) == 0;
  for (const void* tensor : tensors) fits = fits && reinterpret_cast<uintptr_t>(tensor) % kVectorBytes == 0;
  if (!fits)
    throw std::runtime_error("crossd_ops: expected tiles of a half type or float32, in whole vectors of channels");
}

// Calls function(an element of the type) for the type of a dtype that tiles have.
template <typename Function>
void with_type_of_tiles(Dtype dtype, Function&& function) {
  if (dtype == Dtype::bfloat16)
    function(BFloat16{});
  else if (dtype == Dtype::float16)
    function(Float16{});
  else
    function(float{});
}

template <typename T, int kRows>
void launch_tiles_of(const TilesProblem& problem, cudaStream_t stream) {
  const TilesShape shape = tiles_shape(problem);
  const int64_t blocks = problem.samples * problem.groups * tiles_along(shape.pixels, kRows) *
                         tiles_along(problem.out_channels, kTileColumns);
  launch(convolve_tiles<T, kRows>, dim3(static_cast<unsigned>(int_of_tiles(blocks))), dim3(kTilesThreads),
         kTilesSharedBytes<kRows>, stream, shape, static_cast<const T*>(problem.input),
         static_cast<const T*>(problem.kernels),
         TilesBias<T>{problem.bias, problem.bias_stride, problem.bias_dtype == Dtype::float32},
         static_cast<T*>(problem.out));
}

template <typename T>
void launch_tiles_as(const TilesProblem& problem, cudaStream_t stream) {
  const int64_t pixels = problem.result[0] * problem.result[1];
  if (rows_of_tile(problem.samples * problem.groups, pixels, problem.out_channels) == kManyTileRows)
    launch_tiles_of<T, kManyTileRows>(problem, stream);
  else
    launch_tiles_of<T, kFewTileRows>(problem, stream);
}

inline void launch_tiles(const TilesProblem& problem, cudaStream_t stream) {
  check_whole_vectors(
      problem.dtype,
      {problem.in_channels, problem.out_channels, problem.input_sample, problem.input_pixel[0], problem.input_pixel[1]},
      {problem.input, problem.kernels, problem.out});
  if (problem.samples * problem.groups * problem.out_channels * problem.result[0] * problem.result[1] == 0)
    return;  // a grid without blocks is an error
  with_type_of_tiles(problem.dtype, [&](auto element) { launch_tiles_as<decltype(element)>(problem, stream); });
}

}  // namespace crossd_ops::cuda
