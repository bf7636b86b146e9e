#include "convolution/shifted_columns/cuda/shifted_columns.h"

#include "convolution/shifted_columns/cuda/launch.cuh"

namespace crossd_ops::cuda {

void image_to_shifted_columns(const ShiftedColumnsProblem& problem, const void* image, const void* shift, void* columns,
                              void* stream) {
  launch_image_to_shifted_columns(problem, image, shift, columns, static_cast<cudaStream_t>(stream));
}

void shifted_columns_gradient(const ShiftedColumnsProblem& problem, const void* grad_columns, const void* image,
                              const void* shift, void* seen, void* partial, void* stream) {
  launch_shifted_columns_gradient(problem, grad_columns, image, shift, seen, partial,
                                  static_cast<cudaStream_t>(stream));
}

void seen_to_image(const ShiftedColumnsProblem& problem, const void* seen, void* image, void* stream) {
  launch_seen_to_image(problem, seen, image, static_cast<cudaStream_t>(stream));
}

}  // namespace crossd_ops::cuda
