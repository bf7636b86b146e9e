#include "convolution/cuda/columns.h"

#include "convolution/cuda/columns_launch.cuh"

namespace crossd_ops::cuda {

void image_to_columns(const ColumnsProblem& problem, const void* image, void* columns, void* stream) {
  launch_image_to_columns(problem, image, columns, static_cast<cudaStream_t>(stream));
}

void columns_to_image(const ColumnsProblem& problem, const void* columns, void* image, void* stream) {
  launch_columns_to_image(problem, columns, image, static_cast<cudaStream_t>(stream));
}

}  // namespace crossd_ops::cuda
