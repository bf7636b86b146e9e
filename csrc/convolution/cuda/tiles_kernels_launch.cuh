// Plans the gradient of the kernels of the convolution in tiles and launches it. The same source for nvcc and for the
// emulator of the tests.
#pragma once
#include <type_traits>

#include "convolution/cuda/tiles_kernels.cuh"
#include "convolution/cuda/tiles_launch.cuh"
#include "convolution/tiles_kernels_problem.h"

namespace crossd_ops::cuda {

inline void check_tiles_kernels(const TilesKernelsProblem& problem, const KernelsPlan& plan) {
  check_whole_vectors(problem.dtype,
                      {problem.in_channels, problem.out_channels, problem.input_sample, problem.input_pixel[0],
                       problem.input_pixel[1], problem.grad_sample, problem.grad_pixel[0], problem.grad_pixel[1]},
                      {problem.input, problem.grad, problem.partial, problem.grad_kernels});
  if ((plan.splits > 1) != (problem.partial != nullptr))
    throw std::runtime_error("crossd_ops: expected memory for sums where blocks share pixels, and only there");
}

template <typename T, bool kHalvedSteps, int kChunks>
void launch_grad_kernels_tiles(const TilesKernelsProblem& problem, const KernelsPlan& plan, cudaStream_t stream) {
  KernelsShape shape{};
  shape.tiles = tiles_shape(problem), shape.grad_sample = problem.grad_sample;
  shape.samples = int_of_tiles(problem.samples), shape.of_split = int_of_tiles(plan.of_split);
  shape.step[0] = kRowsOfThreads<T> / shape.tiles.result[1];
  shape.step[1] = kRowsOfThreads<T> % shape.tiles.result[1];
  for (int i = 0; i < 2; ++i) shape.grad_pixel[i] = int_of_tiles(problem.grad_pixel[i]);
  int_of_tiles(problem.result[0] * problem.grad_pixel[0] + problem.result[1] * problem.grad_pixel[1]);
  launch(grad_kernels_tiles<T, kHalvedSteps, kChunks>,
         dim3(static_cast<unsigned>(int_of_tiles(plan.tiles * plan.splits))), dim3(kKernelsThreads),
         kKernelsSharedBytes<kChunks>, stream, shape, static_cast<const T*>(problem.grad),
         static_cast<const T*>(problem.input), static_cast<float*>(problem.partial),
         static_cast<T*>(problem.grad_kernels));
}

template <typename T>
void launch_tiles_kernels_gradient_as(const TilesKernelsProblem& problem, const KernelsPlan& plan,
                                      cudaStream_t stream) {
  const auto launched = [&](auto halved_steps) {
    if (plan.chunks == 1)
      launch_grad_kernels_tiles<T, decltype(halved_steps)::value, 1>(problem, plan, stream);
    else
      launch_grad_kernels_tiles<T, decltype(halved_steps)::value, kWideChunks>(problem, plan, stream);
  };
  plan.halved_steps ? launched(std::true_type{}) : launched(std::false_type{});
  if (plan.splits == 1) return;
  const int64_t fours = problem.samples * problem.kernel[0] * problem.kernel[1] * problem.groups *
                        problem.out_channels * problem.in_channels / 4;
  launch(add_splits<T>, dim3(static_cast<unsigned>(int_of_tiles(tiles_along(fours, kKernelsThreads)))),
         dim3(kKernelsThreads), 0, stream, static_cast<const float*>(problem.partial), int_of_tiles(plan.splits), fours,
         static_cast<T*>(problem.grad_kernels));
}

inline void launch_tiles_kernels_gradient(const TilesKernelsProblem& problem, cudaStream_t stream) {
  const KernelsPlan plan = plan_of_kernels_gradient(problem);
  check_tiles_kernels(problem, plan);
  if (plan.tiles == 0) return;  // a grid without blocks is an error
  with_type_of_tiles(problem.dtype,
                     [&](auto element) { launch_tiles_kernels_gradient_as<decltype(element)>(problem, plan, stream); });
}

}  // namespace crossd_ops::cuda
