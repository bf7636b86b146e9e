// The convolution in tiles on tensor cores, and its gradients, where a problem's channels are whole vectors: images and
// gradients that in_whole_vectors makes, tap-major kernels. Tensors of the CPU, which tests send the way of GPUs, have
// no tensor cores: they go sample by sample.
#pragma once
#include <optional>
#include <vector>

#include "common/library_calls.h"
#include "common/tensors.h"
#include "convolution/methods/loop.h"
#include "convolution/tiles.h"

namespace crossd_ops {

// result: channels-last.
inline void convolve_in_tiles(const Tensor& image, const Tensor& kernels, const std::optional<Tensor>& bias,
                              Tensor& result, const ConvolutionProblem& problem) {
  const ProfilerRange range("crossd_ops::convolve_tiles");
#if defined(CROSSD_WITH_CUDA)
  if (image.is_cuda()) {
    const CudaDevice device(image);
    return cuda::convolve_tiles(tiles_problem(image, kernels, bias, result, problem), device.stream());
  }
#endif
  torch::stable::copy_(result, convolve_each_sample(image, kernels, bias, problem));
}

// grad_input: channels-last.
inline void input_gradient_in_tiles(const Tensor& grad, const Tensor& kernels, Tensor& grad_input,
                                    const ConvolutionProblem& problem) {
  const ProfilerRange range("crossd_ops::tiles_input_gradient");
#if defined(CROSSD_WITH_CUDA)
  if (grad.is_cuda()) {
    const CudaDevice device(grad);
    return cuda::tiles_input_gradient(tiles_input_problem(grad, kernels, grad_input, problem), device.stream());
  }
#endif
  const LibraryGradients found = gradients_of_each_sample(grad, grad_input, kernels, problem, true, false);
  torch::stable::copy_(grad_input, found.input);
}

// grad_kernels: tap-major.
inline void kernels_gradient_in_tiles(const Tensor& grad, const Tensor& image, Tensor& grad_kernels,
                                      const ConvolutionProblem& problem) {
  const ProfilerRange range("crossd_ops::tiles_kernels_gradient");
#if defined(CROSSD_WITH_CUDA)
  if (grad.is_cuda()) {
    const CudaDevice device(grad);
    TilesKernelsProblem tiles = tiles_kernels_problem(grad, image, grad_kernels, problem);
    const int64_t splits = plan_of_kernels_gradient(tiles).splits;
    std::optional<Tensor> partial;
    if (splits > 1) {
      partial.emplace(new_tensor(grad_kernels, {splits * grad_kernels.numel()}, ScalarType::Float));
      tiles.partial = partial->mutable_data_ptr();
    }
    return cuda::tiles_kernels_gradient(tiles, device.stream());
  }
#endif
  const LibraryGradients found = gradients_of_each_sample(grad, image, grad_kernels, problem, false, true);
  torch::stable::copy_(grad_kernels, found.kernels);
}

}  // namespace crossd_ops
